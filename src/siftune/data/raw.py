"""A record as it stands in its source, and how one that is not JSON text becomes a line of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siftune.data.problems import BadRow

_UTF8_HINT = "iconv -f latin1 -t utf-8 {name} > {name}.utf8 (if it is Latin-1)"


def utf8_hint(path: str | Path) -> str:
    """What to type where a file is not UTF-8."""
    return "convert the file: " + _UTF8_HINT.format(name=Path(path).name)


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record as it stands in its source.

    Attributes:
        where: ``file:line`` or ``file:row N``, both counted from 1.
        raw: The record as one line of JSON; for JSONL the very characters of the line.
        value: The parsed record, where it could be parsed.
        problem: Why it could not.
        size: Bytes it takes in the file, for progress.
    """

    where: str
    raw: str
    value: Any = None
    problem: BadRow | None = None
    size: int = 0


def as_line(record: Any) -> str:
    """A record that did not come from JSON text, as one line of JSON.

    Floats keep every digit, text every character. JSON has no NaN or infinity: these become null, which is how
    tables mark a missing number. Dates become ISO text, bytes Base64.
    """
    try:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False, default=_as_json)
    except ValueError:
        line = json.dumps(_without_nan(record), ensure_ascii=False, default=_as_json)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair: only an escape can write it
        line = json.dumps(json.loads(line), ensure_ascii=True)
    return line


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        from base64 import b64encode

        return b64encode(value).decode("ascii")
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))) else value
