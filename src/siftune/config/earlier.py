"""What the first edition called its settings, when all of them were flags of every command.

A run folder of that time holds a ``config.yaml`` with every one of them; it is still read. Typed today they are refused
with the words to type instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WARMED_UP, _GRADIENTS = ("less", "gist"), ("less", "gist", "logra")
_TURNS, _ACTIVE = ("round-robin", "round-robin-subtask"), ("mads", "nag")

OWNERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("warmup_share", "warmup_rows", "warmup_epochs", "checkpoints"), _WARMED_UP),
    **dict.fromkeys(("target_mean", "gradient_score", "damping"), _GRADIENTS),
    **dict.fromkeys(("projection", "projection_dim"), ("less", "logra")),
    **dict.fromkeys(("adam", "directions"), ("less",)),
    "center": (*_GRADIENTS, "rds", "embed", "file"),
    "target_rank": ("gist",),
    **dict.fromkeys(("neurons", "span"), (*_ACTIVE, "nait")),
    **dict.fromkeys(("aggregate", "active", "threshold"), _ACTIVE),
    "nait_score": ("nait",),
    "embedding_model": ("embed", "learning-percentage"),
    **dict.fromkeys(("utility", "pairs", "nominees", "random_nominees"), ("utility",)),
    "learning_percentage": ("learning-percentage",),
    "target_vectors": ("file",),
    "ngram_buckets": ("dsir",),
    "on_taken": _TURNS,
}
"""Name of a former flag: the methods and selectors that have it now."""

TRAINED = {"learning_rate": "warmup_learning_rate", "batch_size": "warmup_batch_size"}
"""Settings that were those of the warmup run and of the final training at once: their name in the former."""

_TRAINING = {"learning_rate": "training_learning_rate", "batch_size": "training_batch_size"}  # learning percentage's

HINTS = {
    **{name: f"type --set {name}=VALUE, or write a block in YAML: {names[0]}: {{{name}: VALUE}}"
       for name, names in OWNERS.items()},
    **{name: f"type --set {own}=VALUE, or write a block in YAML: less: {{{own}: VALUE}}; {name} itself is one of "
             "`siftune compare`, for its trainings" for name, own in TRAINED.items()},
    "option": "type --set NAME=VALUE",
    "options": "type --set NAME=VALUE, or write a block in YAML: SELECTOR: {NAME: VALUE}",
}
"""What to type instead of a former flag."""


def is_earlier(values: Mapping[str, Any]) -> bool:
    """Whether this is the whole configuration of a run of the first edition."""
    return {"on_taken", "warmup_share", "nait_score", "ngram_buckets", "options"} <= set(values)


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of the first edition in the words of this one: its settings in blocks of all that read them.

    ``auto`` stood for the method's own value and is left out, as is what a method does not know.
    """
    found = {k: v for k, v in values.items() if k not in OWNERS and k != "options"}
    blocks: dict[str, dict[str, Any]] = {}
    for name, owners in OWNERS.items():
        if name in values and values[name] != "auto":
            for owner in owners:
                blocks.setdefault(owner, {})[name] = values[name]
    for name, own in TRAINED.items():
        if name in values:
            for owner in _WARMED_UP:
                blocks.setdefault(owner, {})[own] = values[name]
            blocks.setdefault("learning-percentage", {})[_TRAINING[name]] = values[name]
    return {**found, **blocks}
