"""All that is known of a choice before anything is trained: arms, rows, and what will be trained at most."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from siftune._common.progress import about
from siftune.config.choosing import ChooseConfig
from siftune.experiments.choosing.arms import Arms, read_arms
from siftune.experiments.choosing.metric import Scored, scored_rows
from siftune.experiments.choosing.rows import ChoiceRows, Split, read_rows
from siftune.experiments.choosing.schedule import (
    Costs,
    Schedule,
    Work,
    fitted,
    full_schedule,
    kept_plan,
    plan_key,
    targets_matter,
)
from siftune.experiments.preview import feature_seconds, training_speed
from siftune.experiments.selecting import Selecting
from siftune.features.gradient_settings import settled_settings
from siftune.pipeline.recipes import representation_of
from siftune.pipeline.select import constrain
from siftune.selectors import Budget, Problem, ResolvedBudget


@dataclass
class Prepared:
    """All that is known before anything is trained.

    Attributes:
        arms: that can be tried.
        rows: pool, targets and rows that score.
        budget: what the winner is to select.
        schedule: what is trained at most.
        costs: of work on this machine.
        expected: seconds that a kept plan expected; None where there is none.
        split: the rows that score, by fold.
    """

    arms: Arms
    rows: ChoiceRows
    budget: ResolvedBudget
    schedule: Schedule
    costs: Costs
    expected: float | None
    split: Split
    scored: Scored

    @property
    def work(self) -> Work:
        return self.costs.of(self.schedule)


def prepared(config: ChooseConfig, *, probe: bool) -> Prepared:
    """Read everything, and decide what is to be trained. Writes nothing.

    Args:
        config: of the choice.
        probe: whether to measure how fast this machine is.

    Raises:
        SiftuneError: whatever is wrong with settings, files or rows; a time that is too short.
    """
    limit = config.seconds  # a time that cannot be read is refused now
    Budget.parse(config.budget)
    arms = read_arms(config)
    config = arms.config
    rows = read_rows(config)
    pool = rows.inputs.pool
    problem = constrain(config, rows.inputs, Problem(ids=pool.ids, tokens=pool.tokens))
    budget = problem.resolve(Budget.parse(config.budget))
    mean = float(pool.tokens.mean())
    schedule = full_schedule(rows, arms, budget, mean)
    kept = kept_plan(Path(config.output_dir), plan_key(rows, arms)) if config.output_dir and limit else None
    if kept:
        schedule, probe = kept[0], False
    split = rows.split(schedule.folds, config.most_validation_rows)
    scored = _scored(rows, split)
    costs = _costs(rows, arms, split, scored, mean, probe=probe)
    if not kept:
        schedule = fitted(schedule, costs, config)
        if schedule.folds != len(split.names):
            split = rows.split(schedule.folds, config.most_validation_rows)
            scored = _scored(rows, split)
    arms = arms.without({name: why for name, why in schedule.left_out.items() if name in arms.names})
    return Prepared(arms, rows, budget, schedule, costs, kept[1] if kept else None, split, scored)


def _scored(rows: ChoiceRows, split: Split) -> Scored:
    from siftune.models.loading import load_tokenizer

    config = rows.config
    counts = {name: len(places) for name, places in zip(split.names, split.scored, strict=True)}
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    return scored_rows(config, tokenizer, split.measured, counts)


def _costs(rows: ChoiceRows, arms: Arms, split: Split, scored: Scored, mean_tokens: float, *, probe: bool) -> Costs:
    config = arms.config
    features: dict[str, float | None] = dict.fromkeys(arms.names, 0.0)
    each_fold: set[str] = set()
    per_token = None
    if probe:
        inputs = split.study_inputs(rows, arms.study(split.names, "1", 1, arms.names))
        selecting = Selecting(inputs, Path(config.output_dir or "."))
        for name in arms.names:
            signals = _signals(arms, name)
            # A sum of signals that are arms themselves costs nothing beside them.
            if signals and signals <= {arms.representation(other) for other in arms.names if other != name}:
                continue
            features[name] = feature_seconds(selecting, arms.representation(name), split.names[0], arms.variant(name))
            if _for_these_targets(arms, name):
                each_fold.add(name)
        per_token = training_speed(inputs)

    def of(arm: str, folds: int) -> float | None:
        seconds = features[arm]
        # Scores that are made for certain targets are made for all folds in one pass, and once more for the winner.
        return seconds if seconds is None or arm not in each_fold or folds == 1 else 2 * seconds

    return Costs(mean_tokens, config.epochs, scored.tokens, targets_matter(arms), config.seeds, config.workers, of,
                 per_token)


def _signals(arms: Arms, name: str) -> set[str]:
    """The methods whose similarities an arm adds up."""
    owner, variant = arms.representation(name), arms.variant(name)
    config = variant.of(arms.config) if variant else arms.config
    return set(config.parts_of(owner)) if owner == "fusion" else set()


def _for_these_targets(arms: Arms, name: str) -> bool:
    """Whether a pass over the pool serves one set of targets only."""
    found = representation_of(arms.representation(name))
    if not hasattr(found, "keeps_features"):
        return False
    variant = arms.variant(name)
    config = variant.of(arms.config) if variant else arms.config
    return not found.keeps_features(settled_settings(config.settings_of(found.name), found))


def preview(config: ChooseConfig) -> str:
    """What a choice will train, how long that takes on this machine, and what is cut to fit; writes nothing.

    Raises:
        SiftuneError: whatever the choice itself would refuse before it selects.
    """
    made = prepared(config, probe=True)
    schedule, work, costs = made.schedule, made.work, made.costs
    lines = [("random rows", "always tried"), ("untuned", "always tried: it is only scored")]
    for name in schedule.arms:
        seconds = work.features.get(name)
        takes = "features: not known" if seconds is None else f"features: {about(seconds)}" if seconds else (
            "features: seconds, or those of the other arms")
        lines.append((name, takes))
    lines += [(name, f"not tried: {why}") for name, why in schedule.left_out.items()]
    least, most = (f(len(places) for places in made.split.select) for f in (min, max))
    select = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    by = "rows of the validation file" if made.rows.validation is not None else (
        f"target rows, in {schedule.folds} folds: arms select with the {select} others")
    lines.append(("scored on", f"{len(made.scored.ids):,} {by}"))
    lines.append(("scored by", f"{made.scored.metric.words}: {made.scored.metric.why}"))
    for k, (budget, random) in enumerate(zip(schedule.rounds, schedule.random, strict=True)):
        each = sum((schedule.folds if costs.looks[arm] else 1) * costs.seeds for arm in schedule.arms)
        told = f"{random} trainings on random rows, {each} of {len(schedule.arms)} arms" + (
            ", less those of arms that are stopped" if k else "")
        lines.append((f"round {k + 1}: {budget:,} {schedule.unit}", told))
    lines += [("cut to fit", words) for words in schedule.cuts]
    within = f" (--within {config.within})" if config.within else ""
    expected = made.expected if work.seconds is None else work.seconds
    takes = f", {about(expected)}{within}, less what is there already" if expected is not None else ""
    lines.append(("in all", f"at most {work.trainings - 1:,} trainings, {work.tokens:,.0f} tokens{takes}"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {words}" for name, words in lines)
