"""Random projections that depend on a seed and a parameter's name, and on nothing else.

Choices:

* A projection is defined parameter by parameter. The part of ``layers.3.q_proj.lora_A`` is the same whichever other
  parameters are adapted, in whatever order their gradients arrive.
* All randomness is the raw Philox stream keyed by (seed, kind, name), so it is the same on every machine, device and
  NumPy version, and needs no compiled package.
* Results do not depend on the batch. ``sparse-jl`` only gathers, multiplies by a sign and adds in a fixed order:
  element-wise arithmetic, hence bit-identical on every device and for every batch size. ``rademacher`` multiplies
  matrices, always of one shape, hence bit-identical for every batch size on a given machine.

All preserve inner products in expectation, with variance at most (||x||^2 ||y||^2 + <x, y>^2) / dim.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from siftune.errors import ConfigError
from siftune.registry import unknown_name
from siftune.seeds import permutation, random_bits

VERSION = 1  # raise it whenever the numbers change: stored features are then refused, not mixed


class Projection(Protocol):
    """Maps the concatenation of all parameters' gradients to ``dim`` numbers, one parameter at a time."""

    kind: str
    dim: int

    def new(self, rows: int, device: torch.device | str) -> Tensor:
        """float32 [rows, dim] of zeros to add into."""
        ...

    def add(self, out: Tensor, name: str, gradients: Tensor) -> None:
        """Add the projection of one parameter's gradients.

        Args:
            out: float32 [rows, dim], changed in place.
            name: the parameter's name; it keys the random numbers.
            gradients: float32 [rows, n], the flattened gradients of that parameter.
        """
        ...

    def fingerprint(self) -> dict[str, Any]: ...


class SparseJL:
    """Sparse Johnson-Lindenstrauss transform (Kane & Nelson 2014): the default, with four copies of a CountSketch.

    In each copy every coordinate is added to one of ``dim`` buckets with a random sign. Coordinates are dealt to the
    buckets in a random order, round after round, so that no bucket gets two coordinates of a parameter more than
    another; the collisions that cause the error are therefore as few as they can be. Several copies, averaged, keep
    the error of vectors with a few very large entries near that of a dense projection, where one copy has a heavy
    tail. Costs ``copies`` gathers per coordinate.
    """

    kind = "sparse-jl"

    def __init__(self, dim: int, seed: int, copies: int = 4):
        self.dim, self.seed, self.copies = dim, seed, copies
        self._plans: dict[tuple[str, int, int, str], tuple[Tensor, Tensor, Tensor]] = {}

    def new(self, rows: int, device: torch.device | str) -> Tensor:
        return torch.zeros(rows, self.dim, dtype=torch.float32, device=device)

    def _plan(self, name: str, copy: int, n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """(coordinate of slot int32 [n], sign of slot float32 [n], slot of bucket int64 [dim]) on the device."""
        key = (name, copy, n, str(device))
        if key not in self._plans:
            order = permutation(n, self.seed, "sparse-jl", copy, name, "coordinates")
            bits = random_bits((n + 63) // 64, self.seed, "sparse-jl", copy, name, "signs")
            signs = np.unpackbits(bits.astype("<u8").view(np.uint8), bitorder="little")[:n].astype(np.float32) * 2 - 1
            slots = permutation(self.dim, self.seed, "sparse-jl", copy, name, "buckets")
            self._plans[key] = (
                torch.from_numpy(order.astype(np.int32)).to(device),
                torch.from_numpy(signs * np.float32(1 / np.sqrt(self.copies))).to(device),
                torch.from_numpy(slots).to(device),
            )
        return self._plans[key]

    def add(self, out: Tensor, name: str, gradients: Tensor) -> None:
        n = gradients.shape[1]
        for copy in range(self.copies):
            order, signs, slots = self._plan(name, copy, n, gradients.device)
            dealt = gradients.float().index_select(1, order).mul_(signs)  # [rows, n]
            rounds = dealt.new_zeros(len(dealt), self.dim)
            # One addition per round and bucket, always in this order: the sum cannot depend on batch or device.
            for start in range(0, n, self.dim):
                part = dealt[:, start : start + self.dim]
                rounds[:, : part.shape[1]] += part
            out += rounds.index_select(1, slots)

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": self.kind, "dim": self.dim, "seed": self.seed, "copies": self.copies, "version": VERSION}


class CountSketch(SparseJL):
    """One copy only (Charikar et al. 2002): a quarter of the cost; right on average, with a heavier tail."""

    kind = "countsketch"

    def __init__(self, dim: int, seed: int):
        super().__init__(dim, seed, copies=1)


class Rademacher:
    """Dense projection with independent +-1/sqrt(dim) entries: LESS's own (section 4.1, step 2), for parity.

    The matrix is never stored: blocks of ``BLOCK`` rows are made from the seed as they are needed. That is exact and
    slow (making the matrix costs more than the multiplication), so gather many rows into one call.
    """

    kind = "rademacher"
    BLOCK = 256  # coordinates per generated block
    ROWS = 16  # gradients per multiplication; fixed, since the rounding of a product may depend on its shape

    def __init__(self, dim: int, seed: int):
        self.dim, self.seed = dim, seed

    def new(self, rows: int, device: torch.device | str) -> Tensor:
        return torch.zeros(rows, self.dim, dtype=torch.float32, device=device)

    def block(self, name: str, index: int) -> np.ndarray:
        """float32 [BLOCK, dim]: the part of the matrix for coordinates ``index * BLOCK`` onwards."""
        bits = random_bits((self.BLOCK * self.dim + 63) // 64, self.seed, self.kind, name, index)
        signs = np.unpackbits(bits.astype("<u8").view(np.uint8), bitorder="little")[: self.BLOCK * self.dim]
        matrix = signs.reshape(self.BLOCK, self.dim).astype(np.float32)
        matrix *= 2
        matrix -= 1
        matrix *= np.float32(1 / np.sqrt(self.dim))
        return matrix

    def add(self, out: Tensor, name: str, gradients: Tensor) -> None:
        rows, n = gradients.shape
        padded_rows = -(-rows // self.ROWS) * self.ROWS
        padded = gradients.new_zeros(padded_rows, -(-n // self.BLOCK) * self.BLOCK, dtype=torch.float32)
        padded[:rows, :n] = gradients
        for index in range(padded.shape[1] // self.BLOCK):
            matrix = torch.from_numpy(self.block(name, index)).to(gradients.device)
            columns = padded[:, index * self.BLOCK : (index + 1) * self.BLOCK]
            for start in range(0, rows, self.ROWS):
                stop = min(start + self.ROWS, rows)
                out[start:stop] += (columns[start : start + self.ROWS].contiguous() @ matrix)[: stop - start]

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": self.kind, "dim": self.dim, "seed": self.seed, "version": VERSION}


KINDS = {"sparse-jl": SparseJL, "countsketch": CountSketch, "rademacher": Rademacher}


def projection(kind: str, dim: int, seed: int) -> Projection:
    """The projection of that kind.

    Raises:
        ConfigError: unknown kind, or a dimension below 1.
    """
    if kind not in KINDS:
        raise unknown_name("projection", kind, KINDS, flag="--projection")
    if dim < 1:
        raise ConfigError(f"cannot project to {dim} dimensions", where="--projection-dim",
                          hint="LESS uses 8192; 1024 is a good choice for a small disk")
    return KINDS[kind](dim, seed)
