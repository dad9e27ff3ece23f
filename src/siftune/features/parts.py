"""A method on some rows of the pool only: dear signals where a cheap one says where to look.

The method sees the rows as a pool of their own, in a folder of their own; a warmup run, and the means of ``center`` of
exact scores, are those of the whole pool. Where the method has kept what it knows of the whole pool already, that is
read instead, and no pass is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from siftune.data.rows import Examples
from siftune.features.base import Computed, Context, row_keys
from siftune.selectors.core.problem import Blocks


def rows_of(pool: Examples, rows: np.ndarray) -> Examples:
    """Some rows of a pool, in its order.

    Args:
        rows: int64, ascending.
    """
    return pool.take(rows)


def part_context(context: Context, pool: Examples, method: Any,
                 siblings: Callable[[], Sequence[Context]] = tuple) -> Context:
    """What a method computes in of some rows of the pool.

    Args:
        context: of the whole pool; its owner is the method.
        pool: the rows, see :func:`rows_of`.
        method: of whom.
        siblings: makes the contexts of further targets whose part is the very same object.
    """
    if method.needs_model:
        _ = context.model  # loaded once, for the whole and the part
    keys = row_keys(pool, "pool")
    shared = {key: found for key, found in context.shared.items() if key != ("pool",)}
    folder = context.folder / "store" / f"part-{keys.key[:12]}"
    return replace(context, pool=pool, whole=context.whole_pool, folder=folder, shared=shared, siblings=siblings,
                   trained=context.trained or context.folder, config=replace(context.config, collect=())).knows(keys)


def computed_of(context: Context, pool: Examples, rows: np.ndarray, method: Any,
                siblings: Callable[[], Sequence[Context]] = tuple) -> tuple[Computed, bool]:
    """What a method knows of some rows of the pool, its blocks over these alone, and whether it was all there.

    Args:
        context, pool, method, siblings: see :func:`part_context`.
        rows: int64, ascending: their positions.
    """
    kept = getattr(method, "kept", None)
    if kept is not None and kept(context):
        found = method.compute(context)
        return replace(found, blocks=taken(found.blocks, rows), subtask_blocks=taken(found.subtask_blocks, rows),
                       vectors=None, existing=None, kernel=None, sets=None,
                       scores=None if found.scores is None else found.scores[rows]), True
    return method.compute(part_context(context, pool, method, siblings)), False


def taken(blocks: Blocks | None, rows: np.ndarray) -> Blocks | None:
    """Streamed [M, n] of some rows alone, which are then numbered from 0.

    Args:
        blocks: of the whole pool.
        rows: int64, ascending.
    """
    if blocks is None:
        return None

    def stream() -> Iterator[tuple[int, np.ndarray]]:
        for start, block in blocks():
            first, stop = np.searchsorted(rows, (start, start + block.shape[1])).tolist()
            if stop > first:
                yield first, block[:, rows[first:stop] - start]

    return stream


def spread_out(blocks: Blocks, rows: np.ndarray, count: int) -> Blocks:
    """Streamed [M, n] of a pool of which only some rows are known; others have the least of their line.

    Args:
        blocks: of the known rows alone.
        rows: int64, ascending: their positions in the pool.
        count: rows of the pool.
    """
    least: list[np.ndarray] = []

    def stream() -> Iterator[tuple[int, np.ndarray]]:
        if not least:
            least.append(np.min([block.min(axis=1) for _, block in blocks()], axis=0))
        for start, block in blocks():
            at = rows[start : start + block.shape[1]]
            first = int(at[0]) if start else 0
            after = start + len(at)
            stop = int(rows[after]) if after < len(rows) else count
            whole = np.repeat(least[0][:, None], stop - first, axis=1)
            whole[:, at - first] = block
            yield first, whole

    return stream
