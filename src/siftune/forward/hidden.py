"""The last hidden states of a row in one vector, later tokens counting more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from siftune.forward.reader import Reader, Reading, Tap

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from siftune.gradients.batching import Batch


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
        from siftune.store.codec import bytes_per_row

        return bytes_per_row(model.get_output_embeddings().weight.shape[1], feature_dtype)


class _HiddenReading(Reading):
    def __init__(self, batch: Batch):
        position = batch.attention_mask.float() * batch.attention_mask.cumsum(dim=1)
        self._weights = (position / position.sum(dim=1, keepdim=True)).unsqueeze(1)  # [B, 1, T]

    def hidden(self, values: Tensor) -> None:
        mean = (self._weights @ values.float()).squeeze(1)  # [B, H]
        self._feature = mean / mean.norm(dim=1, keepdim=True).clamp_min(1e-30)

    def arrays(self) -> dict[str, Tensor]:
        return {"feature": self._feature}
