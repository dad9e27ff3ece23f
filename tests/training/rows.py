"""Random rows as rendering would make them."""

from __future__ import annotations

import numpy as np

from siftune._common import seeds
from siftune.data.rows import Rendered


def random_rows(count: int, seed: int = 0, longest: int = 14) -> list[Rendered]:
    """Rows of various lengths whose second part is supervised, one of them with a gap in its mask."""
    rows = []
    for i in range(count):
        bits = seeds.random_bits(longest + 2, seed, "row", i)
        length = 4 + int(bits[0] % np.uint64(longest - 3))
        mask = np.arange(length) >= 1 + int(bits[1] % np.uint64(length - 2))
        rows.append(Rendered((3 + bits[2:2 + length] % np.uint64(300)).astype(np.int32), mask))
    ids = np.arange(10, 18, dtype=np.int32)
    rows[0] = Rendered(ids, np.array([0, 0, 1, 1, 0, 0, 1, 0], dtype=bool))
    return rows
