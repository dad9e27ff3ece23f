"""Settings of methods and selectors as users write them: whose a name is, and what its value must be.

A setting is named with its owner (``less.adam``, a YAML block ``less: {adam: none}``) or, where one method is in use,
without (``adam``); then it is that of the method or of its selector, and whatever is neither's is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.config.catalogue import METHODS, RECIPES, owner_named, owners, settings_type
from siftune.config.earlier import HINTS
from siftune.config.options import shown
from siftune.config.plain_yaml import check_text, load_yaml

Blocks = dict[str, dict[str, Any]]
S = TypeVar("S")

_LONGEST = 10_000  # characters of a value on the command line


def built(kind: type[S], values: Mapping[str, Any], called: Mapping[str, str], where: str | None = None) -> S:
    """An instance of a settings dataclass from plain values, every type and range checked.

    Args:
        kind: the dataclass.
        values: by field.
        called: how each field is called in an error.
        where: the file or flag that the values come from; the name of the field when not given.

    Raises:
        ConfigError: a value of the wrong type or out of its range.
    """
    from pydantic import TypeAdapter, ValidationError

    types, fields = get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = dict(values)
    for name, value in values.items():
        check_text(value, called[name], where)
        if isinstance(value, str) and get_origin(types[name]) is tuple:  # one source may be written without a list
            values[name] = (value,)
        elif isinstance(value, bool) and bool not in (types[name], *get_args(types[name])):  # else true would be 1
            raise _wrong(called[name], value, _wanted(types[name]), fields[name], where)
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        if first["type"] == "literal_error":
            known = [str(value) for value in get_args(types[name])]
            raise unknown_name(f"value of {called[name]}:", shown(first["input"]).strip("'"), known,
                               flag=where or called[name]) from error
        raise _wrong(called[name], first["input"], first["msg"], fields[name], where) from error
    except ConfigError as error:  # a number out of its range
        name = str(error.where)
        if name in called:
            error.what, error.where = error.what.replace(name, called[name], 1), called[name]
        error.where = where or error.where
        raise


def _wrong(name: str, value: Any, why: str, field: dataclasses.Field[Any], where: str | None) -> ConfigError:
    return ConfigError(f"{name} cannot be {shown(value)}", where=where or name, why=why, hint=field.metadata["help"])


def _wanted(hint: Any) -> str:
    names = [getattr(kind, "__name__", str(kind)) for kind in (get_args(hint) or (hint,))]
    return f"Input should be of type {' or '.join(names)}"


def own_fields(owner: str) -> dict[str, dataclasses.Field[Any]]:
    """The settings of a method or selector, by name.

    Raises:
        ConfigError: there is no such owner.
    """
    return {f.name: f for f in dataclasses.fields(settings_type(owner))}


def own_names(owner: str) -> list[str]:
    """The names of its settings; none where its package is broken, which is told where it is asked for by itself."""
    try:
        return list(own_fields(owner))
    except ConfigError:
        return []


def checked(owner: str, values: Mapping[str, Any], where: str | None = None) -> dict[str, Any]:
    """Settings of an owner with their types right.

    Raises:
        ConfigError: an unknown setting (with the nearest one, or whose it is), or a wrong value.
    """
    known = own_fields(owner)
    plain = {str(name).replace("-", "_"): value for name, value in values.items()}
    for name in plain:
        if name not in known:
            raise not_of(owner, name, where)
    found = built(settings_type(owner), plain, {name: f"{owner}.{name}" for name in known}, where)
    return {name: getattr(found, name) for name in plain}


def not_of(owner: str, name: str, where: str | None) -> ConfigError:
    """The error for a setting that its owner does not have."""
    known = own_fields(owner)
    others = owners_of(name)
    kind = "method" if owner in METHODS else "selector"
    if others:
        return ConfigError(f"{owner} has no setting {name!r}", where=where,
                           why=f"It is one of {', '.join(others)}.", hint=_offered(owner, known))
    if not known:
        return ConfigError(f"unknown setting {name!r}: the {kind} {owner} has none", where=where,
                           hint="take it out")
    return unknown_name(f"setting of the {kind} {owner}:", name, known, flag=where)


def _offered(owner: str, known: Iterable[str]) -> str:
    names = ", ".join(known)
    return f"the settings of {owner}: {names}" if names else f"{owner} has no settings of its own: take it out"


def owners_of(name: str, among: Iterable[str] | None = None) -> list[str]:
    """The methods and selectors (of some, or all) that have a setting of that name; a broken package has none."""
    return [owner for owner in (owners() if among is None else among) if name in own_names(owner)]


def owner_of_block(key: str, where: str | None, known: Iterable[str] = ()) -> str:
    """The owner that a YAML block or a word before a dot names.

    Raises:
        ConfigError: there is no such method or selector.
    """
    owner = owner_named(key)
    if owner is None:
        raise unknown_name("method or selector", key, [*owners(), *RECIPES, *known], flag=where)
    return owner


def blocks_of(values: Mapping[str, Any], where: str | None) -> Blocks:
    """Blocks named by owner, checked.

    Raises:
        ConfigError: an unknown owner or setting, or a wrong value.
    """
    found: Blocks = {}
    for key, block in values.items():
        at = f"{where}: {key}" if where else None
        owner = owner_of_block(str(key), where)
        if not isinstance(block, Mapping):
            raise ConfigError(f"the settings of {owner} cannot be {shown(block)}", where=at,
                              hint=f"write a block: {owner}: {{NAME: VALUE}}")
        found.setdefault(owner, {}).update(checked(owner, block, at))
    return found


def unqualified(name: str, value: Any, among: Sequence[str], where: str | None, *, certain: bool = True) -> Blocks:
    """A setting without its owner, as that of the method in use or of its selector.

    Args:
        name, value: as written.
        among: the methods and selectors that will run.
        where: where it was written.
        certain: false where ``auto`` has still to choose among them: whichever has the setting then gets it.

    Raises:
        ConfigError: nobody in use has it, or several have.
    """
    found = owners_of(name, among)
    if not found:
        raise _nobody(name, among if certain else (), where)
    if len(found) > 1 and certain:
        named = " or ".join(f"--set {owner}.{name}={plainly(value)}" for owner in found)
        raise ConfigError(f"{name!r} is a setting of {' and of '.join(found)}", where=where,
                          hint=f"name the owner: {named}")
    return {owner: checked(owner, {name: value}, where) for owner in found}


def _nobody(name: str, in_use: Sequence[str], where: str | None) -> ConfigError:
    others, used = owners_of(name), " and ".join(in_use) or "auto"
    mine = [n for owner in in_use for n in own_names(owner)]
    if others:
        return ConfigError(f"{used} {'have' if len(in_use) > 1 else 'has'} no setting {name!r}", where=where,
                           why=f"It is one of {', '.join(others)}.",
                           hint=f"settings in use: {', '.join(mine) or 'none'}; `siftune methods {others[0]}` tells of "
                                "the other")
    if name in HINTS:
        return ConfigError(f"there is no setting {name!r} any more", where=where, hint=HINTS[name])
    return unknown_name("setting", name, mine or [n for owner in owners() for n in own_names(owner)], flag=where)


def read_sets(entries: Sequence[str], among: Sequence[str], *, certain: bool = True) -> Blocks:
    """What ``--set NAME=VALUE`` and ``--set OWNER.NAME=VALUE`` say; see :func:`unqualified` for the arguments.

    Raises:
        ConfigError: another form, a name that nobody in use has, or a wrong value.
    """
    found: Blocks = {}
    given: dict[tuple[str, str], tuple[str, bool]] = {}
    for entry in entries:
        if not isinstance(entry, str):
            raise ConfigError(f"a setting cannot be {shown(entry)}", where="--set",
                              hint='write a text such as "projection_dim=2048"; from Python, name the setting: '
                                   "projection_dim=2048")
        where = f"--set {shown(entry)[1:-1]}"
        name, equals, text = entry.partition("=")
        owner, _, name = name.strip().rpartition(".")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise ConfigError(f"{shown(entry)} is not of the form NAME=VALUE", where=where,
                              hint="for example --set projection_dim=2048, or --set less.projection_dim=2048")
        if owner:
            owner = owner_of_block(owner, where)
            if owner not in among:
                used = " and ".join(among) if certain else "whatever auto chooses"
                raise ConfigError(f"{owner} is not in use", where=where, why=f"In use: {used}.",
                                  hint=f"leave it out, or choose --method {owner}" if owner in METHODS
                                  else f"leave it out, or choose --selector {owner}")
            value = written(text, owner, name, where)
            part = {owner: checked(owner, {name: value}, where)}
        else:
            known = owners_of(name, among)
            value = written(text, known[0], name, where) if known else text
            part = unqualified(name, value, among, where, certain=certain)
        for one, values in part.items():
            before, named = given.get((one, name), ("", False))
            if before and (certain or named == bool(owner)):  # what is meant for one owner wins over what is for all
                raise ConfigError(f"{name!r} of {one} is set twice", where=where,
                                  why=f"Before: --set {shown(before)[1:-1]}", hint="keep one of the two")
            given[one, name] = entry, bool(owner)
            found.setdefault(one, {}).update(values)
    return found


def written(text: str, owner: str, name: str, where: str) -> Any:
    """A value of the command line: as it stands where the setting is a text or a choice of texts, else read as YAML.

    Raises:
        ConfigError: it is neither a plain value nor a list of such, or longer than 10,000 characters.
    """
    text = text.strip()
    if len(text) > _LONGEST:
        raise ConfigError(f"a value of {len(text):,} characters", where=where,
                          hint=f"give at most {_LONGEST:,} characters")
    hint = get_type_hints(settings_type(owner)).get(name)
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    if hint is str or (choices and all(isinstance(choice, str) for choice in choices)):
        return text
    try:
        value = load_yaml(text, where)
    except ConfigError as error:
        raise ConfigError(f"{shown(text)} is not a value", where=where, why=error.why or error.what,
                          hint="give a number, a word, true or false, or [a, list]") from error
    if isinstance(value, bool | int | float | str | None) or (
            isinstance(value, list) and all(isinstance(one, str | int | float) for one in value)):
        return value
    return text


def plainly(value: Any) -> str:
    """A value as it is typed after ``NAME=``."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
