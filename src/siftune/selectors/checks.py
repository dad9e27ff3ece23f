"""Checks of what a problem carries beside similarities: kernels, feature sets and streamed vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from siftune.errors import SiftuneError

_HINT = "exclude the row, or look into how its features came about"


def kernel_shape(kernel: Any, n: int) -> None:
    """Raise unless ``kernel`` is a float matrix [R, n], dense or ``scipy.sparse`` in CSC form; O(1)."""
    _matrix("kernel", kernel, "csc")
    if kernel.shape[1] != n:
        raise SiftuneError(f"the kernel has {kernel.shape[1]} columns for {n} rows",
                           why="It must be [R, N]: column j says how well pool row j represents each of R rows.")
    if kernel.shape[0] < 1:
        raise SiftuneError("the kernel has no row to be represented")


def sets_shape(sets: Any, n: int) -> None:
    """Raise unless ``sets`` is a ``scipy.sparse`` CSR matrix [n, F]; O(1)."""
    _matrix("sets", sets, "csr")
    if sets.shape[0] != n:
        raise SiftuneError(f"sets has {sets.shape[0]} lines for {n} rows")


def largest_entry(kernel: Any, ids: Sequence[str]) -> float:
    """The largest entry of a kernel, 0 if none is positive; one pass.

    Raises:
        SiftuneError: an entry that is not finite; the row is named whose column it is in.
    """
    largest = 0.0
    for start, values, place in _kernel_parts(kernel):
        high, low = (values.max(), values.min()) if values.size else (0.0, 0.0)
        if np.isfinite(high) and np.isfinite(low):  # NaN spreads to both
            largest = max(largest, float(high))
            continue
        first = int(np.flatnonzero(~np.isfinite(values).ravel())[0])
        (line, column), value = place(first), values.ravel()[first]
        raise SiftuneError(f"the kernel entry of row {ids[column]!r} for represented row {start + line} is {value}",
                           why="Rows without a finite kernel cannot be compared.", hint=_HINT)
    return largest


def binary_sets(sets: Any, ids: Sequence[str]) -> None:
    """Raise at the first stored entry that is neither 0 nor 1, or the first feature that a row lists twice."""
    wrong = np.flatnonzero((sets.data != 1) & (sets.data != 0))
    if len(wrong):
        row = int(np.searchsorted(sets.indptr, wrong[0], side="right")) - 1
        raise SiftuneError(f"the feature set of row {ids[row]!r} holds {sets.data[wrong[0]]}",
                           why="A row covers a feature (1) or does not (0).")
    if not sets.has_canonical_format:
        raise SiftuneError("the feature sets list a feature twice, or out of order",
                           hint="call sets.sum_duplicates() and check that the entries are still 1")


def vector_blocks(blocks: Callable[[], Iterator[tuple[int, np.ndarray]]], ids: Sequence[str]
                  ) -> Iterator[tuple[int, np.ndarray]]:
    """The blocks as float32 [n, D], checked: one width, in pool order, complete, finite (else the row is named)."""
    at, width = 0, None
    for start, raw in blocks():
        block = np.asarray(raw, dtype=np.float32)
        width = block.shape[1] if width is None and block.ndim == 2 else width
        if block.ndim != 2 or block.shape[1] != width or start != at or at + len(block) > len(ids):
            raise SiftuneError(f"vector block of shape {block.shape} at row {start} does not fit",
                               why=f"Expected [n, {width or 'D'}] at row {at} of {len(ids)}, the blocks in pool order.")
        finite = np.isfinite(block)
        if not finite.all():
            row, place = np.argwhere(~finite)[0]
            raise SiftuneError(f"the vector of row {ids[start + row]!r} holds {block[row, place]}",
                               why="Rows without a finite vector cannot be compared.", hint=_HINT)
        at += len(block)
        yield start, block
    if at != len(ids):
        raise SiftuneError(f"the vector blocks end at row {at} of {len(ids)}")


def _matrix(name: str, matrix: Any, form: str) -> None:
    dense = isinstance(matrix, np.ndarray) and form == "csc"
    if not dense and getattr(matrix, "format", None) != form:
        raise SiftuneError(f"{name} must be {'a matrix or ' if form == 'csc' else ''}in {form.upper()} form, "
                           f"not {type(matrix).__name__}", hint=f"pass scipy.sparse.{form}_array({name})")
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
        raise SiftuneError(f"{name} must be a matrix of numbers, not {matrix.dtype} of shape {matrix.shape}")


def _kernel_parts(kernel: Any) -> Iterator[tuple[int, np.ndarray, Callable[[int], tuple[int, int]]]]:
    """The first represented row of a piece of a kernel, the piece, and where in it (line, column) a flat place is."""
    if not isinstance(kernel, np.ndarray):
        def locate(place: int) -> tuple[int, int]:
            return int(kernel.indices[place]), int(np.searchsorted(kernel.indptr, place, side="right")) - 1
        yield 0, kernel.data, locate
        return
    height = max(1, 2**20 // kernel.shape[1])
    for start in range(0, kernel.shape[0], height):
        yield start, kernel[start:start + height], lambda place: divmod(place, kernel.shape[1])
