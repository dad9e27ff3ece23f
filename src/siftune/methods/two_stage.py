"""Two stages: a cheaper signal says which rows are worth a look, a dear one ranks these.

1. The first stage (``first``, fused as by :mod:`siftune.methods.fusion`) lets the targets take turns until ``keep``
   budgets of rows are taken. By default it is the second method itself, at the last checkpoint of its warmup run alone;
   of a method that takes no gradients at checkpoints, the words and the centred sentence embeddings.
2. The second (``second``; by default LESS with exact scores) is computed of these rows alone. All others are ruled out,
   with the reason "first stage".

With keep = 8 and a budget of 1% LESS takes one of its four passes over the pool, and four over 8% of it; the warmup run
stays as it is, a random share of the whole pool. What is lost is what the first stage does not see. The last checkpoint
misses little of what all of them select; words and embeddings cost next to nothing, and miss the rows that share
nothing with the targets but what they do to the weights, which can be all. ``benchmarks/signal_forms.py`` measures it
as the share of the exact selection that is kept. Rows that the user leaves out are not looked at, nor is more than one
of near-duplicates; rows that must be taken are, whatever the first stage says.

Where the second method has kept its scores of the whole pool already, they are read and no pass is run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune._common.seeds import permutation
from siftune.config.catalogue import METHODS, owner_of, settings_type
from siftune.config.options import OwnSettings, Rule, option
from siftune.features.base import Computed, Context, GradientMethod
from siftune.features.parts import computed_of, part_context, rows_of, spread_out
from siftune.features.work import PlannedMethod, Work
from siftune.methods.fusion import NO_SIGNALS, Fusion, FusionSettings
from siftune.selectors import Budget, Problem, select
from siftune.selectors.core.budget import ResolvedBudget

REASON = "first stage"
"""Why a row is ruled out, as ``dropped.jsonl`` and the notes have it."""

WORDS = ("bm25", "embed")
"""The first stage of methods that take no gradients at checkpoints."""

COMPOSED = ("fusion", "two-stage", "landmarks")
"""Methods that are made of others, and cannot be a stage."""

BUDGETS = Rule("a finite number of 1 or more", lambda x: 1 <= x < float("inf"), {"minimum": 1})


@dataclass(frozen=True)
class TwoStageSettings(OwnSettings):
    first: tuple[str, ...] = option((), "The methods, added up as by fusion, that say which rows are looked at, for "
                                    "example [bm25, embed]; their own settings are read as well. The second itself, as "
                                    "[less], is taken at its last checkpoint alone, and so it is where none is named.")
    second: str = option("less", "The method that ranks these rows, with its own settings.")
    keep: float = option(8.0, "How many budgets of rows the first stage keeps.", rule=BUDGETS)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            FusionSettings(signals=self.first or WORDS)
        except ConfigError as error:
            error.what, error.where = error.what.replace("signals", "first"), "first"
            raise
        if self.second in (*NO_SIGNALS, *COMPOSED) or owner_of(self.second) == "file":
            raise ConfigError(f"{self.second} cannot be the second stage", where="second",
                              why="It is to rank rows of the pool one by one, by what it computes of them.",
                              hint="for example less, gist or rds")
        if self.second not in METHODS:
            raise unknown_name("method", self.second, METHODS.names(), flag="second")

    @property
    def first_methods(self) -> tuple[str, ...]:
        """Those of the first stage."""
        if self.first:
            return self.first
        takes_checkpoints = "checkpoints" in getattr(settings_type(self.second), "__dataclass_fields__", {})
        return (self.second,) if takes_checkpoints else WORDS

    @property
    def parts(self) -> tuple[str, ...]:
        """The methods whose settings are read with these."""
        return tuple(dict.fromkeys((*self.first_methods, self.second)))


class TwoStage:
    Settings = TwoStageSettings
    reads = ("autocast", "feature_dtype")
    name = "two-stage"
    summary = "The rows that a cheaper signal (first) finds for the targets, ranked by a dear one (second)."
    paper = ""
    cost = "the first stage, and the second on `keep` budgets of rows (a warmup run is as by itself)"
    needs_target = True
    needs_model = True
    selector = "round-robin"
    by_budget = True
    signal, part = "first stage", "second stage"

    def compute(self, context: Context) -> Computed:
        settings: TwoStageSettings = context.settings
        first = first_stage(context)
        found = Fusion().compute(first)
        with context.clock.measure("keep the first stage's rows"):
            rows = kept_rows(context, found)
        second, inside = _second(context)
        pool = rows_of(context.pool, rows)
        ranked, there = computed_of(inside, pool, rows, second)
        count, tokens = len(context.pool), int(pool.tokens.sum())
        share = round(tokens / int(context.pool.tokens.sum()), 4)
        outside = np.setdiff1d(np.arange(count), rows)
        seen = {"rows": 0, "tokens": 0} if there else {"rows": len(rows), "tokens": tokens}
        notes: dict[str, Any] = {
            "first": list(settings.first_methods), "second": settings.second,
            "kept": {"rows": len(rows), "tokens": tokens, "share_of_tokens": share, "ruled_out": len(outside)},
            "second_stage_saw": {**seen, "read_from_earlier_scores": there},
            "stages": {"first": found.notes, "second": ranked.notes}}
        excluded = {reason: rows[some] for reason, some in ranked.excluded.items()} if not there else ranked.excluded
        scores = None
        if ranked.blocks is None:
            if ranked.scores is None:
                raise ConfigError(f"{settings.second} neither compares rows with targets nor scores them",
                                  where="second")
            scores = np.full(count, ranked.scores.min())
            scores[rows] = ranked.scores

        def whole(blocks: Any) -> Any:
            return None if blocks is None else spread_out(blocks, rows, count)

        return Computed(blocks=whole(ranked.blocks), subtask_blocks=whole(ranked.subtask_blocks), lines=ranked.lines,
                        scores=scores, excluded={**excluded, REASON: outside}, stores=[*found.stores, *ranked.stores],
                        fingerprint={"first": found.fingerprint, "second": ranked.fingerprint, "keep": settings.keep},
                        notes=notes)

    def work(self, context: Context) -> list[Work]:
        """What `siftune plan` tells of the stages but for gradients, see :meth:`gradient_parts`."""
        steps = Fusion().work(first_stage(context))
        second, inside = _planned(context)
        if isinstance(second, PlannedMethod):
            steps += [replace(step, owner=inside.owner) for step in second.work(inside)]
        return steps

    def gradient_parts(self, context: Context) -> list[tuple[GradientMethod, Context]]:
        """The stages by gradients; the second on random rows, as many as it will see."""
        second, inside = _planned(context)
        last = [(second, inside)] if isinstance(second, GradientMethod) else []
        return [*Fusion().gradient_parts(first_stage(context)), *last]


def kept_rows(context: Context, found: Computed) -> np.ndarray:
    """int64, ascending: the rows that the first stage takes for the targets in turn, of those that may be selected and
    one of near-duplicates."""
    limits = context.limits
    excluded = np.zeros(len(context.pool), dtype=bool) if limits is None else limits.exclude.copy()
    for rows in found.excluded.values():
        excluded[rows] = True
    problem = Problem(ids=context.pool.ids, tokens=context.pool.tokens, blocks=found.blocks,
                      targets=context.target.ids, exclude=excluded,
                      duplicate_groups=() if limits is None else limits.duplicate_groups)
    return np.sort(select(problem, _kept_budget(context, ~excluded), "round-robin").indices)


def _kept_budget(context: Context, usable: np.ndarray | None = None) -> str:
    """``keep`` budgets, as a budget is written; at most the rows that are usable, all where nothing is said."""
    lengths = context.pool.tokens if usable is None else context.pool.tokens[usable]
    tokens = int(lengths.sum())
    budget: ResolvedBudget = Budget.parse(context.config.budget).resolve(len(lengths), tokens)
    limit = int(np.ceil(context.settings.keep * budget.limit))
    if budget.kind == "rows":
        return str(min(limit, len(lengths)))
    return f"{min(limit, tokens)} tokens"


def first_stage(context: Context) -> Context:
    """What the first stage is computed in: a fusion of its own.

    Raises:
        ConfigError: the second method is the first as well, and has no cheaper form.
    """
    settings: TwoStageSettings = context.settings
    signals = settings.first_methods
    # The second alone is not centred unless it is so as the second: it is to find what that will.
    own: dict[str, Any] = {**context.config.own, "fusion": {
        "signals": signals, "center_signals": signals != (settings.second,)}}
    if settings.second in signals:
        given = getattr(context.of(settings.second).settings, "checkpoints", None)
        if given != "all":
            raise ConfigError(f"{settings.second} is both the first and the second stage", where="first",
                              why="It takes no gradients at checkpoints." if given is None else
                                  f"With checkpoints={given} there is no cheaper form of it.",
                              hint="name others, as --set first=[bm25,embed]" + (
                                  ", or leave checkpoints out" if given else ""))
        own[settings.second] = {**own.get(settings.second, {}), "checkpoints": "last"}
    config = replace(context.config, collect=(), own=own)
    return replace(context, config=config, owner="fusion",
                   siblings=lambda: [first_stage(one) for one in context.siblings()])


def _second(context: Context) -> tuple[Any, Context]:
    name = context.settings.second
    config = replace(context.config, collect=())
    inside = replace(context, config=config, owner=name,
                     siblings=lambda: [replace(one, config=replace(one.config, collect=()), owner=name)
                                       for one in context.siblings()])
    return METHODS.get(name)(), inside


def _planned(context: Context) -> tuple[Any, Context]:
    """The second stage on random rows, as many as the first will keep."""
    second, inside = _second(context)
    limit, _, tokens = _kept_budget(context).partition(" ")
    order = permutation(len(context.pool), context.config.seed, "probe")
    count = int(limit)
    if tokens:
        count = int(np.searchsorted(np.cumsum(context.pool.tokens[order]), count)) + 1
    return second, part_context(inside, rows_of(context.pool, np.sort(order[:count])), second)
