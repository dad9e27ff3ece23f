"""The report of a run or of a study: one self-contained HTML page and the same numbers as JSON.

Reads one folder and nothing else. The page needs no network, that of a run no script either; everything that came from
the rows is shown as text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siftune._common import files
from siftune._common.errors import ConfigError
from siftune.config.settings import read_yaml

__all__ = ["build"]


def build(run: str | Path, *, share: bool = False) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json`` into a run folder.

    Every number on the page stands in ``report.json``. Files that the run folder lacks are named on the page, with
    what could not be shown for want of them.

    Args:
        run: The folder that ``siftune select`` wrote; of one that ``siftune study`` wrote, ``study.html`` is made.
        share: Whether to leave out machine paths, names of users and machines, and command lines.

    Returns:
        The paths of ``report.html`` and ``report.json``, or of ``study.html`` and ``study.json``.

    Raises:
        DataError: the folder is missing, is not a run folder, or one of its files cannot be read.
        SiftuneError: the operating system refused to write.
    """
    from siftune.report import study

    run = Path(run)
    if (run / study.NUMBERS).is_file():
        return study.build(run, share=share), run / study.NUMBERS

    from siftune.report.model import build_report
    from siftune.report.page import render

    report = build_report(run)
    if share:
        from siftune.report.share import shared_report

        report = shared_report(report, run, _configuration(run))
    page, numbers = run / "report.html", run / "report.json"
    files.write_json(numbers, report)
    files.write_text(page, render(report))
    return page, numbers


def _configuration(run: Path) -> Any:
    """What config.yaml holds; nothing where it is not there or cannot be read."""
    try:
        return read_yaml(run / "config.yaml")
    except ConfigError:
        return None
