"""Checks of what a problem carries: lengths, ids, numbers, kernels, feature sets and streamed vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from siftune._common.errors import SiftuneError
from siftune.selectors.core.ids import PackedIds

_AT_ONCE = 1 << 22  # entries of feature sets: what a check looks at takes no memory to speak of
_HINT = "exclude the row, or look into how its features came about"


def finite_row(block: np.ndarray, start: int, ids: Sequence[str], lines: Sequence[str] | None) -> None:
    """Raise at the first NaN or infinity of a block; ``lines`` names its lines, None for scores."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(block.sum()):  # a NaN or infinity would have spoilt the sum
            return
    finite = np.isfinite(block)
    if finite.all():
        return
    line, column = np.argwhere(~finite)[0]
    what = "score" if lines is None else f"similarity to {lines[line]!r}"
    raise SiftuneError(f"the {what} of row {ids[start + column]!r} is {block[line, column]}",
                       why="Rows without a finite score cannot be ranked.", hint=_HINT)


def same_length(name: str, given: int, expected: int, of: str) -> None:
    """Raise unless there are as many as expected."""
    if given != expected:
        raise SiftuneError(f"{name} has {given} entries for {expected} {of}")


def distinct(ids: Sequence[str], kind: str) -> None:
    """Raise at the first id that occurs twice."""
    if isinstance(ids, PackedIds):
        if ids.twice is not None:
            raise SiftuneError(f"{kind} id {ids.twice!r} occurs more than once", why="Ids must tell the rows apart.")
    elif len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(i for i in ids if i in seen or seen.add(i))
        raise SiftuneError(f"{kind} id {twice!r} occurs more than once", why="Ids must tell the rows apart.")


def counts(name: str, values: np.ndarray | None, n: int | None) -> np.ndarray | None:
    """int64 [n], or None where there is nothing; raise unless they are whole numbers of 0 or more, one a row."""
    if values is None:
        return None
    counts = np.asarray(values)
    if counts.ndim != 1 or (counts.size and not np.issubdtype(counts.dtype, np.integer)):
        raise SiftuneError(f"{name} must be one whole number per row, not {counts.dtype} of shape {counts.shape}")
    if n is not None:
        same_length(name, len(counts), n, "rows")
    if counts.size and counts.min() < 0:
        raise SiftuneError(f"{name} must not be negative: {int(counts.min())}")
    return counts.astype(np.int64)


def rows_exist(name: str, rows: np.ndarray, n: int) -> None:
    """Raise unless all rows lie inside the pool."""
    if rows.size and (rows.min() < 0 or rows.max() >= n):
        raise SiftuneError(f"{name} names a row outside the pool of {n} rows: {int(rows.min())}..{int(rows.max())}")


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
    for start in range(0, 0 if sets.dtype == bool else len(sets.data), _AT_ONCE):
        part = sets.data[start:start + _AT_ONCE]
        wrong = np.flatnonzero((part != 1) & (part != 0))
        if len(wrong):
            row = int(np.searchsorted(sets.indptr, start + wrong[0], side="right")) - 1
            raise SiftuneError(f"the feature set of row {ids[row]!r} holds {part[wrong[0]]}",
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
