"""What a finished selection is to a program: ids, rows and scores in order, and why a row was or was not selected.

Everything is read from the run folder, so that a run just made and one loaded years later say the same. Only the
similarities to all targets are not kept there: a run that was just made computes them again from the features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.errors import ConfigError, DataError, first_line
from siftune._common.nearest import did_you_mean
from siftune._common.reading import read_json_of
from siftune._common.registry import unknown_name
from siftune._common.text import counted
from siftune.config.options import shown
from siftune.pipeline.explain import Explanation, explain
from siftune.pipeline.outcome import Outcome
from siftune.pipeline.run_files import AGAIN, read_records, read_table

_FILES = ("manifest.json", "config.yaml", "selected.jsonl", "selection.parquet", "scores.parquet")


@dataclass(frozen=True)
class SelectedRow:
    """One row of a selection.

    Attributes:
        rank: 1 is the best.
        id: of the row.
        score: what the selector ranked it by (0 where it does not rank).
        nearest_target: id of the target that it was taken for, where there is one.
        gain: what it added to the selector's objective, where there is one.
        tokens: what it costs in training.
        source, group: where it comes from.
        row: the record as it came.
    """

    rank: int
    id: str
    score: float
    nearest_target: str | None
    gain: float
    tokens: int
    source: str
    group: str
    row: dict[str, Any]


class Run:
    """A finished selection. Its length is that of the selection; iterating gives the selected records, best first.

    Attributes:
        folder: the run folder.
        outcome: how the selection came about, in the process that made it; None for a run that was loaded.
        temporary: whether the folder goes when this result does.
    """

    def __init__(self, folder: Path, outcome: Outcome | None = None, *, temporary: bool = False):
        self.folder, self.outcome, self.temporary = folder, outcome, temporary

    def __repr__(self) -> str:
        method, data = self.manifest["method"], self.manifest["data"]
        return (f"Run({len(self):,} of {counted(data['usable_rows'])}, {method['representation']} + "
                f"{method['selector']}, {str(self.folder)!r})")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What ``manifest.json`` holds: method, model, data, budget, diagnostics, times, versions."""
        return read_json_of(self.folder / "manifest.json", AGAIN)

    @property
    def report(self) -> Path:
        """The page of the run, ``report.html``."""
        return self.folder / "report.html"

    @cached_property
    def ids(self) -> list[str]:
        """The ids of the selected rows, best first."""
        return self._selection["id"]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The selected records as they came, best first."""
        return read_records(self.folder / "selected.jsonl")

    @cached_property
    def scores(self) -> np.ndarray:
        """float64 [B]: what the selector ranked the selected rows by, best first (0 where it does not rank)."""
        return np.array(self._selection["score"], dtype=np.float64)

    @cached_property
    def nearest_target(self) -> list[str | None]:
        """The target (or subtask, where rows are compared with those) that each selected row was taken for."""
        return self._selection["nearest_target"]

    def head(self, n: int = 5) -> list[SelectedRow]:
        """The best ``n`` rows, with what is known of them.

        Raises:
            ConfigError: ``n`` is no whole number.
        """
        columns = self._selection
        return [SelectedRow(**{name: columns[name][i] for name in columns}, row=self.rows[i])
                for i in range(min(_number(n), len(self)))]

    def rejected(self, n: int = 5) -> list[dict[str, Any]]:
        """The ``n`` rows (at most 100 are kept) that came closest to being selected.

        Each with ``rank`` (where it would stand by that score), ``id``, ``score``, ``by`` (whose score it is: that of
        the selector, or the best ``similarity`` or the ``method_score`` where the selector gives rows a score only as
        it takes them), ``nearest_target`` and ``row``.

        Raises:
            ConfigError: ``n`` is no whole number.
        """
        return read_records(self.folder / "rejected_sample.jsonl")[:_number(n)]

    def explain(self, row_id: str | int) -> Explanation:
        """Why a row of the pool was selected, or was not.

        Raises:
            ConfigError: the pool has no such row.
        """
        row_id = str(row_id)
        place = self._places.get(row_id)
        dropped = [row for row in read_records(self.folder / "dropped.jsonl") if row["id"] == row_id]
        if place is None and not dropped:
            if len(self._places) > 50_000:  # nearest names would take seconds
                raise ConfigError(f"the pool has no row {row_id!r}", where=str(self.folder),
                                  hint="scores.parquet lists the ids")
            raise unknown_name("row of the pool", row_id, self._places, flag=str(self.folder))
        return explain(row_id, place, self._pool, dropped, read_records(self.folder / "targets.jsonl"), self.outcome)

    def to_frame(self) -> Any:
        """``pandas.DataFrame`` of the selected rows, best first: what :class:`SelectedRow` has, but for the record."""
        import pandas as pd

        return pd.DataFrame(self._selection)

    def to_dataset(self) -> Any:
        """``datasets.Dataset`` of the selected records, best first, with all keys that any of them has.

        Raises:
            DataError: a key holds values of different types, which a column cannot.
        """
        import datasets
        import pyarrow as pa

        names = list(dict.fromkeys(name for row in self.rows for name in row))
        try:
            return datasets.Dataset.from_dict({name: [row.get(name) for row in self.rows] for name in names})
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError("the selected records do not fit into one table", where=str(self.folder),
                            why=first_line(error), hint="take them as dicts (rows), or export them to one format: "
                            'siftune.export(run, to="trl")') from error

    @cached_property
    def _selection(self) -> dict[str, list[Any]]:
        names = ["rank", "id", "score", "nearest_target", "gain", "tokens", "source", "group"]
        return read_table(self.folder / "selection.parquet", names, []).sort_by("rank").to_pydict()

    @cached_property
    def _pool(self) -> Any:
        names = ["id", "source", "group", "score", "nearest_target", "similarity", "tokens", "selected", "rank"]
        return read_table(self.folder / "scores.parquet", names, ["method_score"])

    def _marked(self) -> list[str]:
        """The ids of the rows that the table of the pool marks as selected, by their ranks there."""
        import pyarrow.compute as pc

        return self._pool.filter(pc.field("selected")).sort_by("rank")["id"].to_pylist()

    @cached_property
    def _places(self) -> dict[str, int]:
        return {row_id: place for place, row_id in enumerate(self._pool["id"].to_pylist())}


def load_run(folder: str | Path) -> Run:
    """The result of a finished run, from its folder.

    Raises:
        DataError: it is not a run folder, the run has not finished, or its files do not belong together.
    """
    if not isinstance(folder, str | Path):
        raise DataError(f"a run folder cannot be a {type(folder).__name__}", where="load_run",
                        hint="give the path of the folder that `siftune select --output-dir` wrote")
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such run folder", where=str(folder),
                        hint=did_you_mean(folder) or "give the folder that `siftune select --output-dir` wrote")
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        begun = len(missing) < len(_FILES) or (folder / "store").is_dir()
        raise DataError("the run has not finished" if begun else "this is not a run folder", where=str(folder),
                        why=f"There is no {', '.join(missing)} in it.",
                        hint=AGAIN if begun else "give the folder that `siftune select --output-dir` wrote")
    run = Run(folder)
    try:
        told = run.manifest["budget"]["rows"], run.manifest["data"]["usable_rows"], run.manifest["method"]["selector"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("manifest.json is not as siftune writes it", where=str(folder / "manifest.json"),
                        why=first_line(error), hint=AGAIN) from error
    counts = len(run.ids), run._pool.num_rows
    if counts != told[:2] or len(run.rows) != len(run.ids):
        raise DataError("the files of the run do not belong together", where=str(folder),
                        why=f"The manifest tells of {told[0]} of {told[1]} rows, selection.parquet and scores.parquet "
                            f"of {counts[0]} of {counts[1]}, and selected.jsonl has {len(run.rows)}.", hint=AGAIN)
    if run._marked() != run.ids:
        raise DataError("the files of the run do not belong together", where=str(folder),
                        why="scores.parquet marks other rows as selected than selection.parquet lists.", hint=AGAIN)
    return run


def _number(n: object) -> int:
    """How many rows are asked for; none where it is below 0."""
    if not isinstance(n, int) or isinstance(n, bool):
        raise ConfigError(f"n cannot be {shown(n)}", where="n", hint="give a number of rows")
    return max(0, n)
