"""``siftune export``: one entry, one writer for each trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from siftune._common.registry import unknown_name
from siftune.data.rows import Row
from siftune.export import trainers
from siftune.export.selected import read_selected

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


def export(run: str | Path, to: str, output: str | Path, *, format: str = "mixed") -> Exported:
    """Write the selected rows of a run as a trainer reads them, best first, each with its id.

    Args:
        run: A run folder with ``selected.jsonl``.
        to: One of :data:`TARGETS`.
        output: The data file to write if it has an ending, otherwise a folder, where the file is
            ``selected.jsonl``. Files that go with the data are written beside it.
        format: Format of the selected rows, for pools read with an explicit ``--format``.

    Raises:
        ConfigError: ``to`` is not known.
        DataError: the run has no readable selection.
        SiftuneError: the operating system refused the write.
    """
    if to not in _WRITERS:
        raise unknown_name("trainer", to, TARGETS, flag="--to")
    rows = read_selected(Path(run), format)
    output = Path(output)
    files, note = _WRITERS[to](rows, output if output.suffix else output / "selected.jsonl")
    return Exported(files, len(rows), note)
