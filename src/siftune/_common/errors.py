"""Errors a user can act on: what happened, where, why, and what to type next.

Everything a user can cause raises a :class:`SiftuneError`. The command line prints it without a traceback and
exits with 2; as a library it is an ordinary exception. Anything else that escapes is a bug of siftune's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siftune._common.text import one_line, visible

MOST = 4_000
"""Characters of each part of a message."""


class SiftuneError(Exception):
    """A mistake or a refusal that the user can resolve.

    Args:
        what: One sentence: what happened.
        where: File (and line) or flag concerned, e.g. ``"pool.jsonl:12"``.
        why: The reason, where it is not obvious from ``what``.
        hint: What to type or change next, without the word "hint".
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, why: str | None = None, hint: str | None = None):
        super().__init__(what)
        self.what, self.where, self.why, self.hint = what, where, why, hint

    def __reduce__(self) -> Any:
        # Exceptions pickle their positional arguments only; a worker process must hand over the hint as well.
        return _restored, (type(self), self.what, self.__dict__)

    def __str__(self) -> str:
        # What is quoted comes from files: it neither begins a line that looks like one of ours nor steers a terminal.
        lines = [one_line(_not_endless(self.what))]
        if self.where:
            lines.append(f"  --> {one_line(_not_endless(self.where))}")
        if self.why:
            lines += [f"  {line.strip()}" for line in visible(_not_endless(self.why)).split("\n") if line.strip()]
        if self.hint:
            lines.append(f"hint: {one_line(_not_endless(self.hint))}")
        return "\n".join(lines)


def _not_endless(text: str) -> str:
    """Without its middle, where somebody put a file into a flag or a line without an end into a file."""
    if len(text) <= MOST:
        return text
    half = MOST // 2
    return f"{text[:half]} ... ({len(text) - 2 * half:,} characters left out) ... {text[-half:]}"


def _restored(kind: type[SiftuneError], what: str, state: dict[str, Any]) -> SiftuneError:
    error = kind.__new__(kind, what)
    error.__dict__.update(state)
    return error


class DataError(SiftuneError):
    """A pool, target or test file that cannot be used as it is."""


class ConfigError(SiftuneError):
    """A flag, YAML key or value that is wrong or missing."""


class ModelError(SiftuneError):
    """A model, adapter or tokenizer that cannot be loaded or used."""


class StoreMismatch(SiftuneError):  # noqa: N818 - it names a refusal rather than a failure
    """Stored features that were made from something else; ``field`` names the first difference."""

    def __init__(self, what: str, *, field: str, where: str | None = None, why: str | None = None,
                 hint: str | None = None):
        super().__init__(what, where=where, why=why, hint=hint)
        self.field = field


class StoreCorrupt(SiftuneError):  # noqa: N818
    """Stored features whose bytes do not match their checksum."""


def at(path: str | Path, line: int | None = None) -> str:
    """``file:line`` as editors and terminals understand it."""
    return f"{path}:{line}" if line is not None else str(path)


def first_line(error: Exception) -> str:
    """The first line of an error's text, of at most 300 characters, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
