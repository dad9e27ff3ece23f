"""The sizes of a model that rows must fit, read from its configuration without its weights."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from siftune._common.hub import hub_or_cache
from siftune.data.model_shape import ModelShape
from siftune.models.lent import borrowed, is_object
from siftune.models.loading import locate

_WINDOW = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


def model_shape(name: str, *, trust_remote_code: bool = False) -> ModelShape:
    """Window and vocabulary of a model; unknown where its configuration cannot be read or does not say.

    Args:
        name: as for :func:`~siftune.models.loading.load_model`.
        trust_remote_code: run code that comes with the model.

    Raises:
        ModelError: there is no such model.
    """
    if is_object(name):
        return shape_of(borrowed(name).model.config)
    from transformers import AutoConfig

    path, base = locate(name)
    try:
        with hub_or_cache() if isinstance(base or path, str) else nullcontext():
            config = AutoConfig.from_pretrained(str(base or path), trust_remote_code=trust_remote_code)
        return shape_of(config)
    except Exception:  # whoever loads the model says what is wrong with it
        return ModelShape()


def shape_of(config: Any) -> ModelShape:
    """Window and vocabulary that a transformers configuration says."""
    try:
        text = config.get_text_config(decoder=True)
    except ValueError:  # a wrapper of several models: whoever loads it says what is wrong with it
        return ModelShape()
    window = next((value for key in _WINDOW if (value := _count(getattr(text, key, None)))), None)
    if getattr(text, "alibi", False) or getattr(text, "position_embedding_type", "") == "alibi":
        window = None
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if window and isinstance(rope, dict) and rope.get("original_max_position_embeddings") == window:
        factor = rope.get("factor")
        if isinstance(factor, (int, float)) and factor > 1:
            window = round(window * factor)  # as Qwen2.5 and others write a stretched window
    return ModelShape(window, _count(getattr(text, "vocab_size", None)))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
