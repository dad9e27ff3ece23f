"""`siftune study --dry-run`: which cells there are, which are done, and how long the others will take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from siftune._common.progress import about
from siftune.experiments.ablations import Ablation
from siftune.experiments.config import StudyConfig, representation_named
from siftune.experiments.inputs import StudyInputs, read_study
from siftune.experiments.selecting import Selecting
from siftune.experiments.subsets import SubsetSpec
from siftune.experiments.trainings import Cells, Setting, epochs_of, models_of, study_cells, study_settings
from siftune.features.base import GradientMethod
from siftune.features.work import PlannedMethod, Work
from siftune.pipeline.plan import Plan, estimate_method
from siftune.pipeline.recipes import representation_of
from siftune.selectors import SELECTORS
from siftune.selectors.core.budget import Budget

_FORWARD = 1 / 3
"""What a token costs in scoring, beside one in training."""


@dataclass
class Preview:
    """What a study will do.

    Attributes:
        lines: one for each subset: title, cells, how many of them are done.
        features: one for each representation: name, estimate in words.
        seconds: of what is missing.
    """

    lines: list[tuple[str, int, int]] = field(default_factory=list)
    features: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(cells for _, cells, _ in self.lines)

    @property
    def done(self) -> int:
        return sum(done for *_, done in self.lines)

    def text(self) -> str:
        width = max(len(title) for title, *_ in (*self.lines, *self.features))
        told = [f"{title:{width}}  {cells:3} {'cell ' if cells == 1 else 'cells'}  {done:3} done"
                for title, cells, done in self.lines]
        told += [f"{title:{width}}  {words}" for title, words in self.features]
        left = f"{about(self.seconds)} left" if self.done < self.total else "nothing is left to do"
        return "\n".join([*told, f"{self.total} cells, {self.done} done, {left}"])


def preview(config: StudyConfig) -> Preview:
    """The cells of a study and the time that those which are missing will take, from short probes; writes nothing.

    Raises:
        SiftuneError: what the study itself would refuse before it selects.
    """
    inputs = read_study(config)
    settings = study_settings(inputs)
    folder = Path(config.common.output_dir)
    selecting = Selecting(inputs, folder)
    kept = selecting.kept()
    cells = study_cells(inputs, settings, kept, folder)
    done = Counter(one.subset.wanted if one.subset else None for one in cells.all if cells.done(one))
    made = Preview([("zero-shot", len(settings), done[None])])
    for wanted in selecting.wanted:
        made.lines.append((wanted.title, len(wanted.seeds) * len(models_of(wanted, config)), done[wanted]))
    if made.done < made.total:
        there = {s.wanted for s in kept}
        unmade = [w for w in selecting.wanted if w not in there]
        _features(selecting, unmade, made)
        made.seconds += _trainings(inputs, settings, cells, unmade)
    return made


def _features(selecting: Selecting, unmade: Iterable[SubsetSpec], made: Preview) -> None:
    """Add what the representations take of which subsets are missing, each for the first target that lacks one."""
    config = selecting.config
    seen: dict[str, tuple[str, str | None, Ablation | None]] = {}
    for wanted in unmade:
        if wanted.kind != "baseline":
            name, ablation = representation_named(wanted.method, config.common), config.ablation(wanted.name)
            seen.setdefault(ablation.label(name) if ablation else name, (name, wanted.target, ablation))
    for label, (name, target, ablation) in seen.items():
        seconds = feature_seconds(selecting, name, target, ablation)
        if seconds is None:
            made.features.append((f"features of {label}", "not known"))
            continue
        made.features.append((f"features of {label}", f"{about(seconds)}, less what is in the store"))
        made.seconds += seconds


def feature_seconds(selecting: Selecting, representation: str, target: str | None, ablation: Ablation | None = None,
                    ) -> float | None:
    """What computing a representation for a target takes, from a short probe; None where it does not say.

    Args:
        selecting: of the study.
        representation, target: which.
        ablation: whose settings it is to have.
    """
    context, plan = selecting.context(target, representation, ablation), Plan()
    found = representation_of(representation)
    if not isinstance(found, GradientMethod | PlannedMethod):
        return None
    estimate_method(found, context, SELECTORS.get("top-k").info, plan)
    return plan.seconds


def _trainings(inputs: StudyInputs, settings: dict[str, Setting], cells: Cells, unmade: Iterable[SubsetSpec]) -> float:
    """Seconds of the trainings that are missing, at the speed of those that are done, or of a probe."""
    config = inputs.config
    parameters = settings[config.common.model].parameters
    test = {name: float(one.test.tokens.sum()) for name, one in inputs.by_target.items()}
    tokens = 0.0
    for one in cells.missing():
        scored = sum(test[t] for t in one.targets) * _FORWARD
        tokens += (one.tokens + scored) * settings[one.model].parameters / parameters
    for wanted in unmade:
        scored = sum(test[t] for t in test if wanted.target in (None, t)) * _FORWARD
        for model in models_of(wanted, config):
            tokens += len(wanted.seeds) * (_tokens(inputs, wanted) + scored) * settings[model].parameters / parameters
    read, seconds = 0.0, 0.0
    for one in cells.all:
        if one.tokens and cells.done(one) and one.model == config.common.model:
            read += one.tokens
            seconds += float((cells.scores(one, one.targets[0]) or {})["seconds"])
    per_token = seconds / read if read else training_speed(inputs)
    return tokens * per_token / config.common.workers


def _tokens(inputs: StudyInputs, wanted: SubsetSpec) -> float:
    """Tokens that a training on a subset reads which is not there yet."""
    pool, config = inputs.pool, inputs.config
    mean = float(pool.tokens.mean())
    if wanted.budget is None:
        rows = float(len(pool))
    else:
        budget = Budget.parse(wanted.budget).resolve(len(pool), int(pool.tokens.sum()))
        rows = budget.limit if budget.kind == "rows" else budget.limit / mean
    return rows * mean * epochs_of(config.common, max(1, round(rows)), config.steps)


def training_speed(inputs: StudyInputs) -> float:
    """Seconds of a token in training, from a short probe."""
    from siftune.pipeline.plan.work import estimate

    plan, tokens = Plan(), 1_000_000
    estimate([Work("training", "training", tokens)], inputs.context(None), SELECTORS.get("random").info, plan)
    return plan.seconds / tokens
