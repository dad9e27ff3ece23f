"""How feature matrices are stored: from four bytes a number down to one bit.

Features are unit vectors that are only ever multiplied with full-precision queries, so few bits suffice for a
ranking; what each type costs in ranking error is measured in docs/gradients.md.

* ``float32``, ``float16``: as they are.
* ``bfloat16``: the upper half of float32, rounded to nearest, ties to even; kept as uint16.
* ``int8``: per row, x / max|x| * 127, rounded; the scale is float32.
* ``1bit``: the signs, eight to a byte; read back as +-1/sqrt(d). The query keeps its precision, so the inner product
  is that of a sign random projection (asymmetric; Charikar 2002).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import get_args

import numpy as np

from siftune.config.settings import FeatureDtype

DTYPES = get_args(FeatureDtype)


def encode(name: str, features: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """The arrays that a shard keeps for a feature matrix.

    Args:
        name: of the feature, for example ``feature``.
        features: float32 [n, d].
        dtype: one of ``DTYPES``.

    Returns:
        Arrays of n rows each; their names begin with ``name`` and tell the type.
    """
    features = np.ascontiguousarray(features, dtype=np.float32)
    if dtype == "float32":
        return {name: features}
    if dtype == "float16":
        return {name: features.astype(np.float16)}
    if dtype == "bfloat16":
        bits = features.view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return {f"{name}.bfloat16": (rounded >> np.uint32(16)).astype(np.uint16)}
    if dtype == "int8":
        scale = np.abs(features).max(axis=1) / np.float32(127)
        whole = np.rint(features / np.maximum(scale, np.float32(1e-30))[:, None]).astype(np.int8)
        return {f"{name}.int8": whole, f"{name}.scale": scale}
    if dtype == "1bit":
        width = np.full(len(features), features.shape[1], np.int32)
        return {f"{name}.1bit": np.packbits(features >= 0, axis=1), f"{name}.width": width}
    raise ValueError(f"unknown feature dtype {dtype!r}")


def decode(name: str, stored: Collection[str], read: Callable[[str], np.ndarray]) -> np.ndarray:
    """The feature matrix back as float32 [n, d].

    Args:
        name: of the feature.
        stored: names of the arrays of the shard.
        read: reads one of them.
    """
    if f"{name}.bfloat16" in stored:
        return (read(f"{name}.bfloat16").astype(np.uint32) << np.uint32(16)).view(np.float32)
    if f"{name}.int8" in stored:
        return read(f"{name}.int8") * read(f"{name}.scale")[:, None]
    if f"{name}.1bit" in stored:
        width = int(read(f"{name}.width")[0])
        signs = np.unpackbits(read(f"{name}.1bit"), axis=1, count=width).astype(np.float32)
        return (signs * 2 - 1) * np.float32(1 / np.sqrt(width))
    return read(name).astype(np.float32, copy=False)


def bytes_per_row(dim: int, dtype: str) -> int:
    """What one row of ``dim`` numbers takes."""
    arrays: Mapping[str, np.ndarray] = encode("x", np.ones((1, dim), np.float32), dtype)
    return sum(array.nbytes for array in arrays.values())
