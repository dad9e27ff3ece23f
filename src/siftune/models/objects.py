"""A caller's own model object: used where it is, and given back exactly as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError, ModelError
from siftune.models.lent import PREFIX, lent
from siftune.models.loading import DTYPES, LoadedModel, weights_hash

_HINT = "give a hub id, a folder, embedded, or (model, tokenizer) as transformers loads them"


@contextmanager
def named(model: Any) -> Iterator[str]:
    """The name by which settings speak of a model; of an object, for the time of the block.

    Args:
        model: a name or path, ``(model, tokenizer)``, or a :class:`LoadedModel`. An object is put into eval mode and
            frozen while it is used; afterwards its modules, weights, hooks, modes and ``requires_grad`` are as before,
            whatever happened.

    Raises:
        ConfigError: it is none of these.
        ModelError: the model cannot be used.
    """
    if isinstance(model, (str, Path)):
        yield str(model)
        return
    loaded = _loaded(model)
    with unchanged(loaded.model):
        loaded.model.eval().requires_grad_(False)
        with lent(loaded.name, loaded):
            yield loaded.name


def _loaded(given: Any) -> LoadedModel:
    """The object with the hash of the weights that it has now: a caller may have trained it since it was loaded."""
    model, tokenizer = _pair(given)
    if hasattr(model, "peft_config"):
        raise ModelError("the model has adapters", where="model",
                         why="Adapters of a run's own are put on a plain model.",
                         hint="merge them first: model.merge_and_unload()")
    if getattr(model.config, "is_encoder_decoder", False) or model.get_output_embeddings() is None:
        raise ModelError(f"{type(model).__name__} is not a decoder-only language model", where="model",
                         hint="load it with transformers' AutoModelForCausalLM")
    places = {(str(p.device), str(p.dtype).removeprefix("torch.")) for p in model.parameters()}
    devices, dtypes = ({place[i] for place in places} for i in (0, 1))
    if len(devices) != 1 or "meta" in devices:
        raise ModelError("the model's weights are not all on one device", where="model",
                         why=f"They are on {', '.join(sorted(devices)) or 'none'}.", hint="move it: model.to(device)")
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ModelError(f"the model's weights are {', '.join(sorted(dtypes))}", where="model",
                         hint=f"use one of {', '.join(DTYPES[1:])}: model.float()")
    weights = weights_hash(model)
    return LoadedModel(model, tokenizer, f"{PREFIX}{type(model).__name__}:{weights[:12]}", devices.pop(), dtype,
                       weights)


def _pair(given: Any) -> tuple[Any, Any]:
    from torch.nn import Module

    if isinstance(given, LoadedModel):
        return given.model, given.tokenizer
    if isinstance(given, Module):
        raise ConfigError("a model object needs its tokenizer", where="model", hint="give model=(model, tokenizer)")
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        what = f"a {type(given).__name__}" + (f" of {len(given)}" if isinstance(given, (tuple, list)) else "")
        raise ConfigError(f"model cannot be {what}", where="model", hint=_HINT)
    model, tokenizer = given
    if isinstance(tokenizer, Module):
        raise ConfigError("the tokenizer comes second", where="model", hint="give model=(model, tokenizer)")
    if not isinstance(model, Module) or not hasattr(model, "get_output_embeddings"):
        raise ConfigError(f"a {type(model).__name__} is not a model of transformers", where="model[0]", hint=_HINT)
    if not callable(tokenizer) or not hasattr(tokenizer, "apply_chat_template"):
        raise ConfigError(f"a {type(tokenizer).__name__} is not a tokenizer of transformers", where="model[1]",
                          hint=_HINT)
    return model, tokenizer


@contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Whatever the block does to a model but to its weights' values is undone: adapters, hooks, modes, flags."""
    owners = [*model.modules(), *filter(None, (model.config, getattr(model, "generation_config", None)))]
    states = [(vars(owner), {name: (value, _copy(value)) for name, value in vars(owner).items()}) for owner in owners]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for now, state in states:
            for name in now.keys() - state.keys():
                del now[name]
            for name, (value, content) in state.items():
                if content is not None:  # the very container that handles of hooks point to, filled as it was
                    value.clear()
                    value.update(content)
                now[name] = value
        for parameter, flag, gradient in parameters:
            parameter.requires_grad_(flag)
            parameter.grad = gradient


def _copy(value: Any) -> Any:
    """A shallow copy of what modules keep parts, parameters and hooks in; None for anything else."""
    return value.copy() if isinstance(value, (dict, set)) else None
