"""The loss of a row, and that of its response alone, without the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from siftune.data.rows import Rendered
from siftune.forward.reader import Reader, Reading, Tap

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from siftune.gradients.batching import Batch


@dataclass(frozen=True)
class Loss(Reader):
    """``loss`` float32 [n]: mean cross-entropy of the row's supervised tokens, nats per token."""

    taps: ClassVar[frozenset[Tap]] = frozenset({"logits"})

    @property
    def name(self) -> str:
        return "loss"

    def start(self, batch: Batch, device: torch.device | str) -> Reading:
        return _LossReading(batch)

    def bytes_per_row(self, model: Any, feature_dtype: str) -> int:
        return 4


@dataclass(frozen=True)
class ResponseAloneLoss(Loss):
    """The same for the row's response without its prompt: the row's first token, then its supervised tokens.

    The first token is what the model always sees at the start (the beginning-of-text token, or the first of the
    template), so that the very same tokens are scored with and without the prompt.
    """

    @property
    def name(self) -> str:
        return "loss-response-alone"

    def view(self, row: Rendered) -> Rendered:
        ids = np.concatenate([row.ids[:1], row.ids[row.mask]])
        mask = np.ones(len(ids), dtype=bool)
        mask[0] = False
        return Rendered(ids, mask)


class _LossReading(Reading):
    def __init__(self, batch: Batch):
        self._batch = batch

    def logits(self, values: Tensor) -> None:
        from siftune.models.supervised_logits import mean_loss_per_row

        self._loss = mean_loss_per_row(values, self._batch.input_ids, self._batch.supervised)

    def arrays(self) -> dict[str, Tensor]:
        return {"loss": self._loss}
