"""YAML as people write settings: plain values, and nothing that takes long to read or becomes larger than its text."""

from __future__ import annotations

from functools import cache
from typing import Any

from siftune._common.errors import ConfigError, first_line
from siftune._common.nearest import did_you_mean
from siftune._common.text import one_line

LARGEST = 1_000_000
"""Characters of a file of settings; those that siftune writes have some thousand."""

_MOST, _DEEPEST = 100_000, 50
_HINT = "write one `key: value` a line, with words in quotes"


def load_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Args:
        text: the YAML.
        where: file or flag, for messages.

    Raises:
        ConfigError: it is not YAML, brings code, names a key twice, holds a date or number that is none, is too large
            or nested too deep, or repeats parts of itself (by aliases) until it would be.
    """
    import yaml

    if len(text) > LARGEST:
        raise ConfigError(f"the configuration has {len(text):,} characters", where=where,
                          why=f"At most {LARGEST:,} are read.", hint="check that this is a file of settings")
    _check_brackets(text, where)
    try:
        value = yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError("the configuration is not YAML", where=f"{where}:{mark.line + 1}" if mark else where,
                          why=first_line(error), hint="write one `key: value` a line") from error
    except Exception as error:  # dates that are none, numbers beyond all bounds, nesting without end
        raise ConfigError("the configuration holds a value that cannot be read", where=where,
                          why=f"{type(error).__name__}: {first_line(error)}", hint=_HINT) from error
    _size(value, where, {}, ())
    return value


def read_yaml_file(path: Any, where: str) -> Any:
    """As :func:`load_yaml`, of a file.

    Raises:
        ConfigError: as there, or the file cannot be read.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - of whatever open() takes
            data = file.read(4 * LARGEST + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration: {getattr(error, 'strerror', None) or error}", where=where,
                          hint=did_you_mean(where) or
                          "give the path of a YAML file, such as the config.yaml of a run folder") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("the configuration is not YAML", where=where, why=f"It is not UTF-8: {first_line(error)}",
                          hint="write one `key: value` a line, in UTF-8") from error
    return load_yaml(text, where)


@cache
def _loader() -> Any:
    """The safe loader, that refuses a key which stands twice in a mapping."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                name = str(key.value) if isinstance(key, yaml.ScalarNode) and key.value != "<<" else ""
                if name and name in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {name[:80]!r} stands there twice",
                                                            key.start_mark)
                seen.add(name)
            return super().construct_mapping(node, deep)

    return Loader


def _check_brackets(text: str, where: str) -> None:
    """Refuse nesting that the parser would go down before anything else can be said of it."""
    depth = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if depth > 2 * _DEEPEST:
            raise _too_deep(where)


def _size(value: Any, where: str, known: dict[int, int], above: tuple[int, ...]) -> int:
    """How many values stand in a value, those that aliases repeat counted each time; each is looked at once.

    Raises:
        ConfigError: it stands in itself, too deep, or there are too many.
    """
    if not isinstance(value, (dict, list, set, tuple)):
        return 1
    if id(value) in above:
        raise ConfigError("the configuration holds a value that stands inside itself", where=where,
                          hint="take the alias (*NAME) out")
    if id(value) in known:
        return known[id(value)]
    if len(above) >= _DEEPEST:
        raise _too_deep(where)
    inside = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    total = 1 + sum(_size(one, where, known, (*above, id(value))) for one in inside)
    if total > _MOST:
        raise ConfigError(f"the configuration holds more than {_MOST:,} values", where=where,
                          why="Aliases (*NAME) count each time they stand for something.",
                          hint="check that this is a file of settings")
    known[id(value)] = total
    return total


def _too_deep(where: str) -> ConfigError:
    return ConfigError(f"the configuration is nested more than {_DEEPEST} deep", where=where, hint=_HINT)


def check_text(value: Any, called: str, where: str | None) -> None:
    """Refuse text that no file could keep: half of a surrogate pair (as of a file name that is not UTF-8), or NUL.

    Args:
        value: of a setting: text, or lists and mappings of it.
        called: how the setting is called.
        where: where it was given; ``called`` when not given.

    Raises:
        ConfigError: naming the character.
    """
    if isinstance(value, str):
        found = "\0" if "\0" in value else next((c for c in value if "\ud800" <= c <= "\udfff"), "")
        if found:
            raise ConfigError(f"{called} holds a character that cannot be written: {one_line(value)[:200]}",
                              where=where or called, why=f"It is U+{ord(found):04X}; a file name that is not UTF-8 has "
                              "such characters." if found != "\0" else "It is NUL.",
                              hint="give a text (or rename the file to one) that is UTF-8")
    elif isinstance(value, dict):
        for key, item in value.items():
            check_text(key, called, where)
            check_text(item, called, where)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_text(item, called, where)
