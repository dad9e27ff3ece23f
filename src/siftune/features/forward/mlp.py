"""The MLPs of a decoder-only model, found by their shapes, and hooks that show what their neurons do.

A dense MLP maps the hidden size H to I neurons and back to H. With a gate there are two maps to the neurons (or one
fused map to 2 I: the gate's half, then the other), without one there is a single one. What enters the map back is the
*gated activation*; what the map to the neurons (beside the gate) puts out is the *up projection*.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from siftune._common.errors import ModelError

_ATTENTION = re.compile(r"attn|attention")
_OTHER_TOWERS = re.compile(r"vision|visual|audio")


@dataclass(frozen=True)
class Mlp:
    """The two ends of one block's MLP.

    Attributes:
        up: the linear module whose output holds the neurons' values before the gate (or the activation function).
        down: the linear module that maps the neurons back.
        neurons: how many there are, I.
        fused: whether ``up`` puts out 2 I numbers, of which the second half counts.
    """

    up: torch.nn.Module
    down: torch.nn.Module
    neurons: int
    fused: bool


def watch(model: Any, tap: Literal["gated", "up"], look: Callable[[int, Tensor], None]) -> list[Any]:
    """Show the activations of every block's MLP, in the order of the blocks, at each forward pass.

    Args:
        model: a causal language model of transformers, plain or wrapped by PEFT.
        tap: ``gated``: the input of the down projection; ``up``: the output of the up projection, before the gate (or,
            in an MLP without one, before the activation function).
        look: called with the block's number and the values, float [B, T, I]; or [B T, I], where a model flattens.

    Returns:
        Handles of the hooks: call ``remove()`` on each.

    Raises:
        ModelError: the MLPs are none that this knows how to read.
    """
    return [_watch(layer, mlp, tap, look) for layer, mlp in enumerate(mlps(model))]


def _watch(layer: int, mlp: Mlp, tap: str, look: Callable[[int, Tensor], None]) -> Any:
    if tap == "gated":
        return mlp.down.register_forward_pre_hook(lambda module, args: look(layer, args[0]))
    first = mlp.neurons if mlp.fused else 0
    return mlp.up.register_forward_hook(lambda module, args, output: look(layer, output[..., first:]))


def neurons(model: Any) -> tuple[int, int]:
    """(blocks L, neurons of each block's MLP I).

    Raises:
        ModelError: see :func:`watch`; or the blocks have different numbers of neurons.
    """
    found = mlps(model)
    sizes = {mlp.neurons for mlp in found}
    if len(sizes) > 1:
        raise ModelError(f"the MLPs of {type(model).__name__} have different sizes: {sorted(sizes)}",
                         why="Activations are kept as one array over all layers.",
                         hint="choose another method, for example --method rds+ or --method less")
    return len(found), sizes.pop()


def mlps(model: Any) -> list[Mlp]:
    """The MLP of each decoder block, in order.

    Raises:
        ModelError: there are no blocks, or a block has no dense MLP with one map to the neurons and one back; the
            block's linear modules are named.
    """
    return [_mlp(model, name, block) for name, block in _blocks(model)]


def _blocks(model: Any) -> list[tuple[str, torch.nn.Module]]:
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count and not _OTHER_TOWERS.search(name):
            return [(f"{name}.{i}", block) for i, block in enumerate(module)]
    raise ModelError(f"no list of {count} decoder blocks was found in {type(model).__name__}",
                     why=f"Its parts are: {', '.join(name for name, _ in model.named_children())}.",
                     hint="choose a method that reads no activations, for example --method rds+ or --method less")


def _mlp(model: Any, name: str, block: torch.nn.Module) -> Mlp:
    outside = [(n, m) for n, m in _linears(block) if not _ATTENTION.search(n.lower())]
    sizes = [_size(m) for _, m in outside]
    experts = next((n for n, _ in block.named_parameters() if "expert" in n), None)
    # Two or three maps of which the last of those with the right shape leads back: where H equals I, all have it.
    for at in reversed(range(len(outside))):
        inner, hidden = sizes[at]
        ups = [i for i in range(len(outside)) if i != at]
        if experts is None and len(ups) == 1 and sizes[ups[0]] in ((hidden, inner), (hidden, 2 * inner)):
            return Mlp(outside[ups[0]][1], outside[at][1], inner, sizes[ups[0]][1] == 2 * inner)
        if experts is None and len(ups) == 2 and all(sizes[i] == (hidden, inner) for i in ups):
            gates = [i for i in ups if "gate" in outside[i][0].rpartition(".")[2]]
            if len(gates) == 1:
                up = next(i for i in ups if i != gates[0])
                return Mlp(outside[up][1], outside[at][1], inner, False)
    raise ModelError(
        f"the MLP of {type(model).__name__} is not one whose neurons can be read", where=name,
        why=(f"It has experts ({experts}), of which a token passes through a few only." if experts else
             "Expected one map to the neurons, or a gate and another, and one back; outside of attention there are: "
             + (", ".join(f"{n} {i}->{o}" for (n, _), (i, o) in zip(outside, sizes, strict=True)) or "none") + "."),
        hint="choose a method that reads no activations, for example --method rds+ or --method less")


def _linears(module: torch.nn.Module, name: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """Linear modules by name; one with an adapter is one, with what the adapter adds."""
    for key, child in module.named_children():
        path = f"{name}.{key}" if name else key
        if _is_linear(getattr(child, "base_layer", child)):
            yield path, child
        else:
            yield from _linears(child, path)


def _is_linear(module: Any) -> bool:
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer with a transposed weight

    return isinstance(module, torch.nn.Linear | Conv1D)


def _size(module: Any) -> tuple[int, int]:
    """(inputs, outputs)."""
    base = getattr(module, "base_layer", module)
    if isinstance(base, torch.nn.Linear):
        return base.in_features, base.out_features
    return base.weight.shape[0], base.nf
