"""The part of a model that reads text: all of a plain one, the language model of one that also sees or hears.

A multimodal model of transformers is a wrapper around towers (vision, audio), something that maps what they see into
the embedding space, and a language model. Rows of text pass through the language model alone, so adapters and
gradients belong there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def text_config(model: Any) -> Any:
    """The configuration of the language model, which is the model's own where it has no other part."""
    config = model.config
    try:
        return config.get_text_config(decoder=True)
    except ValueError:  # several candidates: an encoder-decoder wrapper, refused elsewhere
        return config


def language_modules(model: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """``named_modules`` of the language model, by their names in the whole model, in its order.

    The language model is the part whose configuration is the text configuration; where no part is set apart like
    that, everything but the parts with another kind of configuration than the whole.
    """
    from transformers import PreTrainedModel

    text, own = text_config(model), model.config
    parts = [(name, module) for name, module in model.named_modules() if isinstance(module, PreTrainedModel) and name]
    if text is not own:
        inside = next((name for name, module in parts if _same(module.config, text)), None)
        if inside is not None:
            yield from ((n, m) for n, m in model.named_modules() if _within(n, inside))
            return
    others = [name for name, module in parts if not _same(module.config, own) and not _same(module.config, text)]
    yield from ((n, m) for n, m in model.named_modules() if not any(_within(n, other) for other in others))


def is_linear(module: Any) -> bool:
    """Whether a module maps features linearly, one token at a time, so that an adapter and a hook know what it does.

    A model's own class that inherits from ``torch.nn.Linear`` and does something else in its forward pass (a router,
    a map in groups) is none; quantised layers, which do the same with other numbers, are.
    """
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer with a transposed weight

    if isinstance(module, Conv1D):
        return True
    own = type(module).forward is not torch.nn.Linear.forward and ".modeling_" in type(module).__module__
    return isinstance(module, torch.nn.Linear) and not own


def _same(config: Any, other: Any) -> bool:
    return config is other or type(config) is type(other)


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")
