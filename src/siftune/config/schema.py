"""The JSON schema of a settings file, made from the declarations of the settings, so that editors know them all.

It says no more than the settings do: a file that it refuses is refused when it is read, but for another spelling of a
key (hyphens for underscores).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from siftune.config.catalogue import METHODS, RECIPES, SELECTORS, settings_type
from siftune.config.options import plain
from siftune.config.shared import DataConfig, shared_names

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def settings_schema(kind: type[DataConfig], *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The schema of a file that :func:`siftune.config.settings.load` reads.

    Args:
        kind: which settings.
        without: settings that the command has no use for.
    """
    blocks = {name: {"$ref": f"#/$defs/{owner}"} for name, owner in _blocks().items()}
    return {
        "$schema": DIALECT,
        "title": "Settings of siftune",
        "type": "object",
        "properties": {**properties(kind, without=without), **blocks},
        "additionalProperties": False,
        "$defs": {owner: _block(owner) for owner in sorted(set(_blocks().values()))},
    }


def properties(kind: type[DataConfig], *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The schema of every setting that is a key of its own, by name; that of ``--from`` is called ``from``."""
    hints = get_type_hints(kind)
    found = {"from" if name == "from_run" else name: _value(field, hints[name])
             for name, field in shared_names(kind).items() if name not in without}
    if "budget" in found:
        found["budget"]["type"] = ["string", "number"]
    return found


def _blocks() -> dict[str, str]:
    """Key of a block -> the method or selector whose settings it holds: their names, and those of recipes."""
    named = {name: name for name in (*METHODS.available(), *SELECTORS.available())}
    return {**{name: one.representation for name, one in RECIPES.items() if one.representation in named}, **named}


def _block(owner: str) -> dict[str, Any]:
    settings = settings_type(owner)
    hints = get_type_hints(settings)
    inside = {field.name: _value(field, hints[field.name]) for field in dataclasses.fields(settings)}
    kind = "method" if owner in METHODS else "selector"
    return {"title": f"Settings of the {kind} {owner}", "type": ["object", "null"], "properties": inside,
            "additionalProperties": False}


def _value(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    from pydantic import TypeAdapter

    found = TypeAdapter(hint).json_schema()
    if hint == tuple[str, ...]:
        found = {"anyOf": [{"type": "string"}, found]}  # one entry may be written without a list
    rule = field.metadata.get("rule")
    bounds: Mapping[str, float] = rule.schema if rule else {}
    default = field.default if field.default is not dataclasses.MISSING else None
    told = field.metadata.get("help", "")
    words = f" It must be {rule.words}." if rule else ""
    return {"description": told + words, **found, **bounds, **({} if default is None else {"default": plain(default)})}
