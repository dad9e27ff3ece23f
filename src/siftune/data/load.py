"""Pool, target and test of a run, read, checked against each other and rendered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError
from siftune._common.progress import log
from siftune._common.text import counted
from siftune.config.settings import DataConfig
from siftune.data.collect import SourceSummary
from siftune.data.columns import named_columns
from siftune.data.limits import Limits
from siftune.data.model_shape import ModelShape
from siftune.data.overlap import Disjoint, check_disjoint
from siftune.data.pool_cache import PoolCache
from siftune.data.readers import BadRows, Reading, Role, read_sources
from siftune.data.render import Renderer
from siftune.data.rendering import Rendering, render_rows
from siftune.data.rows import Dropped, Examples, Row
from siftune.data.stored import StoredRows


@dataclass
class Inputs:
    """What a run works on.

    Attributes:
        pool, target, test: usable rows, rendered; ``target`` and ``test`` are empty where no file was given.
        existing: rows that the model already knows, likewise.
        pool_rows: rows read from the pool, before any was left out.
        dropped: every row left out of any of the three, with its reason.
        overlaps: what the pool shares with the target and the test file.
        render: the renderer's fingerprint.
        warnings: what the user should know.
        sources: what was found in each source of the pool.
    """

    pool: Examples
    target: Examples
    test: Examples
    pool_rows: int
    dropped: list[Dropped]
    overlaps: Disjoint
    render: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    existing: Examples = field(default_factory=lambda: Examples([], []))
    sources: list[SourceSummary] = field(default_factory=list)


def read(config: DataConfig, sources: Sequence[str], role: Role, cache: PoolCache | None = None) -> Reading:
    """Read the sources of one role as the configuration says.

    Args:
        config: How to read them.
        sources: Of the role.
        role: What the rows are for.
        cache: Where what was read is kept, of a pool.

    Raises:
        ConfigError: columns or limits are not what they must be.
        DataError: whatever is wrong with a file or a row; see ``readers``.
    """
    named, limits = named_columns(config.columns), Limits.parse(config.limits)
    if not sources:
        return Reading()
    settings = {"format": config.format, "id_field": config.id_field, "subtask_field": config.subtask_field,
                "group_field": config.group_field, "named": named, "limits": limits}

    def run(folder: Path | None = None) -> Reading:
        return read_sources(sources, role=role, bad_rows=config.bad_rows, folder=folder, **settings)

    return run() if cache is None else cache.reading(sources, settings, config.bad_rows, run)


def rendered_pool(rows: Sequence[Row], renderer: Renderer,
                  cache: PoolCache | None = None) -> tuple[Sequence[Row], Rendering | None]:
    """The rows of a pool with their facts, and what rendering makes of them, where they are so many that they stand in
    a file; few rows as they are, to be rendered when it is known which are left."""
    if not isinstance(rows, StoredRows):
        return rows, None
    return (cache or PoolCache()).rendering(rows, renderer)


def pool_examples(rows: Sequence[Row], rendering: Rendering | None, renderer: Renderer, bad_rows: BadRows) -> Examples:
    """The usable rows of a pool.

    Args:
        rows: those that are left.
        rendering: see :func:`rendered_pool`.
        renderer: renders them where that is None.
        bad_rows: see :func:`~siftune.data.rendering.render_rows`.

    Raises:
        DataError, ModelError: see :func:`~siftune.data.rendering.render_rows`.
    """
    if rendering is None or not isinstance(rows, StoredRows):
        return render_rows(rows, renderer, role="pool", bad_rows=bad_rows)
    part = rendering if rows.places is None else rendering.take(rows.places)
    return part.examples(rows, role="pool", bad_rows=bad_rows)


def load_inputs(config: DataConfig, tokenizer: Any, shape: ModelShape | None = None,
                runs: Sequence[Path] = ()) -> Inputs:
    """Read, check and render everything that the configuration names.

    Args:
        config: What to read, and how.
        tokenizer: Of the model.
        shape: What the model can take; rows are cut at its window.
        runs: Folders of the run, and of those that it goes on from, that keep what is read and rendered of a large
            pool.

    Raises:
        ConfigError: no pool is named, or a column or limit is not what it must be.
        DataError: whatever is wrong with a file or a row; see ``readers``, ``overlap`` and ``render``.
        ModelError: a row has a token that the model has no embedding for.
    """
    if not config.pool:
        raise ConfigError("no pool is named", where="--pool", hint="give a file to choose from: --pool pool.jsonl")
    cache = PoolCache(runs)
    pool, target = read(config, config.pool, "pool", cache), read(config, config.target, "target")
    test, existing = read(config, config.test, "test"), read(config, config.existing, "existing")
    renderer = Renderer(tokenizer, max_length=config.max_length, shape=shape)
    rows, rendering = rendered_pool(pool.rows, renderer, cache)
    overlaps = check_disjoint(rows, target.rows, test.rows, config.overlap)

    rendered = [pool_examples(overlaps.pool, rendering, renderer, config.bad_rows),
                *(render_rows(rows, renderer, role=role, bad_rows=config.bad_rows) if rows else Examples([], [])
                  for rows, role in ((target.rows, "target"), (test.rows, "test"), (existing.rows, "existing")))]
    dropped = [*pool.dropped, *target.dropped, *test.dropped, *existing.dropped, *overlaps.dropped,
               *(d for examples in rendered for d in examples.dropped)]
    inputs = Inputs(*rendered[:3], existing=rendered[3], pool_rows=len(pool.rows) + len(pool.dropped), dropped=dropped,
                    overlaps=overlaps, render=renderer.fingerprint(), sources=pool.sources)
    inputs.warnings = [*window_warning(config.max_length, renderer), *_warnings(inputs)]
    for warning in inputs.warnings:
        log(f"warning: {warning}")
    return inputs


def window_warning(max_length: int, renderer: Renderer) -> list[str]:
    """What to say where the model's window is shorter than the length that was asked for."""
    if renderer.max_length >= max_length or max_length == DataConfig.max_length:  # nobody asked for the default
        return []
    return [f"--max-length {max_length:,} is beyond the model's window: rows are cut at its {renderer.max_length:,} "
            "positions"]


def _warnings(inputs: Inputs) -> list[str]:
    found = []
    if inputs.dropped:
        reasons = sorted({d.reason for d in inputs.dropped})
        found.append(f"{counted(len(inputs.dropped))} left out ({', '.join(reasons)}); all are listed in dropped.jsonl")
    for name, examples in (("pool", inputs.pool), ("target", inputs.target), ("test", inputs.test)):
        if examples.truncated:
            found.append(f"{counted(examples.truncated)} of the {name} cut at the length limit (--max-length)")
        if examples.unmatched_turns:
            found.append(f"{examples.unmatched_turns} assistant turns of the {name} are not supervised: the chat "
                         "template leaves them out")
    dropped = {d.id for d in inputs.overlaps.dropped}
    if kept := [o for o in inputs.overlaps.in_target if o.a_id not in dropped]:
        found.append(f"{counted(len(kept))} of the pool also in the target file; they will look like perfect matches "
                     "(--overlap drop leaves them out)")
    if inputs.overlaps.same_prompt:
        found.append(f"{counted(len(inputs.overlaps.same_prompt))} of the pool with the prompt of a test row but "
                     "another answer")
    return found
