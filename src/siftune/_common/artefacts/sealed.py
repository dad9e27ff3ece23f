"""JSON that notices when it was edited, and says what it is and what it was made from.

    {"artefact": {"format": 2, "kind": "scores", "made_from": "<BLAKE2b>"}, "content": ..., "seal": "<BLAKE2b>"}

What the mechanism says and what the caller keeps are apart: no name of the one can stand in the way of the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siftune._common.artefacts.key import canonical
from siftune._common.artefacts.payload import Signature, signature
from siftune._common.files import write_text
from siftune._common.progress import log

FORMAT = 2

_told: dict[str, tuple[Signature | None, str]] = {}


class Unusable(Exception):  # noqa: N818 - it names a state, which the caller decides about
    """An artefact that cannot be used; the text says why."""


class Absent(Unusable):
    """It was never made, or not finished."""


class MadeFromOther(Unusable):
    """It is whole, but made from something else, or of another kind; ``made_from`` is the key it has."""

    def __init__(self, why: str, made_from: str = ""):
        super().__init__(why)
        self.made_from = made_from


class Damaged(Unusable):
    """It is not what was written."""


def write_sealed(path: str | Path, kind: str, made_from: str, content: Any, *, indent: int | None = 1) -> None:
    """Write JSON content with its seal, atomically; whatever stands in the way (a folder, a link) is replaced.

    Raises:
        SiftuneError: the operating system refused the write.
    """
    content = json.loads(json.dumps(content))  # as it will be read: tuples are lists, keys are text
    head = {"format": FORMAT, "kind": kind, "made_from": made_from}
    make_way(path)
    write_text(path, json.dumps({"artefact": head, "content": content, "seal": _seal(head, content)},
                                ensure_ascii=False, indent=indent) + "\n")


def read_sealed(path: str | Path, kind: str, made_from: str | None = None) -> Any:
    """The content of a sealed file.

    Args:
        path: of the file.
        kind: that it must be of.
        made_from: the key that it must have; any where not given.

    Raises:
        Absent: there is none.
        MadeFromOther: it is of another kind, format or key.
        Damaged: it is no regular file, not readable, not JSON, or its seal does not fit.
    """
    head, content = _read(Path(path))
    if (head.get("format"), head.get("kind")) != (FORMAT, kind):
        raise MadeFromOther(f"it is of the kind {head.get('kind')!r}, format {head.get('format')}")
    if made_from is not None and head.get("made_from") != made_from:
        raise MadeFromOther("it was made from something else", str(head.get("made_from")))
    return content


def read_any(path: str | Path) -> tuple[str, Any]:
    """(kind, content) of a sealed file, whatever it was made from.

    Raises:
        Absent, MadeFromOther, Damaged: as :func:`read_sealed`.
    """
    head, content = _read(Path(path))
    if head.get("format") != FORMAT:
        raise MadeFromOther(f"it is of the format {head.get('format')}")
    return str(head.get("kind")), content


def _read(path: Path) -> tuple[dict[str, Any], Any]:
    value = _load(path)
    head = value.get("artefact")
    if not isinstance(head, dict):
        raise MadeFromOther("it has no head: it is of another kind, or of an earlier format")
    if set(value) != {"artefact", "content", "seal"} or value["seal"] != _seal(head, value["content"]):
        raise Damaged("its seal does not fit: it was edited")
    return head, value["content"]


def read_usable(path: str | Path, kind: str, made_from: str | None = None) -> Any | None:
    """The content of a sealed file, or None where it has to be made (again): which is told, where it was damaged."""
    try:
        return read_sealed(path, kind, made_from)
    except Damaged as error:
        tell_damage(path, str(error))
    except Unusable:
        pass
    return None


def _load(path: Path) -> dict[str, Any]:
    try:
        found = path.lstat()
    except OSError as error:
        raise Absent("it is not there") from error
    if not stat.S_ISREG(found.st_mode):
        raise Damaged("it is no regular file")
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged("it is not readable as JSON") from error
    if not isinstance(value, dict):
        raise Damaged("it is no JSON mapping")
    return value


def self_sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A result that others read as it is, with a seal among its own names, so that it can be kept as well."""
    plain = json.loads(json.dumps({name: item for name, item in value.items() if name != "seal"}))
    return {**plain, "seal": _seal("result", plain)}


def read_self_sealed(path: str | Path) -> dict[str, Any] | None:
    """What :func:`self_sealed` was written of; None where it has to be made (again), which is told if damaged."""
    try:
        return open_self_sealed(path)
    except Damaged as error:
        tell_damage(path, str(error))
        make_way(path)
    except Unusable:
        pass
    return None


def open_self_sealed(path: str | Path) -> dict[str, Any]:
    """What :func:`self_sealed` was written of.

    Raises:
        Absent, MadeFromOther, Damaged: as :func:`read_sealed`.
    """
    value = _load(Path(path))
    if "seal" not in value:
        raise MadeFromOther("it is of an earlier format")
    if value.pop("seal") != _seal("result", value):
        raise Damaged("its seal does not fit: it was edited")
    return value


def tell_damage(path: str | Path, why: str) -> None:
    """Tell that something is made again since it was damaged; once, however often it is looked at until then."""
    if _told.get(str(path)) == (found := signature(path), why):
        return
    _told[str(path)] = found, why
    parts = Path(path).parts[-3:]
    log(f"{'/'.join(parts)} was damaged ({why}) and is made again")


def make_way(path: str | Path) -> None:
    """Remove a folder that stands where a file belongs; a rename replaces all else."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)


def remove(path: str | Path) -> None:
    """Remove whatever is there: a file, a link, or a folder."""
    make_way(path)
    if os.path.lexists(path):
        Path(path).unlink()


def _seal(head: Any, content: Any) -> str:
    return hashlib.blake2b(canonical([head, content]), digest_size=16).hexdigest()
