"""Rows of a store by what they contain, wherever they stand: how features are found again when a pool has changed.

Beside its arrays a shard keeps the digest of what the pass saw of each row (:data:`DIGEST`, uint8 [n, 16]: of token ids
and mask, or of the text), under the checksum of its file like all else. Ids and positions are not part of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siftune.features.store.row_keys import SIZE
from siftune.features.store.shards import FeatureStore, Shard

DIGEST = "digest"


class KeptRows:
    """The rows of the shards of a store that are whole; every file is read once for that.

    Attributes:
        store: where they are.
        damaged: shards that are there, but cannot be used, with the reason.
        unnamed: shards that were written before digests were kept.
    """

    def __init__(self, store: FeatureStore):
        self.store = store
        self.damaged: dict[Shard, str] = {}
        self.unnamed: list[Shard] = []
        self._maps: dict[int, dict[str, np.ndarray]] = {}  # of the shard that was read last
        found, rows = [], []
        for shard in store.shards():
            why = store.fault(shard)
            if why is not None:
                if why:
                    self.damaged[shard] = why
                continue
            digests = mapped(*store.about(shard)).get(DIGEST)
            if digests is None:
                self.unnamed.append(shard)
                continue
            found.append(np.array(digests))
            rows.append(np.arange(shard.start, shard.stop))
        keys = as_keys(np.concatenate(found)) if found else as_keys(np.zeros((0, SIZE), np.uint8))
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._rows = np.concatenate(rows)[order] if rows else np.zeros(0, np.int64)

    def find(self, digests: np.ndarray) -> np.ndarray:
        """int64 [n]: the row of the store that contains the same, -1 where there is none.

        Args:
            digests: uint8 [n, 16].
        """
        if not len(self._keys):
            return np.full(len(digests), -1, np.int64)
        keys = as_keys(digests)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._rows[at], -1)

    def whole_shard(self, rows: np.ndarray) -> Shard | None:
        """The shard that consists of exactly these rows in this order."""
        shard = self.store.shards()[int(rows[0]) // self.store.shard_rows]
        same = len(rows) == len(shard) and np.array_equal(rows, np.arange(shard.start, shard.stop))
        return shard if same else None

    def read(self, rows: np.ndarray, into: dict[str, np.ndarray], at: np.ndarray, count: int) -> None:
        """Copy the arrays of some rows; only what is copied is read, through a memory map.

        Args:
            rows: int64 [n], of :meth:`find`.
            into: name -> array [count, ...]; those that are missing are made.
            at: int64 [n], where the rows go.
            count: of rows that ``into`` is for.

        Raises:
            StoreCorrupt: a shard was damaged since.
        """
        of = rows // self.store.shard_rows
        for index in np.unique(of).tolist():
            some = np.flatnonzero(of == index)
            shard = self.store.shards()[index]
            if index not in self._maps:
                self._maps = {index: mapped(*self.store.about(shard))}
            for name, array in self._maps[index].items():
                if name not in into:
                    into[name] = np.empty((count, *array.shape[1:]), array.dtype)
                into[name][at[some]] = array[rows[some] - shard.start]


def as_keys(digests: np.ndarray) -> np.ndarray:
    """Digests, uint8 [n, 16], as what NumPy sorts and compares: ``S16`` [n]. (It overlooks zeros at the end of a text,
    which makes no two of the same length alike.)"""
    return np.ascontiguousarray(digests).view(f"S{SIZE}").reshape(-1)


def mapped(path: Path, about: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a shard's file by name, memory-mapped.

    Args:
        path, about: see :meth:`~siftune.features.store.FeatureStore.about`.
    """
    raw = np.memmap(path, np.uint8, mode="r")
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")  # safetensors: length of the header, header, arrays
    header = json.loads(raw[8:start].tobytes())
    found = {}
    for name, (dtype, shape) in about["arrays"].items():
        first, stop = header[name]["data_offsets"]
        found[name] = raw[start + first : start + stop].view(dtype).reshape(shape)
    return found


def rows_of_shards(shards: Sequence[Shard]) -> np.ndarray:
    """int64: the rows of shards, one after the other."""
    return np.concatenate([np.arange(shard.start, shard.stop) for shard in shards])
