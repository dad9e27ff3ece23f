"""Lists of named mappings in a study file: targets, ablations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name


def named_entries(value: Sequence[Any], what: str, keys: Sequence[str], where: str, form: str,
                  ) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Each entry's name, where it stands, and its content.

    Args:
        value: the list.
        what: what an entry is called: ``target``.
        keys: that it may have.
        where: the file.
        form: how it is written, for hints.

    Raises:
        ConfigError: an entry that is no mapping, has another key or no name; or two of one name.
    """
    article, seen = ("an" if what[0] in "aeiou" else "a"), set[str]()
    for i, entry in enumerate(value, 1):
        at = f"{where}, {what} {i}"
        if not isinstance(entry, dict):
            raise ConfigError(f"{article} {what} is not a mapping", where=at, hint=form)
        for key in entry:
            if key not in keys:
                raise unknown_name(f"key of {article} {what}:", str(key), keys, flag=at)
        name = entry.get("name")
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{article} {what} has no name", where=at, hint=form)
        at = f"{at} ({name})"
        if name in seen:
            raise ConfigError(f"two {what}s are called {name!r}", where=at, hint="give each a name of its own")
        seen.add(name)
        yield name, at, entry
