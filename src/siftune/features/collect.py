"""Readers of a forward pass by name, and collecting the features of other methods in a pass that is run anyway.

A forward pass that is run for one method shows all that the others would read: ``--collect mads`` keeps it too, in the
store where ``siftune select --from`` looks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.config.settings import SelectConfig
from siftune.features.base import Context

if TYPE_CHECKING:
    from siftune.features.forward.reader import Reader

COLLECTABLE = {
    "rds": "siftune.methods.rds:readers",
    "mads": "siftune.methods.mads:readers",
    "nag": "siftune.methods.nag:readers",
    "nait": "siftune.methods.nait:readers",
    "loss": "siftune.methods.loss:readers",
    "ifd": "siftune.methods.ifd:readers",
}
"""Name of a feature: the function of a context that makes its readers."""

NEEDS_TARGET = ("nait",)
"""Features that cannot be read without knowing the targets."""


def check(config: SelectConfig, representation: Any = None) -> None:
    """Refuse what cannot be collected, before anything is computed.

    Args:
        config: of the run.
        representation: the one that is to be computed; None where it is not known yet.

    Raises:
        ConfigError: an unknown name; a feature that needs targets where there are none; or a representation that runs
            no forward pass over the pool in which anything could be collected.
    """
    for name in config.collect:
        if name not in COLLECTABLE:
            raise unknown_name("feature to collect:", name, COLLECTABLE, flag="--collect")
        if name in NEEDS_TARGET and not config.target:
            raise ConfigError(f"{name} is read along the targets' directions, and there are no targets",
                              where="--collect", hint=f"give a file with --target, or leave {name} out")
    if config.collect and representation is not None and not getattr(representation, "forward", False):
        raise ConfigError(f"the representation {representation.name} runs no forward pass that more could be read of",
                          where="--collect", why="Gradients, embeddings and word counts are made in other ways.",
                          hint="choose a method such as rds+, mads, nag, nait or loss, or leave --collect out")


def further_readers(context: Context, own: Sequence[Reader], *, planned: bool = False) -> list[Reader]:
    """The readers of what ``--collect`` names, without those that read what ``own`` keep already."""
    found = {reader.name: reader for name in context.config.collect
             for reader in readers_of(name, planned=planned)(context)}
    return [reader for name, reader in found.items() if name not in {o.name for o in own}]


def planned_readers(context: Context, own: Sequence[Reader]) -> tuple[Reader, ...]:
    """``own`` and what ``--collect`` names, for `siftune plan`: as large and as fast, though nothing may be run yet."""
    return (*own, *further_readers(context, own, planned=True))


def readers_of(name: str, *, planned: bool = False) -> Callable[[Context], list[Reader]]:
    """What makes the readers of a collectable feature; with ``planned`` such that run nothing themselves."""
    module, _, attribute = COLLECTABLE[name].partition(":")
    source = import_module(module)
    return getattr(source, "planned_readers" if planned and hasattr(source, "planned_readers") else attribute)
