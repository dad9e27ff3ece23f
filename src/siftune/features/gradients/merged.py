"""LoRA layers run as the one product that they are: the adapter inside the weight, its gradients from both ends.

A layer with an adapter computes ``x W^T + s (x A^T) B^T``; with ``W' = W + s B A`` that is ``x W'^T``, and a backward
pass that wants no gradient of A and B needs no more either. Their gradients for one example, ``s (dY B)^T X`` and
``s dY^T (X A^T)``, take two thin products beside it. What is saved is two more of these, the sum of the layer's two
halves and autograd's book-keeping: some hundredths of a pass. The results are the same but for float32 rounding.

Only the adapted layers' own calls are replaced: whoever reads a layer's weight past it sees the base's, as ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

MOST_BYTES = 2**30
"""Of merged weights, which stand beside the model's own: where they would be more, layers run as they are."""


@dataclass(frozen=True)
class AdaptedLayer:
    """A linear layer with one LoRA adapter.

    Attributes:
        layer: PEFT's module.
        base: the layer that it adapts.
        down, up: names of A and B among the model's parameters.
        A, B: float32 [r, in] and [out, r].
        scale: s.
    """

    layer: nn.Module
    base: nn.Linear
    down: str
    up: str
    A: Tensor
    B: Tensor
    scale: float

    def merged(self) -> Tensor:
        """float32 [out, in]: the weight with the adapter in it."""
        return torch.addmm(self.base.weight.detach(), self.B.detach(), self.A.detach(), alpha=self.scale)


def adapted_layers(model: nn.Module, trainable: Mapping[int, str]) -> list[AdaptedLayer]:
    """The layers of a model that can run merged; none where their weights would take too much memory.

    Plain LoRA in float32 on a plain linear layer in float32 whose own parameters are frozen: a narrower weight would
    round the adapter away, and variants compute otherwise.

    Args:
        model: with or without adapters.
        trainable: id of each trainable parameter -> its name.
    """
    try:
        from peft.tuners.lora.layer import Linear
    except ImportError:  # pragma: no cover - it is a dependency; a model without adapters needs none of it
        return []
    found: list[AdaptedLayer] = []
    for module in model.modules():
        if type(module) is not Linear or len(module.active_adapters) != 1 or module.disable_adapters or module.merged:
            continue
        base, name = module.get_base_layer(), module.active_adapters[0]
        if type(base) is not nn.Linear or name not in module.lora_A or name in module.lora_variant:
            continue
        down, up = module.lora_A[name], module.lora_B[name]
        parts = [base.weight, down.weight, up.weight]
        if any(part.dtype != torch.float32 for part in parts) or down.bias is not None or up.bias is not None:
            continue
        if any(id(p) in trainable for p in base.parameters()) or not {id(down.weight), id(up.weight)} <= set(trainable):
            continue
        A, B = cast("Tensor", down.weight), cast("Tensor", up.weight)
        found.append(AdaptedLayer(module, base, trainable[id(A)], trainable[id(B)], A, B, float(module.scaling[name])))
    names = [name for one in found for name in (one.down, one.up)]
    if len(set(names)) < len(names) or sum(one.base.weight.nbytes for one in found) > MOST_BYTES:
        return []  # adapters that several layers share have the sum of what these give
    return found


@contextmanager
def running_merged(layers: list[AdaptedLayer]) -> Iterator[None]:
    """While open, a call of these layers is one product."""
    try:
        for one in layers:
            one.layer.forward = partial(_product, one.merged(), one.base.bias)
        yield
    finally:
        for one in layers:
            one.layer.__dict__.pop("forward", None)


def _product(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return linear(x, weight, bias)
