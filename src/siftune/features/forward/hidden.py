"""The last hidden states of a row in one vector, later tokens counting more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from siftune.features.forward.reader import Reader, Reading, Tap

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from siftune.models.batching import Batch


@dataclass(frozen=True)
class PositionWeightedMean(Reader):
    """``feature`` float32 [n, H]: sum_t t h_t / sum_t t over all tokens of a row (t = 1, 2, ...), of length 1.

    ``h_t`` is the hidden state that enters the output embedding, after the final norm. Causal attention lets later
    tokens know more of the row; RDS+ (arXiv 2503.01807, section 3) weighs them accordingly.
    """

    taps: ClassVar[frozenset[Tap]] = frozenset({"hidden"})
    features: ClassVar[tuple[str, ...]] = ("feature",)

    @property
    def name(self) -> str:
        return "rds"

    def start(self, batch: Batch, device: torch.device | str) -> Reading:
        return _HiddenReading(batch)

    def bytes_per_row(self, model: Any, feature_dtype: str) -> int:
        from siftune.features.store.codec import bytes_per_row

        return bytes_per_row(model.get_output_embeddings().weight.shape[1], feature_dtype)


class _HiddenReading(Reading):
    def __init__(self, batch: Batch):
        self._attention_mask = batch.attention_mask

    def hidden(self, values: Tensor) -> None:
        self._feature = position_weighted_mean(values, self._attention_mask)

    def arrays(self) -> dict[str, Tensor]:
        return {"feature": self._feature}


def position_weighted_mean(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """float32 [B, H]: sum_t t h_t / sum_t t over the real tokens of each row, made of length 1.

    Args:
        hidden: [B, T, H].
        attention_mask: int64 [B, T].
    """
    position = attention_mask.float() * attention_mask.cumsum(dim=1)
    weights = (position / position.sum(dim=1, keepdim=True)).unsqueeze(1)  # [B, 1, T]
    mean = (weights @ hidden.float()).squeeze(1)
    return mean / mean.norm(dim=1, keepdim=True).clamp_min(1e-30)
