"""The subset beside its pool: shares of sources and groups, lengths, and the distribution of the scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

TOP = 20  # sources or groups listed by name; the rest are summed up as "others"
LENGTH_BINS = 20
SCORE_BINS = 48
QUANTILES = (("min", 0.0), ("5%", 0.05), ("25%", 0.25), ("median", 0.5), ("75%", 0.75), ("95%", 0.95), ("max", 1.0))


def floats(table: pa.Table, column: str) -> np.ndarray | None:
    """A numeric column as float64 [N], null as NaN; ``None`` where the table has no such column."""
    if column not in table.column_names:
        return None
    return np.asarray(table.column(column).to_numpy(), dtype=np.float64)


def flags(table: pa.Table, column: str) -> np.ndarray:
    """A Boolean column as bool [N], null as false."""
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(table.column(column), False).to_numpy(), dtype=bool)


def shares(table: pa.Table, column: str, selected: np.ndarray, tokens: np.ndarray | None) -> dict[str, Any] | None:
    """Rows and tokens of the pool and of the subset by the values of a column, the largest shares first.

    Args:
        table: The pool's rows [N].
        column: ``source`` or ``group``.
        selected: bool [N].
        tokens: float64 [N], or ``None`` where they are not known.

    Returns:
        ``{"count", "listed": [{"name", "pool", "selected", "pool_share", "selected_share", "pool_tokens",
        "selected_tokens"}]}``; with more than ``TOP`` names the last entry is the others, with ``"others"`` their
        number. ``None`` where no row has a value.
    """
    if column not in table.column_names or not len(table):
        return None
    encoded = table.column(column).combine_chunks().dictionary_encode(null_encoding="encode")
    names = [str(name) if name is not None else "(none)" for name in encoded.dictionary.to_pylist()]
    if names == ["(none)"]:
        return None
    codes = encoded.indices.to_numpy()
    known_tokens = np.nan_to_num(tokens) if tokens is not None else None

    def sums(rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray | None]:
        counts = np.bincount(codes[rows], minlength=len(names))
        if known_tokens is None:
            return counts, None
        return counts, np.bincount(codes[rows], weights=known_tokens[rows], minlength=len(names)).astype(np.int64)

    (pool, pool_tokens), (chosen, chosen_tokens) = sums(slice(None)), sums(selected)
    pool_rows, chosen_rows = int(pool.sum()), int(chosen.sum())

    def entry(name: str, codes: list[int], **more: int) -> dict[str, Any]:
        rows, taken = int(pool[codes].sum()), int(chosen[codes].sum())
        return {
            "name": name, **more, "pool": rows, "selected": taken, "pool_share": rows / pool_rows,
            "selected_share": taken / chosen_rows if chosen_rows else None,
            "pool_tokens": None if pool_tokens is None else int(pool_tokens[codes].sum()),
            "selected_tokens": None if chosen_tokens is None else int(chosen_tokens[codes].sum()),
        }

    order = sorted(range(len(names)), key=lambda code: (-chosen[code], -pool[code], names[code]))
    listed = [entry(names[code], [code]) for code in order[:TOP]]
    if len(order) > TOP:
        listed.append(entry(f"{len(order) - TOP:,} others", order[TOP:], others=len(order) - TOP))
    return {"count": len(names), "listed": listed}


def summary(values: np.ndarray) -> dict[str, Any] | None:
    """Count, total, mean and quantiles of the finite values (linear interpolation); ``None`` where there are none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    points = np.quantile(values, [share for _, share in QUANTILES])
    return {"count": len(values), "total": float(values.sum()), "mean": float(values.mean()),
            "quantiles": {name: float(point) for (name, _), point in zip(QUANTILES, points, strict=True)}}


def length_histogram(pool: np.ndarray, selected: np.ndarray) -> dict[str, Any] | None:
    """Equal bins of a round width up to the 99th percentile, and one open bin for what is longer.

    Returns:
        ``{"edges": [..], "open": bool, "pool": [rows], "selected": [rows]}``; bin ``i`` is
        ``edges[i] <= length < edges[i + 1]``, the last one without upper limit where ``open``.
    """
    values = pool[np.isfinite(pool)]
    if not len(values):
        return None
    low, high, longest = float(values.min()), float(np.quantile(values, 0.99)), float(values.max())
    width = max(1.0, nice(max(high - low, 1.0) / LENGTH_BINS))
    start = math.floor(low / width) * width
    count = math.floor((high - start) / width) + 1
    edges = start + width * np.arange(count + 1)
    is_open = longest >= edges[-1]
    inner = np.append(edges, np.inf) if is_open else edges

    def counts(lengths: np.ndarray) -> list[int]:
        return np.histogram(lengths[np.isfinite(lengths)], bins=inner)[0].tolist()

    if is_open:
        edges = np.append(edges, edges[-1] + width)  # drawn as wide as the others
    return {"edges": edges.tolist(), "open": bool(is_open), "pool": counts(pool), "selected": counts(selected)}


def score_histogram(scores: np.ndarray, selected: np.ndarray) -> dict[str, Any] | None:
    """The scores of all usable rows and of the selected ones, and the lowest score that was selected.

    Args:
        scores: float64 [N], not finite where a row has none.
        selected: bool [N].

    Returns:
        ``{"edges", "pool": [rows], "selected": [rows], "cut", "passed_over"}``, where ``passed_over`` counts the rows
        above the cut that were not selected; ``None`` where no row has a score.
    """
    finite = np.isfinite(scores)
    if not finite.any():
        return None
    low, high = float(scores[finite].min()), float(scores[finite].max())
    if low == high:
        low, high = low - max(abs(low), 1.0) * 0.05, high + max(abs(high), 1.0) * 0.05
    edges = np.linspace(low, high, SCORE_BINS + 1)
    chosen = scores[finite & selected]
    cut = float(chosen.min()) if len(chosen) else None
    return {
        "edges": edges.tolist(),
        "pool": np.histogram(scores[finite], bins=edges)[0].tolist(),
        "selected": np.histogram(chosen, bins=edges)[0].tolist(),
        "cut": cut,
        "passed_over": None if cut is None else int((scores[finite & ~selected] > cut).sum()),
    }


def nice(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least ``step`` (> 0)."""
    base = 10.0 ** math.floor(math.log10(step))
    return next(factor * base for factor in (1, 2, 5, 10) if factor * base >= step * (1 - 1e-9))
