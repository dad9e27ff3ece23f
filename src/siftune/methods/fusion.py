"""Fusion: the similarities of several methods, made comparable and added up.

With Z_k[m, j] the z-score of row j's similarity to target m among all rows of the pool, by method k,

    S[m, j] = sum_k w_k Z_k[m, j]                     (``form = "zsum"``)
    S[m, j] = sum_k w_k / (60 + rank_k[m, j])         (``form = "rrf"``: reciprocal rank fusion, Cormack et al. 2009)

Words, sentence embeddings and hidden states err on different rows, so that their sum is rarely the worst of them. No
paper of targeted selection has it in this form; the z-score of a target over the pool is also what BIDS (arXiv
2501.12147) compares targets by. See :mod:`siftune.features.fusing` for the arithmetic.

Each signal is computed as by itself, with its own settings and under its own keys: what an earlier run has kept of one
is read, and what is kept here serves it later. A method that compares rows with whole subtasks counts for each of the
subtask's targets; one that scores rows on their own counts alike for every target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from siftune._common.errors import ConfigError, SiftuneError
from siftune._common.registry import unknown_name
from siftune.config.catalogue import METHODS, owner_of, settings_type
from siftune.config.options import OwnSettings, Rule, option
from siftune.features.base import Computed, Context, GradientMethod
from siftune.features.fusing import reciprocal_ranks, z_sum
from siftune.features.once import Once
from siftune.features.work import PlannedMethod, Work
from siftune.selectors.core.problem import Blocks
from siftune.selectors.core.spread import Spread

NO_SIGNALS = ("fusion", "two-stage", "none", "file", "utility", "mads")
"""Methods that are made of signals themselves, or neither compare single rows with targets nor score them (``file``
without a path)."""

_SCORE_ROWS = 4096


def _are_weights(values: Any) -> bool:
    return isinstance(values, tuple) and all(0 <= value < float("inf") for value in values)


WEIGHTS = Rule("a list of finite numbers of 0 or more, one for each signal", _are_weights)


@dataclass(frozen=True)
class FusionSettings(OwnSettings):
    signals: tuple[str, ...] = option(("bm25", "embed", "rds"), "The methods whose similarities are added up, for "
                                      "example [bm25, less, file:scores.npy]. Their own settings are read as well.")
    weights: tuple[float, ...] = option((), "What each signal counts, in their order; all the same where none are "
                                        "given.", decides="selection", rule=WEIGHTS)
    form: Literal["zsum", "rrf"] = option("zsum", "What is added up: z-scores over the pool, or 1 / (60 + rank).",
                                          decides="selection")
    center_signals: bool = option(True, "Take what all rows of the pool share out of every signal that can do so, "
                                  "whatever its own center says; with false that decides.", decides="selection")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.signals:
            raise ConfigError("signals cannot be empty", where="signals", hint="for example [bm25, embed, rds]")
        twice = [name for name in self.signals if self.signals.count(name) > 1]
        if twice:
            raise ConfigError(f"signals names {twice[0]} twice", where="signals", hint="use weights to count it more")
        for name in self.signals:
            if name in NO_SIGNALS:
                raise ConfigError(f"{name} cannot be one of the signals", where="signals",
                                  why="It is made of signals itself, or neither compares rows with targets nor scores "
                                      "them.", hint="for example [bm25, embed, rds]; a file of your own: file:PATH")
            if owner_of(name) not in METHODS or (":" in name and owner_of(name) != "file"):
                raise unknown_name("signal", name, [one for one in METHODS.names() if one not in NO_SIGNALS],
                                   flag="signals")
        if self.weights and not any(self.weights):
            raise ConfigError("weights are all 0", where="weights", hint="give one that is above 0")

    @property
    def parts(self) -> tuple[str, ...]:
        """The methods whose settings are read with these."""
        return self.signals


class Fusion:
    Settings = FusionSettings
    reads = ("autocast", "feature_dtype")
    name = "fusion"
    summary = "Similarities of several methods (signals) as one: the sum of their z-scores over the pool, or of ranks."
    paper = ""
    cost = "that of its signals; with those it has by default one forward pass over the pool"
    needs_target = True
    needs_model = True
    forward = True
    selector = "round-robin"
    signal = "signal"

    def compute(self, context: Context) -> Computed:
        settings: FusionSettings = context.settings
        self._check_collect(context)
        weights = _weights(settings)
        parts = signal_contexts(context)
        found = [_computed(one, inside, settings.signals) for one, inside in parts]
        signals = [Once(_per_target(inside, output), context.folder / "store")
                   for (_, inside), output in zip(parts, found, strict=True)]
        notes: dict[str, Any] = {"fusion": settings.form, "weights": list(weights), "signals": {
            name: output.notes for name, output in zip(settings.signals, found, strict=True)}}
        if settings.form == "zsum":
            with context.clock.measure("fuse signals"):
                spreads = [Spread.of(blocks) for blocks in signals]
            notes["targets_that_a_signal_is_silent_for"] = {
                name: int((spread.sd == 0).sum()) for name, spread in zip(settings.signals, spreads, strict=True)}
            blocks = z_sum(signals, weights, spreads)
        else:
            blocks = reciprocal_ranks(signals, weights, len(context.target), len(context.pool),
                                      context.folder / "store")
        excluded: dict[str, np.ndarray] = {}
        for output in found:
            for reason, rows in output.excluded.items():
                excluded[reason] = np.union1d(excluded.get(reason, rows), rows)
        return Computed(blocks=blocks, excluded=excluded, stores=[at for output in found for at in output.stores],
                        fingerprint={name: output.fingerprint
                                     for name, output in zip(settings.signals, found, strict=True)}, notes=notes)

    def work(self, context: Context) -> list[Work]:
        """What `siftune plan` tells of the signals but for those by gradients, see :meth:`gradient_parts`."""
        _weights(context.settings)
        steps: list[Work] = []
        for one, inside in signal_contexts(context):
            if isinstance(one, PlannedMethod):
                steps += [replace(step, owner=inside.owner) for step in one.work(inside)]
            elif not isinstance(one, GradientMethod):
                steps.append(Work(one.name, "words", 0))
        return steps

    def gradient_parts(self, context: Context) -> list[tuple[GradientMethod, Context]]:
        """The signals by gradients, which `siftune plan` probes in their own way."""
        return [(one, inside) for one, inside in signal_contexts(context) if isinstance(one, GradientMethod)]

    def _check_collect(self, context: Context) -> None:
        signals = context.settings.signals
        if context.config.collect and not any(getattr(one, "forward", False) for one, _ in signal_contexts(context)):
            raise ConfigError("none of the signals runs a forward pass that more could be read of", where="--collect",
                              why=f"The signals are {', '.join(signals)}.",
                              hint="add rds to them, or leave --collect out")


def _weights(settings: FusionSettings) -> tuple[float, ...]:
    weights = settings.weights or (1.0,) * len(settings.signals)
    if len(weights) != len(settings.signals):
        raise ConfigError(f"weights has {len(weights)} numbers for {len(settings.signals)} signals",
                          where="--set weights", hint=f"give one for each of {', '.join(settings.signals)}")
    return weights


def signal_contexts(context: Context) -> list[tuple[Any, Context]]:
    """Each signal's method, and the context that it is computed in: as by itself."""
    settings: FusionSettings = context.settings
    found: list[tuple[Any, Context]] = []
    read = False  # what --collect names is read once, in the first forward pass
    for name in settings.signals:
        kind = METHODS.get(owner_of(name), flag="--set signals")
        method = kind(name.removeprefix("file:")) if name.startswith("file:") else kind()
        forward = getattr(method, "forward", False)
        found.append((method, _inside(context, owner_of(name), collected=forward and not read)))
        read = read or forward
    return found


def _inside(context: Context, owner: str, *, collected: bool) -> Context:
    config = context.config
    if context.settings.center_signals and "center" in getattr(settings_type(owner), "__dataclass_fields__", {}):
        config = config.with_own({owner: {"center": True}})
    if not collected:
        config = replace(config, collect=())
    return replace(context, config=config, owner=owner,
                   siblings=lambda: [_inside(one, owner, collected=collected) for one in context.siblings()])


def _computed(method: Any, context: Context, signals: Sequence[str]) -> Computed:
    try:
        output: Computed = method.compute(context)
        if output.blocks is None and output.scores is None:
            raise ConfigError(f"{method.name} neither compares rows with targets nor scores them", where="signals")
    except SiftuneError as error:
        others = [name for name in signals if owner_of(name) != context.owner]
        out = f"leave it out: --set signals=[{', '.join(others)}]" if others else "choose other signals"
        error.why = " ".join(filter(None, [f"{context.owner} is one of the signals of fusion.", error.why]))
        error.hint = f"{error.hint}; or {out}" if error.hint else out
        raise
    return output


def _per_target(context: Context, output: Computed) -> Blocks:
    """Streamed [M, n], a line for each target row, of whatever the method compares rows with."""
    blocks, targets = output.blocks, len(context.target)
    if blocks is None:
        scores = np.asarray(output.scores, dtype=np.float64)

        def scored() -> Iterator[tuple[int, np.ndarray]]:
            for start in range(0, len(scores), _SCORE_ROWS):
                part = scores[start : start + _SCORE_ROWS]
                yield start, np.broadcast_to(part, (targets, len(part)))

        return scored
    if not output.lines:
        return blocks
    place = {name: at for at, name in enumerate(output.lines)}
    order = [place[row.subtask or "all"] for row in context.target.rows]
    return lambda: ((start, block[order]) for start, block in blocks())
