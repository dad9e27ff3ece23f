"""Rows that stand in two files: test items in the training pool make every measured gain worthless.

Two keys decide what counts as the same row: the exact messages, and the normalised text of prompt and response
(Unicode NFKC, lower case, runs of white space and punctuation as one space). Tool calls are part of that text. System
messages, tools and thoughts do not enter the normalised key: another system prompt, or a thought before the same
answer, does not make a test item new.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from typing import Literal, TypeVar

import numpy as np

from siftune._common.errors import ConfigError, DataError
from siftune._common.text import one_line
from siftune.data.rendered import taken
from siftune.data.rows import Dropped, Message, Row, column

Kind = Literal["exact", "normalised", "prompt"]
OnOverlap = Literal["error", "drop"]

K = TypeVar("K")


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

    pool: Sequence[Row]
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
    return normalised(row.messages)[0]


def prompt_key(row: Row) -> str:
    """The normalised turns before the last assistant turn but for system messages; may be empty."""
    return normalised(row.messages)[1]


def normalised(messages: Sequence[Message]) -> tuple[str, str]:
    """The :func:`normalised_key` and the :func:`prompt_key` of a row with these messages."""
    last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=0)
    turns = [(i, normalise(message.said)) for i, message in enumerate(messages) if message.role != "system"]
    return "\n".join(text for _, text in turns), "\n".join(text for i, text in turns if i < last)


KEY_BYTES = 16


def key_of(text: str) -> bytes:
    """BLAKE2b (128 bits) of a text: what rows are compared by, since it takes no more memory for a longer row."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def find_overlaps(a: Sequence[Row], b: Sequence[Row]) -> list[Overlap]:
    """The rows of ``a`` that are also in ``b``, each once, with the first such row of ``b``.

    A row that is there exactly counts as ``exact``, otherwise one that is there by its normalised text as
    ``normalised``. In the order of ``a``; time and memory are linear in both.
    """
    if not len(a) or not len(b):
        return []
    exact = _first_by(column(b, "content_hash"))
    levelled = _first_by(_keys(b, "normalised"))
    found = []
    for place, (content, key) in enumerate(zip(column(a, "content_hash"), _keys(a, "normalised"), strict=True)):
        if (same := exact.get(content)) is not None:
            found.append(_overlap(a[place], b[same], "exact"))
        elif (same := levelled.get(key)) is not None:
            found.append(_overlap(a[place], b[same], "normalised"))
    return found


def find_same_prompts(a: Sequence[Row], b: Sequence[Row]) -> list[Overlap]:
    """The rows of ``a`` whose prompt is that of a row of ``b`` though the rows are not the same."""
    if not len(a) or not len(b):
        return []
    same = {overlap.a_id for overlap in find_overlaps(a, b)}
    prompts = _first_by(_keys(b, "prompt"))
    prompts.pop(key_of(""), None)
    found = []
    for place, key in enumerate(_keys(a, "prompt")):
        if (other := prompts.get(key)) is not None and (row := a[place]).id not in same:
            found.append(_overlap(row, b[other], "prompt"))
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
    ids = column(pool, "id")
    kept = taken(pool, np.array([i for i, row_id in enumerate(ids) if row_id not in dropped], dtype=np.int64)) \
        if dropped else pool
    if len(pool) and not len(kept):
        raise DataError("every pool row is also in the test or target file", where=pool[0].where,
                        hint="check that --pool, --target and --test name different files")
    return Disjoint(
        pool=kept,
        dropped=[_left_out(pool[i], *dropped[row_id]) for i, row_id in enumerate(ids) if row_id in dropped],
        in_test=in_test,
        in_target=in_target,
        same_prompt=find_same_prompts(kept, test),
    )


def _first_by(keys: Iterable[K]) -> dict[K, int]:
    """Where each key stands first."""
    first: dict[K, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    return first


def normalised_keys(rows: Sequence[Row]) -> Iterable[bytes]:
    """The :func:`key_of` of each row's :func:`normalised_key`."""
    return _keys(rows, "normalised")


def _keys(rows: Sequence[Row], what: Literal["normalised", "prompt"]) -> Iterable[bytes]:
    """The :func:`key_of` of each row's normalised text or prompt; made where they are not kept with the rows."""
    facts = getattr(rows, "facts", None)
    if facts is not None:
        whole = np.ascontiguousarray(getattr(facts, what)).tobytes()
        return (whole[at : at + KEY_BYTES] for at in range(0, len(whole), KEY_BYTES))
    make = normalised_key if what == "normalised" else prompt_key
    return (key_of(make(row)) for row in rows)


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
