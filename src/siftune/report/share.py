"""Pages that can be given away: without the machine's paths, the names of its users and itself, and command lines.

What rows say is left as it is: they are what the page is about, and whoever shares them knows them. Everything else
that a page or its JSON shows goes through :class:`Private`: of a path its last part stays.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siftune.report.formats import hub_name

ROWS = frozenset(("view", "gist", "target_gist"))
"""Keys of what rows say."""

# A path that begins at the root, at home or at a drive; not a slash inside a word ("and/or") or an address (https://).
_PATH = re.compile(r"(?<![\w./~\\-])(?:~[\w.-]*/|/(?!/)|[A-Za-z]:[\\/])[^\s'\"`,;()\[\]{}<>|]+")
_HOME = re.compile(r"\b(?:home|Users)[\\/][^\s\\/'\",;()\[\]{}<>|]+[\\/]")  # inside names that were made of folders


class Private:
    """What must not be on a shared page, found out once.

    Args:
        folder: of the run or study.
        config: its configuration, where it is known: paths that stand there are known in whole, spaces and all.
    """

    def __init__(self, folder: Path, config: Any = None):
        known = {os.path.expanduser("~"), str(Path.cwd()), str(folder.resolve()), *_paths(config)}  # noqa: PTH111
        known = {path.rstrip("/\\") for path in known}
        self._known = sorted((path for path in known if len(path) > 1), key=len, reverse=True)
        self._names = [name for name in {platform.node(), _user()} if len(name) > 1 and name != "localhost"]

    def text(self, text: str) -> str:
        """The text with paths cut to their last part, and without the names of machine and user."""
        for path in self._known:
            if path in text:
                # Longer paths that begin with it lose the beginning; the path itself keeps its last part.
                text = re.sub(re.escape(path) + r"(?P<rest>[\\/][^\s'\"`,;()\[\]{}<>|]*)?",
                              lambda found, path=path: _last(found["rest"] or path), text)
        text = _PATH.sub(lambda found: _last(found[0]), text)
        text = _HOME.sub("", text)
        for name in self._names:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "[private]", text)
        return text

    def value(self, value: Any) -> Any:
        """A JSON value with all its texts, but for what rows say."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(key) if isinstance(key, str) else key: item if key in ROWS else self.value(item)
                    for key, item in value.items()}
        return [self.value(item) for item in value] if isinstance(value, (list, tuple)) else value


def shared_report(report: dict[str, Any], folder: Path, config: Any) -> dict[str, Any]:
    """A run's report without what is private; the command line is left out whole."""
    return {**Private(folder, config).value({**report, "command": None}), "shared": True}


def _last(path: str) -> str:
    """The last part of a path; a line number behind it stays, and so does a full stop that ends a sentence."""
    if cached := hub_name(path):
        return cached
    parts = [part for part in re.split(r"[\\/]", path) if part and part != "~"]
    return parts[-1] if parts else "."


def _paths(value: Any) -> set[str]:
    """Absolute paths among the texts of a configuration; of a list of methods also behind ``file:``."""
    if isinstance(value, str):
        text = value.removeprefix("file:").partition("#")[0]
        return {text} if text.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", text) else set()
    if isinstance(value, Mapping):
        return set().union(*(_paths(item) for item in value.values()))
    return set().union(*(_paths(item) for item in value)) if isinstance(value, (list, tuple)) else set()


def _user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # no such user, as in a container
        return ""
    return "" if name == "root" else name  # which says nothing, and stands in many words
