"""Content keys of rows: of each, of a range, of all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

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
