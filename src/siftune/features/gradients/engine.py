"""Per-example gradients of a batch out of one backward pass, one module at a time.

A linear layer's weight gradient for one example is the product of what came in and the gradient of what went out:
``g = dY^T X`` over that example's tokens. Both are at hand during a batched backward pass, so a hook on each adapted
layer forms the gradients of all examples with one batched product, hands them to the consumer and forgets them. The
full gradient vector of an example never exists unless the consumer keeps it.

Choices:

* The parameters themselves are frozen while capturing: autograd then skips the batch-summed weight gradients, which
  nobody needs, and stops below the lowest adapted layer, whose output becomes a leaf.
* The loss is the **sum** over examples of each example's mean cross-entropy, so that no example's gradient depends
  on its batch.
* Dropout is off (``eval``), whatever mode the model was in; the mode is put back afterwards.
* Memory: activations of the frozen layers are kept for the backward pass only where autograd needs them; with
  ``checkpointing`` it keeps those of one block at a time and computes the rest again, for a third more time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from siftune._common.errors import ModelError
from siftune.models.batching import Batch
from siftune.models.supervised_logits import mean_loss_per_row, supervised_logits


@dataclass(frozen=True)
class LayerGradient:
    """The per-example gradients of one parameter for a batch, as what they are made of.

    Attributes:
        name: the parameter's name.
        left: [b, T, m]; for a weight G = left^T right, [b, m, n], in the parameter's own shape (m, n).
        right: [b, T, n]; None for a vector, whose gradient is the sum of ``left`` over T.
    """

    name: str
    left: Tensor
    right: Tensor | None = None

    @classmethod
    def of(cls, name: str, values: Tensor) -> LayerGradient:
        """Of float32 [b, n] values that are already there, such as an Adam direction."""
        return cls(name, values.unsqueeze(1))

    def full(self) -> Tensor:
        """float32 [b, m n], flattened as the parameter would be."""
        if self.right is None:
            return self.left[:, 0].float() if self.left.shape[1] == 1 else self.left.float().sum(dim=1)
        return torch.bmm(self.left.float().transpose(1, 2), self.right.float()).flatten(1)


Consumer = Callable[[LayerGradient], None]
"""Called once per parameter and batch."""


@dataclass(frozen=True)
class _Site:
    """One layer with trainable parameters: their names, and whether its weight is stored as [in, out] (Conv1D)."""

    module: nn.Module
    weight: str | None
    bias: str | None
    transposed: bool


def _sites(model: nn.Module) -> list[_Site]:
    from transformers.pytorch_utils import Conv1D

    sites = []
    claimed: set[str] = set()
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    for module in model.modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        weight = names.get(id(module.weight))
        bias = names.get(id(module.bias)) if module.bias is not None else None
        if weight in claimed:
            raise ModelError(f"the trainable weight {weight!r} belongs to two layers",
                             hint="per-example gradients of tied weights are not defined layer by layer: "
                                  "leave it out with --lora-targets")
        if weight or bias:
            claimed.update(n for n in (weight, bias) if n)
            sites.append(_Site(module, weight, bias, isinstance(module, Conv1D)))
    if missed := sorted(set(names.values()) - claimed):
        raise ModelError(f"{len(missed)} trainable parameters are not weights of linear layers, e.g. {missed[0]!r}",
                         hint="adapt linear layers only (--lora-targets), without DoRA or trained embeddings")
    if not sites:
        raise ModelError("the model has no trainable parameters to take gradients of",
                         hint="attach a LoRA adapter first")
    return sites


def parameter_sizes(model: nn.Module) -> dict[str, int]:
    """Trainable parameter name -> number of its elements, in the order of the model's parameters."""
    return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}


def train_linear_weights(model: nn.Module, names: Sequence[str]) -> None:
    """Make the weights of the named linear modules the model's only trainable parameters.

    Args:
        model: a model without adapters.
        names: of linear modules, for example from :func:`siftune.models.lora.block_modules`.
    """
    model.requires_grad_(False)
    for name in names:
        model.get_submodule(name).weight.requires_grad_(True)  # type: ignore[union-attr]


def _checkpointed_blocks(model: nn.Module) -> list[nn.Module]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks: list[nn.Module] = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not blocks:
        raise ModelError("this model has no blocks that can be checkpointed", where="--checkpointing",
                         hint="leave the flag out, and lower --batch-tokens where memory is short")
    for block in blocks:
        if getattr(block, "dropout", 0) not in (0, 0.0) and not isinstance(block.dropout, nn.Module):
            raise ModelError("the blocks of this model apply dropout themselves", where="--checkpointing",
                             why="Blocks are checkpointed in training mode, which would turn that dropout on.",
                             hint="leave the flag out, and lower --batch-tokens where memory is short")
    return blocks


class GradientEngine:
    """Per-example gradients of a model's trainable linear layers.

    Args:
        model: a causal language model whose trainable parameters are weights or biases of linear layers, such as a
            PEFT model with a LoRA adapter, or a base model prepared by :func:`train_linear_weights`.
        checkpointing: trade time for memory by gradient checkpointing.
        autocast: compute the forward pass in this dtype; gradients of parameters are formed in float32.

    Raises:
        ModelError: there is nothing trainable, or something trainable is not a linear layer, or the model cannot be
            checkpointed.
    """

    def __init__(self, model: nn.Module, *, checkpointing: bool = False, autocast: torch.dtype | None = None):
        self.model = model
        self.autocast = autocast
        self._layers = _sites(model)
        self._blocks = _checkpointed_blocks(model) if checkpointing else []

    @contextmanager
    def capture(self, consume: Consumer) -> Iterator[None]:
        """While open, :meth:`backward` sends every parameter's per-example gradients to ``consume``."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        was_training = self.model.training
        handles = []
        self.model.eval()
        try:
            if self._blocks:
                self.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
            for block in self._blocks:
                block.training = True  # of the block alone, so that it checkpoints; dropouts inside stay off
            for parameter in parameters:
                parameter.requires_grad_(False)
            handles = [site.module.register_forward_hook(_recorder(site, consume)) for site in self._layers]
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter in parameters:
                parameter.requires_grad_(True)
            if self._blocks:
                self.model.gradient_checkpointing_disable()  # type: ignore[operator]
            self.model.train(was_training)

    def backward(self, batch: Batch) -> Tensor:
        """One forward and backward pass; the gradients go to the consumer of the open :meth:`capture`.

        Returns:
            float32 [b]: each row's loss, the mean cross-entropy over its supervised tokens.
        """
        reduced = torch.autocast(batch.input_ids.device.type, self.autocast, enabled=self.autocast is not None)
        with supervised_logits(self.model, batch.supervised), reduced:
            logits = self.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            ).logits[0]  # [n, V]
        losses = mean_loss_per_row(logits, batch.input_ids, batch.supervised)  # [b]
        losses.sum().backward()
        return losses.detach()


def _recorder(site: _Site, consume: Consumer) -> Callable[..., Any]:
    """A forward hook that keeps the layer's input until the gradient of its output arrives."""

    def after_forward(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs = args[0].detach()  # [b, T, in]
        if inputs.dim() != 3:
            raise ModelError(f"the input of the layer of {site.weight or site.bias!r} has shape "
                             f"{tuple(inputs.shape)}, not (rows, tokens, features)",
                             hint="layers that mix the rows of a batch (routed experts) have no per-example "
                                  "gradient here: leave them out with --lora-targets")
        if not output.requires_grad:
            output.requires_grad_(True)  # the lowest adapted layer: the backward pass stops here

        def on_gradient(gradient: Tensor) -> None:  # [b, T, out]
            if site.weight:
                left, right = (inputs, gradient) if site.transposed else (gradient, inputs)
                consume(LayerGradient(site.weight, left, right))
            if site.bias:
                consume(LayerGradient(site.bias, gradient))

        output.register_hook(on_gradient)

    return after_forward
