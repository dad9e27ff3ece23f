"""How certain a model is of the supervised tokens of rows, alone and after an example; the example is run once.

The keys and values that an example leaves in the attention layers are computed once and serve all rows that are scored
after it. Every layer keeps all of them, those of a sliding window too: the attention mask alone decides what a layer
looks at, exactly as in one pass over both. Rows are padded on the right, so that positions count on from the example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from siftune._common.errors import ModelError
from siftune.data.rows import Rendered
from siftune.features.forward.engine import hidden_states
from siftune.features.forward.hidden import position_weighted_mean
from siftune.models.batching import collate, run_batches
from siftune.models.supervised_logits import supervised_logits

if TYPE_CHECKING:
    from siftune.models.loading import LoadedModel


@dataclass(frozen=True)
class Certainty:
    """How certain the model is of each row's answer.

    Attributes:
        distance: float32 [n], ``sqrt(mean_t (1 - p_t)^2)`` over the supervised tokens t: 0 where it is certain of all.
        logprob: float32 [n], ``mean_t log p_t`` in nats.

    Both are NaN for a row that cannot be scored, since it does not fit the model.
    """

    distance: np.ndarray
    logprob: np.ndarray

    @classmethod
    def unknown(cls, n: int) -> Certainty:
        return cls(np.full(n, np.nan, np.float32), np.full(n, np.nan, np.float32))

    def put(self, positions: Sequence[int], found: Certainty) -> None:
        self.distance[positions], self.logprob[positions] = found.distance, found.logprob


class Scorer:
    """Runs a model over rows.

    Args:
        loaded: a causal language model.
        batch_tokens: padded tokens of rows per batch. A batch that does not fit in the device's memory is halved.
        limit: the most tokens of an example and a row together; see :func:`room`.
        reuse: keep the keys and values of an example for all its rows; otherwise each row is run with the whole
            example before it, which gives the same and takes longer. Models without plain keys and values (recurrent
            ones) are never asked to.
    """

    def __init__(self, loaded: LoadedModel, *, batch_tokens: int, limit: int, reuse: bool = True):
        self.model, self.pad_id, self.device = loaded.model, loaded.pad_id, loaded.device
        self.batch_tokens, self.limit = batch_tokens, limit
        self.reuse = reuse and not getattr(loaded.model, "_is_stateful", False)

    def alone(self, rows: Sequence[Rendered], on_batch: Callable[[list[int]], None] = lambda positions: None,
              ) -> tuple[Certainty, np.ndarray]:
        """Rows without an example.

        Returns:
            How certain the model is; and float32 [n, H], of length 1: the mean of the last hidden states of all tokens,
            each weighed by its position (RDS+, arXiv 2503.01807, section 3.1), by which rows are told to be near.
        """
        found = Certainty.unknown(len(rows))
        vectors = np.zeros((len(rows), self.model.get_output_embeddings().weight.shape[1]), np.float32)
        fit = [i for i, row in enumerate(rows) if len(row) <= self.limit]

        def score(some: list[int]) -> None:
            positions, hidden = [fit[k] for k in some], []
            batch = collate([rows[i] for i in positions], self.pad_id, self.device)
            with hidden_states(self.model, hidden.append), supervised_logits(self.model, batch.supervised):
                logits = self._logits(batch.input_ids, batch.attention_mask)
            found.put(positions, certainty(logits, batch.input_ids, batch.supervised))
            vectors[positions] = position_weighted_mean(hidden[0], batch.attention_mask).cpu().numpy()
            on_batch(positions)

        run_batches([len(rows[i]) for i in fit], self.batch_tokens, self.device, score)
        return found, vectors

    def after(self, example: np.ndarray, rows: Sequence[Rendered]) -> Certainty:
        """Rows, each after the same example; an example that is too long beside a row is cut at its end.

        Args:
            example: int32 [P] token ids.
            rows: continuations; see :class:`siftune.features.in_context.conversation.Conversation`.
        """
        found = Certainty.unknown(len(rows))
        left = np.array([room(len(example), len(row), self.limit) for row in rows], dtype=np.int64)
        with torch.inference_mode():
            kept = self._keys_and_values(example) if self.reuse and left.any() else None
            for shown in sorted(set(left[left > 0].tolist()), reverse=True):

                where = np.flatnonzero(left == shown)

                def score(batch: list[int], shown: int = shown, where: np.ndarray = where) -> None:
                    positions = where[batch].tolist()
                    some = [rows[i] for i in positions]
                    found.put(positions, self._after(example[:shown], some) if kept is None
                              else self._continued([(k[:, :, :shown], v[:, :, :shown]) for k, v in kept], some))

                run_batches([len(rows[i]) for i in where.tolist()], self.batch_tokens, self.device, score)
        return found

    def _keys_and_values(self, example: np.ndarray) -> list[tuple[Tensor, Tensor]] | None:
        """Those of every layer, [1, heads, P, width] each; None where the model does not keep such."""
        from transformers import DynamicCache

        cache: Any = DynamicCache()  # without the model's configuration: it would drop what a sliding window has passed
        ids = torch.from_numpy(example.astype(np.int64))[None].to(self.device)
        with supervised_logits(self.model, torch.zeros_like(ids, dtype=torch.bool)):
            self.model(input_ids=ids, past_key_values=cache, use_cache=True)
        kept = [(layer[0], layer[1]) for layer in cache]
        plain = kept and all(k is not None and k.shape[-2] == len(example) == v.shape[-2] for k, v in kept)
        return kept if plain else None

    def _continued(self, kept: Sequence[tuple[Tensor, Tensor]], rows: Sequence[Rendered]) -> Certainty:
        from transformers import DynamicCache

        batch = collate(rows, self.pad_id, self.device)
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(kept):
            cache.update(keys.expand(len(rows), -1, -1, -1), values.expand(len(rows), -1, -1, -1), layer)
        before = batch.attention_mask.new_ones((len(rows), kept[0][0].shape[-2]))
        with supervised_logits(self.model, batch.supervised):
            logits = self._logits(batch.input_ids, torch.cat([before, batch.attention_mask], dim=1),
                                  past_key_values=cache, use_cache=True)
        return certainty(logits, batch.input_ids, batch.supervised)

    def _after(self, example: np.ndarray, rows: Sequence[Rendered]) -> Certainty:
        """The same without anything kept: one pass over example and row."""
        nothing = np.zeros(len(example), dtype=bool)
        batch = collate([replace(row, ids=np.concatenate([example, row.ids]), mask=np.concatenate([nothing, row.mask]))
                         for row in rows], self.pad_id, self.device)
        with supervised_logits(self.model, batch.supervised):
            logits = self._logits(batch.input_ids, batch.attention_mask)
        return certainty(logits, batch.input_ids, batch.supervised)

    @torch.inference_mode()
    def _logits(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        options = options or {"use_cache": False}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **options).logits[0]


def room(example: int, row: int, limit: int) -> int:
    """How many tokens of an example are shown before a row: what the row leaves of the limit; 0 if nothing."""
    return max(0, min(example, limit - row))


def most_tokens(model: Any, max_length: int) -> int:
    """Example and row together: each as long as any row may be, and no more than the model has positions for."""
    config = model.config.get_text_config()
    return min(2 * max_length, getattr(config, "max_position_embeddings", None) or 2 * max_length)


def certainty(logits: Tensor, input_ids: Tensor, mask: Tensor) -> Certainty:
    """From the logits of supervised tokens, as :func:`~siftune.models.supervised_logits.supervised_logits` has them.

    Args:
        logits: [n, V].
        input_ids: int64 [B, T].
        mask: bool [B, T].

    Raises:
        ModelError: a probability that is not a number.
    """
    logp = -cross_entropy(logits.float(), input_ids[mask], reduction="none").cpu().numpy().astype(np.float64)
    if not np.isfinite(logp).all():
        raise ModelError("the probability of a token is not a number",
                         why="With NaN among the utilities, an example would help or harm by accident.",
                         hint="half precision overflows on some models: try --dtype float32")
    row = mask.nonzero()[:, 0].cpu().numpy()
    count = np.bincount(row, minlength=len(mask))
    distance = np.sqrt(np.bincount(row, weights=np.expm1(logp) ** 2, minlength=len(mask)) / count)
    logprob = np.bincount(row, weights=logp, minlength=len(mask)) / count
    return Certainty(distance.astype(np.float32), logprob.astype(np.float32))
