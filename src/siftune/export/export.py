"""``siftune export``: one entry, one writer for each trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.config.options import shown
from siftune.config.settings import read_yaml
from siftune.data.rows import Row
from siftune.export import trainers
from siftune.export.selected import read_selected
from siftune.pipeline.run import Run

Writer = Callable[[list[Row], Path], tuple[list[Path], str]]

_WRITERS: dict[str, Writer] = {
    "jsonl": trainers.write_jsonl,
    "trl": trainers.write_trl,
    "llamafactory": trainers.write_llamafactory,
    "axolotl": trainers.write_axolotl,
}

TARGETS = tuple(_WRITERS)
"""Names of the trainers that can be exported to."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote: the data file first, then what belongs to it; ``note`` says how to train on it."""

    files: list[Path]
    rows: int
    note: str

    def __str__(self) -> str:
        return "\n".join([*map(str, self.files), *([self.note] if self.note else [])])


def export(run: str | Path | Run, to: str = "jsonl", output: str | Path | None = None, *,
           format: str | None = None) -> Exported:
    """Write the selected rows of a run as a trainer reads them, best first, each with its id.

    Args:
        run: A run folder with ``selected.jsonl``, or the result of a selection.
        to: One of :data:`TARGETS`.
        output: The data file to write if it has an ending, otherwise a folder, where the file is
            ``selected.jsonl``; ``export-<to>`` inside the run folder when not given. Files that go with the data are
            written beside it.
        format: Format of the selected rows; that of the run's configuration when not given.

    Raises:
        ConfigError: ``to`` is not known, ``run`` is no folder, the run is in a temporary folder and no other is named,
            or the output is a file that the run was made from or has its selection in.
        DataError: the run has no readable selection.
        SiftuneError: the operating system refused the write.
    """
    if to not in _WRITERS:
        raise unknown_name("trainer", to, TARGETS, flag="--to")
    if isinstance(run, Run):
        if run.temporary and not output:
            raise ConfigError("the run is in a temporary folder, which goes when the result does", where="output",
                              hint=f"name where to write: output=\"export-{to}\"")
        run = run.folder
    if not isinstance(run, str | Path):
        raise ConfigError(f"there is no run to export: {shown(run)}", where="run",
                          hint="name a run folder, or give the result of siftune.select")
    run = Path(run)
    told = read_yaml(run / "config.yaml") if (run / "config.yaml").is_file() else {}
    if format is None:
        format = str(told.get("format", "auto"))
    rows = read_selected(run, "mixed" if format == "auto" else format)
    output = Path(output) if output else run / f"export-{to}"
    file = output if output.suffix else output / "selected.jsonl"
    _check_output(file, run, told)
    files, note = _WRITERS[to](rows, file)
    return Exported(files, len(rows), note)


def _check_output(file: Path, run: Path, told: Mapping[str, Any]) -> None:
    """An earlier export may be written anew; what the run was made from, and its own selection, may not."""
    named = [text for role in ("pool", "target", "test", "existing") for text in told.get(role) or []]
    for source in [run / "selected.jsonl", *map(str, named)]:
        if file.exists() and Path(source).exists() and file.samefile(source):
            raise ConfigError(f"the export would overwrite {file.name}, which the run needs", where=str(file),
                              hint="name another file or folder with --output")
