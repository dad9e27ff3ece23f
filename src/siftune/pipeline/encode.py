"""Features of rows as arrays: what a method computes of them, without selecting anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.config.catalogue import METHODS, RECIPES, owner_of
from siftune.config.options import shown
from siftune.config.owned import own_names
from siftune.config.settings import SelectConfig
from siftune.data.rows import Examples
from siftune.features.base import Computed, Context
from siftune.features.collect import check as check_collect
from siftune.pipeline.features_home import features_home
from siftune.pipeline.recipes import representation_of
from siftune.pipeline.runfolder import prepare
from siftune.pipeline.select import load, read_inputs

UNTARGETED = ("less", "logra")
"""Representations that compare with targets when rows are selected, but whose vectors of rows do not depend on them."""


@dataclass(frozen=True, eq=False)
class Features:
    """What a method knows of rows, one line a row. NumPy takes it as an array: ``np.asarray(features)``.

    Attributes:
        ids: of the N usable rows, in their order.
        array: see ``kind``.
        kind: ``vectors``, float32 [N, D], whose inner products are the similarities between rows; ``scores``, float64
            [N], higher is better; ``similarities``, float32 [N, M] to each of ``columns``; ``sets``, a
            ``scipy.sparse.csr_array`` [N, F] of 0 and 1, the features that a row covers.
        representation: its name.
        columns: of similarities: ids of the targets, or names of subtasks where rows are compared with those.
    """

    ids: list[str]
    array: Any
    kind: Literal["vectors", "scores", "similarities", "sets"]
    representation: str
    columns: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        dense = self.array.toarray() if self.kind == "sets" else self.array
        return np.array(dense, dtype=dtype) if copy else np.asarray(dense, dtype=dtype)

    def __repr__(self) -> str:
        return f"Features({self.representation}: {self.kind} {list(self.array.shape)})"


def encode(config: SelectConfig, representation: str) -> Features:
    """Compute the features of a configuration's pool.

    Args:
        config: pool (the rows to encode), model and settings, with an output folder.
        representation: a method of `siftune methods`, or the recipe of one.

    Raises:
        ConfigError: an unknown representation, one that needs a target and has none, or one that keeps nothing a row.
        SiftuneError: whatever the representation refuses.
    """
    name = _name_of(representation)
    made = representation_of(name)
    free = "vectors" in getattr(made, "without_target", ()) or name in UNTARGETED
    if made.needs_target and not config.target and not free:
        raise ConfigError(f"{name} is made by comparing rows with targets, and there are none", where="target",
                          hint="give target=rows of what the model must learn, or choose one that needs none: "
                               f"{', '.join(_need_none())}")
    if "keep_features" in own_names(owner_of(name)):  # what is wanted are features, not scores
        config = config.with_own({owner_of(name): {"keep_features": True}})
    prepare(config.output_dir)
    check_collect(config, made)
    inputs = read_inputs(config)
    target = inputs.target
    if name in UNTARGETED and not len(target):
        target = Examples(inputs.pool.rows[:1], inputs.pool.rendered[:1])  # any will do: its features are not returned
    home = features_home(config, inputs.pool)
    context = Context(config, inputs.pool, target, inputs.render, home.folder, load, existing=inputs.existing,
                      owner=owner_of(name), earlier=home.earlier)
    return _as_array(made.compute(home.told(context)), inputs.pool.ids, target.ids, name)


def _name_of(representation: str) -> str:
    if not isinstance(representation, str):
        raise ConfigError(f"representation cannot be {shown(representation)}", where="representation",
                          hint="give the name of a method, such as rds")
    if representation in RECIPES and representation not in METHODS:
        representation = RECIPES[representation].representation
    if not representation.startswith("file:") and representation not in METHODS:
        raise unknown_name("representation", representation, METHODS.names(), flag="representation")
    if representation in ("none", "utility"):
        why = {"none": "It looks at no row.", "utility": "It is a number a pair of rows."}[representation]
        raise ConfigError(f"{representation} keeps no features of single rows", where="representation", why=why,
                          hint=f"choose one of: {', '.join(_per_row())}")
    return representation


def _per_row() -> list[str]:
    return [name for name in METHODS.names() if name not in ("none", "utility", "file")]


def _need_none() -> list[str]:
    """Names of the representations that can be had without a target."""
    found = {name: representation_of(name) for name in _per_row()}
    return [name for name, one in found.items()
            if not one.needs_target or "vectors" in getattr(one, "without_target", ()) or name in UNTARGETED]


def _as_array(found: Computed, ids: list[str], targets: list[str], name: str) -> Features:
    if found.vectors is not None:
        return Features(ids, _joined(found.vectors(), 0), "vectors", name)
    if found.scores is not None:
        return Features(ids, np.array(found.scores, dtype=np.float64), "scores", name)
    if found.blocks is not None:
        similarities = np.ascontiguousarray(_joined(found.blocks(), 1).T)
        return Features(ids, similarities, "similarities", name, list(found.lines or targets))
    if found.sets is not None:
        return Features(ids, found.sets(), "sets", name)
    raise ConfigError(f"{name} keeps no features of single rows", where="representation",
                      hint=f"choose one of: {', '.join(_per_row())}")


def _joined(blocks: Any, axis: int) -> np.ndarray:
    return np.concatenate([np.asarray(block, dtype=np.float32) for _, block in blocks], axis=axis)
