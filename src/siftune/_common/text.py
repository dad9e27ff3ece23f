"""Text from outside, made fit to be shown and stored.

Rows, ids and file names come from anywhere. Characters that a reader cannot see, or that reorder what stands around
them, are shown by their code point; what JSON cannot hold becomes what it can.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

# C0 and C1 controls (tab and newline stay), zero-width and bidirectional controls (Unicode TR 9), line separators,
# the byte-order mark, lone surrogates, tag characters and noncharacters: "Trojan Source" (arXiv 2111.00169).
# The zero-width (non-)joiners U+200C and U+200D stay: Persian, Indic scripts and emoji need them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """``text`` with every invisible or reordering character written as ``[U+202E]``; line ends become ``\\n``."""
    text = text.replace("\r\n", "\n")
    return _HIDDEN.sub(lambda found: f"[U+{ord(found.group()):04X}]", text)


def one_line(text: object) -> str:
    """``text`` for a line of its own on a terminal: as :func:`visible`, with line ends as an arrow."""
    return visible(str(text)).replace("\n", "↵")


def writable(text: object) -> str:
    """``text`` with halves of surrogate pairs, which no file can hold, as escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def shorten(text: str, width: int) -> str:
    """One line of at most ``width`` columns (East Asian wide characters count two), cut in the middle."""
    text = " ".join(visible(text).split())
    widths = [2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text]
    if sum(widths) <= width:
        return text
    room, head, tail = width - 1, 0, len(text)
    # The head gets twice as much as the tail: names differ at their ends, but are recognised by their beginnings.
    head_room = room * 2 // 3
    while widths[head] <= head_room:
        head_room -= widths[head]
        head += 1
    tail_room = room - room * 2 // 3
    while tail > head and widths[tail - 1] <= tail_room:
        tail -= 1
        tail_room -= widths[tail]
    return text[:head].rstrip() + "…" + text[tail:].lstrip()


def clip(text: str, limit: int) -> tuple[str, int]:
    """The first ``limit`` characters, and how many were left out."""
    return text[:limit], max(0, len(text) - limit)


def strict(value: Any) -> Any:
    """``value`` as strict JSON holds it: no NaN or infinity (null), no NumPy scalars, no lone surrogates."""
    if isinstance(value, dict):
        return {strict(str(key)): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if type(value).__module__ == "numpy":  # an array or a scalar; NumPy is not imported for it, since --help reads this
        return strict(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return writable(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    return str(value)


def pretty_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def counted(count: int, unit: str = "row") -> str:
    """``1 row``, ``1,200 rows``.

    Args:
        count: how many.
        unit: of one, in the singular.
    """
    return f"{count:,} {unit}" + "s" * (count != 1)
