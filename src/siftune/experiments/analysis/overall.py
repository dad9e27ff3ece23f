"""How does an arm do over all targets and budgets together? Its mean difference in loss from random, with an interval.

A place is a target and budget. The effect of an arm is the mean over places of (its loss - random's) / random's. Chance
comes in through trainings of the arm, trainings of random and test rows, and one of these reaches several places: a
subset of random rows is trained once and scored on every target, the rows of a target score every budget. Each
training, and each row, is therefore taken for all that it contributes to the effect, over whatever places it reaches,
and the parts of the variance are put together as those of a single comparison are (see
:mod:`siftune.evaluation.statistics`); for one place the interval is that of its paired test, as a share of random's
loss. It covers other trainings and other rows of the same targets, not other targets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from siftune.evaluation.statistics import Parts, Verdict, holm, p_at_zero, verdict
from siftune.experiments.results import CHOSEN, RANDOM, ZERO_SHOT, Arm, Results
from siftune.experiments.results.base import Kind

Place = tuple[str, str]
Unit = tuple[str, int]
Losses = Mapping[Place, Mapping[Unit, np.ndarray]]


@dataclass(frozen=True)
class Effect:
    """An arm against random over all places that have both.

    Attributes:
        mean: mean difference in loss, as a share of random's: below zero is better.
        low, high: ends of its interval; None where the losses of single rows are not known.
        places: how many there are.
        singles: whether an arm or random stands on one training somewhere; the interval covers test rows alone then.
        p_value: None with single trainings, and for what is not tested: baselines.
        p_value_holm: adjusted for all arms that are tested.
        verdict: by the adjusted p-value; None for baselines.
    """

    name: str
    kind: Kind
    mean: float
    low: float | None
    high: float | None
    places: int
    singles: bool
    p_value: float | None = None
    p_value_holm: float | None = None
    verdict: Verdict | None = None


def overall(study: Results) -> list[Effect]:
    """Every arm of the study's own model but random: those that are tested first, the best of them first."""
    losses, arms = _losses(study), {(arm.target, arm.budget, arm.name): arm for arm in study.own}
    kinds: dict[str, Kind] = {arm.name: arm.kind for arm in study.own if arm.kind != "decile" and arm.name != RANDOM}
    found = [effect for name, kind in kinds.items() if (effect := _effect(study, name, kind, losses, arms))]
    adjusted = holm([effect.p_value for effect in found])
    found = [replace(effect, p_value_holm=p, verdict=verdict(effect.mean, p, study.confidence))
             if effect.kind in CHOSEN and effect.low is not None else effect
             for effect, p in zip(found, adjusted, strict=True)]
    return sorted(found, key=lambda effect: (effect.kind not in CHOSEN, effect.mean, effect.name))


def _losses(study: Results) -> dict[str, dict[Place, dict[Unit, np.ndarray]]]:
    """By arm, place and training the loss of every test row; what was not chosen for a budget is at all of them."""
    subsets = {subset.id: subset for subset in study.subsets}
    found: dict[str, dict[Place, dict[Unit, np.ndarray]]] = defaultdict(lambda: defaultdict(dict))
    for cell in study.cells:
        subset = subsets.get(cell.subset or "")
        if cell.model != study.model or cell.status != "done" or (cell.subset and subset is None):
            continue
        name, budget = (subset.name, subset.budget) if subset else (ZERO_SHOT, None)
        for target, scores in cell.results.items():
            if subset and subset.target not in (None, target):
                continue
            rows = np.array(scores.loss, dtype=np.float64)
            if len(rows) and np.isfinite(rows).all():
                for at in study.budgets if budget is None else [budget]:
                    found[name][target, at][cell.subset or "", cell.seed or 0] = rows
    return found


def _effect(study: Results, name: str, kind: Kind, losses: Mapping[str, Losses],
            arms: Mapping[tuple[str, str | None, str], Arm]) -> Effect | None:
    differences: dict[Place, float] = {}
    bases: dict[Place, float] = {}
    for target in (t.name for t in study.targets):
        for budget in study.budgets:
            arm = arms.get((target, budget, name)) or arms.get((target, None, name))
            random = arms.get((target, budget, RANDOM))
            if arm and random and arm.loss.mean is not None and random.loss.mean:
                differences[target, budget] = (arm.loss.mean - random.loss.mean) / random.loss.mean
                bases[target, budget] = random.loss.mean
    if not differences:
        return None
    mean = float(np.mean(list(differences.values())))
    unknown = Effect(name, kind, mean, None, None, len(differences), singles=False)
    ours, theirs = ({place: dict(losses.get(one, {}).get(place, {})) for place in differences}
                    for one in (name, RANDOM))
    if not all(ours.values()) or not all(theirs.values()) or any(
            len({len(rows) for rows in (*ours[place].values(), *theirs[place].values())}) > 1 for place in ours):
        return unknown
    trained = [*(units for units in ours.values() if name != ZERO_SHOT), *theirs.values()]
    singles = any(len(units) == 1 for units in trained)
    parts = [] if singles else [*(_of_trainings(ours, bases) if name != ZERO_SHOT else ()),
                                *_of_trainings(theirs, bases)]
    rows = list(_of_rows(ours, theirs, bases))
    parts += [(variance, count - 1) for variance, count in rows if count > 1]
    if not parts:
        return unknown
    together = Parts(np.array([variance for variance, _ in parts]), tuple(degrees for _, degrees in parts))
    half = float(together.half_width(study.confidence))
    tested = kind in CHOSEN and not singles
    p_value = p_at_zero(mean, together, sum(count for _, count in rows)) if tested else None
    return replace(unknown, low=mean - half, high=mean + half, singles=singles, p_value=p_value)


def _of_trainings(losses: Losses, bases: Mapping[Place, float]) -> Iterator[tuple[float, int]]:
    """Variance and degrees of freedom of each group of trainings that reach the same places."""
    reached: dict[Unit, dict[Place, float]] = defaultdict(dict)
    for place, units in losses.items():
        for unit, rows in units.items():
            reached[unit][place] = float(rows.mean()) / bases[place] / len(units) / len(losses)
    groups: dict[frozenset[Place], list[float]] = defaultdict(list)
    for shares in reached.values():
        groups[frozenset(shares)].append(sum(shares.values()))
    for values in groups.values():
        if len(values) > 1:
            yield len(values) * float(np.var(values, ddof=1)), len(values) - 1


def _of_rows(ours: Losses, theirs: Losses, bases: Mapping[Place, float]) -> Iterator[tuple[float, int]]:
    """Variance and number of the rows of each target."""
    targets = list(dict.fromkeys(target for target, _ in ours))
    for name in targets:
        mine = [place for place in ours if place[0] == name]
        each = sum((np.mean(list(ours[p].values()), axis=0) - np.mean(list(theirs[p].values()), axis=0)) / bases[p]
                   for p in mine) / len(ours)
        count = len(np.atleast_1d(each))
        yield (float(np.var(each, ddof=1)) / count if count > 1 else 0.0), count
