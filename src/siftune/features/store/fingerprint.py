"""What stored features were made from, and which field of it has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ABSENT = "(not there)"


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


def first_difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first field in which two fingerprints differ, as (dotted name, stored value, wanted value), or None.

    Fields are compared in the order of ``wanted``, so list the telling ones (model name, template) before their
    hashes.
    """
    old, new = flatten(stored), flatten(wanted)
    for name in [*new, *(n for n in old if n not in new)]:
        if old.get(name, _ABSENT) != new.get(name, _ABSENT):
            return name, old.get(name, _ABSENT), new.get(name, _ABSENT)
    return None
