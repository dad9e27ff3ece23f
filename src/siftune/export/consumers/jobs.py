"""What the scripts of this folder share: jobs in, rows out.

A job is a JSON object: ``settings`` (the file with settings that the export wrote), ``data`` (its data file), ``model``
(a folder with the tokenizer and the configuration of a tiny model), ``cache`` (an empty folder), ``output`` and
``each`` (load row by row where the file as a whole cannot be loaded). ``output`` becomes a JSON object: ``versions``,
and ``rows`` in the trainer's order (``input_ids``, ``labels``, ``id`` where the trainer keeps it; ``error`` in their
place) or ``error``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOT_INSTALLED = 3

Load = Callable[[dict[str, Any]], list[dict[str, Any]]]


def run(load: Load, versions: Callable[[], dict[str, str]]) -> None:
    """Do the jobs that the command line names; exit code 3 where the trainer is not installed."""
    try:
        installed = versions()
    except ImportError as error:
        print(f"not installed: {error}", file=sys.stderr)
        sys.exit(NOT_INSTALLED)
    for path in sys.argv[1:]:
        job = json.loads(Path(path).read_text(encoding="utf-8"))
        made = {"versions": installed, **_done(load, job)}
        Path(job["output"]).write_text(json.dumps(made), encoding="utf-8")


def _done(load: Load, job: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"rows": load(job)}
    except Exception as error:  # whatever the trainer raises is what is to be message
        traceback.print_exc()
        message = _line(error)
    if not job["each"]:
        return {"error": message}
    return {"rows": [_alone(load, job, line, number) for number, line in enumerate(_lines(job))]}


def _alone(load: Load, job: dict[str, Any], line: str, number: int) -> dict[str, Any]:
    """One row, in a copy of the export that has no other."""
    folder = Path(job["cache"]) / f"row-{number}"
    shutil.copytree(Path(job["data"]).parent, folder / "export")
    data = folder / "export" / Path(job["data"]).name
    data.write_text(line + "\n", encoding="utf-8")
    settings = folder / "export" / Path(job["settings"]).name
    cache = folder / "cache"
    cache.mkdir()
    before = Path.cwd()
    try:
        os.chdir(folder)
        rows = load({**job, "settings": str(settings), "data": str(data), "cache": str(cache)})
        return {"id": json.loads(line)["id"], **rows[0]} if rows else {"id": json.loads(line)["id"], "error": "dropped"}
    except Exception as error:
        return {"id": json.loads(line)["id"], "error": _line(error)}
    finally:
        os.chdir(before)


def _lines(job: dict[str, Any]) -> list[str]:
    return Path(job["data"]).read_text(encoding="utf-8").split("\n")[:-1]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]
