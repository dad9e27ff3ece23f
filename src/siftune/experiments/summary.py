"""From scores to ``study.json``: every subset and training as it is, then arms, paired tests and a ranking.

An arm is a method, ablation or baseline for one target and budget with all of its trainings. Methods and ablations are
compared with random, and with length-matched random where that is in, ablations also with the method that they vary,
on the same test rows. The p-values of all these comparisons, over targets, budgets and metrics, are one family for
Holm's adjustment, and a verdict needs the adjusted one. Comparisons with the full pool answer another question (can the
rest of the rows go?) and are a family of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftune._common.seeds import derive
from siftune._common.version import __version__
from siftune.config.options import plain
from siftune.evaluation.harness import example_scores
from siftune.experiments import schema
from siftune.experiments.analysis.transfer import relative_gain
from siftune.experiments.costs import Costs
from siftune.experiments.distances import Distances
from siftune.experiments.estimates import Remembered, difference, estimate, judge
from siftune.experiments.inputs import StudyInputs
from siftune.experiments.subsets import Subset, Wanted
from siftune.experiments.trainings import Cells, StudyCell

RANDOM, LENGTH_MATCHED, FULL = "random", "length-matched-random", "full"
CHOSEN = ("method", "ablation")
"""Kinds of arms that are compared with random."""


@dataclass(frozen=True, eq=False)
class ArmScores:
    """An arm with its scores.

    Attributes:
        model, target, budget, kind, name: which; ``budget`` is None for zero-shot and the full pool.
        cells: its trainings that are done.
        wanted: how many trainings it is to have.
        losses, correct: float64 [trainings, test rows].
        harness: ``task:metric`` of the lm-evaluation-harness -> float64 [trainings, examples].
    """

    model: str
    target: str
    budget: str | None
    kind: str
    name: str
    cells: tuple[StudyCell, ...]
    wanted: int
    losses: np.ndarray
    correct: np.ndarray
    harness: Mapping[str, np.ndarray]

    def scores(self, metric: str) -> np.ndarray:
        """float64 [trainings, test rows or examples]; none where it has no such scores (yet)."""
        if metric in ("loss", "exact_match"):
            return self.losses if metric == "loss" else self.correct
        return self.harness.get(metric, np.zeros((0, 0)))

    @property
    def rows(self) -> float | None:
        return _mean([len(c.subset.rows) for c in self.cells if c.subset])

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


@dataclass(frozen=True)
class Study:
    """What a summary is made from.

    Attributes:
        inputs: the rows and the settings.
        subsets: all of them, failed ones too.
        cells: all trainings.
        distances: of the subsets to the targets.
        costs: of the features.
        remember: calls what need not be computed again.
    """

    inputs: StudyInputs
    subsets: Sequence[Subset]
    cells: Cells
    distances: Distances
    costs: Costs
    remember: Remembered

    @property
    def confidence(self) -> float:
        return self.inputs.config.common.confidence

    @property
    def seed(self) -> int:
        return derive(self.inputs.config.common.seed, "bootstrap")  # as `compare` has it

    def arms(self) -> list[ArmScores]:
        """Every arm of which a training is done: by model, target and budget, baselines first."""
        grouped: dict[tuple[str, str, str | None, str, str], list[StudyCell]] = {}
        for one in self.cells.all:
            wanted = one.subset.wanted if one.subset else None
            if wanted and wanted.kind == "decile":
                continue
            told = wanted or Wanted("baseline", "zero-shot", None, None)
            for target in one.targets:
                grouped.setdefault((one.model, target, told.budget, told.kind, told.name), []).append(one)
        targets = [t.name for t in self.inputs.config.targets]
        budgets = [None, *self.inputs.config.budgets]
        models = list(self.cells.settings)
        made = [self._arm(key, cells) for key, cells in grouped.items()]
        return sorted((arm for arm in made if arm.cells), key=lambda a: (
            models.index(a.model), targets.index(a.target), budgets.index(a.budget), a.kind))

    def _arm(self, key: tuple[str, str, str | None, str, str], cells: Sequence[StudyCell]) -> ArmScores:
        model, target, budget, kind, name = key
        done = [(c, s) for c in cells if (s := self.cells.scores(c, target)) is not None]
        losses = np.array([s["loss"] for _, s in done], dtype=np.float64)
        correct = np.array([[np.nan if c is None else float(c) for c in s["correct"]] for _, s in done])
        harness = [self.cells.harness(c) for c, _ in done]
        return ArmScores(model, target, budget, kind, name, tuple(c for c, _ in done), len(cells), losses, correct,
                         example_scores([h for h in harness if h]) if all(harness) else {})

    def seconds(self, cell: StudyCell) -> float:
        return float(self._any(cell)["seconds"])

    def steps(self, cell: StudyCell) -> int:
        return int(self._any(cell)["steps"])

    def _any(self, cell: StudyCell) -> dict[str, Any]:
        return next(s for t in cell.targets if (s := self.cells.scores(cell, t)) is not None)


def selection_seconds(subset: Subset) -> float | None:
    """All that selecting took, features included; None where another run left them."""
    parts = [step["seconds"] for step in subset.features]
    return None if None in parts else float(sum(parts)) + subset.seconds


def summarise(study: Study) -> schema.StudyResult:
    """The whole of ``study.json``, of whatever is there."""
    from siftune.experiments.analyses import analyses

    inputs, cells = study.inputs, study.cells
    config, common = inputs.config, inputs.config.common
    arms = study.arms()
    own = [arm for arm in arms if arm.model == common.model]
    tests = _tests(study, own)
    failures = _failures(study)
    spent = {one.name: study.seconds(one) for one in cells.all if one.targets and cells.done(one)}
    return {
        "siftune": __version__,
        "complete": not failures and all(map(cells.done, cells.all)),
        "settings": {
            "pool": list(common.pool), "model": common.model, "train_models": list(config.train_models),
            "methods": list(config.methods), "headline": list(config.headline), "budgets": list(config.budgets),
            "seeds": config.seeds, "headline_seeds": config.headline_seeds, "baselines": dict(config.baselines),
            "ablations": {a.name: f"{a.method}, {a.words}" for a in config.ablations},
            "deciles": list(config.deciles), "steps": config.steps or "epochs", "epochs": common.epochs,
            "batch_size": common.batch_size, "learning_rate": common.learning_rate, "lora_rank": common.lora_rank,
            "max_length": common.max_length, "confidence": common.confidence, "seed": common.seed,
            "length_reference": config.reference if LENGTH_MATCHED in config.baselines else None,
        },
        "pool": {"rows": len(inputs.pool), "tokens": int(inputs.pool.tokens.sum()), "read": inputs.free.pool_rows},
        "targets": [{"name": t.name, "target_files": list(t.target), "test_files": list(t.test),
                     "target_rows": len(inputs.of(t.name).target), "test_ids": inputs.of(t.name).test.ids,
                     "subtasks": [row.subtask for row in inputs.of(t.name).test.rows]} for t in config.targets],
        "subsets": [_subset(study, subset) for subset in study.subsets],
        "cells": [_cell(study, one) for one in cells.all],
        "arms": [_arm(study, arm) for arm in arms],
        "tests": tests,
        "ranking": _ranking(own, tests),
        "analyses": analyses(study, arms, tests),
        "costs": {"feature_seconds": round(study.costs.total, 3),
                  "select_seconds": round(sum(s.seconds for s in study.subsets), 3),
                  "train_seconds": round(sum(spent.values()), 3), "trainings": sum(1 for s in spent.values() if s),
                  "attribution": "Each method is charged with the whole of every feature pass that it needs, whichever "
                                 "method ran it first; feature_seconds counts each pass once."},
        "failures": failures,
        "notes": list(_notes(study, own)),
    }


def _subset(study: Study, subset: Subset) -> schema.SubsetResult:
    wanted = subset.wanted
    ablation = study.inputs.config.ablation(wanted.name)
    return {"id": wanted.id, "kind": wanted.kind, "name": wanted.name, "target": wanted.target,
            "budget": wanted.budget, "draw": wanted.draw, "varies": wanted.varies,
            "settings": plain(dict(ablation.settings)) if ablation else {}, "rows": len(subset.rows),
            "tokens": int(study.inputs.pool.tokens[subset.rows].sum()),
            "file": None if subset.error else f"selections/{wanted.id}.json", "scores": subset.scores,
            "select_seconds": subset.seconds, "feature_steps": subset.features, "diagnostics": subset.diagnostics,
            "distances": study.distances.get(wanted.id, {}), "error": subset.error}


def _cell(study: Study, one: StudyCell) -> schema.CellResult:
    cells = study.cells
    failure = cells.failures.get(one.name)
    scores = {t: s for t in one.targets if (s := cells.scores(one, t)) is not None}
    done = cells.done(one)
    return {"id": one.name, "subset": one.subset.wanted.id if one.subset else None, "model": one.model,
            "seed": one.seed, "status": "done" if done else "failed" if failure else "missing",
            "epochs": one.cell.epochs, "steps": study.steps(one) if scores else None,
            "train_seconds": round(study.seconds(one), 3) if scores else None, "lost_rows": one.lost,
            "results": {t: {"loss": s["loss"], "correct": s["correct"]} for t, s in scores.items()},
            "lm_eval": {task: {metric: {"value": m["value"], "stderr": m["stderr"], "n": told["n"]}
                               for metric, m in told["metrics"].items()}
                        for task, told in (cells.harness(one) or {}).items()},
            "error": failure.message if failure and not done else "",
            "traceback": failure.file if failure and not done else ""}


def _arm(study: Study, arm: ArmScores) -> schema.Arm:
    subsets = [c.subset for c in arm.cells if c.subset]
    tokens = study.inputs.pool.tokens
    selecting = [selection_seconds(s) for s in subsets]
    told = [study.remember(estimate, values, metric, study.confidence, study.seed)
            for values, metric in ((arm.losses, "loss"), (arm.correct, "exact_match"))]
    assert told[0] is not None, "every test row has a loss"
    return {"model": arm.model, "target": arm.target, "budget": arm.budget, "kind": arm.kind, "name": arm.name,
            "trainings": len(arm.cells) if subsets else 0, "wanted": arm.wanted if subsets else 0, "rows": arm.rows,
            "tokens": _mean([float(tokens[s.rows].sum()) for s in subsets]),
            "steps": float(np.mean([study.steps(c) for c in arm.cells])),
            "train_seconds": round(float(np.mean([study.seconds(c) for c in arm.cells])), 3),
            "selection_seconds": _mean([s for s in selecting if s is not None]) if None not in selecting else None,
            "loss": told[0], "exact_match": told[1],  # type: ignore[typeddict-item]
            "lm_eval": {metric: study.remember(estimate, values, metric, study.confidence, study.seed)
                        for metric, values in arm.harness.items()}}  # type: ignore[typeddict-item]


def _tests(study: Study, arms: Sequence[ArmScores]) -> list[schema.Test]:
    found = list(_compared(study, arms))
    for family in ([t for t in found if t["against"] != FULL], [t for t in found if t["against"] == FULL]):
        judge(family, study.confidence)
    return found  # type: ignore[return-value]


def _compared(study: Study, arms: Sequence[ArmScores]) -> Iterator[dict[str, Any]]:
    for arm in (a for a in arms if a.kind in CHOSEN):
        ablation = study.inputs.config.ablation(arm.name)
        others = (RANDOM, LENGTH_MATCHED, FULL, *([ablation.method] if ablation else []))
        for against in (a for a in arms if a.name in others and a.target == arm.target
                        and a.budget in (arm.budget, None)):
            for metric in ("loss", "exact_match", *(m for m in arm.harness if m in against.harness)):
                ours, theirs = arm.scores(metric), against.scores(metric)
                told = study.remember(difference, ours, theirs, metric, study.confidence)
                if told:
                    yield {"target": arm.target, "budget": arm.budget, "method": arm.name, "against": against.name,
                           "metric": metric, **told, "p_value_holm": None}


def _ranking(arms: Sequence[ArmScores], tests: Sequence[schema.Test]) -> list[schema.Rank]:
    random = {(a.target, a.budget): a.loss for a in arms if a.name == RANDOM}
    names = {a.name: a.kind for a in arms if a.budget is not None and a.name != RANDOM}
    found: list[schema.Rank] = []
    for name, kind in names.items():
        gains = [relative_gain(a.loss, random[a.target, a.budget]) for a in arms
                 if a.name == name and (a.target, a.budget) in random]
        verdicts = [t["verdict"] for t in tests
                    if (t["method"], t["against"], t["metric"]) == (name, RANDOM, "loss")]
        if gains:
            found.append({"name": name, "kind": kind, "improvement": float(np.mean(gains)), "comparisons": len(gains),
                          "judged": len(verdicts) - verdicts.count("single training"),
                          "better": verdicts.count("better"), "worse": verdicts.count("worse")})
    return sorted(found, key=lambda r: (-r["improvement"], r["name"]))


def _failures(study: Study) -> list[schema.Failed]:
    found: list[schema.Failed] = [
        {"what": "selection", "title": s.wanted.title, "message": s.error,
         "traceback": str(study.cells.folder / "failures" / f"{s.wanted.id}.txt")} for s in study.subsets if s.error]
    told: set[str] = set()
    for one in study.cells.all:
        failure = study.cells.failures.get(one.name)
        if failure and one.name not in told and not study.cells.done(one):
            told.add(one.name)
            found.append({"what": "training", "title": one.cell.title, "message": failure.message,
                          "traceback": failure.file})
    return found


def _notes(study: Study, arms: Sequence[ArmScores]) -> Iterator[str]:
    config = study.inputs.config
    yield "Test rows were not used for selection or training."
    if LENGTH_MATCHED in config.baselines:
        yield f"Length-matched random has the response lengths of the subsets of {config.reference}."
    if config.steps is None:
        yield "All trainings have the same epochs, so that optimizer steps follow the rows."
    else:
        yield f"Trainings have the whole number of epochs that comes nearest to {config.steps} optimizer steps."
        steps = [study.steps(c) for a in arms for c in a.cells if c.subset]
        if steps and max(abs(s - config.steps) for s in steps) > config.steps / 10:
            yield f"Steps are not matched closely: they reach from {min(steps)} to {max(steps)}."
    if any("tok" in budget for budget in config.budgets):
        yield "A budget in tokens is filled by every method, random too, up to the row that would pass it."
    if config.baselines["random"] == 1:
        yield "There is one random subset only, so no verdict at all."
    if singles := sorted({a.name for a in arms if a.kind in CHOSEN and a.wanted == 1}):
        yield f"One training only, so no verdict: {', '.join(singles)}."
    if lost := sum(one.lost for one in study.cells.all):
        yield f"{lost:,} rows of subsets were left out with other models, whose tokenizer leaves nothing to train on."


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
