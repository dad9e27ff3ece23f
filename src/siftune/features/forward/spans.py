"""Over which tokens of a row activations are put together, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from siftune.models.batching import Batch

Span = Literal["response", "prompt", "all"]


def span_mask(batch: Batch, span: Span) -> Tensor:
    """bool [B, T]: the tokens of the span; at least one in every row.

    The activation of a token is the one *at* its position. ``response``: the supervised tokens; ``prompt``: all others,
    which includes the template and, in a conversation of several turns, what stands between the answers. A row's first
    token is never supervised, and a usable row has supervised tokens, so that no span is empty.

    Raises:
        ValueError: a row has no token in the span after all.
    """
    real = batch.attention_mask.bool()
    mask = {"response": batch.supervised, "prompt": real & ~batch.supervised, "all": real}[span]
    if not bool(mask.any(dim=1).all()):
        raise ValueError(f"a row has no {span} token")
    return mask


def token_weights(mask: Tensor) -> Tensor:
    """float32 [B, 1, T]: 1 / count at the tokens of the mask, so that ``weights @ values`` is their mean."""
    weights = mask.float()
    return (weights / weights.sum(dim=1, keepdim=True)).unsqueeze(1)
