"""The page of a study: ``study.html`` out of ``study.json``, one file that asks for no other.

Tables and charts are there without a script; the page's own script only filters and sorts them. Where the study left
``map.json`` and ``rows.json``, a map of the pool and its rows are on the page too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from siftune._common import files
from siftune._common.errors import DataError
from siftune._common.text import one_line

if TYPE_CHECKING:
    from siftune.experiments.results import Results

__all__ = ["NUMBERS", "PAGE", "build", "verdict_of"]

NUMBERS, PAGE = "study.json", "study.html"


def build(folder: str | Path, *, share: bool = False) -> Path:
    """Write ``study.html`` into the folder of a study; all of its numbers stand in, or follow from, the files there.

    Args:
        folder: that ``siftune study`` wrote.
        share: whether to leave out machine paths, names of users and machines, and command lines.

    Returns:
        The path of the page.

    Raises:
        DataError: there is no ``study.json``, or a file is not as a study writes it.
        SiftuneError: the operating system refused to write.
    """
    from siftune.experiments.results import read_results
    from siftune.report.share import Private
    from siftune.report.study.model import build_view
    from siftune.report.study.page import render
    from siftune.report.study.pool import pool_view

    folder = Path(folder)
    path = folder / NUMBERS
    if not path.is_file():
        raise DataError("this is not the folder of a study", where=str(folder), why=f"It holds no {NUMBERS}.",
                        hint="give the folder that `siftune study` wrote")
    study = read_results(path)
    page = folder / PAGE
    private = Private(folder, study.settings.model_dump()) if share else None
    if private is not None:
        study = type(study).model_validate(private.value(study.to_dict()))
    view = build_view(study, folder.resolve().name)
    files.write_text(page, render({**view, **pool_view(folder, study, private.text if private else str)}))
    return page


def verdict_of(results: Results) -> str:
    """The head of the page in plain words: what can be told, and cautions, a line each."""
    from siftune.report.study.verdict import verdict

    found = verdict(results)
    return "\n".join(map(one_line, [found["headline"], *found["cautions"]]))
