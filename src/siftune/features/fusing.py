"""Several signals as one: similarities of different methods, made comparable and added up while they stream.

Two forms, for signals S_k [M, N] of M targets and N pool rows with weights w_k:

    zsum:  S[m, j] = sum_k w_k (S_k[m, j] - mean_j S_k[m, j]) / sd_j S_k[m, j]
    rrf:   S[m, j] = sum_k w_k / (60 + rank_k[m, j])

The z-scores are those of each target over the pool (sd of the N rows); a signal that is the same for all rows says
nothing of them and adds 0. Ranks (reciprocal rank fusion, Cormack et al. 2009) begin at 1; rows with equal similarities
have the same rank, one more than the number of rows that are better. Neither depends on the order of the pool, nor on
the blocks that a signal comes in: sums over the pool are exact (:mod:`siftune.selectors.core.spread`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from siftune._common.errors import SiftuneError
from siftune.selectors.core.problem import Blocks
from siftune.selectors.core.spread import Spread

RANK_OFFSET = 60.0
IN_MEMORY = 1 << 28
"""Bytes: ranks of more are held in a file, and made for so many lines at a time."""

_BLOCK_ROWS = 4096


def aligned(streams: Sequence[Blocks]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(first row, one [M, n] of every stream): the same rows of all, whatever blocks each comes in.

    Raises:
        SiftuneError: the streams are not of the same length.
    """
    running = [blocks() for blocks in streams]
    current = [next(one, None) for one in running]
    at = 0
    while all(held is not None for held in current):
        held = [block for block in current if block is not None]
        stop = min(start + block.shape[1] for start, block in held)
        if stop > at:
            yield at, [block[:, at - start : stop - start] for start, block in held]
        at = stop
        current = [next(one, None) if start + block.shape[1] == stop else (start, block)
                   for one, (start, block) in zip(running, held, strict=True)]
    if any(held is not None for held in current):
        raise SiftuneError(f"the signals are not of the same pool: one ends at row {at}")


def z_sum(signals: Sequence[Blocks], weights: Sequence[float], spreads: Sequence[Spread]) -> Blocks:
    """Streamed float64 [M, n]: the weighed sum of the z-scores."""

    def stream() -> Iterator[tuple[int, np.ndarray]]:
        for start, blocks in aligned(signals):
            total = np.zeros(blocks[0].shape)
            for block, weight, spread in zip(blocks, weights, spreads, strict=True):
                total += weight * spread.z_scores(block)
            yield start, total

    return stream


def competition_ranks(lines: np.ndarray) -> np.ndarray:
    """int64 [M, N]: 1 + how many entries of the same line are larger.

    Args:
        lines: [M, N].
    """
    ordered = np.sort(lines, axis=1)
    return np.stack([len(line) - np.searchsorted(kept, line, side="right") + 1
                     for line, kept in zip(lines, ordered, strict=True)])


def reciprocal_ranks(signals: Sequence[Blocks], weights: Sequence[float], lines: int, rows: int, folder: Path,
                     ) -> Blocks:
    """Streamed float64 [M, n]: the weighed sum of 1 / (60 + rank).

    A rank needs the whole pool: they are made when first asked for, some targets at a time, and held, in a file without
    a name below ``folder`` where they take more than :data:`IN_MEMORY`.

    Args:
        signals, weights: one of each per signal.
        lines, rows: M and N.
        folder: for that file.
    """
    made: list[np.ndarray] = []

    def stream() -> Iterator[tuple[int, np.ndarray]]:
        if not made:
            made.append(_fused_ranks(signals, weights, lines, rows, folder))
        for start in range(0, rows, _BLOCK_ROWS):
            yield start, np.array(made[0][:, start : start + _BLOCK_ROWS])

    return stream


def _fused_ranks(signals: Sequence[Blocks], weights: Sequence[float], lines: int, rows: int, folder: Path,
                 ) -> np.ndarray:
    if 8 * lines * rows <= IN_MEMORY:
        fused = np.zeros((lines, rows))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # the map keeps the file; the system removes it after that
            fused = np.memmap(file, np.float64, "w+", shape=(lines, rows))
    at_once = max(1, IN_MEMORY // (16 * rows))
    for blocks, weight in zip(signals, weights, strict=True):
        for first in range(0, lines, at_once):
            some = slice(first, min(first + at_once, lines))
            whole = np.empty((some.stop - first, rows))
            for start, block in blocks():
                whole[:, start : start + block.shape[1]] = block[some]
            fused[some] += weight / (RANK_OFFSET + competition_ranks(whole))
    return fused
