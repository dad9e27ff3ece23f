"""Z-scores of similarities: how far above a target's mean over the pool a row is, in its standard deviations.

Mean and standard deviation are those of the N rows (not N - 1). Sums over the pool are exact
(:mod:`siftune.selectors.core.exact_sums`), so neither its order nor the width of a block changes a z-score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from siftune.selectors.core.exact_sums import ExactSums


@dataclass(frozen=True)
class Spread:
    """Where the similarities of each target lie, over the pool.

    Attributes:
        low, span: float64 [M], the smallest and the distance to the largest.
        mean, sd: float64 [M], of (S - low) / span; sd is 0 where all rows are equally similar.
    """

    low: np.ndarray
    span: np.ndarray
    mean: np.ndarray
    sd: np.ndarray

    @classmethod
    def of(cls, blocks: Callable[[], Iterator[tuple[int, np.ndarray]]]) -> Spread:
        """Two passes over (first row, S[M, n]); there is at least one row."""
        ends = [(block.min(axis=1), block.max(axis=1)) for _, block in blocks() if block.shape[1]]
        low = np.min([one for one, _ in ends], axis=0).astype(np.float64)
        span = np.max([one for _, one in ends], axis=0).astype(np.float64) - low
        raw, rows = cls(low, span, np.zeros(len(low)), np.ones(len(low))), 0
        sums, squares = ExactSums(len(low)), ExactSums(len(low))
        for _, block in blocks():
            part = raw.unit(block)
            squares.add(part * part)
            sums.add(part)
            rows += block.shape[1]
        mean = sums.values / rows
        sd = np.sqrt(np.maximum(squares.values / rows - mean**2, 0))
        return cls(low, span, mean, np.where(span > 0, sd, 0.0))

    def unit(self, block: np.ndarray) -> np.ndarray:
        """float64 [M, n] in [0, 1]."""
        return (block - self.low[:, None]) / np.where(self.span > 0, self.span, 1.0)[:, None]

    def z_scores(self, block: np.ndarray) -> np.ndarray:
        """float64 [M, n]; 0 for a target to which all rows are equally similar."""
        known = self.sd > 0
        scale = np.where(known, 1 / np.where(known, self.sd, 1.0), 0.0)
        return (self.unit(block) - self.mean[:, None]) * scale[:, None]
