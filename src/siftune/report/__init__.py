"""The report of a run: one self-contained HTML page and the same numbers as JSON.

Reads a run folder and nothing else. The page needs no network and runs no script; everything that came from the
rows is shown as text.
"""

from __future__ import annotations

from pathlib import Path

from siftune import files

__all__ = ["build"]


def build(run: str | Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json`` into a run folder.

    Every number on the page stands in ``report.json``. Files that the run folder lacks are named on the page, with
    what could not be shown for want of them.

    Args:
        run: The folder that ``siftune select`` wrote.

    Returns:
        The paths of ``report.html`` and ``report.json``.

    Raises:
        DataError: the folder is missing, is not a run folder, or one of its files cannot be read.
        SiftuneError: the operating system refused to write.
    """
    from siftune.report.model import build_report
    from siftune.report.page import render

    run = Path(run)
    report = build_report(run)
    page, numbers = run / "report.html", run / "report.json"
    files.write_json(numbers, report)
    files.write_text(page, render(report))
    return page, numbers
