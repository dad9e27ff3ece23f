"""Streamed blocks that are computed once: the first whole pass writes them down, those that follow read.

Selecting takes several passes over the similarities of a pool, and computing them is most of each. They are written to
a file without a name, which the system removes when nobody has it open any more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from siftune.features.base import Computed
from siftune.selectors.core.problem import Blocks

MOST_BYTES = 1 << 29
"""That are written: blocks of more are computed in every pass."""


class Once:
    """Blocks that are computed in the first whole pass alone; the very same numbers in each.

    Args:
        blocks: streamed (first row, [M, n]), which starts a new pass whenever it is called.
        folder: for the file; made where it is not there.
    """

    def __init__(self, blocks: Blocks, folder: Path):
        self._blocks, self._folder = blocks, folder
        self._file: Any | None = None
        self._places: list[tuple[int, tuple[int, ...], np.dtype]] = []  # first row, shape and dtype of each block

    def __call__(self) -> Iterator[tuple[int, np.ndarray]]:
        return self._computed() if self._file is None else _read(self._file, self._places)

    def _computed(self) -> Iterator[tuple[int, np.ndarray]]:
        file, places, room = self._opened(), [], MOST_BYTES
        for start, block in self._blocks():
            room -= block.nbytes
            if file is not None and (room < 0 or not _written(file, block)):
                file.close()
                file = None
            places.append((start, block.shape, block.dtype))
            yield start, block
        self._file, self._places = file, places

    def _opened(self) -> Any | None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryFile(dir=self._folder, buffering=0)
        except OSError:
            return None


def similarities_once(found: Computed, folder: Path) -> Computed:
    """What a representation knows, its similarities computed in the first pass alone."""
    blocks, subtasks = (None if one is None else Once(one, folder) for one in (found.blocks, found.subtask_blocks))
    return replace(found, blocks=blocks, subtask_blocks=subtasks)


def _written(file: Any, block: np.ndarray) -> bool:
    """Write a block; False where there is no room for it."""
    left = np.ascontiguousarray(block).data.cast("B") if block.size else memoryview(b"")
    try:
        while left:
            left = left[file.write(left) :]
    except OSError:
        return False
    return True


def _read(file: Any, places: list[tuple[int, tuple[int, ...], np.dtype]]) -> Iterator[tuple[int, np.ndarray]]:
    at = 0
    for start, shape, dtype in places:
        block = np.empty(shape, dtype)
        left = block.data.cast("B") if block.size else memoryview(b"")
        file.seek(at)  # another pass may have read meanwhile
        at += len(left)
        while left:
            count = file.readinto(left)
            if not count:
                raise OSError("a temporary file has become shorter")
            left = left[count:]
        yield start, block
