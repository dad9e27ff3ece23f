"""The trainings of a study: every cell once, whoever fails, continued wherever they were interrupted.

A cell is (subset, training seed, model). It is kept by content (see :mod:`siftune.experiments.cells`), so cells with
the same rows are trained once, and so is one that `siftune compare` has trained in the same run folder. Subsets that
were chosen for a target are scored on its test rows; those that were chosen for none are scored on all.
"""

from __future__ import annotations

import dataclasses
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from siftune._common import progress
from siftune._common.errors import ModelError, SiftuneError
from siftune._common.files import write_text
from siftune.config.settings import CompareConfig
from siftune.data.render import Renderer
from siftune.data.rendering import render_rows
from siftune.data.rows import Examples, Rendered
from siftune.evaluation.harness import harness_tasks
from siftune.execution import SetAside, storage_of
from siftune.execution.tries import times
from siftune.experiments.cells import (
    Cell,
    TestRows,
    TrainingCache,
    kept_harness_scores,
    kept_scores,
    settings_of,
    test_rows,
    train_and_score,
)
from siftune.experiments.config import StudyConfig
from siftune.experiments.inputs import StudyInputs
from siftune.experiments.remote import fetch_training, train_remotely
from siftune.experiments.subsets import Subset, SubsetSpec
from siftune.models.shape import shape_of

if TYPE_CHECKING:
    from siftune.execution.storage import Storage
    from siftune.models.loading import LoadedModel


class Executor(Protocol):
    """Whatever runs jobs as :class:`~siftune.execution.LocalExecutor` does: the seam for other machines."""

    def map(self, start: Callable[[int], Callable[[Any], Any]], jobs: Any) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Setting:
    """A model, with all that its cells share.

    Attributes:
        shelf: where they are kept.
        tests: target -> (key, its test rows, as the model reads them).
        rendered: the pool as the model reads it; None for a row that it cannot be trained on.
        parameters: of the model.
    """

    shelf: TrainingCache
    tests: Mapping[str, tuple[str, TestRows]]
    rendered: Sequence[Rendered | None]
    parameters: int

    @property
    def model(self) -> str:
        return self.shelf.config.model


@dataclass(frozen=True)
class StudyCell:
    """One training of one subset by one model.

    Attributes:
        subset: None for zero-shot.
        seed: of the training.
        model: as the user called it.
        cell: with its rows.
        name: its folder below ``training``; the same for cells with the same content.
        targets: whose test rows it is scored on.
        lost: rows of the subset that the model cannot be trained on.
    """

    subset: Subset | None
    seed: int
    model: str
    cell: Cell
    name: str
    targets: tuple[str, ...]
    lost: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that the training reads."""
        return (self.cell.epochs or 0) * sum(len(r) for r in self.cell.rows or ())


@dataclass(frozen=True)
class Job:
    """What a worker is sent: no more than it needs."""

    number: int
    model: str
    cell: Cell
    keys: tuple[str, ...]

    @property
    def title(self) -> str:
        return self.cell.title


@dataclass
class Failure:
    """Why a cell has no scores."""

    message: str
    file: str


@dataclass
class Cells:
    """All cells of a study.

    Attributes:
        settings: model -> its setting; the study's own model first.
        all: in the order in which they are worth having.
        folder: of the study, for the tracebacks of failures.
        failures: folder name of a cell -> why it failed, of this run.
    """

    settings: dict[str, Setting]
    all: list[StudyCell]
    folder: Path
    failures: dict[str, Failure] = field(default_factory=dict)
    _scores: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def scores(self, one: StudyCell, target: str) -> dict[str, Any] | None:
        """The scores on a target's test rows; None where they are not there yet, or are not numbers."""
        setting = self.settings[one.model]
        key = one.name, setting.tests[target][0]
        if key not in self._scores:
            found = kept_scores(setting.shelf.root / one.name, key[1])
            # Without a finite loss no mean could be taken: the cell has failed.
            if found is None or not all(map(math.isfinite, found["loss"])):
                return None
            self._scores[key] = found
        return self._scores[key]

    def harness(self, one: StudyCell) -> dict[str, dict[str, Any]] | None:
        """The scores on the tasks of the lm-evaluation-harness by name; None where some are not there yet."""
        setting, found = self.settings[one.model], {}
        for task in setting.shelf.harness:
            key = one.name, task.key
            if key not in self._scores:
                kept = kept_harness_scores(setting.shelf.root / one.name, task)
                if kept is None:
                    return None
                self._scores[key] = kept
            found.update(self._scores[key])
        return found

    def done(self, one: StudyCell) -> bool:
        return all(self.scores(one, target) is not None for target in one.targets) and self.harness(one) is not None

    def missing(self) -> list[StudyCell]:
        """One for each content that is to be trained or scored, with all the targets that it is wanted for."""
        found: dict[tuple[str, str], StudyCell] = {}
        for one in self.all:
            if self.done(one):
                continue
            key = one.model, one.name
            same = found.get(key)
            targets = tuple(dict.fromkeys((*same.targets, *one.targets))) if same else one.targets
            found[key] = dataclasses.replace(same or one, targets=targets)
        return list(found.values())

    def run(self, executor: Executor, load: Callable[[Any], LoadedModel], after: Callable[[], None]) -> None:
        """Train and score what is missing; a failing cell is noted and passed over.

        Args:
            executor: runs the jobs.
            load: loads the model of a configuration; picklable where there are several processes.
            after: called after each cell.
        """
        todo = self.missing()
        storage = _storage(self.settings)
        if storage is not None and todo:
            for one in todo:
                fetch_training(storage, self.settings[one.model].shelf.root / one.name)
            before, todo = len(todo), self.missing()
            if len(todo) < before:
                progress.log(f"{before - len(todo)} of {before} trainings were in the storage")
                after()
        if not todo:
            return
        total = sum(map(self._work, self.all))
        jobs = [Job(i, one.model, one.cell, tuple(self.settings[one.model].tests[t][0] for t in one.targets))
                for i, one in enumerate(todo)]
        # Workers have no use for the pool, which may be large.
        settings = {name: dataclasses.replace(s, rendered=()) for name, s in self.settings.items()}
        unheard = dict(enumerate(todo))
        with progress.bar(f"{len(todo)} of {len(self.all)} cells", total, "tokens") as bar:
            bar.skip(total - sum(map(self._work, todo)))
            try:
                start = partial(StudyWorker, load=load)
                results = (executor.map(partial(start, settings=settings), jobs) if storage is None else
                           train_remotely(jobs, executor, storage, start, settings))
                for number, message, trace in results:
                    one = unheard.pop(number)
                    self._note(one, message, trace)
                    bar.advance(self._work(one))
                    after()
            except SetAside as lost:  # all others are done
                for job, reason in zip(lost.jobs, lost.reasons, strict=True):
                    error = SiftuneError(f"the worker was lost {times(lost.tries)} ({reason})", hint=lost.hint)
                    if not self.done(todo[job.number]):  # or it was lost between its last file and telling so
                        self._note(todo[job.number], str(error), "")
                after()
            except SiftuneError as error:  # no worker could be started
                for one in unheard.values():
                    if not self.done(one):
                        self._note(one, str(error), traceback.format_exc())
                after()

    def _work(self, one: StudyCell) -> float:
        """In tokens of training, which cost about three times those that are only read to score it."""
        tests = self.settings[one.model].tests
        return one.tokens + sum(tests[target][1].tokens for target in one.targets) / 3

    def _note(self, one: StudyCell, message: str, trace: str) -> None:
        path = self.folder / "failures" / f"{one.name}.txt"
        if not message:
            path.unlink(missing_ok=True)  # of an earlier run
            return
        write_text(path, f"{one.cell.title}\n{message}\n\n{trace}")
        self.failures[one.name] = Failure(message, str(path))
        progress.log(f"warning: {one.cell.title} failed: {message.splitlines()[0]}")


def _storage(settings: Mapping[str, Setting]) -> Storage | None:
    """Where workers exchange files with this process; None where they see the run folder."""
    config = next(iter(settings.values())).shelf.config
    return storage_of(config) if config.storage else None


class StudyWorker:
    """Trains and scores cells of whichever model, in this process or in one of its own. Failures come back as text.

    Args:
        number: of the worker.
        load: loads the model of a configuration.
        settings: model -> its setting.
    """

    def __init__(self, number: int, *, load: Callable[[Any], LoadedModel], settings: Mapping[str, Setting]):
        self.load, self.settings = load, settings

    def __call__(self, job: Job) -> tuple[int, str, str]:
        """(number of the job, what went wrong in words, traceback); the latter two empty where nothing did."""
        setting = self.settings[job.model]
        tests = {key: rows for key, rows in setting.tests.values() if key in job.keys}
        try:
            with progress.quiet():  # one line over all cells instead
                train_and_score(self.load(setting.shelf.config), setting.shelf, job.cell, tests)
            for key in tests:
                _check_finite(setting.shelf.scores(job.cell, key))
        except Exception as error:  # one cell's, whatever it is: the others go on
            told = str(error) if isinstance(error, SiftuneError) else f"{type(error).__name__}: {error}"
            return job.number, told, traceback.format_exc()
        return job.number, "", ""


def _check_finite(scores: dict[str, Any]) -> None:
    for row_id, loss in zip(scores["ids"], scores["loss"], strict=True):
        if not math.isfinite(loss):
            raise ModelError(f"the loss of test row {row_id} is {loss}", why="No mean could be taken.",
                             hint="lower learning_rate, or give dtype: float32")


def study_settings(inputs: StudyInputs) -> dict[str, Setting]:
    """Every model of a study with its setting, the study's own model first.

    Raises:
        ModelError: one cannot be loaded.
    """
    config = inputs.config
    others = {name: _setting(inputs, name) for name in config.train_models}
    return {config.common.model: _setting(inputs, config.common.model), **others}  # loaded last, so that it is kept


def models_of(wanted: SubsetSpec, config: StudyConfig) -> tuple[str, ...]:
    """The models that are trained on a subset: no other ones on the full pool and on deciles, since what is asked of
    them is whether the order of the methods stays."""
    others = () if wanted.kind == "decile" or wanted.name == "full" else config.train_models
    return config.common.model, *others


def study_cells(inputs: StudyInputs, settings: dict[str, Setting], subsets: Sequence[Subset], folder: Path) -> Cells:
    """The cells of a study: zero-shot first, then the subsets in order, then the same with the other models.

    Args:
        inputs: of the study.
        settings: see :func:`study_settings`.
        subsets: those that failed have no cells.
        folder: of the study.
    """
    config = inputs.config
    made = [s for s in subsets if not s.error]
    cells: list[StudyCell] = []
    targets = tuple(t.name for t in config.targets)
    for name, setting in settings.items():
        about = f"{name}, " if name != config.common.model else ""
        untrained = Cell(f"{about}zero-shot", 0, None)
        cells.append(StudyCell(None, 0, name, untrained, setting.shelf.folder(untrained).name, targets))
        for subset in made:
            wanted = subset.wanted
            if name not in models_of(wanted, config):
                continue
            rows = [setting.rendered[i] for i in subset.rows.tolist()]
            usable = tuple(row for row in rows if row is not None)
            mine = tuple(t for t in targets if wanted.target in (None, t))
            for seed in wanted.seeds:
                cell = Cell(f"{about}{wanted.title}, seed {seed}", seed, usable,
                            epochs_of(setting.shelf.config, len(usable), config.steps))
                cells.append(StudyCell(subset, seed, name, cell, setting.shelf.folder(cell).name, mine,
                                       len(rows) - len(usable)))
    return Cells(settings, cells, folder)


def epochs_of(config: CompareConfig, rows: int, steps: int | None) -> int:
    """Whole epochs; with matched steps, the number of them that comes nearest."""
    if steps is None:
        return config.epochs
    return max(1, round(steps / settings_of(config, Cell("", 0, None)).steps_per_epoch(max(1, rows))))


def _setting(inputs: StudyInputs, model: str) -> Setting:
    """A model's own view of the rows; the study's model has rendered them already."""
    common = inputs.config.common
    config = dataclasses.replace(common, model=model)
    loaded = inputs.load(config)
    rendered: Sequence[Rendered | None] = inputs.pool.rendered
    tests = {name: one.test for name, one in inputs.by_target.items()}
    if model != common.model:
        renderer = Renderer(loaded.tokenizer, max_length=common.max_length, shape=shape_of(loaded.model.config))
        found = render_rows(inputs.pool.rows, renderer, role="pool", bad_rows="drop")
        by_id = dict(zip(found.ids, found.rendered, strict=True))
        rendered = [by_id.get(row_id) for row_id in inputs.pool.ids]
        tests = {name: render_rows(test.rows, renderer, role="test", bad_rows="drop") for name, test in tests.items()}
    harness = harness_tasks(config.lm_eval, code=config.lm_eval_code, tokenizer=loaded.tokenizer)
    shelf = TrainingCache(inputs.home / "training", config, loaded.base_key, harness)
    return Setting(shelf, {name: _keyed(test, loaded, config) for name, test in tests.items()}, rendered,
                   loaded.parameters)


def _keyed(test: Examples, loaded: LoadedModel, config: CompareConfig) -> tuple[str, TestRows]:
    rows = test_rows(test, loaded.tokenizer, config)
    return rows.key(config.exact_match_tokens), rows
