"""The subsets that a study asks for, and what is known of each once it is there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from siftune.experiments.config import StudyConfig, representation_named
from siftune.pipeline.recipes import representation_of, resolve
from siftune.selectors import SELECTORS

Kind = Literal["baseline", "method", "ablation", "decile"]
BINS = 10
"""A decile experiment cuts the pool into so many."""

_COMPARE_WITH_TARGETS = ("flmi", "flcmi")  # selectors whose kernel spans the targets; the others say `similarities`


@dataclass(frozen=True)
class SubsetSpec:
    """One subset that the study asks for.

    Attributes:
        kind: what it is made by.
        name: of the method, ablation or baseline, or what the deciles are of.
        target: whom it is chosen for; None where no target plays a part.
        budget: as written; None for the full pool.
        draw: which of several random subsets, or which of the ten bins (0 holds the rows ranked first).
        seeds: of its trainings.
        varies: the method that an ablation varies.
    """

    kind: Kind
    name: str
    target: str | None
    budget: str | None
    draw: int | None = None
    seeds: tuple[int, ...] = (0,)
    varies: str | None = None

    @property
    def method(self) -> str:
        """The recipe by which it is chosen."""
        return self.varies or self.name

    @property
    def title(self) -> str:
        draw = None if self.draw is None else f"{'bin' if self.kind == 'decile' else 'draw'} {self.draw}"
        return ", ".join(part for part in (self.name, self.target, self.budget, draw) if part is not None)

    @property
    def id(self) -> str:
        """A name for files, readable and distinct."""
        parts = [self.kind, self.name, self.target, self.budget, self.draw]
        digest = hashlib.blake2b(repr(parts).encode(), digest_size=3).hexdigest()
        told = [str(part) for part in parts[1:] if part is not None]
        words = [re.sub(r"[^\w.+-]+", "_", part.replace("%", "pct")).strip("_")[-40:] for part in told]
        return "--".join([*(["deciles"] if self.kind == "decile" else []), *words, digest])


@dataclass
class Subset:
    """A subset, or why there is none.

    Attributes:
        wanted: what was asked for.
        rows: int64, rows of the pool, best first.
        scores: mean, least and largest score of the selected rows; empty for those that are not scored.
        seconds: of selecting, once the features are there.
        features: what the features cost: ``{"step", "seconds", "run_for"}`` of each step, see
            :mod:`siftune.experiments.costs`.
        diagnostics: of the selector.
        error: one line, where it failed.
        traceback: in full, where it failed.
    """

    wanted: SubsetSpec
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    features: list[dict[str, Any]] = field(default_factory=list)
    diagnostics: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    traceback: str = ""


def wanted_subsets(config: StudyConfig) -> list[SubsetSpec]:
    """Every subset of a study, those first of which a partial result is made: random, headline, other baselines."""
    return list(_wanted(config))


def _wanted(config: StudyConfig) -> Iterator[SubsetSpec]:
    counts, targets = config.baselines, [t.name for t in config.targets]
    for budget in config.budgets:
        for k in range(counts["random"]):
            yield SubsetSpec("baseline", "random", None, budget, k, (k,))
    headline = tuple(name for name in config.methods if name in config.headline)
    yield from _methods(config, headline)
    for budget in config.budgets:
        for k in range(counts.get("length-matched-random", 0)):
            for target in targets:
                yield SubsetSpec("baseline", "length-matched-random", target, budget, k, (k,))
        if count := counts.get("longest", 0):
            yield SubsetSpec("baseline", "longest", None, budget, None, tuple(range(count)))
    yield from _methods(config, config.methods[len(headline):])
    yield from _ablations(config)
    for name in config.deciles:
        representation = representation_of(representation_named(name, config.common))
        for target in targets if representation.needs_target else [None]:
            for k in range(BINS):
                yield SubsetSpec("decile", name, target, config.budgets[0], k, tuple(range(config.seeds)))
    if count := counts.get("full", 0):
        yield SubsetSpec("baseline", "full", None, None, None, tuple(range(count)))


def _methods(config: StudyConfig, names: tuple[str, ...]) -> Iterator[SubsetSpec]:
    for budget in config.budgets:
        for name in names:
            seeds = tuple(range(config.trainings(name)))
            for target in [t.name for t in config.targets] if looks_at_target(name, config) else [None]:
                yield SubsetSpec("method", name, target, budget, None, seeds)


def _ablations(config: StudyConfig) -> Iterator[SubsetSpec]:
    """As their methods."""
    for budget in config.budgets:
        for one in config.ablations:
            seeds = tuple(range(config.trainings(one.name)))
            for target in [t.name for t in config.targets] if looks_at_target(one.method, config) else [None]:
                yield SubsetSpec("ablation", one.name, target, budget, None, seeds, one.method)


def looks_at_target(name: str, config: StudyConfig) -> bool:
    """Whether the targets play a part in what a method chooses; one that they do not selects once for all of them.

    In a comparison every method chooses for its target, as `siftune select` does."""
    if config.is_comparison:
        return True
    method = resolve(name, has_existing=bool(config.common.existing))
    return (representation_of(method.representation).needs_target
            or SELECTORS.get(method.selector).info.needs == "similarities"
            or method.selector in (*_COMPARE_WITH_TARGETS, "length-matched-random"))
