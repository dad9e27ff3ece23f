"""The text of a row: the contents of its turns with thoughts and tool calls, one below the other, without role names
or chat template.

Role names and template markers stand in every row alike; to a sentence embedding they are noise, to a count of words
they are the commonest words. Nothing is cut at ``--max-length``: the text is that of the whole row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from siftune.data.rows import Row

FORM = "contents of all turns, joined by line feeds"
"""What :func:`conversation_text` makes, for fingerprints."""


def conversation_text(row: Row) -> str:
    """Prompt and response: the contents of all turns, in order."""
    return "\n".join(message.text for message in row.messages)


def prompt_text(row: Row) -> str:
    """The contents of all turns that are not the assistant's."""
    return "\n".join(message.text for message in row.messages if message.role != "assistant")


def text_key(rows: Iterable[Row]) -> str:
    """BLAKE2 of ids and texts in order: equal exactly where the texts of the same rows are."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        for part in (row.id, conversation_text(row)):
            raw = part.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def text_digests(rows: Iterable[Row]) -> Iterator[bytes]:
    """BLAKE2 of id and text of each row, 16 bytes: equal exactly where the text of the same row is."""
    for row in rows:
        yield bytes.fromhex(text_key([row]))


def first_same_text(rows: Sequence[Row]) -> np.ndarray:
    """int64 [N]: for each row the first one with the same text."""
    seen: dict[bytes, int] = {}
    texts = (conversation_text(row).encode("utf-8", "surrogatepass") for row in rows)
    return np.array([seen.setdefault(hashlib.blake2b(text, digest_size=16).digest(), i)
                     for i, text in enumerate(texts)], dtype=np.int64)
