"""Reading a run folder: what is there, and what the report must do without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftune._common.errors import DataError
from siftune._common.nearest import did_you_mean
from siftune._common.reading import read_as
from siftune.experiments.results import COMPARISON, Results, read_results
from siftune.experiments.results.choice import CHOICE, Choice, read_choice
from siftune.pipeline.run_files import AGAIN, read_records, read_table, read_values
from siftune.report.manifest import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

# What the page cannot show without each file; a folder with none of them is not a run folder.
PURPOSE = {
    "manifest.json": "the method, the model, the times and the warnings of the run",
    "selection.parquet": "the order, scores and matched targets of the selected rows",
    "scores.parquet": "the pool beside the subset, and the distribution of the scores",
    "selected.jsonl": "the text of the selected rows",
    "rejected_sample.jsonl": "the rows that were nearly chosen",
    "dropped.jsonl": "what was dropped, and why",
    "targets.jsonl": "the text of the targets",
    "config.yaml": "the exact configuration",
}


class RunFolder:
    """The files of a run, each read when it is asked for; ``missing`` names those that are not there.

    Raises:
        DataError: no such folder, or nothing in it that a run writes.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_dir():
            raise DataError("no such run folder", where=str(path),
                            hint=did_you_mean(path) or "give the folder that `siftune select --output-dir` wrote")
        self.missing = [name for name in PURPOSE if not (path / name).is_file()]
        self.has_selection = len(self.missing) < len(PURPOSE)
        if not self.has_selection and self.has(CHOICE):
            self.missing = []  # a choice that takes the untuned model selects nothing
        elif not self.has_selection:
            raise DataError("this is not a run folder", where=str(path),
                            why=f"It holds none of {', '.join(PURPOSE)}.",
                            hint="give the folder that `siftune select --output-dir` wrote")

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def manifest(self) -> Manifest:
        return read_as(self.path / "manifest.json", Manifest, AGAIN) if self.has("manifest.json") else Manifest()

    def comparison(self) -> Results | None:
        return read_results(self.path / COMPARISON) if self.has(COMPARISON) else None

    def choice(self) -> Choice | None:
        return read_choice(self.path / CHOICE) if self.has(CHOICE) else None

    def lines(self, name: str, limit: int | None = None) -> list[Any]:
        """The first ``limit`` values of a JSONL file (all of them by default); none where there is no file."""
        return read_values(self.path / name, limit) if self.has(name) else []

    def records(self, name: str, limit: int | None = None) -> list[dict[str, Any]]:
        """As :meth:`lines`, for files whose lines siftune writes."""
        return read_records(self.path / name, limit) if self.has(name) else []

    def table(self, name: str, needs: tuple[str, ...]) -> pa.Table | None:
        """A Parquet table that has at least the columns ``needs``; ``None`` where there is no file."""
        return read_table(self.path / name, needs) if self.has(name) else None

    def text(self, name: str) -> str | None:
        path = self.path / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
