"""Logits only where a token is supervised, for any causal language model.

A vocabulary of 150,000 times a few hundred prompt tokens whose logits nobody reads is most of the memory of a step.
The hidden states are therefore thinned out just before the output embedding, by a hook on that one module: it needs
no knowledge of the architecture, and whatever the model does to its logits afterwards (soft-capping, scaling) still
happens. The loss of siftune, the mean cross-entropy over a row's supervised tokens, is computed here once and is
the same in features, training and evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from siftune._common.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


def predicting(mask: Tensor) -> Tensor:
    """Where the supervised tokens are predicted: position ``t - 1`` for every supervised token ``t``.

    Args:
        mask: bool [B, T], true where token ``t`` is supervised; ``mask[:, 0]`` is false.

    Returns:
        bool [B, T]; the last column is false.
    """
    shifted = torch.zeros_like(mask)
    shifted[:, :-1] = mask[:, 1:]
    return shifted


@contextmanager
def supervised_logits(model: Any, mask: Tensor) -> Iterator[None]:
    """Within this context ``model(...).logits`` has shape [1, n, V] rather than [B, T, V].

    The ``n`` rows are the positions that predict a supervised token, in row-major order of (row, position), so that
    ``input_ids[mask]`` are their targets. Gradients flow as usual. Works through PEFT wrappers. Pass no ``labels``
    to the model: its own loss expects logits at every position.

    Args:
        model: A causal language model of transformers, plain or wrapped by PEFT.
        mask: bool [B, T] on the model's device, true where a token is supervised; ``mask[:, 0]`` is false.

    Raises:
        ModelError: the model has no output embedding (it is not a causal language model).
        ValueError: the batch given to the model has another shape than ``mask``.

    Example::

        with supervised_logits(model, mask):
            logits = model(input_ids=ids, attention_mask=attention).logits[0]  # [n, V]
        losses = mean_loss_per_row(logits, ids, mask)  # [B]
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{type(model).__name__} has no output embedding",
            why="The loss of a row needs next-token logits.",
            hint="give a causal language model with --model",
        )
    keep = predicting(mask)

    def thin_out(module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = args
        if hidden.shape[:2] != keep.shape:
            raise ValueError(f"the mask is {tuple(keep.shape)}, the hidden states are {tuple(hidden.shape)}")
        return (hidden[keep].unsqueeze(0), *rest)  # [B, T, H] -> [1, n, H]

    handle = head.register_forward_pre_hook(thin_out)
    try:
        yield
    finally:
        handle.remove()


def mean_loss_per_row(logits: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy over each row's supervised tokens, differentiable.

    Args:
        logits: [n, V], as :func:`supervised_logits` yields them; computed in float32 whatever their dtype.
        input_ids: int64 [B, T].
        mask: bool [B, T], true where a token is supervised.

    Returns:
        float32 [B] in nats per token; NaN for a row without a supervised token.
    """
    per_token = cross_entropy(logits.float(), input_ids[mask], reduction="none")  # [n]
    row = mask.nonzero()[:, 0]
    total = torch.zeros(len(mask), dtype=per_token.dtype, device=per_token.device).index_add(0, row, per_token)
    return total / mask.sum(dim=1)
