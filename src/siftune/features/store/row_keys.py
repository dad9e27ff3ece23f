"""Content keys of rows: of each, of a range, of all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from siftune.data.rows import Rendered

SIZE = 16


class RowKeys:
    """What rows contain, as a hash each.

    Args:
        name: what the rows are, for a refusal: ``pool``, ``target``, ``rows``.
        digests: bytes of length 16 for each row.
    """

    def __init__(self, name: str, digests: Iterable[bytes]):
        self.name = name
        self._digests: np.ndarray = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, SIZE)  # uint8 [N, 16]

    @classmethod
    def counted(cls, rows: int) -> RowKeys:
        """Rows of which nothing is known but how many there are."""
        made = cls("rows", ())
        made._digests = np.zeros((rows, SIZE), np.uint8)
        made._digests[:, :8] = np.arange(rows, dtype="<u8")[:, None].view(np.uint8)
        return made

    def __len__(self) -> int:
        return len(self._digests)

    def some(self, rows: np.ndarray) -> RowKeys:
        """Of some rows alone, int64."""
        made = RowKeys(self.name, ())
        made._digests = self._digests[rows]
        return made

    @property
    def key(self) -> str:
        """Of all rows in their order: hex BLAKE2b (128 bits)."""
        return self.of(0, len(self))

    def of(self, start: int, stop: int) -> str:
        """Of the rows ``start`` to ``stop`` (exclusive) in their order."""
        return hashlib.blake2b(self._digests[start:stop].data, digest_size=SIZE).hexdigest()


def row_digest(*parts: bytes) -> bytes:
    """The digest of one row: different parts give different ones, however they are cut."""
    digest = hashlib.blake2b(digest_size=SIZE)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def content_digests(rendered: Sequence[Rendered]) -> np.ndarray:
    """uint8 [N, 16]: what a pass sees of each row, token ids and mask, whatever the row is called and wherever it
    stands."""
    found = (row_digest(np.ascontiguousarray(row.ids, dtype="<i4").tobytes(), np.packbits(row.mask).tobytes())
             for row in rendered)
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, SIZE)
