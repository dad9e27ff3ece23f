"""One small registry: names to lazily imported objects, entry points for third parties, "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from siftune._common.errors import ConfigError


def unknown_name(kind: str, name: str, known: Iterable[str], *, flag: str | None = None) -> ConfigError:
    """The error for a name that is not known, with the nearest known one in the hint."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(names)}"
    return ConfigError(f"unknown {kind} {name!r}", where=flag, hint=hint)


class Registry:
    """Names of one kind of thing (``"selector"``, ``"representation"``) and where each lives.

    Targets are strings ``"package.module:attribute"`` so that listing names imports nothing heavy. Packages add
    their own through the entry-point group ``siftune.<kind>s``.
    """

    def __init__(self, kind: str, builtin: dict[str, str]):
        self.kind = kind
        self._targets = dict(builtin)

    def _all(self) -> dict[str, str]:
        third_party = {e.name: e.value for e in entry_points(group=f"siftune.{self.kind}s")}
        return {**third_party, **self._targets}

    def names(self) -> list[str]:
        return sorted(self._all())

    def __contains__(self, name: str) -> bool:
        return name in self._all()

    def get(self, name: str, *, flag: str | None = None) -> Any:
        """The object registered under ``name``.

        Raises:
            ConfigError: no such name; the hint names the nearest one.
        """
        target = self._targets.get(name) or self._all().get(name)  # entry points are slow to list: own names first
        if target is None:
            raise unknown_name(self.kind, name, self._all(), flag=flag or f"--{self.kind}")
        module, _, attribute = target.partition(":")
        return getattr(import_module(module), attribute)
