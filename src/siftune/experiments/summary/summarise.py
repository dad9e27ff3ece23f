"""The whole of the results, made anew of whatever is there after each training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from siftune._common.text import counted
from siftune._common.version import __version__
from siftune.config.options import plain
from siftune.evaluation.choices import MIN_SHARE
from siftune.experiments.results import (
    CHOSEN,
    LENGTH_MATCHED,
    Arm,
    Costs,
    Estimate,
    Failure,
    FeatureStep,
    Metric,
    PartOfTest,
    Pool,
    Results,
    RowScores,
    Settings,
    Target,
    Training,
)
from siftune.experiments.results import Subset as SubsetResult
from siftune.experiments.subsets import Subset
from siftune.experiments.summary.analyses import analyses
from siftune.experiments.summary.arms import ArmScores, Study, mean, selection_seconds
from siftune.experiments.summary.exploratory import subtask_places
from siftune.experiments.summary.paired_tests import ranking, tests_of
from siftune.experiments.trainings import StudyCell


def summarise(study: Study) -> Results:
    """The results of what is there."""
    inputs, cells = study.inputs, study.cells
    config, common = inputs.config, inputs.config.common
    arms = study.arms()
    own = [arm for arm in arms if arm.model == common.model]
    tests = tests_of(study, own)
    failures = _failures(study)
    return Results(
        kind="comparison" if config.is_comparison else "study",
        siftune=__version__,
        complete=not failures and all(map(cells.done, cells.all)),
        settings=_settings(study),
        pool=Pool(rows=len(inputs.pool), tokens=int(inputs.pool.tokens.sum()), read=inputs.free.pool_rows),
        targets=[Target(name=t.name, target_files=list(t.target), test_files=list(t.test),
                        target_rows=len(inputs.of(t.name).target), test_rows=len(inputs.of(t.name).test),
                        test_ids=inputs.of(t.name).test.ids,
                        subtasks=[row.subtask for row in inputs.of(t.name).test.rows],
                        **_offered(study, t.name)) for t in config.targets],
        subsets=[_subset(study, subset) for subset in study.subsets],
        cells=[_training(study, one) for one in cells.all],
        arms=[_arm(study, arm) for arm in arms],
        tests=tests,
        ranking=ranking(own, tests),
        analyses=analyses(study, arms, tests),
        costs=_costs(study),
        failures=failures,
        notes=list(_notes(study, own)),
    )


def _offered(study: Study, target: str) -> dict[str, Any]:
    common = study.inputs.config.common
    _, test = study.cells.settings[common.model].tests[target]
    return {"offering": None if common.choices == "off" else test.offering, "choices_scored": bool(test.choices)}


def _settings(study: Study) -> Settings:
    config, common = study.inputs.config, study.inputs.config.common
    return Settings(
        pool=list(common.pool), model=common.model, train_models=list(config.train_models),
        methods=list(config.methods), headline=list(config.headline), budgets=list(config.budgets),
        seeds=config.seeds, headline_seeds=config.headline_seeds, baselines=dict(config.baselines),
        ablations={a.name: f"{a.method}, {a.words}" for a in config.ablations}, deciles=list(config.deciles),
        steps=config.steps or "epochs", epochs=common.epochs, batch_size=common.batch_size,
        learning_rate=common.learning_rate, lora_rank=common.lora_rank, max_length=common.max_length,
        confidence=common.confidence, seed=common.seed,
        length_reference=config.reference if LENGTH_MATCHED in config.baselines else None)


def _costs(study: Study) -> Costs:
    cells = study.cells
    spent = {one.name: study.seconds(one) for one in cells.all if one.targets and cells.done(one)}
    return Costs(
        feature_seconds=round(study.costs.total, 3), select_seconds=round(sum(s.seconds for s in study.subsets), 3),
        train_seconds=round(sum(spent.values()), 3), trainings=sum(1 for s in spent.values() if s),
        attribution="Each method is charged with the whole of every feature pass that it needs, whichever method ran "
                    "it first; feature_seconds counts each pass once.")


def _subset(study: Study, subset: Subset) -> SubsetResult:
    wanted = subset.wanted
    ablation = study.inputs.config.ablation(wanted.name)
    return SubsetResult(
        id=wanted.id, kind=wanted.kind, name=wanted.name, target=wanted.target, budget=wanted.budget, draw=wanted.draw,
        varies=wanted.varies, settings=plain(dict(ablation.settings)) if ablation else {}, rows=len(subset.rows),
        tokens=int(study.inputs.pool.tokens[subset.rows].sum()),
        file=None if subset.error else f"selections/{wanted.id}.json", scores=dict(subset.scores),
        select_seconds=subset.seconds, feature_steps=[FeatureStep(**step) for step in subset.features],
        diagnostics=subset.diagnostics, distances=dict(study.distances.get(wanted.id, {})), error=subset.error)


def _training(study: Study, one: StudyCell) -> Training:
    cells = study.cells
    failure = cells.failures.get(one.name)
    scores = {t: s for t in one.targets if (s := cells.scores(one, t)) is not None}
    done = cells.done(one)
    failed = failure if failure and not done else None
    return Training(
        id=one.name, subset=one.subset.wanted.id if one.subset else None, model=one.model, seed=one.seed,
        status="done" if done else "failed" if failure else "missing", epochs=one.cell.epochs,
        steps=study.steps(one) if scores else None, train_seconds=round(study.seconds(one), 3) if scores else None,
        lost_rows=one.lost, results={t: RowScores(loss=s["loss"], correct=s["correct"], acc=s.get("acc", []),
                                                               acc_norm=s.get("acc_norm", []))
                                              for t, s in scores.items()},
        lm_eval={task: {metric: Metric(value=m["value"], stderr=m["stderr"], n=scored["n"])
                        for metric, m in scored["metrics"].items()}
                 for task, scored in (cells.harness(one) or {}).items()},
        error=failed.message if failed else "", traceback=failed.file if failed else "")


def _arm(study: Study, arm: ArmScores) -> Arm:
    subsets = [c.subset for c in arm.cells if c.subset]
    tokens = study.inputs.pool.tokens
    selecting = [selection_seconds(s) for s in subsets]
    return Arm(
        model=arm.model, target=arm.target, budget=arm.budget, kind=arm.kind, name=arm.name,
        trainings=len(arm.cells) if subsets else 0, wanted=arm.wanted if subsets else 0, rows=arm.rows,
        tokens=mean([float(tokens[s.rows].sum()) for s in subsets]),
        steps=float(np.mean([study.steps(c) for c in arm.cells])),
        train_seconds=round(float(np.mean([study.seconds(c) for c in arm.cells])), 3),
        selection_seconds=mean([s for s in selecting if s is not None]) if None not in selecting else None,
        loss=study.estimate(arm.losses, "loss") or Estimate(), exact_match=study.estimate(arm.correct, "exact_match"),
        acc=study.estimate(arm.acc, "acc"), acc_norm=study.estimate(arm.acc_norm, "acc_norm"),
        lm_eval={metric: study.estimate(values, metric) for metric, values in arm.harness.items()},
        subtasks=_subtasks(study, arm) if study.inputs.config.is_comparison else {})


def _subtasks(study: Study, arm: ArmScores) -> dict[str, PartOfTest]:
    return {name: PartOfTest(loss=study.estimate(arm.losses[:, places], "loss") or Estimate(),
                             exact_match=study.estimate(arm.correct[:, places], "exact_match"),
                             acc=study.estimate(arm.acc[:, places], "acc"),
                             acc_norm=study.estimate(arm.acc_norm[:, places], "acc_norm"), n=len(places))
            for name, places in subtask_places(study, arm.target).items()}


def _failures(study: Study) -> list[Failure]:
    folder = study.cells.folder / "failures"
    found = [Failure(what="selection", title=s.wanted.title, message=s.error,
                     traceback=str(folder / f"{s.wanted.id}.txt")) for s in study.subsets if s.error]
    seen: set[str] = set()
    for one in study.cells.all:
        failure = study.cells.failures.get(one.name)
        if failure and one.name not in seen and not study.cells.done(one):
            seen.add(one.name)
            found.append(Failure(what="training", title=one.cell.title, message=failure.message,
                                 traceback=failure.file))
    return found


def _notes(study: Study, arms: Sequence[ArmScores]) -> Iterator[str]:
    config = study.inputs.config
    yield "Test rows were not used for selection or training."
    offered = {t.name: _offered(study, t.name) for t in config.targets}
    if some := {name: one for name, one in offered.items() if one["choices_scored"]}:
        told = ", ".join(f"{one['offering']} of {len(study.inputs.of(name).test)} of {name}"
                         for name, one in some.items())
        yield ("acc and acc_norm: the share of rows whose right answer is the likeliest of those offered, as it is and "
               f"by byte; test rows that offer answers: {told}.")
    if few := [f"{one['offering']} of {len(study.inputs.of(name).test)} of {name}" for name, one in offered.items()
               if one["offering"] and not one["choices_scored"]]:
        yield f"Too few test rows offer answers for acc, which needs {MIN_SHARE:.0%}: {', '.join(few)}."
    if config.is_comparison and "tok" not in config.budgets[0]:
        yield "Subsets have equal rows; tokens differ as shown."
    if LENGTH_MATCHED in config.baselines and config.reference:
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
        yield f"{counted(lost)} of subsets left out with other models, whose tokenizer leaves nothing to train on."
