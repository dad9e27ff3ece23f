"""Tiny models that are certain of some tokens and not of others: a random one gives every token next to nothing, and
then all distances are 1 and all utilities 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from siftune.data.rows import Rendered
from siftune.models.batching import collate
from siftune.models.supervised_logits import mean_loss_per_row, supervised_logits
from tests import tiny

STEPS = 25


def fitted(architecture: str, rows: Sequence[Rendered], seed: int = 0, **changes: Any) -> Any:
    """A tiny model after a few steps on the rows, frozen."""
    model = tiny.model(architecture, seed, **changes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = collate(rows, 0)
    for _ in range(STEPS):
        with supervised_logits(model, batch.supervised):
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits[0]
        mean_loss_per_row(logits, batch.input_ids, batch.supervised).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval().requires_grad_(False)
