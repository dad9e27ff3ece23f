"""The limit: a forward and a backward pass in padded batches, as a training step has them, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from siftune.data.rows import Rendered
from siftune.models.batching import Batch, collate, plan_batches
from siftune.models.supervised_logits import mean_loss_per_row, supervised_logits


def full_batches(rows: Sequence[Rendered], pad_id: int, batch_tokens: int) -> Iterator[Batch]:
    """Rows of like length, as many as the budget holds: what trainers do."""
    waiting = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    while waiting:
        count = max(1, batch_tokens // len(rows[waiting[0]]))
        yield collate([rows[i] for i in waiting[:count]], pad_id)
        waiting = waiting[count:]


def cheapest_batches(rows: Sequence[Rendered], pad_id: int, batch_tokens: int) -> Iterator[Batch]:
    """siftune's own batches, which pad less."""
    for positions in plan_batches([len(row) for row in rows], batch_tokens):
        yield collate([rows[i] for i in positions], pad_id)


def training_passes(model: Any, rows: Sequence[Rendered], pad_id: int, batch_tokens: int) -> float:
    """transformers' own loss on full logits, gradients summed into ``.grad``.

    Returns:
        The loss of all supervised tokens together, in nats.
    """
    total = 0.0
    for batch in full_batches(rows, pad_id, batch_tokens):
        labels = batch.input_ids.masked_fill(~batch.supervised, -100)
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels, use_cache=False)
        output.loss.backward()
        total += output.loss.item() * int(batch.supervised.sum())
    return total


def supervised_passes(model: Any, rows: Sequence[Rendered], pad_id: int, batch_tokens: int) -> float:
    """The same with logits only where a token is supervised, in siftune's batches: the strictest limit."""
    total = 0.0
    for batch in cheapest_batches(rows, pad_id, batch_tokens):
        with supervised_logits(model, batch.supervised):
            logits = model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            ).logits[0]  # [n, V]
        losses = mean_loss_per_row(logits, batch.input_ids, batch.supervised)
        losses.sum().backward()
        total += float((losses.detach() * batch.supervised.sum(dim=1)).sum())
    return total
