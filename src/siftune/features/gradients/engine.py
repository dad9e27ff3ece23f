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
* Layers with a LoRA adapter run as one product while capturing (:mod:`siftune.features.gradients.merged`).
* Dropout is off (``eval``), whatever mode the model was in; the mode is put back afterwards.
* A layer that runs several times in one pass (blocks with shared weights) has the sum of what its runs give: they are
  put side by side along the tokens and handed on as one.
* Memory: activations of the frozen layers are kept for the backward pass only where autograd needs them; with
  ``checkpointing`` it keeps those of one block at a time and computes the rest again, for a third more time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from siftune._common.errors import ModelError
from siftune.features.gradients.merged import AdaptedLayer, adapted_layers, running_merged
from siftune.models.batching import Batch
from siftune.models.language_part import is_linear
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


_ROUTED = re.compile(r"(?<!shared_)experts\.\d+\.")
_ADAPTER_OR_ROUTED = re.compile(rf"\.lora_|{_ROUTED.pattern}")

Consumer = Callable[[LayerGradient], None]
"""Called once for each parameter of a batch."""


@dataclass(frozen=True)
class _Site:
    """One layer with trainable parameters: their names, and whether its weight is stored as [in, out] (Conv1D).

    Blocks that share weights may each have a module of their own around the same parameters: ``modules`` are all.
    """

    modules: list[nn.Module]
    weight: str | None
    bias: str | None
    transposed: bool


def _sites(model: nn.Module, names: Mapping[int, str]) -> list[_Site]:
    """The layers with trainable parameters, given by id -> name."""
    from transformers.pytorch_utils import Conv1D

    sites: dict[str, _Site] = {}
    output = model.get_output_embeddings()  # type: ignore[operator]
    head = set(output.modules()) if output is not None else set()
    for module in model.modules():
        if not is_linear(module):
            continue
        weight = names.get(id(module.weight))
        bias = names.get(id(module.bias)) if getattr(module, "bias", None) is not None else None
        first = weight or bias
        if first is None:
            continue
        site = sites.setdefault(first, _Site([], weight, bias, isinstance(module, Conv1D)))
        if (site.weight, site.bias) != (weight, bias):
            raise ModelError(f"the trainable weight {weight!r} belongs to two layers with different biases",
                             hint="leave it out with --lora-targets")
        site.modules.append(module)
    claimed = {name for site in sites.values() for name in (site.weight, site.bias) if name}
    if missed := sorted(set(names.values()) - claimed):
        raise ModelError(f"{len(missed)} trainable parameters are not weights of linear layers, e.g. {missed[0]!r}",
                         hint="adapt linear layers only (--lora-targets), without DoRA or trained embeddings")
    if inside := [name for name, site in sites.items() if head.intersection(site.modules)]:
        raise ModelError(f"the trainable weight {inside[0]!r} belongs to the output embedding",
                         why="It sees the supervised positions of a batch alone, those of all rows in one sequence.",
                         hint="leave it out with --lora-targets")
    if not sites:
        raise ModelError("the model has no trainable parameters to take gradients of",
                         hint="attach a LoRA adapter first")
    return list(sites.values())


def parameter_sizes(model: nn.Module) -> dict[str, int]:
    """Trainable parameter name -> number of its elements, in the order of the model's parameters."""
    return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}


def train_linear_weights(model: nn.Module, names: Sequence[str]) -> None:
    """Make the weights of the named linear modules the model's only trainable parameters.

    Args:
        model: a model without adapters.
        names: of linear modules, for example from :func:`siftune.models.lora.block_modules`.

    Raises:
        ModelError: the weights are quantised.
    """
    model.requires_grad_(False)
    quantised = [name for name in names if not model.get_submodule(name).weight.is_floating_point()]  # type: ignore
    if quantised:
        raise ModelError(f"{len(quantised)} linear layers of {type(model).__name__} are quantised, e.g. "
                         f"{quantised[0]!r}", why="Their weights are integers, of which there are no gradients.",
                         hint="use a method that adapts the model (--method less), or load it unquantised")
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
        names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        self._layers = _sites(model, names)
        self._adapted = [] if autocast else adapted_layers(model, names)
        self._blocks = _checkpointed_blocks(model) if checkpointing else []
        self._recorders: list[_Recorder] = []
        self.consume: Consumer | None = None  # of the batch whose backward pass runs
        self.shape, self.forward_runs = (0, 0), False  # (rows, tokens) of the batch; whether its forward pass runs

    @contextmanager
    def capture(self) -> Iterator[None]:
        """While open, the model gives per-example gradients, by :meth:`backward`, and is not trained."""
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
            merged = {name for one in self._adapted for name in (one.down, one.up)}
            self._recorders = [_Recorder(self, site) for site in self._layers if site.weight not in merged]
            self._recorders += [_AdapterRecorder(self, one) for one in self._adapted]
            handles = [module.register_forward_hook(recorder.after_forward)
                       for recorder in self._recorders for module in recorder.site.modules]
            with running_merged(self._adapted):
                yield
        finally:
            self._recorders = []
            for handle in handles:
                handle.remove()
            for parameter in parameters:
                parameter.requires_grad_(True)
            if self._blocks:
                self.model.gradient_checkpointing_disable()  # type: ignore[operator]
            self.model.train(was_training)

    def backward(self, batch: Batch, consume: Consumer) -> Tensor:
        """One forward and backward pass inside :meth:`capture`.

        Args:
            batch: the rows.
            consume: takes their gradients, parameter by parameter.

        Returns:
            float32 [b]: each row's loss, the mean cross-entropy over its supervised tokens.
        """
        reduced = torch.autocast(batch.input_ids.device.type, self.autocast, enabled=self.autocast is not None)
        rows, tokens = batch.input_ids.shape
        self.shape, self.forward_runs, self.consume = (rows, tokens), True, consume
        try:
            with supervised_logits(self.model, batch.supervised), reduced:
                logits = self.model(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
                ).logits[0]  # [n, V]
            self.forward_runs = False
            self._check_that_all_ran()
            losses = mean_loss_per_row(logits, batch.input_ids, batch.supervised)  # [b]
            losses.sum().backward()
            for recorder in self._recorders:
                recorder.flush()
        finally:  # what a pass that failed half-way had kept may be what the next one has no memory for
            self.forward_runs, self.consume = False, None
            for recorder in self._recorders:
                recorder.ran, recorder.runs, recorder.parts = False, 0, []
        return losses.detach()

    def _check_that_all_ran(self) -> None:
        """A weight of the base that is used past its layer has a gradient that no hook sees.

        An adapter has none unless its layer runs, and an expert that no token was sent to has none either.
        """
        idle = [name for r in self._recorders if not r.ran and not _ADAPTER_OR_ROUTED.search(name := r.name)]
        if idle:
            ran = sorted({r.name.split(".")[-2] for r in self._recorders if r.ran})
            raise ModelError(f"{len(idle)} layers of {type(self.model).__name__} do not run as layers, e.g. "
                             f"{idle[0].rpartition('.')[0]!r}",
                             why="Either a row of text does not pass through them, or their weights are used past "
                                 "them, as in state-space blocks, and the gradient cannot be seen.",
                             hint=f"name those that run: --lora-targets {','.join(ran[:6])}")


class _Recorder:
    """Keeps the inputs of a layer's runs until the gradients of their outputs arrive."""

    def __init__(self, engine: GradientEngine, site: _Site):
        self.engine, self.site = engine, site
        self.name = site.weight or site.bias or ""
        self.ran, self.runs = False, 0
        self.parts: list[tuple[Tensor, Tensor]] = []  # (what came in, gradient of what went out)

    def after_forward(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.ran = True
        if not torch.is_grad_enabled():
            return  # a run that autograd does not see either
        if not output.requires_grad:
            output.requires_grad_(True)  # the lowest adapted layer: the backward pass stops here
        if not self.engine.forward_runs:
            return  # a checkpointed block computed again: the gradient arrives at the outputs of the first time
        inputs = self._by_row(args[0].detach())  # [b, T, in]
        self.runs += 1
        output.register_hook(lambda gradient: self._arrived(inputs, gradient))

    def _by_row(self, inputs: Tensor) -> Tensor:
        rows, tokens = self.engine.shape
        if inputs.dim() >= 3 and inputs.shape[0] == rows:
            return inputs.flatten(1, -2)  # latent attention has a dimension of heads in between
        if inputs.dim() == 2 and inputs.shape[0] == rows * tokens and not _ROUTED.search(self.name):
            return inputs.unflatten(0, (rows, tokens))  # some models flatten rows and positions, in order
        raise ModelError(f"the input of the layer of {self.name!r} has shape {tuple(inputs.shape)}, not (rows, tokens, "
                         f"features) of {rows} rows",
                         hint="layers that mix the rows of a batch (routed experts) have no per-example "
                              "gradient here: leave them out with --lora-targets")

    def _arrived(self, inputs: Tensor, gradient: Tensor) -> None:
        self.parts.append((inputs, gradient.reshape(*inputs.shape[:2], -1)))  # [b, T, out]
        if len(self.parts) == self.runs:
            self.flush()

    def flush(self) -> None:
        """Hand on what has arrived; a run that the loss does not depend on never does."""
        parts, self.parts, self.runs = self.parts, [], 0
        if not parts:
            return
        inputs, gradient = (part[0] if len(part) == 1 else torch.cat(part, dim=1)
                            for part in zip(*parts, strict=True))
        self.hand_on(inputs, gradient)

    def hand_on(self, inputs: Tensor, gradient: Tensor) -> None:
        """Give the batch's consumer the gradients that all runs together make.

        Args:
            inputs: [b, T, in], what came in.
            gradient: [b, T, out], of what went out.
        """
        consume = self._consumer()
        if self.site.weight:
            left, right = (inputs, gradient) if self.site.transposed else (gradient, inputs)
            consume(LayerGradient(self.site.weight, left, right))
        if self.site.bias:
            consume(LayerGradient(self.site.bias, gradient))

    def _consumer(self) -> Consumer:
        assert self.engine.consume is not None, "gradients arrive while a backward pass runs"
        return self.engine.consume


class _AdapterRecorder(_Recorder):
    """Of a layer that runs with its adapter merged."""

    def __init__(self, engine: GradientEngine, adapted: AdaptedLayer):
        super().__init__(engine, _Site([adapted.layer], adapted.down, None, False))
        self.adapted = adapted

    def hand_on(self, inputs: Tensor, gradient: Tensor) -> None:
        one, consume = self.adapted, self._consumer()
        consume(LayerGradient(one.up, gradient, (inputs @ one.A.detach().T).mul_(one.scale)))
        consume(LayerGradient(one.down, (gradient @ one.B.detach()).mul_(one.scale), inputs))
