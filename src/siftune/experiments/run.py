"""`siftune study`: methods x budgets x targets x seeds, continued wherever it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from siftune._common.artefacts import working_in
from siftune._common.files import write_text
from siftune.execution import executor_of
from siftune.experiments.config import StudyConfig
from siftune.experiments.distances import distances
from siftune.experiments.estimates import Remembered
from siftune.experiments.finished import Experiment
from siftune.experiments.inputs import read_study
from siftune.experiments.pool.map import pool_map
from siftune.experiments.pool.rows import study_rows
from siftune.experiments.remote import check_storage_of_trainings
from siftune.experiments.results import STUDY, Results, write_results
from siftune.experiments.results.pool import MAP, ROWS
from siftune.experiments.selecting import Selecting
from siftune.experiments.subsets import Subset
from siftune.experiments.summary.arms import Study
from siftune.experiments.summary.summarise import summarise
from siftune.experiments.trainings import Executor, study_cells, study_settings
from siftune.pipeline.features_home import reused_folders
from siftune.pipeline.runfolder import prepare


def study(config: StudyConfig, *, executor: Executor | None = None,
          after: Callable[[Experiment], Any] = lambda so_far: None) -> Experiment:
    """Select, train, score; ``study.json`` is written anew after each training.

    What an earlier call has finished is not done again; what failed is tried again. A selection or training that fails
    is told in the result and does not end the others.

    Args:
        config: see :func:`~siftune.experiments.config.load_study`.
        executor: runs the trainings; what ``executor`` and ``workers`` of the settings say when not given.
        after: called whenever ``study.json`` has been written: before the first training, and after each.

    Raises:
        SiftuneError: files or models that cannot be used, or a folder that cannot be written to.
    """
    common = config.common
    with working_in(common.output_dir, *reused_folders(common), command=f"siftune study, writing {common.output_dir}"):
        return _study(config, executor, after)


def _study(config: StudyConfig, executor: Executor | None, after: Callable[[Experiment], Any]) -> Experiment:
    check_storage_of_trainings(config.common)
    folder = prepare(config.common.output_dir)
    inputs = read_study(config)
    settings = study_settings(inputs)  # a model that cannot be loaded is refused now
    selecting = Selecting(inputs, folder)
    subsets = selecting.all()
    _write_failures(folder, subsets)
    apart = distances(selecting, subsets, folder / "distances.json")
    pool_map(selecting, study_rows(inputs, subsets, folder / ROWS), folder / MAP)
    everything = Study(inputs, subsets, study_cells(inputs, settings, subsets, folder), apart, selecting.costs,
                       Remembered())
    del selecting  # and with it what the representations hold in memory

    finished = Experiment(folder / STUDY, summarise(everything))

    def write(results: Results) -> None:
        finished.results = results
        write_results(finished.file, results)
        after(finished)

    write(finished.results)
    train(everything, executor, lambda: write(summarise(everything)))
    return finished


def train(study: Study, executor: Executor | None, after: Callable[[], None]) -> None:
    """Run the trainings that are missing, and score them.

    Args:
        study: with its cells.
        executor: runs them; what the settings say when not given.
        after: called after each.
    """
    inputs, cells = study.inputs, study.cells
    cells.run(executor or executor_of(inputs.config.common, inputs.home, len(cells.missing()) or 1), inputs.load, after)


def _write_failures(folder: Path, subsets: Sequence[Subset]) -> None:
    for subset in subsets:
        path = folder / "failures" / f"{subset.wanted.id}.txt"
        if subset.error:
            write_text(path, f"{subset.wanted.title}\n{subset.error}\n\n{subset.traceback}")
        else:
            path.unlink(missing_ok=True)
