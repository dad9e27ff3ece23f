"""Models that the caller holds as objects, under the names by which settings speak of them.

A run names its model by a text, which is written into its configuration. For the time of a call an object has such a
name too, made of its class and its weights, and :func:`~siftune.models.loading.load_model` finds it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from siftune._common.errors import ConfigError, ModelError

PREFIX = "object:"
_lent: dict[str, Any] = {}


def is_object(name: str) -> bool:
    """Whether a model's name stands for an object."""
    return name.startswith(PREFIX)


@contextmanager
def lent(name: str, loaded: Any) -> Iterator[None]:
    """For the time of the block, ``name`` is this model."""
    before = _lent.get(name)
    _lent[name] = loaded
    try:
        yield
    finally:
        if before is None:
            del _lent[name]
        else:
            _lent[name] = before


def borrowed(name: str, *, device: str = "auto", dtype: str = "auto") -> Any:
    """The model object of that name; it is used on its own device, in its own type.

    Raises:
        ModelError: there is none: the run that speaks of it had it from a program.
        ConfigError: another device or type is asked for.
    """
    loaded = _lent.get(name)
    if loaded is None:
        kind = name.removeprefix(PREFIX).partition(":")[0]
        raise ModelError(f"the model of this run was an object of a program, a {kind}", where=f"--model {name}",
                         why="Its weights were never written to disk.",
                         hint="give it again: model=(model, tokenizer) in Python, or --model FOLDER with the same "
                              "weights as save_pretrained writes them; features that were made are then reused")
    for setting, asked, own in (("device", device, loaded.device), ("dtype", dtype, loaded.dtype)):
        if asked not in ("auto", own, own.partition(":")[0]):  # cuda is good for cuda:1
            raise ConfigError(f"the model object is {'on' if setting == 'device' else 'in'} {own}, not {asked}",
                              where=f"--{setting}", hint=f"leave {setting} out, or move the model: "
                              + ("model.to(device)" if setting == "device" else "model.to(dtype)"))
    return loaded
