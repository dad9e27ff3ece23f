"""Tiny runs for the tests of gradient representations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from siftune.config.owned import own_fields
from siftune.config.settings import SelectConfig
from siftune.config.shared import shared_names
from siftune.data.rows import Examples, Message, Rendered, Row
from siftune.features.base import Context
from siftune.models.loading import LoadedModel, weights_hash
from tests import tiny

CONFIG = SelectConfig(lora_rank=2, lora_alpha=8.0, batch_tokens=64, shard_rows=5)
OWN = {"warmup_epochs": 3, "warmup_rows": 8, "warmup_share": 0.1, "warmup_learning_rate": 5e-3, "warmup_batch_size": 4,
       "projection_dim": 96, "training_learning_rate": 5e-3, "training_batch_size": 4}
"""Settings of methods, for those that have them."""


def examples(n: int, seed: int, subtasks: tuple[str, ...] = ()) -> Examples:
    rng = np.random.default_rng(seed)
    rows, rendered = [], []
    for i in range(n):
        length = int(rng.integers(6, 24))
        mask = np.zeros(length, bool)
        mask[-int(rng.integers(1, 4)):] = True
        rendered.append(Rendered(rng.integers(3, 384, length).astype(np.int32), mask))
        subtask = subtasks[i % len(subtasks)] if subtasks else None
        rows.append(Row(f"{seed}-{i:02d}", "made", f"made:{i}", (Message("user", "x"),), json.dumps({"i": i}), "", "",
                        subtask))
    return Examples(rows, rendered)


def configured(config: SelectConfig, owner: str, **changes: Any) -> SelectConfig:
    """With other settings: shared ones, and those of a method, all by name."""
    shared = {name: changes.pop(name) for name in list(changes) if name in shared_names(SelectConfig)}
    return dataclasses.replace(config, **shared).with_own({owner: changes})


def for_method(owner: str) -> Callable[..., Context]:
    """:func:`context` of a method."""
    return partial(context, owner=owner)


def context(folder, *, owner: str, **changes) -> Context:
    model = tiny.model(changes.pop("architecture", "llama"), seed=changes.pop("model_seed", 0))
    model.requires_grad_(False)
    loaded = LoadedModel(model, tiny.tokenizer(), "tiny", "cpu", "float32", weights_hash(model))
    own = {name: value for name, value in OWN.items() if name in own_fields(owner)}
    config = configured(CONFIG, owner, **{**own, **changes})
    # Subtasks of different sizes, interleaved: neither position nor equal size may matter.
    return Context(config, examples(13, 1), examples(5, 2, ("b", "a", "b")), {"template": "none"}, folder,
                   lambda config: loaded, owner=owner)


def tiny_model(config: SelectConfig) -> LoadedModel:
    """At the top of a module, since worker processes load it too."""
    model = tiny.model("llama")
    model.requires_grad_(False)
    return LoadedModel(model, tiny.tokenizer(), "tiny", "cpu", "float32", weights_hash(model))


def whole(blocks) -> np.ndarray:
    return np.concatenate([block for _, block in blocks()], axis=1)
