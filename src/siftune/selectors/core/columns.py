"""The similarities of some rows to all targets, and whole matrices that may or may not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from siftune.selectors.core.problem import Problem

IN_MEMORY = 1 << 30
"""Bytes: a matrix of similarities up to that size is read once and held."""


def columns(stream: Callable[[], Iterator[tuple[int, np.ndarray]]], lines: int, rows: np.ndarray) -> np.ndarray:
    """float64 [lines, len(rows)]: the columns of these rows, in this order; one pass.

    Args:
        stream: starts a pass of (first row, [lines, n]).
        lines: M.
        rows: int64.
    """
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    out = np.empty((lines, len(rows)))
    for start, block in stream():
        first, end = np.searchsorted(ordered, [start, start + block.shape[1]])
        out[:, order[first:end]] = block[:, ordered[first:end] - start]
    return out


class Similarities:
    """The similarities of a problem, to be gone through many times: held where they fit, else read again each time."""

    def __init__(self, problem: Problem):
        self._problem, self._lines = problem, len(problem.targets)
        self.held = 8 * self._lines * len(problem) <= IN_MEMORY
        self._blocks = list(problem.stream()) if self.held else []

    def __call__(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, float64 [M, n])."""
        return iter(self._blocks) if self.held else self._problem.stream()

    def column(self, row: int) -> np.ndarray:
        """float64 [M]."""
        for start, block in self._blocks:
            if row < start + block.shape[1]:
                return block[:, row - start].copy()
        return columns(self, self._lines, np.array([row]))[:, 0]
