"""Distances of the subsets of a study to the targets they are scored on, kept in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.artefacts import read_usable, write_sealed
from siftune._common.errors import SiftuneError
from siftune._common.progress import bar, log
from siftune.experiments.analysis.distance import LARGEST, cosine_distances, nearest_neighbour_distance, wasserstein_1
from siftune.experiments.config import representation_named
from siftune.experiments.selecting import Selecting
from siftune.experiments.subsets import Subset

_KIND = "distances"

COSINES = ("less", "gist", "logra", "embed", "rds", "file")
"""Representations whose similarities are cosines; others have no distance, though theirs may lie between -1 and 1."""

Distances = dict[str, dict[str, dict[str, dict[str, float | None]]]]
"""Subset id -> representation -> target -> ``nearest`` and ``wasserstein`` (None where too large to compute)."""


def distances(selecting: Selecting, subsets: Sequence[Subset], path: Path) -> Distances:
    """Distances in every representation of the study that compares by cosine. The full pool is left out.

    Args:
        selecting: with the output of the representations.
        subsets: of the study.
        path: of the file where they are kept; computed are those that it lacks.
    """
    config = selecting.config
    some = [s for s in subsets if not s.error and s.wanted.name != "full"]
    names = sorted({name for n in (*config.methods, *config.deciles)
                    if (name := representation_named(n, config.common)).partition(":")[0] in COSINES})
    kept: dict[str, Any] = read_usable(path, _KIND, "") or {}
    found: Distances = {s.wanted.id: {} for s in some}
    with bar("distances", len(names) * len(config.targets), "pairs") as progress:
        for representation in names:
            for target in (t.name for t in config.targets):
                mine = [s for s in some if s.wanted.target in (None, target)]
                told = _of(selecting, representation, target, mine, kept)
                for subset, one in zip(mine, told, strict=True):
                    if one is not None:
                        found[subset.wanted.id].setdefault(representation, {})[target] = one
                write_sealed(path, _KIND, "", kept)
                progress.advance()
    return found


def _of(selecting: Selecting, representation: str, target: str, subsets: Sequence[Subset],
        kept: dict[str, Any]) -> list[dict[str, float | None] | None]:
    """Distances of each subset; None for a representation without distances. Adds to ``kept``."""
    about = selecting.output_key(representation, target)
    if kept.get(about) == "none":
        return [None] * len(subsets)
    keys = [f"{about} {hashlib.blake2b(np.sort(s.rows).tobytes(), digest_size=8).hexdigest()}" for s in subsets]
    missing = {key: s.rows for key, s in zip(keys, subsets, strict=True) if key not in kept}
    if missing:
        try:
            rows = np.unique(np.concatenate(list(missing.values())))
            similar = _columns(selecting, representation, target, rows)
            if similar is None:
                kept[about] = "none"
                return [None] * len(subsets)
            apart = cosine_distances(similar)
        except SiftuneError as error:  # it has been told with the subsets, or is no distance
            log(f"no distances by {representation} for {target}: {error.what} {error.why or ''}".rstrip())
            return [None] * len(subsets)
        except Exception as error:
            log(f"no distances by {representation} for {target}: {type(error).__name__}: {error}")
            return [None] * len(subsets)
        for key, some in missing.items():
            mine = apart[:, np.searchsorted(rows, some)]
            kept[key] = {"nearest": nearest_neighbour_distance(mine),
                         "wasserstein": wasserstein_1(mine) if mine.size <= LARGEST else None}
    return [kept[key] for key in keys]


def _columns(selecting: Selecting, representation: str, target: str, rows: np.ndarray) -> np.ndarray | None:
    """float64 [M, len(rows)]: similarities of some pool rows, ascending, to the targets; None where there are none."""
    output, _ = selecting.output(representation, target)
    if output.blocks is None:
        return None
    parts = []
    for start, block in output.blocks():
        here = rows[(rows >= start) & (rows < start + block.shape[1])]
        if len(here):
            parts.append(np.asarray(block[:, here - start], dtype=np.float64))
    return np.concatenate(parts, axis=1)
