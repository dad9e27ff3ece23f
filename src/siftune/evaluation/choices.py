"""Which test rows ask for one of a few answers, and what these are: the rules by which options are recognised.

A row has options where one of these holds, tried in this order:

1. Its record has ``choices``, a list of two or more different texts. The right one is number ``answer`` (a whole number
   that counts from 0) where the record has that, else the one that the completion is.
2. Its prompt (the last turn before the answer) ends with two or more lines ``(A) ...``, ``(B) ...``, in the order of
   the alphabet from A on; ``A) ...``, ``A. ...`` and ``A: ...`` count as well, all lines in the same form. The
   completion is exactly one of these lines, one of their marks (``(B)``), letters (``B``) or texts, and the options are
   scored in that form.
3. Its prompt ends with a line ``Options:`` or ``Choices:`` and below it two or more lines ``- ...``, one of whose texts
   the completion is.
4. All completions of the test file come to two to five short labels (:data:`MAX_LABEL_WORDS` words each), and the
   prompt names every one of them, as whole words in whatever case.

White space around options and completions does not count. Where options are alike, or the completion fits two of
them, the row has none: a rule that guesses would score guesses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from siftune.data.rows import Row

MIN_SHARE = 0.9
"""Of a target's test rows: where fewer have options, accuracy would be that of another kind of rows than the loss."""

MAX_LABELS = 5
MAX_LABEL_WORDS = 3

_LETTERED = tuple(re.compile(form) for form in (r"(?P<mark>\((?P<letter>[A-Z])\)) +(?P<text>\S.*)",
                                                r"(?P<mark>(?P<letter>[A-Z])\)) +(?P<text>\S.*)",
                                                r"(?P<mark>(?P<letter>[A-Z])\.) +(?P<text>\S.*)",
                                                r"(?P<mark>(?P<letter>[A-Z]):) +(?P<text>\S.*)"))
_DASHED = re.compile(r"- +(?P<text>\S.*)")
_HEADING = ("options:", "choices:")


@dataclass(frozen=True)
class Choices:
    """The answers that a row offers.

    Attributes:
        options: two or more different texts, each an answer in full.
        answer: position of the right one.
    """

    options: tuple[str, ...]
    answer: int


def find_choices(rows: Sequence[Row]) -> list[Choices | None]:
    """The options of every row of one test file, by the rules of this module; None for rows without."""
    turns = [_turns(row) for row in rows]
    labels = _labels([answer for _, answer in turns])
    return [_given(row, answer) or _lettered(prompt, answer) or _dashed(prompt, answer)
            or _labelled(prompt, answer, labels) for row, (prompt, answer) in zip(rows, turns, strict=True)]


def _turns(row: Row) -> tuple[str, str]:
    """The last prompt and the answer to it; empty where there is none."""
    last = max((i for i, message in enumerate(row.messages) if message.role == "assistant"), default=0)
    return (row.messages[last - 1].content.strip(), row.messages[last].content.strip()) if last else ("", "")


def _choices(options: Sequence[str], answer: str) -> Choices | None:
    if len(options) < 2 or len(set(options)) < len(options) or answer not in options:
        return None
    return Choices(tuple(options), options.index(answer))


def _given(row: Row, answer: str) -> Choices | None:
    record = json.loads(row.raw)
    found = record.get("choices") if isinstance(record, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, str) and one.strip() for one in found):
        return None
    options = [one.strip() for one in found]
    number = record.get("answer")
    if not isinstance(number, int) or isinstance(number, bool):
        return _choices(options, answer)
    if not 0 <= number < len(options) or (answer in options and answer != options[number]):
        return None
    return _choices(options, options[number])


def _lettered(prompt: str, answer: str) -> Choices | None:
    for form in _LETTERED:
        block: list[re.Match[str]] = []
        for line in reversed(prompt.splitlines()):
            found = form.fullmatch(line.strip())
            if not found or (block and ord(found["letter"]) != ord(block[0]["letter"]) - 1):
                break
            block.insert(0, found)
            if found["letter"] == "A":
                break
        if len(block) > 1 and block[0]["letter"] == "A":
            forms = [[one[0] for one in block], *([one[part] for one in block] for part in ("mark", "letter", "text"))]
            fitting = [choices for options in forms if (choices := _choices(options, answer))]
            return fitting[0] if len({one.answer for one in fitting}) == 1 else None
    return None


def _dashed(prompt: str, answer: str) -> Choices | None:
    options: list[str] = []
    for line in reversed(prompt.splitlines()):
        found = _DASHED.fullmatch(line.strip())
        if not found:
            return _choices(options, answer) if line.strip().casefold() in _HEADING else None
        options.insert(0, found["text"])
    return None


def _labels(answers: Sequence[str]) -> list[str]:
    """The labels that all answers come to, in alphabetical order; none where they are no few short labels."""
    labels = sorted(set(answers))
    is_short = all(0 < len(label.split()) <= MAX_LABEL_WORDS for label in labels)
    return labels if is_short and 2 <= len(labels) <= MAX_LABELS else []


def _labelled(prompt: str, answer: str, labels: Sequence[str]) -> Choices | None:
    named = all(re.search(rf"(?<!\w){re.escape(label)}(?!\w)", prompt, re.IGNORECASE) for label in labels)
    return _choices(labels, answer) if named else None
