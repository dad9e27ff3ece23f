"""Ctrl-C in the middle of a pass, at a moment of the test's choosing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np

from siftune.features.store import FeatureStore, Shard


@contextmanager
def stopped_after(shards: int) -> Iterator[None]:
    """Inside, so many shards of features are written (by this process); the next one raises KeyboardInterrupt."""
    real, written = FeatureStore.write, []

    def write(self: FeatureStore, shard: Shard, arrays: dict[str, np.ndarray]) -> None:
        if len(written) == shards:
            raise KeyboardInterrupt
        written.append(shard)
        real(self, shard, arrays)

    with patch.object(FeatureStore, "write", write):
        yield
