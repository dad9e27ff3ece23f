"""A file with a note beside it, written last: the file counts once its note is there, and only while it fits it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siftune._common.artefacts.key import digest
from siftune._common.artefacts.payload import Payload, payload_of
from siftune._common.artefacts.sealed import (
    Damaged,
    MadeFromOther,
    Unusable,
    make_way,
    open_self_sealed,
    read_any,
    read_sealed,
    remove,
    write_sealed,
)
from siftune._common.files import write_with


@dataclass(frozen=True)
class KeptFile:
    """A file of an artefact, verified when it was opened. What is made from it depends on its content alone.

    Attributes:
        path: of the file.
        artefact: hash of its checksum and of what its note tells, which is what a key tells of it.
        payload: its checksum.
        about: what its note tells besides.
    """

    path: Path = field(metadata={"decides": "nothing"})
    artefact: str
    payload: Payload = field(metadata={"decides": "nothing"})
    about: Any = field(default=None, metadata={"decides": "nothing"}, compare=False, hash=False)


def note_of(path: Path) -> Path:
    """Where the note of a file is, unless it has a place of its own."""
    return path.with_name(f"{path.name}.note.json")


def keep_file(path: Path, kind: str, made_from: str, about: Any = None, *, note: Path | None = None,
              write: Callable[[Path], object] | None = None) -> KeptFile:
    """Make a file an artefact.

    Args:
        path: of the file.
        kind: of the artefact.
        made_from: its key.
        about: JSON values to keep in the note.
        note: where the note is; beside the file where not given.
        write: writes the file to the temporary path that it is given; where not given, the file is there already.

    Raises:
        SiftuneError: the operating system refused a write.
    """
    note = note or note_of(path)
    remove(note)
    if write is not None:
        make_way(path)
        write_with(path, write)
    payload = payload_of(path)
    if payload is None:
        raise Damaged(f"{path} vanished while it was written")
    write_sealed(note, kind, made_from, {"file": path.name, "payload": payload._asdict(), "about": about})
    return _kept(path, payload, about)


def fault(path: Path) -> str | None:
    """What is wrong with a sealed file, or with the file that it is the note of; None where nothing is.

    Args:
        path: of whatever :func:`~siftune._common.artefacts.write_sealed`, :func:`keep_file`, or
            :func:`~siftune._common.artefacts.sealed.self_sealed` has made.
    """
    try:
        kind, content = read_any(path)
    except MadeFromOther:  # no head: a result with a seal of its own, or of an earlier version
        try:
            open_self_sealed(path)
        except Unusable as error:
            return str(error)
        return None
    except Unusable as error:
        return str(error)
    if isinstance(content, dict) and content.keys() == {"file", "payload", "about"}:
        try:
            kept_file(path.with_name(content["file"]), kind, note=path)
        except Unusable as error:
            return str(error)
    return None


def kept_file(path: Path, kind: str, made_from: str | None = None, *, note: Path | None = None) -> KeptFile:
    """Open an artefact: its note and every byte of its file are verified.

    Args:
        path: of the file.
        kind: of the artefact.
        made_from: the key that it must have; any where not given.
        note: where the note is; beside the file where not given.

    Raises:
        Absent, MadeFromOther, Damaged: it has to be made.
    """
    content = read_sealed(note or note_of(path), kind, made_from)
    if not isinstance(content, dict) or not isinstance(content.get("payload"), dict):
        raise Damaged("its note is not one")
    payload = payload_of(path)
    if payload is None:
        raise Damaged("its file is gone, or no regular file")
    if payload != Payload(**content["payload"]):
        raise Damaged("its bytes have changed")
    return _kept(path, payload, content["about"])


def with_files(value: Any, place: Callable[[KeptFile], KeptFile]) -> Any:
    """A value with other files in the place of those that it names, however deep: in dataclasses, tuples, lists and
    values of mappings. What names none is the very object.

    Args:
        value: of any kind.
        place: gives the other file.
    """
    if isinstance(value, KeptFile):
        return place(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        changed = {name: new for name, old in fields.items() if (new := with_files(old, place)) is not old}
        return dataclasses.replace(value, **changed) if changed else value
    if isinstance(value, Mapping):
        made = {key: with_files(item, place) for key, item in value.items()}
        return made if any(made[key] is not item for key, item in value.items()) else value
    if isinstance(value, list | tuple):
        items = [with_files(item, place) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _kept(path: Path, payload: Payload, about: Any) -> KeptFile:
    return KeptFile(path, digest([payload, about]), payload, about)
