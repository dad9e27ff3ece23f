"""One small registry: names to lazily imported objects, entry points for third parties, "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from siftune._common.errors import ConfigError
from siftune._common.progress import log

_LONGEST = 200  # characters of a name that is told and compared
_SHOWN = 60  # names in a hint: all methods and selectors, not all ids of a pool


def unknown_name(kind: str, name: str, known: Iterable[str], *, flag: str | None = None) -> ConfigError:
    """The error for a name that is not known, with the nearest known one in the hint."""
    name = str(name)  # whatever a file or a program gives
    names = sorted(set(known))  # a recipe may have the name of its method
    near = difflib.get_close_matches(name[:_LONGEST], names, n=1, cutoff=0.5)
    shown = ", ".join(names) if len(names) <= _SHOWN else f"{', '.join(names[:_SHOWN])}, ... ({len(names):,} in all)"
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {shown}"
    told = repr(name) if len(name) <= _LONGEST else f"{name[:_LONGEST]!r}..."
    return ConfigError(f"unknown {kind} {told}", where=flag, hint=hint)


class Registry:
    """Names of one kind of thing (``"method"``, ``"selector"``) and where each lives.

    Targets are strings ``"package.module:attribute"`` so that listing names imports nothing heavy. Installed packages
    add their own through entry points. One that cannot be used is told in a warning and left out; only who asks for it
    by name gets an error.

    Args:
        kind: what the names stand for, in a word.
        builtin: name -> target.
        groups: the entry-point groups of third parties.
        wrong: says what is wrong with an object of a third party; empty where nothing is.
        reserved: further names that third parties cannot have.
    """

    def __init__(self, kind: str, builtin: dict[str, str], *, groups: Sequence[str] = (),
                 wrong: Callable[[Any], str] = lambda found: "", reserved: Iterable[str] = ()):
        self.kind, self.groups = kind, groups
        self.own = dict(builtin)
        self._wrong, self._reserved = wrong, frozenset(reserved)
        self._loaded: dict[str, Any] = {}

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for group in self.groups:
            for entry in sorted(entry_points(group=group), key=lambda e: (e.name, e.value)):
                if entry.name in self.own or entry.name in self._reserved:
                    log(f"warning: the {self.kind} {entry.name!r} of {_package(entry)} is left out: siftune has one of "
                        "that name")
                elif entry.name in found and found[entry.name].value != entry.value:
                    log(f"warning: the {self.kind} {entry.name!r} of {_package(entry)} is left out: "
                        f"{_package(found[entry.name])} has one of that name")
                else:
                    found[entry.name] = entry
        return found

    def names(self, *, plugins_only: bool = False) -> list[str]:
        return sorted(self._plugins if plugins_only else {**self.own, **self._plugins})

    def __contains__(self, name: str) -> bool:
        return name in self.own or name in self._plugins  # entry points are slow to list: own names first

    def available(self) -> dict[str, Any]:
        """Every object by name; one of a third party that cannot be used is told in a warning instead."""
        found = {}
        for name in self.names():
            try:
                found[name] = self.get(name)
            except ConfigError as error:
                if name in self.own:
                    raise
                log(f"warning: {error.what}: {error.why}")
        return found

    def get(self, name: str, *, flag: str | None = None) -> Any:
        """The object registered under ``name``.

        Raises:
            ConfigError: no such name (the hint names the nearest one), or one of a third party that cannot be used.
        """
        if name not in self._loaded:
            if name in self.own:
                module, _, attribute = self.own[name].partition(":")
                self._loaded[name] = getattr(import_module(module), attribute)
            elif name in self._plugins:
                self._loaded[name] = self._plugin(self._plugins[name], flag)
            else:
                raise unknown_name(self.kind, name, self.names(), flag=flag or f"--{self.kind}")
        return self._loaded[name]

    def _plugin(self, entry: EntryPoint, flag: str | None) -> Any:
        found = None
        try:
            found = entry.load()
            wrong = self._wrong(found)
        except Exception as error:  # whatever another package does when it is imported
            wrong = f"{type(error).__name__}: {error}".splitlines()[0]
        if wrong:
            raise ConfigError(f"the {self.kind} {entry.name!r} of {_package(entry)} cannot be used", where=flag,
                              why=wrong, hint=f"mend or uninstall {_package(entry)} ({entry.value})")
        return found


def _package(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist else f"the package of {entry.value}"
