"""`siftune choose` from top to bottom: rounds of small trainings, a decision, and the winner's selection.

Each round is a study: its targets are the folds, its methods the arms that are still going on. So subsets, trainings
and their scores are kept where `siftune compare` and `siftune study` keep theirs, nothing is trained twice, and a call
that was killed goes on where it was. Arms are stopped by :func:`siftune.evaluation.choosing.choose`; random rows never
are.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from siftune._common.artefacts import working_in
from siftune._common.progress import about, log
from siftune.config.choosing import ChooseConfig, selecting
from siftune.evaluation.choosing import Choice as Decision
from siftune.experiments.choosing.arms import read_arms
from siftune.experiments.choosing.metric import UNTUNED
from siftune.experiments.choosing.prepared import Prepared, prepared
from siftune.experiments.choosing.rounds import run_rounds
from siftune.experiments.choosing.schedule import keep_plan, plan_key
from siftune.experiments.choosing.summary import summarise
from siftune.experiments.remote import check_storage_of_trainings
from siftune.experiments.results import RANDOM
from siftune.experiments.results.choice import CHOICE, Choice, write_choice
from siftune.experiments.trainings import Executor
from siftune.experiments.variants import varied_context
from siftune.features.base import Context
from siftune.pipeline.features_home import features_home, reused_folders
from siftune.pipeline.runfolder import Outcome, clear_selection, prepare
from siftune.pipeline.select import choose as select_rows
from siftune.pipeline.select import complete


def choose_arm(config: ChooseConfig, finish: Callable[[Outcome], Any], *, command: str = "",
               executor: Executor | None = None) -> Choice:
    """Measure the arms, decide, select with the winner, and write ``choice.json``.

    Interrupted anywhere, it continues; finished selections and trainings are never computed again.

    Args:
        config: see :class:`~siftune.config.choosing.ChooseConfig`.
        finish: writes the run folder of the winner's outcome.
        command: the command line, for the manifest.
        executor: runs the trainings; what ``executor`` and ``workers`` of the settings say when not given.

    Raises:
        SiftuneError: anything the user can mend.
    """
    config = complete(config, "choose")
    with working_in(config.output_dir, *reused_folders(config), command=command or "siftune.choose"):
        return _choose(config, finish, command, executor)


def _choose(config: ChooseConfig, finish: Callable[[Outcome], Any], command: str, executor: Executor | None) -> Choice:
    started = time.monotonic()
    check_storage_of_trainings(config)
    made = prepared(config, probe=bool(config.within))
    folder = prepare(config.output_dir)
    work, expected = made.work, made.expected
    if config.within and expected is None:
        expected = work.seconds
        keep_plan(folder, plan_key(made.rows, read_arms(config)), made.schedule, expected)
    _tell(made, expected)
    trained = run_rounds(made, folder, executor)
    decision = trained.rounds[-1].decision
    selected = _to_select(decision, made.arms.config)
    outcome = _selected(made, selected, decision, command) if selected else None
    if outcome:
        finish(outcome)
    elif clear_selection(folder):
        log("the untuned model is taken: the earlier selection in this folder is removed")
    choice = summarise(made, trained, decision, selected)
    choice.costs.expected_seconds = expected
    choice.costs.wall_seconds = round(time.monotonic() - started, 3)
    write_choice(folder / CHOICE, choice)
    return choice


def _tell(made: Prepared, expected: float | None) -> None:
    schedule, work = made.schedule, made.work
    for name, why in made.arms.left_out.items():
        log(f"{name} is not tried: {why}")
    for words in schedule.cuts:
        log(f"cut to fit {made.arms.config.within}: {words}")
    at = " and ".join(filter(None, [", ".join(f"{b:,}" for b in schedule.rounds[:-1]), f"{schedule.rounds[-1]:,}"]))
    takes = f", {about(expected)}" if expected is not None else ""
    log(f"choosing between {', '.join(('random rows', 'the untuned model', *schedule.arms))}: at most "
        f"{work.trainings - 1:,} trainings on {at} {schedule.unit}, {work.tokens:,.0f} tokens{takes}")
    log(f"scored by {made.scored.metric.words}: {made.scored.metric.why}")


def _to_select(decision: Decision, config: ChooseConfig) -> str | None:
    """The arm that selects: none where the untuned model is taken, unless asked; then the best that is trained."""
    if decision.take != UNTUNED:
        return decision.take
    if not config.select_anyway:
        return None
    best = next((gain for gain in decision.arms if gain.arm != UNTUNED and gain.utility > 0), None)
    return best.arm if best else RANDOM


def _selected(made: Prepared, arm: str, decision: Decision, command: str) -> Outcome:
    """The winner selects again with all targets, at the full budget, of the very same pool."""
    arms, rows = made.arms, made.rows
    variant = arms.variant(arm)
    config = selecting(arms.config, method=RANDOM if arm == RANDOM else arms.method_of(arm), **rows.replay)
    owners = {owner for pair in config.recipes() for owner in pair}
    owners |= {part for owner in list(owners) for part in config.parts_of(owner)}
    config = dataclasses.replace(config, own={o: block for o, block in config.own.items() if o in owners})
    config = variant.of(config) if variant else config
    if variant and variant.folder:
        study = arms.study(made.split.names, "1", 1, arms.names)
        inputs = dataclasses.replace(made.split.study_inputs(rows, study), by_target={made.split.names[0]: rows.inputs})
        context = varied_context(inputs, made.split.names[0], arms.representation(arm), variant)
        context = dataclasses.replace(context, siblings=tuple)
    else:
        inputs = rows.inputs
        home = features_home(config, inputs.pool)
        context = home.told(Context(config, inputs.pool, inputs.target, inputs.render, home.folder, rows.load,
                                    rows.clock, inputs.existing, earlier=home.earlier))
    outcome = select_rows(config, inputs=rows.inputs, context=context, command=command)
    _ = outcome.context.model  # so that the manifest can tell of it
    gain = next((one for one in decision.arms if one.arm == arm), None)
    words = f"chosen by measurement, see {CHOICE}" + (
        f": expected to gain {gain.expected:+.1f} points over random rows" if gain else "")
    return dataclasses.replace(outcome, method=dataclasses.replace(outcome.method, reason=words))

