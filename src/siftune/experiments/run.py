"""`siftune study`: methods x budgets x targets x seeds, continued wherever it was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from siftune._common.artefacts import working_in
from siftune._common.files import write_json, write_text
from siftune.execution import executor_of
from siftune.experiments.config import StudyConfig
from siftune.experiments.distances import distances
from siftune.experiments.estimates import Remembered
from siftune.experiments.inputs import read_study
from siftune.experiments.pool_map import pool_map
from siftune.experiments.rows import study_rows
from siftune.experiments.schema import StudyResult
from siftune.experiments.selecting import Selecting
from siftune.experiments.subsets import Subset
from siftune.experiments.summary import Study, summarise
from siftune.experiments.trainings import Executor, study_cells, study_settings
from siftune.pipeline.runfolder import prepare
from siftune.pipeline.select import reused_folders
from siftune.report.study import build
from siftune.report.study.pool import MAP, ROWS


@dataclass
class Finished:
    """What a study has come to.

    Attributes:
        file: ``study.json``.
        result: what it holds.
        page: ``study.html``, once the trainings have ended.
    """

    file: Path
    result: StudyResult
    page: Path | None = None

    @property
    def failed(self) -> bool:
        return bool(self.result["failures"])


def study(config: StudyConfig, *, executor: Executor | None = None) -> Finished:
    """Select, train, score; ``study.json`` is written anew after each training.

    What an earlier call has finished is not done again; what failed is tried again. A selection or training that fails
    is told in the result and does not end the others.

    Args:
        config: see :func:`~siftune.experiments.config.load_study`.
        executor: runs the trainings; what ``executor`` and ``workers`` of the settings say when not given.

    Raises:
        SiftuneError: files or models that cannot be used, or a folder that cannot be written to.
    """
    common = config.common
    with working_in(common.output_dir, *reused_folders(common), command=f"siftune study, writing {common.output_dir}"):
        return _study(config, executor)


def _study(config: StudyConfig, executor: Executor | None) -> Finished:
    folder = prepare(config.common.output_dir)
    inputs = read_study(config)
    settings = study_settings(inputs)  # a model that cannot be loaded is refused now
    selecting = Selecting(inputs, folder)
    subsets = selecting.all()
    _tell_failures(folder, subsets)
    apart = distances(selecting, subsets, folder / "distances.json")
    pool_map(selecting, study_rows(inputs, subsets, folder / ROWS), folder / MAP)
    cells = study_cells(inputs, settings, subsets, folder)
    costs, remember = selecting.costs, Remembered()
    del selecting  # and with it what the representations hold in memory

    everything = Study(inputs, subsets, cells, apart, costs, remember)
    finished = Finished(folder / "study.json", summarise(everything))

    def tell() -> None:
        finished.result = summarise(everything)
        write_json(finished.file, finished.result)

    tell()
    cells.run(executor or executor_of(config.common, inputs.home, len(cells.missing()) or 1), inputs.load, tell)
    finished.page = build(folder)
    return finished


def _tell_failures(folder: Path, subsets: Sequence[Subset]) -> None:
    for subset in subsets:
        path = folder / "failures" / f"{subset.wanted.id}.txt"
        if subset.error:
            write_text(path, f"{subset.wanted.title}\n{subset.error}\n\n{subset.traceback}")
        else:
            path.unlink(missing_ok=True)
