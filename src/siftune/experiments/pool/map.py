"""A map of the pool in two dimensions, ``map.json`` in the folder of a study.

The plane is that of the first two principal components of the rows' unit vectors in one representation that the study
has anyway. It is fitted on at most :data:`FIT` rows, whose Gram matrix is made column range by column range; then every
row is projected onto it, a few hundred at a time. Nothing of the size N x N or N x D is in memory.

The targets need no vectors of their own. With the centred rows X_c = U diag(s) V^T the k-th axis is v_k = X_c^T u_k /
s_k, so that a target t lies at <t, v_k> = sum_j u_jk S[t, j] / s_k, where S are the similarities that the methods use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.artefacts.sealed import read_self_sealed, self_sealed
from siftune._common.errors import SiftuneError
from siftune._common.files import write_text
from siftune._common.progress import bar, log
from siftune._common.seeds import permutation
from siftune.experiments.config import representation_named
from siftune.experiments.selecting import Selecting
from siftune.features.base import Computed
from siftune.selectors.core.problem import Blocks

SPACES = ("embed", "rds", "less", "logra", "gist", "file")
"""Representations whose similarities are inner products of unit vectors, the first that a study has is drawn."""
FIT = 2000  # rows that the plane is fitted on, at most
TARGETS = 500  # rows of one target that are drawn, at most
STEPS = 4096  # coordinates are whole numbers below it
_SLICE = 256  # rows that are widened to float64 at once
_COLUMNS = 1024  # of the Gram matrix's sum, at once
_FORM = 1  # of the file


@dataclass(frozen=True)
class Plane:
    """The first two principal components of some rows' unit vectors.

    Attributes:
        sample: int64 [L], ascending: the rows it was fitted on.
        norms: float64 [L], lengths of their vectors.
        left: float64 [L, 2], U of their centred unit vectors.
        scale: float64 [2], singular values; 0 where there is no further direction.
        axes: float64 [D, 2], of length 1, or 0.
        mean: float64 [D].
    """

    sample: np.ndarray
    norms: np.ndarray
    left: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    mean: np.ndarray


def fit_plane(vectors: Blocks, rows: int, *, seed: int = 0, most: int = FIT) -> Plane:
    """Principal component analysis of unit vectors (Hotelling 1933) by the Gram matrix of at most ``most`` rows.

    Args:
        vectors: streamed (first row, [n, D]); they are normalised here.
        rows: N.
        seed: of the rows that are drawn where there are more than ``most``.
    """
    from scipy.linalg import eigh

    sample = np.sort(permutation(rows, seed, "map plane")[:most])
    parts, norms = [], []
    for start, block in vectors():
        unit, norm = _unit(block[sample[(sample >= start) & (sample < start + len(block))] - start])
        parts.append(unit.astype(np.float32))
        norms.append(norm)
    X = np.concatenate(parts)  # float32 [L, D]
    mean = X.mean(axis=0, dtype=np.float64)
    gram = np.zeros((len(X), len(X)))
    for columns in _ranges(X.shape[1], _COLUMNS):
        part = X[:, columns].astype(np.float64) - mean[columns]
        gram += part @ part.T
    last = len(X) - 1
    values, left = eigh(gram, subset_by_index=[max(0, last - 1), last])
    values, left = values[::-1], left[:, ::-1]
    if len(values) < 2:
        values, left = np.append(values, 0.0), np.hstack([left, np.zeros((len(X), 1))])
    # What rounding leaves of a direction that is not there is none.
    real = values > max(float(np.trace(gram)), 1e-30) * 1e-9
    left = np.where(real, left * np.where(left[np.abs(left).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0), 0.0)
    scale = np.sqrt(np.where(real, values, 0.0))
    axes = np.zeros((X.shape[1], 2))
    for columns in _ranges(X.shape[1], _COLUMNS):
        part = X[:, columns].astype(np.float64) - mean[columns]
        axes[columns] = part.T @ left / np.where(real, scale, 1.0)
    return Plane(sample, np.concatenate(norms), left, scale, axes, mean)


def place_rows(plane: Plane, vectors: Blocks, rows: int) -> tuple[np.ndarray, list[float]]:
    """Where all rows lie.

    Returns:
        float64 [N, 2], and the share of the variance of all N unit vectors along each of the two axes.
    """
    places, total, summed = np.zeros((rows, 2)), 0.0, np.zeros(len(plane.mean))
    for start, block in vectors():
        for some in _ranges(len(block), _SLICE):
            unit, _ = _unit(block[some])
            places[start + some.start : start + some.stop] = (unit - plane.mean) @ plane.axes
            total += float((unit**2).sum())
            summed += unit.sum(axis=0)
    variance = total / rows - float(((summed / rows) ** 2).sum())
    along = places.var(axis=0)
    return places, [float(v / variance) if variance > 1e-12 else 0.0 for v in along]


def place_targets(plane: Plane, similarities: Blocks) -> np.ndarray:
    """Where unit vectors lie of which only the inner products with the pool's vectors are known: float64 [M, 2].

    Args:
        similarities: streamed (first row, [M, n]).
    """
    found: np.ndarray | float = 0.0
    for start, block in similarities():
        here = np.flatnonzero((plane.sample >= start) & (plane.sample < start + block.shape[1]))
        part = np.asarray(block[:, plane.sample[here] - start], dtype=np.float64)
        found = found + (part / np.maximum(plane.norms[here], 1e-300)) @ plane.left[here]
    # The columns of U add up to zero, so that the mean of the rows falls out of <t - mean, x_j - mean> but for this:
    return found / np.where(plane.scale > 0, plane.scale, 1.0) - plane.mean @ plane.axes


def whole_numbers(places: np.ndarray, low: np.ndarray, span: float) -> np.ndarray:
    """int64 [n, 2] in [0, STEPS): both axes on one scale."""
    return np.clip(np.rint((places - low) * ((STEPS - 1) / span)), 0, STEPS - 1).astype(np.int64)


def pool_map(selecting: Selecting, shown: np.ndarray, path: Path) -> None:
    """Write the map, unless it is there already for the same rows and vectors.

    The file holds ``representation``, ``dimensions``, ``fitted`` (rows), ``variance`` (shares of both axes), ``rows``
    (shown), ``x``, ``y``, ``width``, ``height`` and ``targets`` (name, rows, x, y); or ``none``, why there is no map. A
    failure is told there and ends nothing; the next run tries again.

    Args:
        shown: int64 [n], ascending: the pool rows that are drawn.
        path: of ``map.json``.
    """
    names = [target.name for target in selecting.config.targets]
    spaces = _spaces(selecting)
    told = {"form": _FORM, "shown": hashlib.blake2b(shown.tobytes(), digest_size=16).hexdigest(), "spaces": [
        [space, *(selecting.output_key(space, name) for name in names)] for space in spaces]}
    key = hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()
    if (kept := read_self_sealed(path)) is not None and kept.get("key") == key:
        return
    made: dict[str, Any] = {"none": "the methods of this study give no vectors of the rows that can be drawn: a map "
                                    f"takes one of {', '.join(SPACES[:-1])} (less where it keeps features: "
                                    "keep_features)"}
    failed = False
    for space in spaces:
        try:
            found = _drawn(selecting, space, names, shown)
        except Exception as error:  # the trainings need no map
            why = error.what if isinstance(error, SiftuneError) else f"{type(error).__name__}: {error}"
            log(f"warning: no map by {space}: {why}")
            made, failed = {"none": f"the vectors of {space} could not be had: {why}"}, True
            continue
        if found is not None:
            made, failed = found, False
            break
    write_text(path, json.dumps(self_sealed({"key": "" if failed else key, **made}), separators=(",", ":"),
                                ensure_ascii=False))


def _spaces(selecting: Selecting) -> list[str]:
    """Representations of the study whose vectors can be drawn, the preferred first."""
    config = selecting.config
    named = {representation_named(n, config.common) for n in (*config.methods, *config.deciles)}
    if len(config.targets) > 1:  # it has other vectors of the pool for each of them
        named.discard("gist")
    kinds = {name: name.partition(":")[0] for name in named}
    return sorted((n for n in named if kinds[n] in SPACES), key=lambda n: (SPACES.index(kinds[n]), n))


def _drawn(selecting: Selecting, space: str, names: list[str], shown: np.ndarray) -> dict[str, Any] | None:
    """The content of the file; None where a representation gives no vectors."""
    seed, rows = selecting.config.common.seed, len(selecting.inputs.pool)
    vectors = selecting.output(space, names[0])[0].vectors
    if vectors is None:
        return None
    with bar("map of the pool", 2 + len(names), "steps") as progress:
        plane = fit_plane(vectors, rows, seed=seed)
        progress.advance()
        every, variance = place_rows(plane, vectors, rows)
        progress.advance()
        pool, targets, width = every[shown], [], len(plane.mean)
        for name in names:
            output = selecting.output(space, name)[0]
            if _are_inner_products(selecting, space, output):
                assert output.blocks is not None
                there = place_targets(plane, output.blocks)
                drawn = np.sort(permutation(len(there), seed, "map targets", name)[:TARGETS])
                targets.append((name, len(there), there[drawn]))
            progress.advance()
    everything = np.concatenate([pool, *(there for _, _, there in targets)])
    low, size = everything.min(axis=0), np.ptp(everything, axis=0)
    span = max(float(size.max()), 1e-12)
    x, y = whole_numbers(pool, low, span).T.tolist()
    high = np.rint(size * ((STEPS - 1) / span)).astype(int).tolist()
    return {
        "representation": space, "dimensions": width, "pool": rows, "fitted": len(plane.sample),
        "variance": [round(share, 4) for share in variance], "width": high[0], "height": high[1],
        "rows": shown.tolist(), "x": x, "y": y,
        "targets": [{"name": name, "rows": count, **dict(zip("xy", whole_numbers(there, low, span).T.tolist(),
                                                             strict=True))} for name, count, there in targets],
    }


def _are_inner_products(selecting: Selecting, space: str, output: Computed) -> bool:
    """Whether the similarities to the targets are those of the vectors, so that the targets can be placed by them."""
    own = selecting.config.common.settings_of(space)
    other = getattr(own, "damping", 0) > 0 or getattr(own, "gradient_score", "cosine") != "cosine"
    return output.blocks is not None and not output.lines and not other


def _unit(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [n, D] of length 1 (or 0, where a vector is zero), and the lengths before that, [n]."""
    wide = np.asarray(block, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=1)
    return wide / np.maximum(norms, 1e-300)[:, None], norms


def _ranges(count: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
