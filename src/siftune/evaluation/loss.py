"""The loss of held-out rows: mean cross-entropy over each row's supervised tokens, as in features and training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from siftune._common import progress
from siftune._common.errors import DataError
from siftune.data.rows import Rendered
from siftune.models.batching import batch_cost, collate, plan_batches
from siftune.models.supervised_logits import mean_loss_per_row, supervised_logits


def row_losses(model: Any, rendered: Sequence[Rendered], *, batch_tokens: int = 4096,
               device: str | torch.device = "cpu", pad_id: int = 0, title: str = "evaluation") -> np.ndarray:
    """Mean supervised cross-entropy of each row.

    Rows of like length share a batch; the result does not depend on the batch or the order beyond float32 rounding.
    Dropout is off; the model's mode is restored afterwards.

    Args:
        model: A causal language model on ``device``, plain or with adapters.
        rendered: The rows; each must have a supervised token.
        batch_tokens: Padded tokens per forward pass; a longer row stands alone.
        device: Where the model is.
        pad_id: Token id to pad with (masked out, so any valid id).
        title: Of the progress bar.

    Returns:
        float64 [N], nats per token, in the order of ``rendered``.

    Raises:
        DataError: a row has no supervised token, so that its loss is undefined.
    """
    for i, row in enumerate(rendered):
        if not row.supervised:
            raise DataError(f"row {i} of the evaluation rows has no supervised token", why="Its loss is undefined.",
                            hint="raise --max-length, so that its response is kept")
    losses = np.full(len(rendered), np.nan)
    with evaluating(model), progress.bar(title, len(rendered)) as bar:
        for positions in plan_batches([len(row) for row in rendered], batch_tokens, batch_cost=batch_cost(device)):
            batch = collate([rendered[i] for i in positions], pad_id, device)
            with supervised_logits(model, batch.supervised):
                out = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
            losses[positions] = mean_loss_per_row(out.logits[0], batch.input_ids, batch.supervised).double().cpu()
            bar.advance(len(positions))
    return losses


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Eval mode without gradients; the mode the model was in afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
