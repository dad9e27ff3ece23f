"""The rows of a pool, a target file or a test file, and what rendering makes of them.

A :class:`Row` keeps the raw record untouched beside its normalised messages, so that a selected subset is written
exactly as it came. Rendering turns the messages into token ids and a loss mask once, and features, training and
evaluation all read those same ids and masks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: ``role`` is ``system``, ``user``, ``assistant`` or ``tool``."""

    role: str
    content: str


def content_hash(messages: Sequence[Message]) -> str:
    """BLAKE2b (128 bits, hex) of roles and contents; equal only for conversations that are equal exactly."""
    content = json.dumps([[message.role, message.content] for message in messages], ensure_ascii=False)
    return blake2b(content.encode("utf-8"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Row:
    """One example.

    Attributes:
        id: Stable and unique within its pool: the row's own id, or ``<source>:<index>:<content hash>``.
        source: Name of the file or data set it came from (without folder and ending).
        where: ``file:line`` (or ``file:row``) for messages to the user.
        messages: The normalised conversation.
        raw: The original record as one line of JSON; for a JSONL file the very characters of its line.
        content_hash: BLAKE2 of the messages (exact content), hex.
        format: ``messages``, ``prompt-completion``, ``alpaca`` or ``sharegpt``.
        subtask: The target's subtask, where the file names one.
        group: The pool row's group (stratum), where the file names one; the source otherwise.
    """

    id: str
    source: str
    where: str
    messages: tuple[Message, ...]
    raw: str
    content_hash: str
    format: str
    subtask: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that was left out: which, where it stood, and why."""

    id: str
    source: str
    where: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What the model sees of a row.

    Attributes:
        ids: int32 [T] token ids.
        mask: bool [T]; ``mask[t]`` is true where token ``t`` is supervised, that is predicted from the tokens
            before it. ``mask[0]`` is always false. The loss of a row is the mean cross-entropy over these tokens.
        cut_tokens: how many tokens truncation removed.
    """

    ids: np.ndarray
    mask: np.ndarray
    cut_tokens: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def supervised(self) -> int:
        return int(self.mask.sum())


@dataclass(slots=True)
class Examples:
    """Usable rows with what rendering made of them, in file order; ``rows[i]`` belongs to ``rendered[i]``.

    Attributes:
        dropped: the rows that cannot be trained on, and why.
        unmatched_turns: assistant turns left unsupervised because the chat template alters them when later turns
            follow, or because nothing comes before them.
        special_tokens_in_content: rows whose text spells a special token of the tokenizer, such as ``<|im_end|>``.
    """

    rows: list[Row]
    rendered: list[Rendered]
    dropped: list[Dropped] = field(default_factory=list)
    unmatched_turns: int = 0
    special_tokens_in_content: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        return [row.id for row in self.rows]

    @property
    def tokens(self) -> np.ndarray:
        """int64 [N]: tokens a row costs in training (prompt and response, after truncation)."""
        return np.array([len(r) for r in self.rendered], dtype=np.int64)

    @property
    def truncated(self) -> int:
        return sum(r.cut_tokens > 0 for r in self.rendered)
