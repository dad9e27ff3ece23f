"""What an artefact was made from: derived from the objects themselves, so that no field of them can be forgotten."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

ARTEFACT = "artefact"
"""The last part of a field's name that holds the checksum of another artefact; see :func:`only_artefacts_differ`."""

_ABSENT = "(not there)"


def described(value: Any) -> Any:
    """An object as JSON values, with every field that decides what is computed.

    A dataclass is its class and its fields, but for those that say that they decide something else or nothing
    (``metadata={"decides": "nothing"}``, see :mod:`siftune.config.options`). What cannot be described is refused rather
    than left out: a path says nothing of what stands there.

    Raises:
        TypeError: a value that is no JSON value, sequence, mapping or dataclass.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value)
                  if f.metadata.get("decides", "features") == "features"}
        return {"class": type(value).__qualname__, **fields}
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    if isinstance(value, frozenset | set):
        return sorted(described(item) for item in value)
    raise TypeError(f"{type(value).__name__} cannot be part of a key: give its content")


def canonical(value: Any) -> bytes:
    """JSON in one form: equal for equal values, before and after they were a file."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def digest(value: Any) -> str:
    """Hex BLAKE2b (128 bits) of what :func:`described` says of a value."""
    return hashlib.blake2b(canonical(described(value)), digest_size=16).hexdigest()


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` -> ``{"a.b": 1}``; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted name, stored value, wanted value) of every field in which two descriptions differ.

    Fields come in the order of ``wanted``, so list the telling ones (model name, template) before their hashes.
    """
    old, new = flatten(stored), flatten(wanted)
    return [(name, old.get(name, _ABSENT), new.get(name, _ABSENT)) for name in [*new, *(n for n in old if n not in new)]
            if old.get(name, _ABSENT) != new.get(name, _ABSENT)]


def first_difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first of :func:`differences`, or None."""
    return next(iter(differences(stored, wanted)), None)


def only_artefacts_differ(found: list[tuple[str, Any, Any]]) -> bool:
    """Whether all differences are of other artefacts (a checkpoint that had to be trained again): no choice of the
    user's, and so no reason to refuse; what was made from the earlier one is made again."""
    return bool(found) and all(name.rpartition(".")[2] == ARTEFACT for name, _, _ in found)
