"""A user's own vectors or scores: ``--representation file:PATH``.

* Two-dimensional numbers are vectors of the pool rows. Their inner products after normalising compare pool rows
  with each other; with ``target_vectors`` their cosines to the targets are the similarities.
* One-dimensional numbers are scores, higher is better.

See :mod:`siftune.features.user_files` for what a file may look like. Large arrays stay on disk. A vector of
zeros has no direction: its cosine with everything is 0, and it is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftune._common.errors import ConfigError, DataError
from siftune.config.options import option
from siftune.features.base import Computed, Context
from siftune.features.centring import Centrable, centred
from siftune.features.cosines import cosines
from siftune.features.user_files import Supplied, read_supplied


@dataclass(frozen=True)
class FileSettings(Centrable):
    target_vectors: str = option("", "File with the vectors of the target rows, where the pool's file holds vectors.")


class FromFile:
    """Vectors or scores out of the file at ``path``."""

    Settings = FileSettings
    reads = ()
    name = "file"
    summary = "Your own vectors or scores: file:PATH (.npy, .parquet, .csv); target_vectors for similarities."
    paper = ""
    cost = "one read of the file"
    needs_target = False
    needs_model = False

    def __init__(self, path: str = ""):
        self.path = path

    def compute(self, context: Context) -> Computed:
        vectors_at = context.settings.target_vectors
        folder = context.folder / "store" / "file"
        with context.clock.measure("read vectors or scores"):
            pool = read_supplied(self.path, context.pool.ids, folder, kind="pool", flag="--representation")
            target = None
            if vectors_at:
                self._check_targets(context, pool)
                target = read_supplied(vectors_at, context.target.ids, folder, kind="target",
                                       flag="--set target_vectors")
        fingerprint: dict[str, Any] = {"file": pool.key, "targets": target.key if target else None}
        notes: dict[str, Any] = {"file": self.path, "extra_rows": pool.extra}
        if pool.array.ndim == 1:
            return Computed(scores=pool.array.astype(np.float64), fingerprint=fingerprint, notes=notes)
        notes |= {"vector_dim": pool.array.shape[1],
                  "zero_vectors": sum(int((~block.any(axis=1)).sum()) for _, block in pool.blocks())}
        if target is None:
            vectors, _, common = centred(context, lambda: unit_blocks(pool))
            return Computed(vectors=vectors, fingerprint=fingerprint, notes=notes | common)
        if target.array.shape[1:] != pool.array.shape[1:]:
            raise DataError(f"the vectors of the targets have the shape {list(target.array.shape)}, those of the pool "
                            f"{list(pool.array.shape)}", where=f"--set target_vectors={vectors_at}",
                            hint="make both with the same model")
        queries = np.concatenate([block for _, block in unit_blocks(target)])
        vectors, (lines,), common = centred(context, lambda: unit_blocks(pool), queries)
        assert lines is not None
        return Computed(blocks=cosines(vectors, lines), vectors=vectors, fingerprint=fingerprint, notes=notes | common)

    def _check_targets(self, context: Context, pool: Supplied) -> None:
        if pool.array.ndim == 1:
            raise ConfigError("scores cannot be compared with vectors of targets", where="--set target_vectors",
                              why=f"{self.path} holds one number for each row.",
                              hint="leave it out, or give vectors with --representation file:VECTORS.npy")
        if not len(context.target):
            raise ConfigError("there are vectors of targets but no targets", where="--set target_vectors",
                              hint="name the rows that they belong to with --target")


def unit_blocks(supplied: Supplied) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float32 [n, D] of length 1, or 0 where the vector is zero)."""
    for start, block in supplied.blocks():
        wide = block.astype(np.float64)
        wide /= np.maximum(np.abs(wide).max(axis=1, keepdims=True), 1e-300)  # squares neither over- nor underflow
        yield start, (wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)).astype(np.float32)
