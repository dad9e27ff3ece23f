"""Which test rows belong to which subtask?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def places_of(subtasks: Sequence[str | None]) -> dict[str, np.ndarray]:
    """Subtask -> int64 places of its rows, ascending; subtasks in order of first appearance. Rows that name none are in
    none; a single subtask is the target itself, so nothing is told of it."""
    found: dict[str, list[int]] = {}
    for i, name in enumerate(subtasks):
        if name is not None:
            found.setdefault(name, []).append(i)
    return {name: np.array(places, np.int64) for name, places in found.items()} if len(found) > 1 else {}
