"""Why a row cannot be used, and the one error that tells the user about all such rows of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from siftune._common.errors import DataError
from siftune._common.text import counted, one_line
from siftune.data.rows import Dropped

REASONS = {
    "broken-json": "the line is not valid JSON",
    "broken-csv": "the line does not have as many cells as the header",
    "not-utf8": "the bytes are not UTF-8",
    "not-an-object": "the record is not a JSON object",
    "unknown-format": "the record is in no known format",
    "unknown-role": "a turn has a role that is none of system, user, assistant, tool",
    "non-string-content": "a turn's content is not text",
    "not-text": "the row holds images, video or audio",
    "unsupported-field": "a field asks for what siftune does not do",
    "over-limit": "the record is larger than what is read",
    "invalid-unicode": "the text holds half of a surrogate pair, which no encoding can write",
    "no-assistant-turn": "nothing to supervise: there is no assistant turn",
    "empty-response": "an assistant turn is empty",
    "template-drops": "the chat template leaves out a part of the conversation",
    "template-error": "the chat template refuses the conversation",
    "template-mismatch": "where the chat template puts an assistant turn cannot be told",
    "prompt-longer-than-limit": "the prompt fills the whole length limit, so that no response is left",
    "nothing-to-supervise": "no token of the row is supervised",
}
"""Every reason for which a row is left out while reading or rendering, with its explanation."""

_SHOWN = 3


class BadRow(Exception):  # noqa: N818 - what it names is a row
    """One record that cannot be used; never reaches the user as it is.

    Args:
        reason: A key of :data:`REASONS`.
        detail: What exactly is wrong with this record.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def bad_rows_error(bad: Sequence[Dropped], total: int, role: str, hint: str | None = None) -> DataError:
    """One error for all the bad rows of a run: how many for which reason, and where the first ones stand.

    Args:
        bad: The rows that cannot be used, in reading order; at least one.
        total: How many rows were read, bad ones included.
        role: What the rows are for: ``pool``, ``target`` or ``test``.
        hint: How to fix them, where more can be said than that.
    """
    counts = ", ".join(f"{n} {reason} ({REASONS[reason]})" for reason, n in
                       Counter(row.reason for row in bad).most_common())
    shown = [one_line(f"{row.where}: {row.reason}{f': {row.detail}' if row.detail else ''}") for row in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        shown.append(f"... and {len(bad) - _SHOWN} more")
    advice = [hint or ("fix the file" if len(bad) == total else "fix them")]
    if len(bad) < total:
        advice.append("pass --bad-rows drop to leave them out (they are then listed in dropped.jsonl)")
    return DataError(
        f"{len(bad)} of {counted(total, f'{role} row')} cannot be used: {counts}",
        where=bad[0].where,
        why="\n  ".join(shown),
        hint=", or ".join(advice),
    )
