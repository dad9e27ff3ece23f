"""Reading and writing results: ``comparison.json`` of a run folder, ``study.json`` of a study's.

Files of version 1 say nothing of their version. A study's had the shape of today's, a comparison's one of its own (see
:mod:`siftune.experiments.results.earlier`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from siftune._common.errors import DataError
from siftune._common.files import write_json
from siftune._common.reading import read_json_of, validated
from siftune._common.text import strict
from siftune.experiments.results.earlier import Comparison, upgraded
from siftune.experiments.results.experiment import SCHEMA, Results

COMPARISON, STUDY = "comparison.json", "study.json"
_AGAIN = {
    COMPARISON: "run `siftune compare` again with the same --output-dir: finished trainings are not repeated",
    STUDY: "run `siftune study` again with the same file: finished trainings are not repeated",
}


def write_results(path: Path, results: Results) -> None:
    """Write a file of results, whole or not at all."""
    write_json(path, results.to_dict())


def read_results(path: str | Path) -> Results:
    """The results in a file, of this version or an earlier one.

    Raises:
        DataError: it is not JSON, a value in it is of the wrong kind (told with its key), or a newer siftune wrote it.
    """
    path = Path(path)
    again = _AGAIN.get(path.name, _AGAIN[STUDY])
    value = strict(read_json_of(path, again))
    found = validated(value, path, _AnyVersion, again)
    if found.version is None and found.targets is None and found.arms is not None:
        return upgraded(validated(value, path, Comparison, again))
    if found.version is not None and found.version > SCHEMA:
        raise DataError(f"{path.name} was written by a newer siftune", where=str(path),
                        why=f"Its schema is {found.version}, and this version reads up to {SCHEMA}.",
                        hint="upgrade siftune: pip install -U siftune")
    results = validated(value, path, Results, again)
    results.version = SCHEMA
    return results


def discard_unreadable(path: Path) -> bool:
    """Take a file of results away that cannot be read, so that it is written again; whether there was one.

    Raises:
        DataError: a newer siftune wrote it: it is not broken.
    """
    if not path.is_file():
        return False
    try:
        read_results(path)
    except DataError as error:
        if "newer" in error.what:
            raise
        path.unlink(missing_ok=True)
        return True
    return False


class _AnyVersion(BaseModel):
    version: int | None = Field(None, alias="schema", ge=1)
    targets: Any = None
    arms: Any = None
