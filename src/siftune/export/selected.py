"""The selected rows of a run folder, in order of rank, under the ids which the run gave them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from siftune._common.errors import DataError
from siftune._common.nearest import did_you_mean
from siftune.config.settings import read_yaml
from siftune.data.columns import named_columns
from siftune.data.limits import Limits
from siftune.data.readers import read_rows
from siftune.data.rows import Row
from siftune.pipeline.run_files import read_table


def read_selected(run: Path, format: str = "mixed") -> list[Row]:
    """Read ``selected.jsonl``, with the ids of ``selection.parquet`` where the run has one.

    Args:
        run: A run folder.
        format: Format of the rows; by default every row's own is detected.

    Raises:
        DataError: the folder holds no selection, or its two files do not belong together.
    """
    selected, table = run / "selected.jsonl", run / "selection.parquet"
    if not selected.is_file():
        raise DataError("this is not a finished run: selected.jsonl is missing", where=str(run),
                        hint=did_you_mean(run) or "name the --output-dir of a siftune select that ran to its end")
    options = _reading(run)
    named = {} if not table.is_file() else {"id_field": "none"}
    try:
        rows, _ = read_rows([selected], role="pool", format=format, **named, **options)
    except DataError as error:  # every row was read before it was selected
        raise DataError("selected.jsonl has changed since it was written", where=error.where or str(selected),
                        why=error.what, hint="run siftune select again: it reuses what is computed") from error
    if not table.is_file():
        return list(rows)
    ids = _ranked_ids(table)
    if len(ids) != len(rows):
        raise DataError("selected.jsonl and selection.parquet do not belong together", where=str(run),
                        why=f"One has {len(rows)} rows, the other {len(ids)}.", hint="run siftune select again")
    return [replace(row, id=row_id) for row, row_id in zip(rows, ids, strict=True)]


def _reading(run: Path) -> dict[str, Any]:
    """The columns and limits that the run was told to read its pool with."""
    if not (run / "config.yaml").is_file():
        return {}
    told = read_yaml(run / "config.yaml")
    columns, limits = (told.get(name) or [] for name in ("columns", "limits"))
    return {"named": named_columns([str(text) for text in columns]),
            "limits": Limits.parse([str(text) for text in limits])}


def _ranked_ids(table: Path) -> list[str]:
    return read_table(table, ["id", "rank"], []).sort_by("rank")["id"].to_pylist()
