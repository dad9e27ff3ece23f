"""Kernels: how well candidate rows represent the rows of the pool, in arithmetic that never rounds.

A sum of floats depends on its order, so on the order of the pool, the width of a block and the number of threads; and
greedy selection turns the last bit of a sum into another choice. Here sums are exact instead. Vectors are rounded once
to multiples of 2^-26 of the largest norm and kernel entries to multiples of 2^-24 of the largest entry (about what
float32 resolves anyway). On such grids every product and every sum that is formed fits the 53 bits of a float64: no
order of summation can change a bit, equal rows have equal gains, and an upper bound of a gain is one to the last bit.

Entries are ``s[i, j]``: how well candidate (column) j represents row i. Negative entries count as 0.

* :class:`Columns`: the columns one after the other, dense or sparse (CSC). 4 bytes an entry (sparse: 8).
* :class:`Blockwise`: nothing is kept; columns are recomputed from the vectors or read from a memory map when needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numba
import numpy as np

from siftune.errors import ConfigError, SiftuneError
from siftune.registry import unknown_name
from siftune.selectors import ordering
from siftune.selectors.problem import Problem

KernelForm = Literal["auto", "dense", "sparse", "blockwise"]
Negatives = Literal["clip", "refuse"]

LARGEST_DENSE = 20_000  # rows; 1.6 GB
_ENTRY_BITS, _VECTOR_BITS = 24, 26
_MOST_ROWS = 2**28  # 2^28 entries of 24 bits: below 2^53
_WIDTH, _HEIGHT = 512, 4096  # candidates and rows looked at together
_NO_INDICES = np.empty(0, dtype=np.int32)


def scale_of(largest: float) -> float:
    """The smallest power of two that is not below ``largest`` (1 for 0)."""
    mantissa, exponent = math.frexp(largest)
    return math.ldexp(1.0, exponent - (mantissa == 0.5)) if largest > 0 else 1.0


@dataclass(frozen=True, eq=False)
class Columns:
    """A kernel in memory, column after column.

    Attributes:
        shape: (R, N).
        step: entries are multiples of it.
        indptr: int64 [N + 1]: where each column starts.
        indices: int32, the row of each entry; empty for a dense kernel.
        data: float32, the entries.
        dense: whether every entry is there.
        borrowed: whether ``data`` belongs to the caller: not to be written to, nor on the grid, but rounded when read.
        symmetric: whether it is its own transpose.
        facts: for the diagnostics.
    """

    shape: tuple[int, int]
    step: float
    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    dense: bool = False
    borrowed: bool = False
    symmetric: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def clipped(self, clip: np.ndarray) -> Columns:
        """The kernel ``min(s[i, j], clip[i])``; ``clip`` float32 [R] from :func:`on_grid`. Overwrites this one."""
        data = self._settled(self.data)
        _clip(self.indptr, self.indices, data, clip)
        return replace(self, data=data, borrowed=False, symmetric=False)

    def gains(self, candidates: np.ndarray, cover: np.ndarray) -> np.ndarray:
        """float64 [b], exact: ``sum_i max(0, s[i, j] - cover[i])`` for each candidate j; ``cover`` float32 [R]."""
        return _gains(candidates, self.indptr, self.indices, self.data, self.borrowed, self.step, cover)

    def raise_cover(self, candidate: int, cover: np.ndarray, owner: np.ndarray, mark: int) -> None:
        """``cover[i] = max(cover[i], s[i, candidate])``; where that raised it, ``owner[i] = mark``."""
        _raise_cover(candidate, self.indptr, self.indices, self.data, self.borrowed, self.step, cover, owner, mark)

    def column(self, candidate: int) -> tuple[Any, np.ndarray]:
        """Rows (indices or a slice) and entries of a column."""
        inside = slice(self.indptr[candidate], self.indptr[candidate + 1])
        return (slice(0, self.shape[0]) if self.dense else self.indices[inside]), self._settled(self.data[inside])

    def column_sums(self) -> np.ndarray:
        """float64 [N], exact."""
        return self.gains(np.arange(self.shape[1]), np.zeros(self.shape[0], dtype=np.float32))

    def diagonal(self) -> np.ndarray:
        """float32 [N] of a square kernel."""
        if self.dense:
            return self._settled(self.data.reshape(self.shape[::-1]).diagonal().copy())
        return self._csc().diagonal()

    def transposed(self) -> Columns:
        """The kernel ``s[j, i]``."""
        if self.symmetric:
            return self
        turned = (self.shape[1], self.shape[0])
        if self.dense:
            return _dense(np.ascontiguousarray(self.data.reshape(turned).T), self.step, self.facts)
        rows = self._csc().tocsr()
        return Columns(turned, self.step, rows.indptr.astype(np.int64), rows.indices, rows.data, facts=self.facts)

    def _settled(self, entries: np.ndarray) -> np.ndarray:
        return _Settle(self.step * 2**_ENTRY_BITS)(entries) if self.borrowed else entries

    def _csc(self) -> Any:
        from scipy.sparse import csc_array

        return csc_array((self.data, self.indices, self.indptr), shape=self.shape)


@dataclass(frozen=True, eq=False)
class Blockwise:
    """A kernel that is recomputed or read, never held: O(block) memory beside its source. Used as :class:`Columns`.

    Attributes:
        shape: (R, N).
        step: entries are multiples of it.
        block: ``(candidates, first row, end) -> float32 [b, end - first]``, entries on the grid.
        symmetric: whether it is its own transpose.
        clip: float32 [R], or None.
    """

    shape: tuple[int, int]
    step: float
    block: Callable[[np.ndarray, int, int], np.ndarray]
    symmetric: bool = False
    clip: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def clipped(self, clip: np.ndarray) -> Blockwise:
        return replace(self, clip=clip, symmetric=False)

    def gains(self, candidates: np.ndarray, cover: np.ndarray) -> np.ndarray:
        out = np.zeros(len(candidates))
        for at in range(0, len(candidates), _WIDTH):
            some = candidates[at:at + _WIDTH]
            for first in range(0, self.shape[0], _HEIGHT):
                end = min(first + _HEIGHT, self.shape[0])
                indptr = np.arange(len(some) + 1) * (end - first)
                out[at:at + _WIDTH] += _gains(np.arange(len(some)), indptr, _NO_INDICES,
                                              self._entries(some, first, end).ravel(), False, self.step,
                                              cover[first:end])
        return out

    def raise_cover(self, candidate: int, cover: np.ndarray, owner: np.ndarray, mark: int) -> None:
        _, entries = self.column(candidate)
        higher = entries > cover
        cover[higher] = entries[higher]
        owner[higher] = mark

    def column(self, candidate: int) -> tuple[Any, np.ndarray]:
        return slice(0, self.shape[0]), self._entries(np.array([candidate]), 0, self.shape[0])[0]

    def column_sums(self) -> np.ndarray:
        return self.gains(np.arange(self.shape[1]), np.zeros(self.shape[0], dtype=np.float32))

    def diagonal(self) -> np.ndarray:
        squares = [(at, min(at + _WIDTH, self.shape[1])) for at in range(0, self.shape[1], _WIDTH)]
        return np.concatenate([self.block(np.arange(at, end), at, end).diagonal() for at, end in squares])

    def transposed(self) -> Blockwise:
        if not self.symmetric:
            raise ConfigError("a directed kernel that is read block by block cannot be turned around",
                              where="--selector", hint='load it into memory (kernel="dense") or pass it symmetric')
        return self

    def _entries(self, candidates: np.ndarray, first: int, end: int) -> np.ndarray:
        block = self.block(candidates, first, end)
        return block if self.clip is None else np.minimum(block, self.clip[first:end])


Kernel = Columns | Blockwise


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


def pool_kernel(problem: Problem, *, form: KernelForm = "auto", neighbors: int = 32, index: str = "flat",
                negatives: Negatives = "clip") -> Kernel:
    """The kernel that a problem gives, or the inner products of its vectors.

    Args:
        problem: its ``kernel`` is used where there is one, else its ``vectors``.
        form: of a kernel made from vectors: ``dense`` ("auto" up to 20,000 rows), ``sparse`` (each row is represented
            by its ``neighbors`` nearest rows only, itself included; "auto" above), or ``blockwise``. A given kernel
            keeps its own form, except that a memory map is read blockwise unless ``dense`` is asked for.
        neighbors: of the sparse form.
        index: how the neighbours are found, see :func:`siftune.selectors.neighbors.nearest_neighbors`.
        negatives: ``clip`` counts negative entries as 0, ``refuse`` raises.

    Raises:
        ConfigError: neither kernel nor vectors, or an unknown option value.
    """
    if form not in ("auto", "dense", "sparse", "blockwise"):
        raise unknown_name("kernel", form, ("auto", "dense", "sparse", "blockwise"), flag="kernel")
    if negatives not in ("clip", "refuse"):
        raise unknown_name("value of negatives", negatives, ("clip", "refuse"), flag="negatives")
    if problem.kernel is not None:
        given = problem.required_kernel()
        if given.shape[0] > _MOST_ROWS:
            raise ConfigError(f"a kernel of {given.shape[0]} represented rows is too large", where="kernel",
                              why=f"Sums are exact up to {_MOST_ROWS} rows.")
        if not isinstance(given, np.ndarray):
            return given_sparse(given, negatives)
        on_disk = isinstance(given, np.memmap) and form == "auto"
        return given_blockwise(given, negatives) if form == "blockwise" or on_disk else given_dense(given, negatives)
    vectors = Vectors.of(problem)
    if form == "dense" or (form == "auto" and len(vectors) <= LARGEST_DENSE):
        return dense_kernel(vectors, negatives)
    if form == "blockwise":
        return blockwise_kernel(vectors, negatives)
    return sparse_kernel(vectors, ordering.id_rank(problem.ids), neighbors, index, negatives)


def dense_kernel(vectors: Vectors, negatives: Negatives = "clip") -> Columns:
    """All inner products, [N, N] float32: half of them computed, the other half mirrored."""
    n, settle = len(vectors), _Settle(vectors.largest, negatives)
    out = np.empty((n, n), dtype=np.float32)
    for first in range(0, n, _WIDTH):
        end = min(first + _WIDTH, n)
        for at in range(first, n, _HEIGHT):
            block = settle(vectors.similarities(slice(first, end), slice(at, at + _HEIGHT)))
            out[first:end, at:at + _HEIGHT] = block
            out[at:at + _HEIGHT, first:end] = block.T
    return replace(_dense(out, settle.step, settle.facts("dense", "vectors", (n, n), n * n)), symmetric=True)


def sparse_kernel(vectors: Vectors, rank: np.ndarray, neighbors: int, index: str, negatives: Negatives) -> Columns:
    """Row i is represented by its nearest rows only (Wei et al. 2014): [N, N] with ``neighbors`` entries a row."""
    from scipy.sparse import csr_array

    from siftune.selectors.neighbors import nearest_neighbors

    found = nearest_neighbors(vectors, rank, neighbors, index)
    settle = _Settle(vectors.largest, negatives)
    entries = settle(found.similarities).ravel()
    kept = (found.rows.ravel() >= 0) & (entries > 0)
    indptr = np.concatenate([[0], np.cumsum(kept.reshape(found.rows.shape).sum(axis=1))])
    n = len(vectors)
    by_row = csr_array((entries[kept], found.rows.ravel()[kept].astype(np.int32), indptr), shape=(n, n))
    facts = settle.facts("sparse", "vectors", (n, n), int(kept.sum()))
    return _sparse(by_row.tocsc(), settle.step, {**facts, "neighbors": found.rows.shape[1], **found.facts})


def blockwise_kernel(vectors: Vectors, negatives: Negatives = "clip") -> Blockwise:
    """All inner products, recomputed whenever they are looked at."""
    n, settle = len(vectors), _Settle(vectors.largest, negatives)

    def block(candidates: np.ndarray, first: int, end: int) -> np.ndarray:
        return settle(vectors.similarities(candidates, slice(first, end)))

    facts = settle.facts("blockwise", "vectors", (n, n), n * n)
    del facts["negative_entries"]  # they pass by many times
    return Blockwise((n, n), settle.step, block, symmetric=True, facts=facts)


def given_dense(matrix: np.ndarray, negatives: Negatives = "clip") -> Columns:
    """A matrix [R, N] of any float type: copied into columns, or used as it lies when it is float32 and symmetric."""
    settle = _Settle(_largest(matrix), negatives)
    R, N = matrix.shape
    if R == N and matrix.dtype == np.float32 and matrix.flags.c_contiguous and 2.0**-60 < settle.step < 2.0**60:
        symmetric, negative = _symmetric(matrix, settle.step)
        if symmetric:
            settle.count(negative, matrix)
            kernel = _dense(matrix, settle.step, settle.facts("dense", "given", (R, N), R * N))
            return replace(kernel, symmetric=True, borrowed=True)
    out = np.empty((N, R), dtype=np.float32)
    for at in range(0, N, _WIDTH):
        settle.transposed(matrix[:, at:at + _WIDTH], out[at:at + _WIDTH])
    return _dense(out, settle.step, settle.facts("dense", "given", (R, N), R * N))


def target_kernel(problem: Problem, negatives: Negatives = "clip") -> Columns:
    """The similarities to the targets as a kernel [M, N]: the targets are to be represented. Memory: 4 M N bytes."""
    M, N = len(problem.targets), len(problem)
    settle = _Settle(max(0.0, float(problem.summary().best.max())), negatives)
    out = np.empty((N, M), dtype=np.float32)
    for start, block in problem.stream():
        settle.transposed(block, out[start:start + block.shape[1]])
    return _dense(out, settle.step, settle.facts("dense", "similarities", (M, N), M * N))


def given_sparse(matrix: Any, negatives: Negatives = "clip") -> Columns:
    """A ``csc_array`` [R, N]; entries that it lists twice are added up, missing ones are 0."""
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    data = matrix.data.astype(_float(matrix))
    settle = _Settle(float(data.max(initial=0.0)), negatives)
    matrix = type(matrix)((settle(data), matrix.indices, matrix.indptr), shape=matrix.shape)
    return _sparse(matrix, settle.step, settle.facts("sparse", "given", matrix.shape, int(matrix.nnz)))


def given_blockwise(matrix: np.ndarray, negatives: Negatives = "clip") -> Blockwise:
    """A matrix [R, N] on disk, read when needed."""
    settle = _Settle(_largest(matrix), negatives)

    def block(candidates: np.ndarray, first: int, end: int) -> np.ndarray:
        return settle(np.ascontiguousarray(matrix[first:end][:, candidates].T, dtype=_float(matrix)))

    R, N = matrix.shape
    facts = settle.facts("blockwise", "given", (R, N), R * N)
    del facts["negative_entries"]
    return Blockwise((R, N), settle.step, block, facts=facts)


def on_grid(values: np.ndarray, kernel: Kernel) -> np.ndarray:
    """float32: numbers to be compared with entries (clips, covers), rounded down to the kernel's grid, within [0, top].

    No entry exceeds 2^24 steps, so neither a clip nor a cover needs to.
    """
    steps = np.floor(np.asarray(values, dtype=np.float64) / kernel.step)
    return (np.clip(steps, 0, 2**_ENTRY_BITS) * kernel.step).astype(np.float32)


class _Settle:
    """Rounds entries to the grid and deals with negative ones."""

    def __init__(self, largest: float, negatives: Negatives = "clip"):
        self.step = scale_of(largest) / 2**_ENTRY_BITS
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
            entries = entries.astype(_float(entries))
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


def _dense(columns: np.ndarray, step: float, facts: dict[str, Any]) -> Columns:
    N, R = columns.shape
    return Columns((R, N), step, np.arange(N + 1) * R, _NO_INDICES, columns.ravel(), dense=True, facts=facts)


def _sparse(matrix: Any, step: float, facts: dict[str, Any]) -> Columns:
    return Columns(matrix.shape, step, matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32, copy=False),
                   matrix.data, facts=facts)


def _float(matrix: Any) -> type:
    return np.float32 if matrix.dtype in (np.float16, np.float32) else np.float64


def _largest(matrix: np.ndarray) -> float:
    """Of the entries that count: the negative ones do not."""
    height = max(1, 2**22 // matrix.shape[1])
    return max(0.0, *(float(matrix[at:at + height].max()) for at in range(0, len(matrix), height)))


def _parts(X: np.ndarray) -> list[np.ndarray]:
    height = max(1, 2**22 // X.shape[1])
    return [X[at:at + height] for at in range(0, len(X), height)]


# To multiply by a power of two is exact.
@numba.njit(cache=True, fastmath={"nsz", "nnan"})
def _settle(entries, per_step, step, out):  # pragma: no cover - compiled
    negative = 0
    for line in range(len(entries)):
        for p in range(entries.shape[1]):
            steps = np.rint(np.float64(entries[line, p]) * per_step)
            negative += steps < 0
            out[line, p] = max(steps, 0.0) * step
    return negative


@numba.njit(cache=True, fastmath={"nsz", "nnan"})
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


@numba.njit(cache=True)
def _symmetric(matrix, step):  # pragma: no cover - compiled
    """Whether the matrix is its own transpose, and if so how many entries are negative (after rounding)."""
    n, negative, least = len(matrix), 0, np.float32(-0.5 * step)
    for top in range(0, n, 64):  # tiles that fit the cache
        for left in range(top, n, 64):
            differ = 0
            for i in range(top, min(top + 64, n)):
                line = matrix[i]
                for j in range(left, min(left + 64, n)):
                    differ |= line[j] != matrix[j, i]
            if differ:
                return False, 0
    for i in range(n):
        line, count = matrix[i], np.int32(0)
        for j in range(n):
            count += np.int32(line[j] < least)
        negative += count
    return True, negative


# Sums are exact, so the compiler may add in any order ("reassoc"): that is what lets it use vector instructions.
# Borrowed entries are rounded when they are read: memory is what takes the time.
@numba.njit(cache=True, fastmath={"reassoc", "nsz", "nnan"})
def _gains(candidates, indptr, indices, data, borrowed, step, cover):  # pragma: no cover - compiled
    out = np.empty(len(candidates))
    zero, unit, per_step = np.float32(0), np.float32(step), np.float32(1.0 / step)
    for c in range(len(candidates)):
        start, end = indptr[candidates[c]], indptr[candidates[c] + 1]
        total = 0.0
        column = data[start:end]
        if borrowed:
            for p in range(len(column)):
                total += np.float64(max(np.rint(column[p] * per_step) * unit - cover[p], zero))
        elif len(indices) == 0:
            for p in range(len(column)):
                total += np.float64(max(column[p] - cover[p], zero))
        else:
            rows = indices[start:end]
            for p in range(len(column)):
                total += np.float64(max(column[p] - cover[rows[p]], zero))
        out[c] = total
    return out


@numba.njit(cache=True)
def _raise_cover(candidate, indptr, indices, data, borrowed, step, cover, owner, mark):  # pragma: no cover - compiled
    start, unit, per_step = indptr[candidate], np.float32(step), np.float32(1.0 / step)
    for p in range(start, indptr[candidate + 1]):
        row = indices[p] if len(indices) else p - start
        entry = np.rint(data[p] * per_step) * unit if borrowed else data[p]
        if entry > cover[row]:
            cover[row] = entry
            owner[row] = mark


@numba.njit(cache=True)
def _clip(indptr, indices, data, clip):  # pragma: no cover - compiled
    for column in range(len(indptr) - 1):
        start = indptr[column]
        for p in range(start, indptr[column + 1]):
            row = indices[p] if len(indices) else p - start
            data[p] = min(data[p], clip[row])
