"""Which of the Trainer's checkpoint folders can be trusted.

The Trainer writes a checkpoint as several files; a process killed in between leaves a folder that looks like one.
A checkpoint therefore counts only once its marker is there, which is written last and atomically, after the files
before it have reached the disk. The marker tells the checksum of every file, among them torch files that are read as
pickles: none is opened that is not as it was written. It also carries what the run must remember: the loss and the
learning rate of every step so far and the seconds spent.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from siftune._common.artefacts import Damaged, Unusable, read_sealed, write_sealed
from siftune._common.artefacts.payload import payload_of
from siftune._common.artefacts.sealed import remove, tell_damage

_KIND = "training checkpoint"
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
    checksums = {path.name: payload.xxh3 for path in sorted(newest.iterdir()) if (payload := payload_of(path))}
    write_sealed(newest / _MARKER, _KIND, record.key, {"record": asdict(record), "files": checksums})
    for path in root.glob("checkpoint-*"):
        if path != newest:
            _discard(path)


def newest_complete(root: Path, key: str) -> tuple[Path, Record] | None:
    """The newest complete checkpoint of this run; every other one is deleted."""
    found: tuple[Path, Record] | None = None
    for path in sorted(root.glob("checkpoint-*")):
        record = _complete(path, key)
        if record is None:
            _discard(path)
        elif found is None or len(record.losses) > len(found[1].losses):
            found = path, record
    return found


def _complete(path: Path, key: str) -> Record | None:
    """The record of a checkpoint, if it is complete, of this run, and every file is as it was written."""
    try:
        told = read_sealed(path / _MARKER, _KIND, key)
        checksums: dict[str, str] = told["files"]
        for name in sorted({*checksums, *(file.name for file in path.iterdir() if file.name != _MARKER)}):
            payload = payload_of(path / name)
            if payload is None or payload.xxh3 != checksums.get(name):
                raise Damaged(f"{name} is not as it was written")
        return Record(**told["record"])
    except Damaged as error:
        tell_damage(path, str(error))
    except (Unusable, OSError, KeyError, TypeError):
        pass
    return None


def _discard(path: Path) -> None:
    # The marker goes first: a removal that is itself interrupted must not leave a marked ruin.
    if path.is_dir() and not path.is_symlink():
        remove(path / _MARKER)
        shutil.rmtree(path)
    else:
        remove(path)
