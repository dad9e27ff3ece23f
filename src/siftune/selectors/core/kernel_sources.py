"""Where kernels come from: given as a matrix (dense, sparse, on disk), or the inner products of the pool's vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from siftune._common.compiled import compiled
from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.selectors.core import ordering
from siftune.selectors.core.grid import MOST_ROWS, Negatives, Settle, Vectors, float_of
from siftune.selectors.core.kernels import (
    HEIGHT,
    WIDTH,
    Blockwise,
    Columns,
    Kernel,
    dense_columns,
    rounds_in_float32,
    sparse_columns,
)
from siftune.selectors.core.problem import Problem

KernelForm = Literal["auto", "dense", "sparse", "blockwise"]

LARGEST_DENSE = 20_000  # rows; 1.6 GB


def pool_kernel(problem: Problem, *, form: KernelForm = "auto", neighbors: int = 32, index: str = "auto",
                negatives: Negatives = "clip") -> Kernel:
    """The kernel that a problem gives, or the inner products of its vectors.

    Args:
        problem: its ``kernel`` is used where there is one, else its ``vectors``.
        form: of a kernel made from vectors: ``dense`` ("auto" up to 20,000 rows), ``sparse`` (each row is represented
            by its ``neighbors`` nearest rows only, itself included; "auto" above), or ``blockwise``. A given kernel
            keeps its own form, except that a memory map is read blockwise unless ``dense`` is asked for.
        neighbors: of the sparse form.
        index: how the neighbours are found, see :func:`siftune.selectors.core.neighbors.nearest_neighbors`.
        negatives: ``clip`` counts negative entries as 0, ``refuse`` raises.

    Raises:
        ConfigError: neither kernel nor vectors, or an unknown option value.
    """
    if form not in ("auto", "dense", "sparse", "blockwise"):
        raise unknown_name("kernel", form, ("auto", "dense", "sparse", "blockwise"), flag="kernel")
    if negatives not in ("clip", "refuse"):
        raise unknown_name("value of negatives", negatives, ("clip", "refuse"), flag="negatives")
    if problem.kernel is not None:
        given, largest = problem.required_kernel()
        if given.shape[0] > MOST_ROWS:
            raise ConfigError(f"a kernel of {given.shape[0]} represented rows is too large", where="kernel",
                              why=f"Sums are exact up to {MOST_ROWS} rows.")
        if not isinstance(given, np.ndarray):
            return given_sparse(given, negatives)
        on_disk = isinstance(given, np.memmap) and form == "auto"
        make = given_blockwise if form == "blockwise" or on_disk else given_dense
        return make(given, largest, negatives)
    vectors = Vectors.of(problem)
    if form == "dense" or (form == "auto" and len(vectors) <= LARGEST_DENSE):
        return dense_kernel(vectors, negatives)
    if form == "blockwise":
        return blockwise_kernel(vectors, negatives)
    return sparse_kernel(vectors, ordering.id_rank(problem.ids), neighbors, index, negatives)


def dense_kernel(vectors: Vectors, negatives: Negatives = "clip") -> Columns:
    """All inner products, [N, N] float32: half of them computed, the other half mirrored."""
    n, settle = len(vectors), Settle(vectors.largest, negatives)
    out = np.empty((n, n), dtype=np.float32)
    for first in range(0, n, WIDTH):
        end = min(first + WIDTH, n)
        for at in range(first, n, HEIGHT):
            block = settle(vectors.similarities(slice(first, end), slice(at, at + HEIGHT)))
            out[first:end, at:at + HEIGHT] = block
            out[at:at + HEIGHT, first:end] = block.T
    return replace(dense_columns(out, settle.step, settle.facts("dense", "vectors", (n, n), n * n)), symmetric=True)


def sparse_kernel(vectors: Vectors, rank: np.ndarray, neighbors: int, index: str, negatives: Negatives) -> Columns:
    """Row i is represented by its nearest rows only (Wei et al. 2014): [N, N] with ``neighbors`` entries a row."""
    from scipy.sparse import csr_array

    from siftune.selectors.core.neighbors import nearest_neighbors

    found = nearest_neighbors(vectors, rank, neighbors, index)
    settle = Settle(vectors.largest, negatives)
    entries = settle(found.similarities).ravel()
    kept = (found.rows.ravel() >= 0) & (entries > 0)
    indptr = np.concatenate([[0], np.cumsum(kept.reshape(found.rows.shape).sum(axis=1))])
    n = len(vectors)
    by_row = csr_array((entries[kept], found.rows.ravel()[kept].astype(np.int32), indptr), shape=(n, n))
    facts = settle.facts("sparse", "vectors", (n, n), int(kept.sum()))
    return sparse_columns(by_row.tocsc(), settle.step, {**facts, "neighbors": found.rows.shape[1], **found.facts})


def blockwise_kernel(vectors: Vectors, negatives: Negatives = "clip") -> Blockwise:
    """All inner products, recomputed whenever they are looked at."""
    n, settle = len(vectors), Settle(vectors.largest, negatives)

    def block(candidates: np.ndarray, first: int, end: int) -> np.ndarray:
        return settle(vectors.similarities(candidates, slice(first, end)))

    facts = settle.facts("blockwise", "vectors", (n, n), n * n)
    del facts["negative_entries"]  # they pass by many times
    return Blockwise((n, n), settle.step, block, symmetric=True, facts=facts)


def given_dense(matrix: np.ndarray, largest: float, negatives: Negatives = "clip") -> Columns:
    """A matrix [R, N] of any float type: copied into columns, or used as it lies when it is float32 and symmetric."""
    settle = Settle(largest, negatives)
    R, N = matrix.shape
    if R == N and matrix.dtype == np.float32 and matrix.flags.c_contiguous and rounds_in_float32(settle.step):
        symmetric, negative = _symmetric(matrix, settle.step)
        if symmetric:
            settle.count(negative, matrix)
            kernel = dense_columns(matrix, settle.step, settle.facts("dense", "given", (R, N), R * N))
            return replace(kernel, symmetric=True, borrowed=True)
    out = np.empty((N, R), dtype=np.float32)
    for at in range(0, N, WIDTH):
        settle.transposed(matrix[:, at:at + WIDTH], out[at:at + WIDTH])
    return dense_columns(out, settle.step, settle.facts("dense", "given", (R, N), R * N))


def target_kernel(problem: Problem, negatives: Negatives = "clip") -> Columns:
    """The similarities to the targets as a kernel [M, N]: the targets are to be represented. Memory: 4 M N bytes."""
    M, N = len(problem.targets), len(problem)
    settle = Settle(max(0.0, float(problem.summary().best.max())), negatives)
    out = np.empty((N, M), dtype=np.float32)
    for start, block in problem.stream():
        settle.transposed(block, out[start:start + block.shape[1]])
    return dense_columns(out, settle.step, settle.facts("dense", "similarities", (M, N), M * N))


def given_sparse(matrix: Any, negatives: Negatives = "clip") -> Columns:
    """A ``csc_array`` [R, N]; entries that it lists twice are added up, missing ones are 0."""
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    data = matrix.data.astype(float_of(matrix))
    settle = Settle(float(data.max(initial=0.0)), negatives)
    matrix = type(matrix)((settle(data), matrix.indices, matrix.indptr), shape=matrix.shape)
    return sparse_columns(matrix, settle.step, settle.facts("sparse", "given", matrix.shape, int(matrix.nnz)))


def given_blockwise(matrix: np.ndarray, largest: float, negatives: Negatives = "clip") -> Blockwise:
    """A matrix [R, N] on disk, read when needed."""
    settle = Settle(largest, negatives)

    def block(candidates: np.ndarray, first: int, end: int) -> np.ndarray:
        return settle(np.ascontiguousarray(matrix[first:end][:, candidates].T, dtype=float_of(matrix)))

    R, N = matrix.shape
    facts = settle.facts("blockwise", "given", (R, N), R * N)
    del facts["negative_entries"]
    return Blockwise((R, N), settle.step, block, facts=facts)


@compiled()
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
