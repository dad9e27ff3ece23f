"""Rows that stand in two files: test items in the training pool make every measured gain worthless.

Two keys decide what counts as the same row: the exact messages, and the normalised text of prompt and response
(Unicode NFKC, lower case, runs of white space and punctuation as one space). Tool calls are part of that text. System
messages, tools and thoughts do not enter the normalised key: another system prompt, or a thought before the same
answer, does not make a test item new.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from siftune._common.errors import ConfigError, DataError
from siftune._common.text import one_line
from siftune.data.rows import Dropped, Message, Row

Kind = Literal["exact", "normalised", "prompt"]
OnOverlap = Literal["error", "drop"]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Row ``a`` of one file says the same as row ``b`` of another; ``kind`` tells by which key."""

    a_id: str
    b_id: str
    a_where: str
    b_where: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Disjoint:
    """What :func:`check_disjoint` leaves.

    Attributes:
        pool: The pool rows to go on with.
        dropped: Pool rows removed since they are in the test or target file.
        in_test: Pool rows that are in the test file (all removed, or this would have been an error).
        in_target: Pool rows that are in the target file, removed or not.
        same_prompt: Pool rows with the prompt of a test row but another response; never removed.
    """

    pool: list[Row]
    dropped: list[Dropped] = field(default_factory=list)
    in_test: list[Overlap] = field(default_factory=list)
    in_target: list[Overlap] = field(default_factory=list)
    same_prompt: list[Overlap] = field(default_factory=list)


@cache
def _punctuation() -> dict[int, str]:
    """Punctuation to spaces. Signs such as + and = are symbols in Unicode and stay: ``1 + 2`` is not ``1 2``."""
    return {code: " " for code in range(0x20000) if unicodedata.category(chr(code)).startswith("P")}


# Between numbers these are operators, though Unicode has them as punctuation; private characters keep them apart.
_OPERATORS = {"-": "\ue000", "*": "\ue001", "/": "\ue002", "%": "\ue003"}
_OPERATOR = re.compile(r"[-*/%](?=\s*\d)")


def normalise(text: str) -> str:
    """The text with NFKC, case, white space and punctuation levelled; of punctuation alone, the text itself."""
    folded = unicodedata.normalize("NFKC", _without_long_runs(text)).casefold()
    marked = _OPERATOR.sub(lambda match: f" {_OPERATORS[match[0]]} ", folded)
    return " ".join(marked.translate(_punctuation()).split()) or folded.strip()


def _without_long_runs(text: str) -> str:
    """The text as Unicode's stream-safe format has it (UAX #15, section 13): sorting a run of combining marks takes
    time that is quadratic in its length, so that none may be longer than 30."""
    if text.isascii():
        return text
    return _marks().sub(lambda run: _JOINER.join(run[0][i : i + 30] for i in range(0, len(run[0]), 30)), text)


_JOINER = "\u034f"


@cache
def _marks() -> re.Pattern[str]:
    codes = (code for code in range(0x20000) if unicodedata.combining(chr(code)))
    return re.compile(f"[{''.join(re.escape(chr(code)) for code in codes)}]{{31,}}")


def normalised_key(row: Row) -> str:
    """The normalised turns of a row but for system messages; prompt and response do not run into each other."""
    return "\n".join(normalise(message.said) for message in row.messages if message.role != "system")


def prompt_key(row: Row) -> str:
    """The normalised turns before the last assistant turn but for system messages; may be empty."""
    last = max((i for i, message in enumerate(row.messages) if message.role == "assistant"), default=0)
    before: Sequence[Message] = row.messages[:last]
    return "\n".join(normalise(message.said) for message in before if message.role != "system")


def find_overlaps(a: Sequence[Row], b: Sequence[Row]) -> list[Overlap]:
    """The rows of ``a`` that are also in ``b``, each once, with the first such row of ``b``.

    A row that is there exactly counts as ``exact``, otherwise one that is there by its normalised text as
    ``normalised``. In the order of ``a``; time and memory are linear in both.
    """
    exact = _first_by(b, lambda row: row.content_hash)
    normalised = _first_by(b, normalised_key)
    found = []
    for row in a:
        if (same := exact.get(row.content_hash)) is not None:
            found.append(_overlap(row, same, "exact"))
        elif (same := normalised.get(normalised_key(row))) is not None:
            found.append(_overlap(row, same, "normalised"))
    return found


def find_same_prompts(a: Sequence[Row], b: Sequence[Row]) -> list[Overlap]:
    """The rows of ``a`` whose prompt is that of a row of ``b`` though the rows are not the same."""
    same = {overlap.a_id for overlap in find_overlaps(a, b)}
    prompts = _first_by(b, prompt_key)
    prompts.pop("", None)
    found = []
    for row in a:
        if row.id not in same and (other := prompts.get(prompt_key(row))) is not None:
            found.append(_overlap(row, other, "prompt"))
    return found


def check_disjoint(
    pool: Sequence[Row], target: Sequence[Row], test: Sequence[Row], on_overlap: OnOverlap = "error"
) -> Disjoint:
    """Make sure that nothing which is measured on was chosen by or trained on.

    Args:
        pool: Rows to select from.
        target: Rows that say what to select for; may be empty.
        test: Rows to measure on; may be empty.
        on_overlap: What happens to pool rows that are in the test or target file: ``error`` refuses those in the
            test file and keeps those in the target, ``drop`` removes both.

    Raises:
        ConfigError: ``on_overlap`` is not known.
        DataError: a test row is in the target file, or, with ``"error"``, in the pool; ``"drop"`` leaves no row.
    """
    if on_overlap not in ("error", "drop"):
        raise ConfigError(f"unknown choice {on_overlap!r}", where="--overlap", hint="choose error or drop")
    if shared := find_overlaps(test, target):
        raise _refusal(shared, "test", "target", "remove these rows from one of the two files: what selects the data "
                       "cannot also measure it")
    in_test, in_target = find_overlaps(pool, test), find_overlaps(pool, target)
    if in_test and on_overlap == "error":
        raise _refusal(in_test, "pool", "test", "pass --overlap drop to leave these rows out of the pool")
    dropped = {}
    if on_overlap == "drop":
        dropped = {o.a_id: ("in-target", o) for o in in_target} | {o.a_id: ("in-test", o) for o in in_test}
    kept = [row for row in pool if row.id not in dropped]
    if pool and not kept:
        raise DataError("every pool row is also in the test or target file", where=pool[0].where,
                        hint="check that --pool, --target and --test name different files")
    return Disjoint(
        pool=kept,
        dropped=[_left_out(row, *dropped[row.id]) for row in pool if row.id in dropped],
        in_test=in_test,
        in_target=in_target,
        same_prompt=find_same_prompts(kept, test),
    )


def _first_by(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, Row]:
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(key(row), row)
    return first


def _overlap(a: Row, b: Row, kind: Kind) -> Overlap:
    return Overlap(a.id, b.id, a.where, b.where, kind)


def _left_out(row: Row, reason: str, overlap: Overlap) -> Dropped:
    return Dropped(row.id, row.source, row.where, reason, f"{overlap.kind} match of {overlap.b_where}")


def _refusal(found: Sequence[Overlap], a: str, b: str, hint: str) -> DataError:
    shown = [one_line(f"{o.a_where} is {o.b_where} ({o.kind} match)") for o in found[:3]]
    if len(found) > 3:
        shown.append(f"... and {len(found) - 3} more")
    rows = "row is" if len(found) == 1 else "rows are"
    return DataError(f"{len(found)} {a} {rows} also in the {b} file", where=found[0].a_where,
                     why="\n  ".join(shown), hint=hint)
