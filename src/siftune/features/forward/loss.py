"""The loss of a row, and that of its response alone, without the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from siftune.data.rows import Rendered
from siftune.features.forward.reader import Reader, Reading, Tap

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from siftune.models.batching import Batch


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
    """The same for the row's response without its prompt: the row's first token, then each stretch of supervised tokens
    behind the opening of a turn.

    The first token is what the model always sees at the start (the beginning-of-text token, or the first of the
    template); where it is that of the opening, it is not repeated. So the very same tokens are scored with and without
    the prompt.

    Attributes:
        opening: token ids that the template puts before an assistant's turn; may be empty.
    """

    opening: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return "loss-response-alone"

    def view(self, row: Rendered) -> Rendered:
        opening = np.array(self.opening, dtype=row.ids.dtype)
        pieces = [] if len(opening) and opening[0] == row.ids[0] else [row.ids[:1]]
        scored = [np.zeros(len(piece), dtype=bool) for piece in pieces]
        borders = np.flatnonzero(np.diff(row.mask, prepend=False, append=False))
        for start, stop in list(pairwise(borders.tolist()))[::2]:
            pieces += [opening, row.ids[start:stop]]
            scored += [np.zeros(len(opening), dtype=bool), np.ones(stop - start, dtype=bool)]
        return Rendered(np.concatenate(pieces), np.concatenate(scored))


class _LossReading(Reading):
    def __init__(self, batch: Batch):
        self._batch = batch

    def logits(self, values: Tensor) -> None:
        from siftune.models.supervised_logits import mean_loss_per_row

        self._loss = mean_loss_per_row(values, self._batch.input_ids, self._batch.supervised)

    def arrays(self) -> dict[str, Tensor]:
        return {"loss": self._loss}
