"""The text of a row: the contents of its turns with thoughts and tool calls, one below the other, without role names
or chat template.

Role names and template markers stand in every row alike; to a sentence embedding they are noise, to a count of words
they are the commonest words. Nothing is cut at ``--max-length``: the text is that of the whole row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from siftune.data.rows import Message, Row, column

FORM = "contents of all turns, joined by line feeds"
"""What :func:`conversation_text` makes, for fingerprints."""


DIGEST_BYTES = 16


def text_of(messages: Sequence[Message]) -> str:
    """The contents of all turns, in order."""
    return "\n".join([message.text for message in messages])


def conversation_text(row: Row) -> str:
    """Prompt and response: the contents of all turns, in order."""
    return text_of(row.messages)


def conversation_texts(rows: Sequence[Row]) -> Iterator[str]:
    """The :func:`conversation_text` of each row; of rows that are kept in a file without making the rows."""
    read = getattr(rows, "conversations", None)
    return map(conversation_text, rows) if read is None else (text_of(messages) for messages, _ in read())


def prompt_text(row: Row) -> str:
    """The contents of all turns that are not the assistant's."""
    return "\n".join(message.text for message in row.messages if message.role != "assistant")


def digest_of(text: str) -> bytes:
    """BLAKE2b (128 bits) of a text."""
    raw = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(len(raw).to_bytes(8, "little") + raw, digest_size=DIGEST_BYTES).digest()


def text_digests(rows: Sequence[Row]) -> np.ndarray:
    """uint8 [N, 16]: equal exactly where the text of a row is; those that are kept with the rows, or made now."""
    known = getattr(rows, "facts", None)
    if known is not None:
        return known.text
    found = b"".join(map(digest_of, conversation_texts(rows)))
    return np.frombuffer(found, np.uint8).reshape(-1, DIGEST_BYTES)


def named_text_digests(rows: Sequence[Row]) -> Iterator[bytes]:
    """BLAKE2b of id and text of each row, 16 bytes: equal exactly where the text of the same row is."""
    for row_id, text in zip(column(rows, "id"), text_digests(rows), strict=True):
        yield hashlib.blake2b(row_id.encode("utf-8", "surrogatepass") + text.tobytes(),
                              digest_size=DIGEST_BYTES).digest()


def text_key(rows: Sequence[Row]) -> str:
    """BLAKE2b of ids and texts in order: equal exactly where the texts of the same rows are."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for named in named_text_digests(rows):
        digest.update(named)
    return digest.hexdigest()


def first_same_text(rows: Sequence[Row]) -> np.ndarray:
    """int64 [N]: for each row the first one with the same text."""
    halves = np.ascontiguousarray(text_digests(rows)).view(np.uint64)  # [N, 2]
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: of equal ones the first row comes first
    others = np.ones(len(order), dtype=bool)
    others[1:] = (halves[order[1:]] != halves[order[:-1]]).any(axis=1)
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[others][np.cumsum(others) - 1]
    return first
