"""Settings from a YAML file, from flags and from Python: defaults, overridden by the file, overridden by flags.

An unknown key is an error. What the settings are stands in :mod:`siftune.config.shared`, and for a method or a selector
in its own file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from siftune._common.errors import ConfigError
from siftune._common.nearest import did_you_mean
from siftune._common.progress import log
from siftune._common.registry import unknown_name
from siftune.config.catalogue import NAME_PARTS, RECIPES, owner_named, owners
from siftune.config.choosing import ChooseConfig
from siftune.config.earlier import HINTS, OWNERS, TRAINED, is_earlier, translated
from siftune.config.options import plain, shown
from siftune.config.owned import (
    Blocks,
    blocks_of,
    built,
    own_fields,
    own_names,
    owners_of,
    plainly,
    read_sets,
    unqualified,
)
from siftune.config.plain_yaml import read_yaml_file
from siftune.config.shared import (
    CompareConfig,
    DataConfig,
    FeatureDtype,
    ModelConfig,
    SelectConfig,
    flag_of,
    shared_names,
)

__all__ = [
    "CompareConfig", "DataConfig", "FeatureDtype", "ModelConfig", "SelectConfig", "flag_of", "from_mapping", "load",
    "read_yaml", "to_yaml",
]

C = TypeVar("C", bound=DataConfig)


def from_mapping(kind: type[C], values: Mapping[str, Any], *, where: str | None = None) -> C:
    """Build a config from plain values, checking every name and type.

    Args:
        kind: which config.
        values: shared settings by name; blocks of a method's or selector's own settings by its name; and settings of
            the method in use, or of its selector, by their bare names.
        where: the file that they come from, if any. There, settings of methods and selectors stand in blocks.

    Raises:
        ConfigError: an unknown key (with the nearest known one, or whose it is), or a value of the wrong type.
    """
    shared, blocks, others = _parted(kind, values, where)
    config = built(kind, shared, {name: flag_of(f) for name, f in shared_names(kind).items()}, where)
    if not isinstance(config, SelectConfig):
        return config
    config = config.with_own(blocks)
    for name, value in others.items():
        block = unqualified(name, value, config.candidates(), where, certain=config.owners() is not None)
        config = config.with_own(block)
    return config  # type: ignore[return-value]


def _parted(kind: type[C], values: Mapping[str, Any], where: str | None,
            ) -> tuple[dict[str, Any], Blocks, dict[str, Any]]:
    """Shared settings, blocks by owner, and settings without an owner."""
    known = shared_names(kind)
    shared: dict[str, Any] = {}
    blocks: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for key, value in values.items():
        name = "from_run" if key == "from" else key.replace("-", "_")
        if name in known:
            shared[name] = value
        elif name == "own" and isinstance(value, Mapping):
            blocks.update(value)
        elif not issubclass(kind, SelectConfig):
            raise _unknown_key(name, known, where)
        elif isinstance(value, Mapping) or (owner_named(key) and not owners_of(name)):
            if owner_named(key) is None:
                raise _unknown_key(key, known, where)
            blocks[key] = {} if value is None else value  # `less:` and nothing below it
        elif where is not None or not owners_of(name):
            raise _unknown_key(name, known, where, value)
        else:
            others[name] = value
    if isinstance(shared.get("budget"), int | float) and not isinstance(shared["budget"], bool):
        shared["budget"] = shown(shared["budget"])  # YAML reads `budget: 500` as a number
    return shared, blocks_of(blocks, where), others


def _unknown_key(key: str, known: Iterable[str], where: str | None, value: Any = None) -> ConfigError:
    if key in HINTS or owners_of(key):
        found = list(OWNERS.get(key, ())) or owners_of(key)
        hint = (f"write a block: {found[0]}: {{{key}: {plainly(value)}}}, or type --set {key}={plainly(value)}"
                if found else HINTS[key])
        whose = f"is one of {', '.join(found)}" if found else "is not one of this command"
        return ConfigError(f"the setting {key!r} {whose}", where=where, hint=hint)
    for command, kind in (("select", SelectConfig), ("compare", CompareConfig), ("choose", ChooseConfig)):
        if key in shared_names(kind):
            return ConfigError(f"the setting {key!r} belongs to `siftune {command}`", where=where,
                               hint=f"take it out, or run `siftune {command}`")
    if key in ("set", "limit", "quota"):
        name = {"limit": "limits", "quota": "quotas"}.get(key)
        return ConfigError(f"there is no setting {key!r}", where=where, why=f"It is a flag: --{key}.",
                           hint=f"write {name}=[...]" if name else
                           "name the setting itself, such as projection_dim=2048, or a block: less={'adam': 'none'}")
    mine = [name for owner in owners() for name in own_names(owner)] if where is None else []
    return unknown_name("setting", key, [*known, *owners(), *mine], flag=where)


def load(kind: type[C], path: str | Path | None, flags: Mapping[str, Any]) -> C:
    """Defaults, overridden by a YAML file (or by the run that ``from_run`` names), overridden by flags.

    With ``from_run`` the earlier run's own configuration is the starting point, so that only what differs need be
    said. What may not differ is not decided here: stored features refuse whatever they were not made from.

    Args:
        kind: which config.
        path: of the YAML file.
        flags: by field; ``own`` is the entries of ``--set``.

    Raises:
        ConfigError: a file is missing, not YAML, or holds an unknown key or a wrong value.
    """
    flags = dict(flags)
    sets: Any = flags.pop("own", ())
    if isinstance(sets, Mapping):  # from Python: blocks by owner
        flags, sets = {**sets, **flags}, ()
    if isinstance(sets, str) or not isinstance(sets, Sequence):
        raise ConfigError(f"settings cannot be {shown(sets)}", where="--set", hint="name each, as projection_dim=2048")
    earlier = _earlier_run(kind, flags) if flags.get("from_run") else None
    values = {} if earlier is None else _shared_of(kind, earlier)
    blocks: Blocks = {}
    if path is not None:
        written = _of_this_edition(kind, read_yaml(path))
        own = from_mapping(kind, written, where=str(path))  # so that an error names the file
        given = _parted(kind, written, str(path))
        values.update({name: getattr(own, name) for name in given[0]})
        blocks = given[1]
    config = from_mapping(kind, {**values, **flags})
    if not isinstance(config, SelectConfig):
        return config
    named = config.own  # by Python's keywords
    before = earlier.own if isinstance(earlier, SelectConfig) else {}
    told = config.with_own(before).with_own(blocks).with_own(named)
    chosen = [entry for entry in sets if entry.partition("=")[0].strip().rpartition(".")[2] in NAME_PARTS]
    parts = read_sets(chosen, told.candidates(), certain=told.owners() is not None)  # they say whose settings are read
    in_use = told.with_own(parts).owners()
    if isinstance(earlier, SelectConfig):  # another recipe: settings of the earlier one do not go with it
        kept = {o: b for o, b in earlier.own.items() if in_use is None or o in in_use}
        config = dataclasses.replace(config, own=kept)
    unread = [o for o in blocks if in_use is not None and o not in in_use]
    if unread:
        log(f"the settings of {', '.join(unread)} in {path} are not read: in use are {', '.join(in_use or ())}")
    config = config.with_own(blocks).with_own(named).with_own(parts)
    return config.with_own(read_sets(sets, config.candidates(), certain=in_use is not None))


def _shared_of(kind: type[C], earlier: DataConfig) -> dict[str, Any]:
    known = shared_names(kind, without=("own", "output_dir", "recompute"))
    return {name: getattr(earlier, name) for name in known if hasattr(earlier, name)}


def _earlier_run(kind: type[C], flags: Mapping[str, Any]) -> DataConfig:
    if not isinstance(flags["from_run"], str):
        raise ConfigError(f"--from cannot be {shown(flags['from_run'])}", where="--from",
                          hint="name the run folder, or from Python give the result of siftune.select")
    source = Path(flags["from_run"]) / "config.yaml"
    if not source.is_file():
        raise ConfigError("there is no finished run to take features from", where=f"--from {flags['from_run']}",
                          hint=did_you_mean(source.parent) or
                          "name a folder that `siftune select --output-dir` has written")
    values = _of_this_edition(kind, read_yaml(source))
    known = shared_names(kind)
    values = {k: v for k, v in values.items() if k in known or owner_named(k)}
    if "method" in flags:  # another recipe: the parts named for the earlier one do not go with it
        for name in ("representation", "selector", "collect"):
            values.pop(name, None)
    return from_mapping(kind, values, where=str(source))


def _of_this_edition(kind: type[C], values: dict[str, Any]) -> dict[str, Any]:
    """What a file says; the configuration of a run of the first edition in the words of this one."""
    if not is_earlier(values):
        return values
    made = {k: v for k, v in translated(values).items() if k not in TRAINED or k in shared_names(kind)}
    given = values.get("options") or ()
    name = str(values.get("selector") or "") or (RECIPES[values["method"]].selector
                                                  if values.get("method") in RECIPES else "")
    if given and name:
        made[name] = {**made.get(name, {}), **read_sets(list(map(str, given)), [name])[name]}
    return made


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ConfigError: it is missing or is not that.
    """
    values = read_yaml_file(path, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError("the configuration is not a mapping", where=str(path), hint="write one `key: value` a line")
    return {str(key): value for key, value in values.items()}


def to_yaml(config: DataConfig, owners: Iterable[str] = ()) -> str:
    """All settings of a run, defaults included, as YAML that :func:`load` reads back.

    Args:
        config: of the run.
        owners: methods and selectors whose settings were read, besides those that the config itself names.
    """
    import yaml

    values = {name: plain(getattr(config, name)) for name in shared_names(type(config))}
    if isinstance(config, SelectConfig):
        used = dict.fromkeys([*(config.owners() or (() if owners else config.own)), *owners])
        values |= {owner: plain(config.settings_of(owner)) for owner in used if own_fields(owner)}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
