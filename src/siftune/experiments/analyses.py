"""The analyses of a study, as ``study.json`` holds them under ``analyses``; the mathematics is in ``analysis``.

* ``curves``: target, name, ``points`` (budget, rows, tokens, loss) and, for methods, ``efficiency`` at each budget:
  rows that random needs for the same loss (``rows_needed``), their ratio to the method's, and whether that is exact
  (``=``) or a bound (``>``, ``<``). The full pool is the last point of the random curve.
* ``overlap``: target, budget, names, Jaccard matrix; of random its first draw.
* ``distance_predicts_loss``: representation, target, budget, measure, Spearman's rho of distance and loss over the
  subsets, with interval; ``pairs``, of which it is made (subset, distance, loss, exact_match); and ``exact_match``, the
  same rho with exact match, where more is better, or null where that is off.
* ``deciles``: name, target, mean ``losses`` of the ten bins (rows ranked first in bin 0), rho of bin and loss.
* ``transfer``: model, target, budget, rho between the losses of both models, and each arm's gain over random there;
  ``p_value_holm`` of the gains is adjusted for all of them, over models, targets and budgets, a family of their own.
* ``ablations``: name, method, settings, target, budget, rows, Jaccard similarity with the method's subset, both losses,
  and their difference (ablation less method) as in ``tests``.
* ``subtasks``: target, subtask, budget, kind, name, mean loss on that subtask's test rows, and the difference from
  random; exploratory, so ``p_value_holm`` is adjusted within the ``family`` of these tests alone.
* ``break_even``: target, budget, name, selection and training seconds, against random and against the full pool.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from siftune.evaluation.statistics import holm
from siftune.experiments import schema
from siftune.experiments.analysis.break_even import BreakEven, against, against_random
from siftune.experiments.analysis.curves import efficiency, rows_needed
from siftune.experiments.analysis.overlap import jaccard_matrix
from siftune.experiments.analysis.ranks import spearman, spearman_over_rows
from siftune.experiments.analysis.transfer import agreement, relative_gain
from siftune.experiments.estimates import difference
from siftune.experiments.exploratory import ablations, subtasks
from siftune.experiments.summary import RANDOM, ArmScores, Study, selection_seconds


def analyses(study: Study, arms: Sequence[ArmScores], tests: Sequence[schema.Test]) -> dict[str, Any]:
    """Everything that can be told of the arms that are there, and of the tests of the study's own model."""
    model = study.inputs.config.common.model
    own, others = [a for a in arms if a.model == model], [a for a in arms if a.model != model]
    return {
        "curves": list(_curves(study, own)),
        "overlap": list(_overlap(study)),
        "distance_predicts_loss": list(_distance_predicts_loss(study)),
        "deciles": list(_deciles(study)),
        "transfer": _adjusted(list(_transfer(study, own, others))),
        "break_even": list(_break_even(study, own)),
        "ablations": list(ablations(study, own, tests)),
        "subtasks": subtasks(study, own),
    }


def _random_curve(arms: Sequence[ArmScores], target: str) -> tuple[list[float], list[float]]:
    """Rows and losses of random; of budgets that come to the same rows, the mean loss."""
    points: dict[float, list[float]] = {}
    for a in arms:
        if a.target == target and a.name in (RANDOM, "full") and a.rows:
            points.setdefault(a.rows, []).append(a.loss)
    return list(points), [float(np.mean(losses)) for losses in points.values()]


def _curves(study: Study, arms: Sequence[ArmScores]) -> Iterator[dict[str, Any]]:
    tokens = study.inputs.pool.tokens
    for target in dict.fromkeys(a.target for a in arms):
        rows, losses = _random_curve(arms, target)
        names = dict.fromkeys(a.name for a in arms if a.target == target and a.name != "zero-shot")
        for name in names:
            mine = [a for a in arms if (a.target, a.name) == (target, name)]
            points = [{"budget": a.budget, "rows": a.rows, "loss": a.loss,
                       "tokens": float(np.mean([tokens[c.subset.rows].sum() for c in a.cells if c.subset]))}
                      for a in mine]
            told = []
            for a in mine:
                if name not in (RANDOM, "full") and rows and a.rows:
                    needed = rows_needed(rows, losses, a.loss)
                    ratio, relation = efficiency(needed, a.rows)
                    told.append({"budget": a.budget, "rows_needed": needed.rows, "bound": needed.bound,
                                 "limit": needed.limit, "ratio": ratio, "relation": relation})
            yield {"target": target, "name": name, "points": points, "efficiency": told}


def _overlap(study: Study) -> Iterator[dict[str, Any]]:
    config = study.inputs.config
    for target, budget in itertools.product((t.name for t in config.targets), config.budgets):
        some = {s.wanted.name: s.rows for s in study.subsets
                if not s.error and s.wanted.kind != "decile" and s.wanted.target in (None, target)
                and s.wanted.budget == budget and not s.wanted.draw}
        if len(some) > 1:
            yield {"target": target, "budget": budget, "names": list(some),
                   "jaccard": study.remember(_matrix, *some.values()).tolist()}


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


def _distance_predicts_loss(study: Study) -> Iterator[dict[str, Any]]:
    config = study.inputs.config
    names = sorted({name for told in study.distances.values() for name in told})
    for target in (t.name for t in config.targets):
        losses = {name: float(values.mean()) for name, values in _means(study, target).items()}
        exact = {name: float(np.nanmean(values)) for name, values in _means(study, target, of="correct").items()
                 if not np.isnan(values).all()}
        for name, budget, measure in itertools.product(names, config.budgets, ("nearest", "wasserstein")):
            pairs = []
            for s in study.subsets:
                apart = study.distances.get(s.wanted.id, {}).get(name, {}).get(target, {}).get(measure)
                if s.wanted.budget == budget and s.wanted.id in losses and apart is not None:
                    pairs.append({"subset": s.wanted.id, "distance": apart, "loss": losses[s.wanted.id],
                                  "exact_match": exact.get(s.wanted.id)})
            if len(pairs) >= 3:
                yield {"representation": name, "target": target, "budget": budget, "measure": measure,
                       **_correlated(study, pairs, "loss"), "pairs": pairs,
                       "exact_match": _correlated(study, pairs, "exact_match") if exact else None}


def _correlated(study: Study, pairs: Sequence[dict[str, Any]], metric: str) -> dict[str, Any]:
    """``rho``, ``low``, ``high`` and ``n`` of the distances with a metric, over the pairs that have it."""
    some = [(p["distance"], p[metric]) for p in pairs if p[metric] is not None]
    x, y = np.array(some, dtype=np.float64).reshape(-1, 2).T
    return asdict(study.remember(spearman, x.copy(), y.copy(), study.confidence, study.seed))


def _deciles(study: Study) -> Iterator[dict[str, Any]]:
    for target in (t.name for t in study.inputs.config.targets):
        losses = _means(study, target, deciles=True)
        bins = [s for s in study.subsets if s.wanted.kind == "decile" and s.wanted.id in losses
                and s.wanted.target in (None, target)]
        for name in dict.fromkeys(s.wanted.name for s in bins):
            mine = {int(s.wanted.draw or 0): losses[s.wanted.id] for s in bins if s.wanted.name == name}
            places = np.array(sorted(mine))
            L = np.stack([mine[k] for k in places.tolist()])
            found = study.remember(spearman_over_rows, places, L, study.confidence, study.seed)
            yield {"name": name, "target": target, "bins": places.tolist(), "losses": L.mean(axis=1).tolist(),
                   "rows": len(next(s for s in bins if s.wanted.name == name).rows), **asdict(found)}


def _transfer(study: Study, own: Sequence[ArmScores], others: Sequence[ArmScores]) -> Iterator[dict[str, Any]]:
    places = dict.fromkeys((a.model, a.target, a.budget) for a in others if a.budget is not None)
    for model, target, budget in places:
        there = {a.name: a for a in others if (a.model, a.target, a.budget) == (model, target, budget)}
        here = {a.name: a.loss for a in own if (a.target, a.budget) == (target, budget)}
        random = there.get(RANDOM)
        gains = []
        for arm in there.values() if random else ():
            if arm.name != RANDOM and random:
                told = study.remember(difference, arm.losses, random.losses, "loss", study.confidence) or {}
                gains.append({"name": arm.name, "gain": relative_gain(arm.loss, random.loss),
                              "gain_here": relative_gain(here[arm.name], here[RANDOM])
                              if {arm.name, RANDOM} <= set(here) else None,
                              **{k: told.get(k) for k in ("difference", "low", "high", "p_value")},
                              "p_value_holm": None})
        yield {"model": model, "target": target, "budget": budget, "names": sorted(set(there) & set(here)),
               **asdict(agreement({n: a.loss for n, a in there.items()}, here, study.confidence, study.seed)),
               "gains": gains}


def _adjusted(transfers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, with the p-values of all gains adjusted by Holm's method."""
    tested = [gain for told in transfers for gain in told["gains"] if gain["p_value"] is not None]
    for gain, adjusted in zip(tested, holm([gain["p_value"] for gain in tested]), strict=True):
        gain["p_value_holm"] = adjusted
    return transfers


def _break_even(study: Study, arms: Sequence[ArmScores]) -> Iterator[dict[str, Any]]:
    def seconds(arm: ArmScores) -> float:
        return float(np.mean([study.seconds(c) for c in arm.cells]))

    for arm in (a for a in arms if a.kind == "method"):
        same = [a for a in arms if a.target == arm.target]
        random = next((a for a in same if (a.name, a.budget) == (RANDOM, arm.budget)), None)
        full = next((a for a in same if a.name == "full"), None)
        subset = arm.cells[0].subset
        selecting = selection_seconds(subset) if subset else None
        told: dict[str, BreakEven | None] = {"random": None, "full": None}
        if random and random.rows and seconds(random) > 0:
            needed = rows_needed(*_random_curve(arms, arm.target), arm.loss)
            told["random"] = against_random(selecting, seconds(arm), random.rows / seconds(random), needed)
        if full:
            told["full"] = against(selecting, seconds(arm), seconds(full))
        yield {"target": arm.target, "budget": arm.budget, "name": arm.name, "selection_seconds": selecting,
               "train_seconds": round(seconds(arm), 3), **{f"against_{k}": asdict(v) if v else None
                                                           for k, v in told.items()}}
