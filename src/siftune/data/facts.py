"""What is known of a row by its text alone: keys by which equal rows are found, and how long it is.

They are made once of each row; overlap and duplicates are then a matter of comparing them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from siftune.data.overlap import KEY_BYTES, key_of, normalised
from siftune.data.rows import Message, Row
from siftune.data.text.rows import digest_of, text_of


@dataclass(frozen=True)
class Facts:
    """Facts of N rows.

    Attributes:
        normalised: uint8 [N, 16]: BLAKE2b of the normalised text, see :func:`~siftune.data.overlap.normalised_key`.
        prompt: uint8 [N, 16]: likewise of the prompt, see :func:`~siftune.data.overlap.prompt_key`.
        text: uint8 [N, 16]: of the text as it stands, see :func:`~siftune.data.text.rows.text_digests`.
        turns: int32 [N]: assistant turns.
        characters: int64 [N]: of all turns.
    """

    normalised: np.ndarray
    prompt: np.ndarray
    text: np.ndarray
    turns: np.ndarray
    characters: np.ndarray

    def take(self, places: np.ndarray) -> Facts:
        """Those of some rows, in the order of ``places``."""
        return Facts(self.normalised[places], self.prompt[places], self.text[places], self.turns[places],
                     self.characters[places])


def facts_of(conversations: Iterable[Sequence[Message]]) -> Facts:
    """The facts of conversations, in their order."""
    keys, exact = (bytearray(), bytearray()), bytearray()
    turns: list[int] = []
    characters: list[int] = []
    for messages in conversations:
        for key, text in zip(keys, normalised(messages), strict=True):
            key += key_of(text)
        exact += digest_of(text_of(messages))
        turns.append(sum(message.role == "assistant" for message in messages))
        characters.append(sum(len(message.text) for message in messages))
    whole, prompt, text = (np.frombuffer(bytes(key), dtype=np.uint8).reshape(-1, KEY_BYTES) for key in (*keys, exact))
    return Facts(whole, prompt, text, np.array(turns, dtype=np.int32), np.array(characters, dtype=np.int64))


def facts_about(rows: Sequence[Row]) -> Facts:
    """The facts of rows: those that are kept with them, or made now."""
    known = getattr(rows, "facts", None)
    return facts_of(row.messages for row in rows) if known is None else known


def distinct(keys: np.ndarray) -> int:
    """How many different lines uint8 [N, 16] has."""
    whole = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1]))).ravel()
    return len(np.unique(whole))
