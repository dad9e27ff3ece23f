"""Which of the Trainer's checkpoint folders can be trusted.

The Trainer writes a checkpoint as several files; a process killed in between leaves a folder that looks like one.
A checkpoint therefore counts only once its marker is there, which is written last and atomically, after the files
before it have reached the disk. The marker also carries what the run must remember: the loss and the learning rate
of every step so far and the seconds spent.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from siftune._common import files

_MARKER = "complete.json"


@dataclass
class Record:
    """The memory of a run: what has happened up to a checkpoint.

    Attributes:
        key: Content key of the run (see :func:`siftune.training.sft.training_key`).
        losses: Loss of every step so far, in nats per token.
        learning_rates: Learning rate of every step so far.
        seconds: Wall time spent so far, over all resumptions.
    """

    key: str
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    seconds: float = 0.0


def folder_of(root: Path, step: int) -> Path:
    """Where the Trainer puts the checkpoint of a step."""
    return root / f"checkpoint-{step}"


def mark_complete(root: Path, record: Record) -> None:
    """Declare the newest checkpoint complete and drop the ones before it."""
    newest = folder_of(root, len(record.losses))
    for path in newest.iterdir():
        with path.open("rb") as written:
            os.fsync(written.fileno())
    files.write_json(newest / _MARKER, asdict(record))
    for path in root.glob("checkpoint-*"):
        if path != newest:
            _discard(path)


def newest_complete(root: Path, key: str) -> tuple[Path, Record] | None:
    """The newest complete checkpoint of this run; every other one is deleted."""
    found: tuple[Path, Record] | None = None
    for path in sorted(root.glob("checkpoint-*")):
        marker = path / _MARKER
        record = Record(**files.read_json(marker)) if marker.is_file() else None
        if record is None or record.key != key:
            _discard(path)
        elif found is None or len(record.losses) > len(found[1].losses):
            found = path, record
    return found


def _discard(path: Path) -> None:
    # The marker goes first: a removal that is itself interrupted must not leave a marked ruin.
    (path / _MARKER).unlink(missing_ok=True)
    shutil.rmtree(path)
