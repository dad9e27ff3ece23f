"""`siftune compare`: does the selection help? A study of one target and one budget, in the folder of a run.

Every arm is trained from the same base model with the same settings. Seed k decides the adapter's initial weights,
the order of the rows and the dropout, the same for every arm, and for `random` also which rows are drawn; the spread
over seeds is therefore that of training for a method, and of drawing and training for random. Losses of all arms are
measured on the same test rows, so that differences are paired by row.

Selecting, trainings and statistics are those of :mod:`siftune.experiments.run`. What differs: the first method's subset
is the run's selection, written as `siftune select` writes it; a selection that fails ends the comparison; and there is
one file at the end, ``comparison.json``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from siftune._common.artefacts import working_in
from siftune._common.errors import ConfigError
from siftune._common.progress import log
from siftune._common.registry import unknown_name
from siftune._common.text import counted
from siftune.config.catalogue import RECIPES, Recipe
from siftune.config.settings import CompareConfig
from siftune.evaluation.harness import harness_tasks
from siftune.experiments.config import BASELINES, StudyConfig, TargetFiles
from siftune.experiments.estimates import Remembered
from siftune.experiments.finished import Experiment
from siftune.experiments.inputs import StudyInputs, read_study
from siftune.experiments.remote import check_storage_of_trainings
from siftune.experiments.results import COMPARISON, TARGET, discard_unreadable, write_results
from siftune.experiments.run import train
from siftune.experiments.selecting import Selecting
from siftune.experiments.subsets import Subset, SubsetSpec
from siftune.experiments.summary.arms import Study
from siftune.experiments.summary.summarise import summarise
from siftune.experiments.trainings import Executor, study_cells, study_settings
from siftune.features.collect import check as check_collect
from siftune.pipeline.features_home import reused_folders
from siftune.pipeline.outcome import Outcome
from siftune.pipeline.recipes import representation_of, resolve
from siftune.pipeline.runfolder import prepare
from siftune.pipeline.select import check_own, choose, complete, method_of
from siftune.selectors import Budget


def compare(config: CompareConfig, finish: Callable[[Outcome], Any], *, command: str = "",
            executor: Executor | None = None) -> Experiment:
    """Select with every method, train on every subset and baseline, score, and write the results.

    Interrupted anywhere, it continues; finished trainings and scores are never computed again. A training that fails
    is told in the results, does not end the others, and is tried again by the next call.

    Args:
        config: see :class:`CompareConfig`.
        finish: writes the run folder of the first method's outcome; called before the trainings, and once more with
            all the times and the results.
        command: the command line, for the manifest.
        executor: runs the trainings; what ``executor`` and ``workers`` of the settings say when not given.

    Raises:
        ConfigError: no test file, or an unknown method or baseline.
        SiftuneError: anything else the user can mend.
    """
    config = complete(config)  # type: ignore[assignment]
    _check(config)
    budget = Budget.parse(config.budget)
    with working_in(config.output_dir, *reused_folders(config), command=command or "siftune.compare"):
        return _compare(config, budget, finish, command, executor)


def _compare(config: CompareConfig, budget: Budget, finish: Callable[[Outcome], Any], command: str,
             executor: Executor | None) -> Experiment:
    check_storage_of_trainings(config)
    folder = prepare(config.output_dir)
    if discard_unreadable(folder / COMPARISON):
        log(f"warning: {COMPARISON} could not be read: it is written again")
    inputs = read_study(as_study(config, ()))
    budget.resolve(len(inputs.pool), int(inputs.pool.tokens.sum()))  # a wrong budget fails now, not after hours
    resolved = _methods(config, inputs)
    for name, method in resolved.items():  # and so do settings that a method or a selector does not have
        check_collect(config, representation_of(method.representation))
        check_own(dataclasses.replace(config, method=name), method)
    inputs = dataclasses.replace(inputs, config=as_study(config, tuple(
        name for name, method in resolved.items() if method.representation != "none")))
    outcomes: list[Outcome] = []

    def keep_first(wanted: SubsetSpec, outcome: Outcome) -> None:
        if not outcomes:
            first, method = next(iter(resolved.items()))
            asked = config.methods[0] if config.methods else config.method
            assert wanted.name == first, "the first method comes first"
            _ = outcome.context.model  # so that the manifest can tell of it
            outcomes.append(dataclasses.replace(outcome, config=dataclasses.replace(config, method=asked),
                                                method=method, command=command))
            finish(outcomes[0])  # the selection is of use whatever happens to the trainings

    selecting = Selecting(inputs, folder, after=keep_first)
    settings = study_settings(inputs)
    first, method = next(iter(resolved.items()))
    if method.representation == "none":  # a baseline named as the method: it is in already, or has nothing to prove
        asked = dataclasses.replace(inputs.config_of(TARGET), method=first)
        keep_first(SubsetSpec("method", first, TARGET, config.budget),
                   choose(asked, inputs=inputs.of(TARGET), context=inputs.context(TARGET)))
        selecting.matched = None if inputs.config.methods else outcomes[0].selection.indices
    subsets = selecting.all()
    _note_lengths(inputs, subsets)
    everything = Study(inputs, subsets, study_cells(inputs, settings, subsets, folder), {}, selecting.costs,
                       Remembered())
    del selecting
    missing = len(everything.cells.missing())
    with inputs.clock.measure(f"train and score ({missing} trainings)") as entry:
        entry["reused"] = not missing
        train(everything, executor, lambda: None)
    finished = Experiment(folder / COMPARISON, summarise(everything))
    write_results(finished.file, finished.results)
    finish(outcomes[0])
    return finished


def as_study(config: CompareConfig, methods: tuple[str, ...]) -> StudyConfig:
    """A comparison as the study that it is.

    Args:
        config: of the comparison.
        methods: names as a study has them, in the user's order.
    """
    # What the names of the methods say already, and what belongs to the target.
    common = dataclasses.replace(config, target=(), test=(), representation="", selector="")
    return StudyConfig(
        common=common, targets=(TargetFiles(TARGET, config.target, config.test),), methods=methods,
        budgets=(config.budget,), seeds=config.seeds, headline=methods, headline_seeds=config.seeds,
        baselines=dict.fromkeys(("random", *config.baselines), config.seeds), is_comparison=True)


def _check(config: CompareConfig) -> None:
    if not config.test:
        raise ConfigError("there is nothing to score on", where="--test",
                          why="Scoring on the target examples that chose the data would prove nothing.",
                          hint="give held-out rows of the target task with --test")
    for name in config.baselines:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES, flag="--baselines")
    check_collect(config)
    harness_tasks(config.lm_eval, code=config.lm_eval_code, tokenizer=None)  # what is missing is told now
    for name in config.methods:  # a misspelt second method is refused now, not after the first one's features
        method_of(dataclasses.replace(config, method=name))
    if config.seeds < 1:
        raise ConfigError("at least one seed is needed", where="--seeds", hint="give 3 or more for honest intervals")


def _methods(config: CompareConfig, inputs: StudyInputs) -> dict[str, Recipe]:
    """The recipe of every method by the name that a study has for it, in the user's order."""
    found: dict[str, Recipe] = {}
    for asked in config.methods or (config.method,):
        one = dataclasses.replace(config, method=asked)
        method = method_of(one, inputs.of(TARGET), inputs.context(TARGET))
        found.setdefault(_name(asked, method, config), method)
    return found


def _name(asked: str, method: Recipe, config: CompareConfig) -> str:
    """What stands for a recipe in a study: the name that was asked for, or, where `auto` or other settings chose
    another recipe, its own, the published name of its parts, or these."""
    parts = method.representation, method.selector

    def stands(name: str) -> bool:
        known = resolve(name, has_target=bool(config.target), has_existing=bool(config.existing))
        return (known.representation, known.selector) == parts

    for name in (asked, method.name):
        if name != "auto" and stands(name):
            return name
    published = (m.name for m in RECIPES.values() if (m.representation, m.selector) == parts)
    return next(published, ":".join(parts))


def _note_lengths(inputs: StudyInputs, subsets: list[Subset]) -> None:
    tokens, named = inputs.pool.tokens, dict[str, list[np.ndarray]]()
    for subset in subsets:
        named.setdefault(subset.wanted.name, []).append(subset.rows)
    for name, rows in named.items():
        log(f"{name}: {counted(len(rows[0]))}, {np.mean([tokens[r].sum() for r in rows]):,.0f} tokens")
