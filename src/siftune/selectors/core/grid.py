"""Arithmetic that never rounds, so that no order of summation can change a result.

A sum of floats depends on its order, so on the order of the pool, the width of a block and the number of threads; and
greedy selection turns the last bit of a sum into another choice. Here sums are exact instead. Vectors are rounded once
to multiples of 2^-26 of the largest norm and kernel entries to multiples of 2^-24 of the largest entry (about what
float32 resolves anyway). On such grids every product and every sum that is formed fits the 53 bits of a float64: equal
rows have equal gains, and an upper bound of a gain is one to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from siftune._common.compiled import compiled
from siftune._common.errors import ConfigError, SiftuneError
from siftune.selectors.core.problem import Problem

Negatives = Literal["clip", "refuse"]

ENTRY_BITS = 24
MOST_ROWS = 2**28  # that many entries of 24 bits add up to less than 2^53
_VECTOR_BITS = 26


def scale_of(largest: float) -> float:
    """The smallest power of two that is not below ``largest`` (1 for 0)."""
    mantissa, exponent = math.frexp(largest)
    return math.ldexp(1.0, exponent - (mantissa == 0.5)) if largest > 0 else 1.0


class Settle:
    """Rounds entries to the grid and deals with negative ones."""

    def __init__(self, largest: float, negatives: Negatives = "clip"):
        self.step = scale_of(largest) / 2**ENTRY_BITS
        self._refuse = negatives == "refuse"
        self._negative = 0

    def __call__(self, entries: np.ndarray) -> np.ndarray:
        """float32 of the same shape."""
        out = np.empty(entries.shape, dtype=np.float32)
        lines = (1, -1) if entries.ndim == 1 else entries.shape
        self.count(_settle(entries.reshape(lines), 1 / self.step, self.step, out.reshape(lines)), entries)
        return out

    def transposed(self, entries: np.ndarray, out: np.ndarray) -> None:
        """``out[j, i]`` from ``entries[i, j]``."""
        if entries.dtype not in (np.float32, np.float64):
            entries = entries.astype(float_of(entries))
        self.count(_settle_transposed(entries, 1 / self.step, self.step, out), entries)

    def count(self, negative: int, entries: np.ndarray) -> None:
        """So many of these entries are negative."""
        if negative and self._refuse:
            raise ConfigError(f"the kernel has a negative entry: {float(entries.min()):.6g}", where="negatives",
                              why="Facility location, graph cut and their relatives are defined on entries >= 0.",
                              hint='pass negatives="clip" to count negative entries as 0')
        self._negative += negative

    def facts(self, form: str, source: str, shape: tuple[int, int], entries: int) -> dict[str, Any]:
        """Diagnostics; ``negative_entries`` were counted as 0 (a mirrored half counts once)."""
        return {"form": form, "from": source, "represented_rows": shape[0], "entries": entries,
                "resolution": self.step, "negative_entries": self._negative}


@dataclass(frozen=True, eq=False)
class Vectors:
    """The vectors of the pool in memory, on a grid on which their inner products are exact in float64.

    Attributes:
        X: float32 [N, D].
        largest: the largest squared norm.
    """

    X: np.ndarray
    largest: float

    @classmethod
    def of(cls, problem: Problem) -> Vectors:
        """Read the vectors of a problem. Memory: 4 N D bytes."""
        X: np.ndarray | None = None
        for start, block in problem.vector_stream():
            if X is None:
                X = np.empty((len(problem), block.shape[1]), dtype=np.float32)
            X[start:start + len(block)] = block
        if X is None or not X.shape[1]:
            raise SiftuneError("the vectors of the rows are empty")
        # einsum adds up in an order that depends on the row alone; only the power of two above it is used.
        norms = [np.einsum("nd,nd->n", part, part, dtype=np.float64) for part in _parts(X)]
        step = np.float32(scale_of(math.sqrt(max(float(norm.max()) for norm in norms))) / 2**_VECTOR_BITS)
        for part in _parts(X):
            np.multiply(np.rint(part / step), step, out=part)
        return cls(X, max(float(np.einsum("nd,nd->n", part, part, dtype=np.float64).max()) for part in _parts(X)))

    def similarities(self, rows: np.ndarray | slice, others: np.ndarray | slice) -> np.ndarray:
        """float64 [len(rows), len(others)]: the exact inner products, by any BLAS on any number of threads."""
        return self.X[rows].astype(np.float64) @ self.X[others].astype(np.float64).T

    def __len__(self) -> int:
        return len(self.X)


def float_of(matrix: Any) -> type:
    return np.float32 if matrix.dtype in (np.float16, np.float32) else np.float64


def _parts(X: np.ndarray) -> list[np.ndarray]:
    height = max(1, 2**22 // X.shape[1])
    return [X[at:at + height] for at in range(0, len(X), height)]


# To multiply by a power of two is exact.
@compiled(fastmath={"nsz", "nnan"})
def _settle(entries, per_step, step, out):  # pragma: no cover - compiled
    negative = 0
    for line in range(len(entries)):
        for p in range(entries.shape[1]):
            steps = np.rint(np.float64(entries[line, p]) * per_step)
            negative += steps < 0
            out[line, p] = max(steps, 0.0) * step
    return negative


@compiled(fastmath={"nsz", "nnan"})
def _settle_transposed(entries, per_step, step, out):  # pragma: no cover - compiled
    negative, (R, N) = 0, entries.shape
    for first in range(0, R, 64):  # tiles that fit the cache
        for at in range(0, N, 16):
            for j in range(at, min(at + 16, N)):
                for i in range(first, min(first + 64, R)):
                    steps = np.rint(np.float64(entries[i, j]) * per_step)
                    negative += steps < 0
                    out[j, i] = max(steps, 0.0) * step
    return negative
