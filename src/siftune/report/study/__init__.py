"""The page of a study: ``study.html`` out of ``study.json``, one file that asks for no other.

Tables and charts are there without a script; the page's own script only filters and sorts them. Where the study left
``map.json`` and ``rows.json``, a map of the pool and its rows are on the page too.
"""

from __future__ import annotations

from pathlib import Path

from siftune._common import files
from siftune._common.errors import DataError

__all__ = ["NUMBERS", "PAGE", "build"]

NUMBERS, PAGE = "study.json", "study.html"
_AGAIN = "run `siftune study` again with the same file: finished trainings are not repeated"


def build(folder: str | Path) -> Path:
    """Write ``study.html`` into the folder of a study; all of its numbers stand in, or follow from, the files there.

    Args:
        folder: that ``siftune study`` wrote.

    Returns:
        The path of the page.

    Raises:
        DataError: there is no ``study.json``, or a file is not as a study writes it.
        SiftuneError: the operating system refused to write.
    """
    from siftune.report.reading import read_as
    from siftune.report.study.model import build_view
    from siftune.report.study.page import render
    from siftune.report.study.pool import pool_view
    from siftune.report.study.schema import Study
    from siftune.report.text import strict

    folder = Path(folder)
    path = folder / NUMBERS
    if not path.is_file():
        raise DataError("this is not the folder of a study", where=str(folder), why=f"It holds no {NUMBERS}.",
                        hint="give the folder that `siftune study` wrote")
    study = read_as(path, Study, _AGAIN, clean=strict)
    page = folder / PAGE
    files.write_text(page, render({**build_view(study, folder.resolve().name), **pool_view(folder, study)}))
    return page
