"""The analyses of an experiment, as :class:`~siftune.experiments.results.Analyses` holds them.

The mathematics is in :mod:`siftune.experiments.analysis`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np

from siftune.experiments.analysis.break_even import BreakEven as Pays
from siftune.experiments.analysis.break_even import against, against_random
from siftune.experiments.analysis.curves import efficiency, rows_needed
from siftune.experiments.analysis.overlap import jaccard_matrix
from siftune.experiments.analysis.ranks import spearman, spearman_over_rows
from siftune.experiments.analysis.transfer import agreement, relative_gain
from siftune.experiments.results import (
    FULL,
    RANDOM,
    ZERO_SHOT,
    Analyses,
    BreakEven,
    Correlation,
    Curve,
    Deciles,
    Efficiency,
    Gain,
    Overlap,
    Pair,
    Point,
    Rho,
    Saved,
    Test,
    Transfer,
)
from siftune.experiments.summary.arms import ArmScores, Study, mean, selection_seconds
from siftune.experiments.summary.exploratory import ablations, subtasks
from siftune.experiments.summary.paired_tests import adjust


def analyses(study: Study, arms: Sequence[ArmScores], tests: Sequence[Test]) -> Analyses:
    """Everything that can be told of the arms that are there, and of the tests of the study's own model."""
    model = study.inputs.config.common.model
    own, others = [a for a in arms if a.model == model], [a for a in arms if a.model != model]
    transfers = list(_transfer(study, own, others))
    adjust([gain for one in transfers for gain in one.gains])
    return Analyses(
        curves=list(_curves(study, own)),
        overlap=list(_overlap(study)),
        distance_predicts_loss=list(_distance_predicts_loss(study)),
        deciles=list(_deciles(study)),
        transfer=transfers,
        break_even=list(_break_even(study, own)),
        ablations=list(ablations(study, own, tests)),
        subtasks=subtasks(study, own),
    )


def _random_curve(arms: Sequence[ArmScores], target: str) -> tuple[list[float], list[float]]:
    """Rows and losses of random; of budgets that come to the same rows, the mean loss."""
    points: dict[float, list[float]] = {}
    for a in arms:
        if a.target == target and a.name in (RANDOM, FULL) and a.rows:
            points.setdefault(a.rows, []).append(a.loss)
    return list(points), [float(np.mean(losses)) for losses in points.values()]


def _curves(study: Study, arms: Sequence[ArmScores]) -> Iterator[Curve]:
    tokens = study.inputs.pool.tokens
    for target in dict.fromkeys(a.target for a in arms):
        rows, losses = _random_curve(arms, target)
        names = dict.fromkeys(a.name for a in arms if a.target == target and a.name != ZERO_SHOT)
        for name in names:
            mine = [a for a in arms if (a.target, a.name) == (target, name)]
            points = [Point(budget=a.budget, rows=a.rows, loss=a.loss,
                            tokens=mean([float(tokens[c.subset.rows].sum()) for c in a.cells if c.subset]))
                      for a in mine]
            found = []
            for a in mine:
                if name not in (RANDOM, FULL) and rows and a.rows:
                    needed = rows_needed(rows, losses, a.loss)
                    ratio, relation = efficiency(needed, a.rows)
                    found.append(Efficiency(budget=a.budget, rows_needed=needed.rows, bound=needed.bound,
                                            limit=needed.limit, ratio=ratio, relation=relation))
            yield Curve(target=target, name=name, points=points, efficiency=found)


def _overlap(study: Study) -> Iterator[Overlap]:
    config = study.inputs.config
    for target, budget in itertools.product((t.name for t in config.targets), config.budgets):
        some = {s.wanted.name: s.rows for s in study.subsets
                if not s.error and s.wanted.kind != "decile" and s.wanted.target in (None, target)
                and s.wanted.budget == budget and not s.wanted.draw}
        if len(some) > 1:
            yield Overlap(target=target, budget=budget, names=list(some),
                          jaccard=study.remember(_matrix, *some.values()).tolist())


def _matrix(*subsets: np.ndarray) -> np.ndarray:
    return jaccard_matrix(subsets)


def _means(study: Study, target: str, *, deciles: bool = False, of: str = "loss") -> dict[str, np.ndarray]:
    """Subset id -> float64 [test rows]: losses on a target's test rows (or ``correct``, with NaN where exact match does
    not apply), averaged over the trainings that are done."""
    found: dict[str, list[list[float]]] = {}
    for one in study.cells.all:
        if one.subset is None or one.model != study.inputs.config.common.model or target not in one.targets:
            continue
        scores = study.cells.scores(one, target)
        if scores is not None and (one.subset.wanted.kind == "decile") == deciles:
            found.setdefault(one.subset.wanted.id, []).append(scores[of])
    return {name: np.mean(np.array(values, dtype=np.float64), axis=0) for name, values in found.items()}


def _distance_predicts_loss(study: Study) -> Iterator[Correlation]:
    config = study.inputs.config
    names = sorted({name for known in study.distances.values() for name in known})
    for target in (t.name for t in config.targets):
        losses = {name: float(values.mean()) for name, values in _means(study, target).items()}
        exact = {name: float(np.nanmean(values)) for name, values in _means(study, target, of="correct").items()
                 if not np.isnan(values).all()}
        for name, budget, measure in itertools.product(names, config.budgets, ("nearest", "wasserstein")):
            pairs = []
            for s in study.subsets:
                apart = study.distances.get(s.wanted.id, {}).get(name, {}).get(target, {}).get(measure)
                if s.wanted.budget == budget and s.wanted.id in losses and apart is not None:
                    pairs.append(Pair(subset=s.wanted.id, distance=apart, loss=losses[s.wanted.id],
                                      exact_match=exact.get(s.wanted.id)))
            if len(pairs) >= 3:
                with_loss = [(p.distance, p.loss) for p in pairs]
                with_exact = [(p.distance, p.exact_match) for p in pairs if p.exact_match is not None]
                yield Correlation(representation=name, target=target, budget=budget, measure=measure, pairs=pairs,
                                  **_correlated(study, with_loss).model_dump(),
                                  exact_match=_correlated(study, with_exact) if exact else None)


def _correlated(study: Study, pairs: Sequence[tuple[float | None, float | None]]) -> Rho:
    """Of the distances with a metric."""
    x, y = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return Rho(**asdict(study.remember(spearman, x.copy(), y.copy(), study.confidence, study.seed)))


def _deciles(study: Study) -> Iterator[Deciles]:
    for target in (t.name for t in study.inputs.config.targets):
        losses = _means(study, target, deciles=True)
        bins = [s for s in study.subsets if s.wanted.kind == "decile" and s.wanted.id in losses
                and s.wanted.target in (None, target)]
        for name in dict.fromkeys(s.wanted.name for s in bins):
            mine = {int(s.wanted.draw or 0): losses[s.wanted.id] for s in bins if s.wanted.name == name}
            places = np.array(sorted(mine))
            L = np.stack([mine[k] for k in places.tolist()])
            found = study.remember(spearman_over_rows, places, L, study.confidence, study.seed)
            yield Deciles(name=name, target=target, bins=places.tolist(), losses=L.mean(axis=1).tolist(),
                          rows=len(next(s for s in bins if s.wanted.name == name).rows), **asdict(found))


def _transfer(study: Study, own: Sequence[ArmScores], others: Sequence[ArmScores]) -> Iterator[Transfer]:
    for model, target, budget in dict.fromkeys((a.model, a.target, a.budget) for a in others):
        if budget is None:
            continue
        there = {a.name: a for a in others if (a.model, a.target, a.budget) == (model, target, budget)}
        here = {a.name: a.loss for a in own if (a.target, a.budget) == (target, budget)}
        random, gains = there.get(RANDOM), []
        for arm in there.values() if random else ():
            if arm.name != RANDOM and random:
                found = study.difference(arm.losses, random.losses, "loss") or {}
                gains.append(Gain(
                    name=arm.name, gain=relative_gain(arm.loss, random.loss),
                    gain_here=relative_gain(here[arm.name], here[RANDOM]) if {arm.name, RANDOM} <= set(here) else None,
                    **{key: found[key] for key in ("difference", "low", "high", "covers", "p_value") if key in found}))
        agree = agreement({n: a.loss for n, a in there.items()}, here, study.confidence, study.seed)
        yield Transfer(model=model, target=target, budget=budget, names=sorted(set(there) & set(here)), gains=gains,
                       **asdict(agree))


def _break_even(study: Study, arms: Sequence[ArmScores]) -> Iterator[BreakEven]:
    def seconds(arm: ArmScores) -> float:
        return float(np.mean([study.seconds(c) for c in arm.cells]))

    for arm in (a for a in arms if a.kind == "method"):
        same = [a for a in arms if a.target == arm.target]
        random = next((a for a in same if (a.name, a.budget) == (RANDOM, arm.budget)), None)
        full = next((a for a in same if a.name == FULL), None)
        subset = arm.cells[0].subset
        selecting = selection_seconds(subset) if subset else None
        by_random, by_full = None, None
        if random and random.rows and seconds(random) > 0:
            needed = rows_needed(*_random_curve(arms, arm.target), arm.loss)
            by_random = _saved(against_random(selecting, seconds(arm), random.rows / seconds(random), needed))
        if full:
            by_full = _saved(against(selecting, seconds(arm), seconds(full)))
        yield BreakEven(target=arm.target, budget=arm.budget, name=arm.name, selection_seconds=selecting,
                        train_seconds=round(seconds(arm), 3), against_random=by_random, against_full=by_full)


def _saved(pays: Pays) -> Saved:
    return Saved(**asdict(pays))
