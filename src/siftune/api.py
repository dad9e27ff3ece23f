"""The main job: files in, a run folder with the selected subset out. The command line is a thin layer over this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from siftune.config.settings import SelectConfig
from siftune.pipeline.runfolder import Outcome, write_run
from siftune.pipeline.select import choose, complete
from siftune.selectors import Selection

if TYPE_CHECKING:
    from siftune.experiments.compare import Comparison


@dataclass
class Run:
    """A finished selection.

    Attributes:
        folder: the run folder.
        selection: indices, scores and diagnostics.
        ids: the selected ids, best first.
        report: path of ``report.html``.
    """

    folder: Path
    selection: Selection
    ids: list[str]
    report: Path


def select(config: SelectConfig, *, command: str = "") -> Run:
    """Choose a subset and write its run folder.

    Features and checkpoints that the folder (or the run named by ``from_run``) already holds are reused; an
    interrupted run continues where it was.

    Args:
        config: see :class:`SelectConfig`.
        command: the command line, for the manifest.

    Raises:
        SiftuneError: anything the user can mend; see its hint.
    """
    config = complete(config)
    outcome = choose(config, command=command)
    return finish(outcome)


def finish(outcome: Outcome) -> Run:
    """Write the run folder of an outcome, with its report."""
    from siftune.report import build

    folder = Path(outcome.config.output_dir)
    write_run(folder, outcome)
    page, _ = build(folder)
    return Run(folder, outcome.selection, outcome.selection.ids(outcome.problem), page)


def compare(config: SelectConfig, *, command: str = "") -> Comparison:
    """Select, train and score; see :func:`siftune.experiments.compare.compare`."""
    from siftune.experiments.compare import compare as run

    return run(config, finish, command=command)  # type: ignore[arg-type]
