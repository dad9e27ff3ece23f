"""`siftune inspect`: what is in a pool, how long it is for a model, and what of its rows is supervised."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siftune._common.text import one_line, visible
from siftune.config.settings import DataConfig
from siftune.data.collect import SourceSummary
from siftune.data.inspect import PoolStats, describe_source, inspect_pool
from siftune.data.load import pool_examples, read, rendered_pool, window_warning
from siftune.data.pool_cache import PoolCache
from siftune.data.render import Renderer
from siftune.data.rows import Dropped, Examples

UNUSABLE_SHOWN = 20
"""How many rows that cannot be used are listed."""


@dataclass(frozen=True)
class Inspection:
    """A look at a pool; printed, it is what `siftune inspect` shows.

    Attributes:
        stats: counts, lengths, duplicates.
        dropped: rows that cannot be used, with place and reason.
        examples: the others, rendered.
        tokenizer: that rendered them.
        show: of how many rows the text tells what is supervised.
        sources: what each source holds: its formats, columns used, columns kept.
        warnings: such as a limit beyond the model's window.
    """

    stats: PoolStats
    dropped: list[Dropped]
    examples: Examples
    tokenizer: Any
    show: int = 3
    sources: Sequence[SourceSummary] = ()
    warnings: Sequence[str] = ()

    def __repr__(self) -> str:
        return f"Inspection({self.stats.rows:,} usable rows, {self.stats.dropped:,} that cannot be used)"

    def __str__(self) -> str:
        lines = self.lines()
        for row, rendered in zip(self.examples.rows[: self.show], self.examples.rendered[: self.show], strict=True):
            place = f"{one_line(row.where)}  id {one_line(row.id)}"
            lines += ["", f"{place}  {len(rendered)} tokens, {rendered.supervised} supervised [[so]]"]
            ids, mask = rendered.ids.tolist(), rendered.mask.tolist()
            starts = [t for t in range(len(ids)) if t == 0 or mask[t] != mask[t - 1]]
            for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
                text = visible(self.tokenizer.decode(ids[start:stop]))
                lines.append(f"[[{text}]]" if mask[start] else text)
        return "\n".join(lines)

    def lines(self) -> list[str]:
        """Counts and unusable rows, without the rows that are shown."""
        found = [line for source in self.sources for line in describe_source(source)]
        found += [f"warning: {warning}" for warning in self.warnings]
        found += _stats_lines(self.stats)
        found += [f"  cannot be used: {row.where}  {row.reason}  {row.detail}" for row in self.dropped[:UNUSABLE_SHOWN]]
        if len(self.dropped) > UNUSABLE_SHOWN:
            found.append(f"  ... and {len(self.dropped) - UNUSABLE_SHOWN:,} more; `siftune select --bad-rows drop` "
                         "lists all of them")
        return [one_line(line) for line in found]


def inspect(config: DataConfig, model: str, *, show: int = 3, run: Path | None = None) -> Inspection:
    """Read and render a pool. Rows that cannot be used are listed rather than refused.

    Args:
        config: names the pool.
        model: whose tokenizer and template are used.
        show: of how many rows the text tells what is supervised.
        run: folder of a run, for what is read and rendered of a large pool: it is taken from there, and kept there.
    """
    from siftune.models.loading import load_tokenizer
    from siftune.models.shape import model_shape

    config = dataclasses.replace(config, bad_rows="drop")
    tokenizer = load_tokenizer(model)
    cache = PoolCache(() if run is None else (run,))
    found = read(config, config.pool, "pool", cache)
    renderer = Renderer(tokenizer, max_length=config.max_length, shape=model_shape(model))
    rows, rendering = rendered_pool(found.rows, renderer, cache)
    examples = pool_examples(rows, rendering, renderer, "drop")
    return Inspection(inspect_pool(rows, found.dropped, examples), [*found.dropped, *examples.dropped], examples,
                      tokenizer, show, found.sources, window_warning(config.max_length, renderer))


def _stats_lines(stats: Any) -> list[str]:
    found = []
    for field in dataclasses.fields(stats):
        value = getattr(stats, field.name)
        if dataclasses.is_dataclass(value):
            found += _stats_lines(value)
            continue
        if isinstance(value, dict):
            value = _counted(value)
        found.append(f"{field.name.replace('_', ' ') + ':':34} {value}")
    return found


def _counted(counts: dict[Any, Any], most: int = 12) -> str:
    """Quantiles in their order; counts with the largest first, and how many more there are."""
    if any(isinstance(key, float) for key in counts):
        return ", ".join(f"{key:.0%}: {value:,}" for key, value in sorted(counts.items()))
    largest = sorted(counts.items(), key=lambda item: -item[1])
    more = f", ... and {len(largest) - most} more" if len(largest) > most else ""
    return (", ".join(f"{key} {value:,}" for key, value in largest[:most]) or "none") + more
