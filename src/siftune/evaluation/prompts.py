"""Prompts that are read once: their keys and values are kept, and any number of turns is scored or written after them.

Batches of prompts are padded on the left, so that what follows stands next to them; where a token stands is said by its
position, so padding changes nothing but the last digits.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from siftune.data.rows import Rendered
from siftune.models.batching import collate
from siftune.models.supervised_logits import supervised_logits


def keeps_keys(model: Any) -> bool:
    """Whether rows can go on from the keys and values of a prompt, several from one: full attention in every layer,
    positions that can be said."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if "position_ids" not in _accepted(model):
        return False
    weight = next(_base(model).parameters())
    ids = torch.zeros((1, 1), dtype=torch.long, device=weight.device)
    with torch.no_grad():
        out = _base(model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
    kept = getattr(out, "past_key_values", None)
    return type(kept) is DynamicCache and all(type(layer) is DynamicLayer for layer in kept.layers)


def log_likelihoods(logits: torch.Tensor, input_ids: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """float64 [B]: sums over each row's supervised tokens; logits are [n, V] of these, in row-major order."""
    each = -cross_entropy(logits.float(), input_ids[mask], reduction="none").double()  # [n]
    row = mask.nonzero()[:, 0]
    return torch.zeros(len(mask), dtype=torch.float64, device=each.device).index_add(0, row, each).cpu().numpy()


@dataclass
class ReadPrompts:
    """The keys and values of a batch of prompts. Whatever is read after them is added to these, so each is used once;
    :meth:`copy` makes another.

    Attributes:
        cache: of the model, [P] prompts.
        seen: int64 [P, T]; 1 where a token stands.
        lengths: int64 [P] tokens of each prompt.
    """

    cache: Any
    seen: torch.Tensor
    lengths: torch.Tensor

    @classmethod
    def read(cls, model: Any, prompts: Sequence[np.ndarray], pad_id: int, device: str | torch.device) -> ReadPrompts:
        """Read prompts, int [T] tokens each, one at least."""
        ids, seen = _left_padded(prompts, pad_id, device)
        # No logit of a prompt is wanted.
        with supervised_logits(model, torch.zeros_like(seen, dtype=torch.bool)):
            out = model(input_ids=ids, attention_mask=seen, position_ids=(seen.cumsum(dim=1) - 1).clamp(min=0),
                        use_cache=True)
        return cls(out.past_key_values, seen, seen.sum(dim=1))

    def copy(self) -> ReadPrompts:
        return ReadPrompts(copy.deepcopy(self.cache), self.seen, self.lengths)

    def select(self, prompts: Sequence[int]) -> None:
        """Go on with these prompts, each as often as it is named."""
        index = torch.tensor(prompts, device=self.seen.device)
        self.cache.reorder_cache(index)
        self.seen, self.lengths = self.seen[index], self.lengths[index]

    def score(self, model: Any, turns: Sequence[Rendered], pad_id: int) -> np.ndarray:
        """Log-likelihood of the supervised tokens of one turn after each prompt: float64 [P], in nats."""
        batch = collate(turns, pad_id, self.seen.device)
        places = self.lengths[:, None] + torch.arange(batch.input_ids.shape[1], device=self.seen.device)
        with supervised_logits(model, batch.supervised):
            out = model(input_ids=batch.input_ids, attention_mask=torch.cat([self.seen, batch.attention_mask], dim=1),
                        position_ids=places, use_cache=True, past_key_values=self.cache)
        return log_likelihoods(out.logits[0], batch.input_ids, batch.supervised)

    def write(self, model: Any, heads: Sequence[np.ndarray], room: Sequence[int], stops: Sequence[int],
              pad_id: int) -> list[list[int]]:
        """What the model writes after each prompt, greedily.

        Args:
            model: that has read them.
            heads: int [>= 1] tokens each that follow the prompt before the model writes.
            room: the most tokens of each answer.
            stops: tokens that end an answer; they are part of it.
            pad_id: to pad heads with.
        """
        keep_one = {"logits_to_keep": 1} if "logits_to_keep" in _accepted(model) else {}
        answers: list[list[int]] = [[] for _ in heads]
        going = [k for k in range(len(heads)) if room[k] > 0]
        if len(going) < len(heads):
            self.select(going)
        ids, mask = _left_padded([heads[k] for k in going], pad_id, self.seen.device)
        while going:
            self.seen = torch.cat([self.seen, mask], dim=1)
            places = (self.lengths[:, None] + mask.cumsum(dim=1) - 1).clamp(min=0)
            self.lengths = self.lengths + mask.sum(dim=1)
            out = model(input_ids=ids, attention_mask=self.seen, position_ids=places, use_cache=True,
                        past_key_values=self.cache, **keep_one)
            ids = out.logits[:, -1].argmax(dim=-1, keepdim=True)
            for k, token in zip(going, ids[:, 0].tolist(), strict=True):
                answers[k].append(token)
            left = [n for n, k in enumerate(going) if answers[k][-1] not in stops and len(answers[k]) < room[k]]
            if len(left) < len(going):
                going, ids = [going[n] for n in left], ids[left]
                if going:
                    self.select(left)
            mask = torch.ones_like(ids)
        return answers


def _left_padded(rows: Sequence[np.ndarray], pad_id: int,
                 device: str | torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows), default=0)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, width - len(row):] = row
        mask[i, width - len(row):] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def _base(model: Any) -> Any:
    return getattr(model, "get_base_model", lambda: model)()


def _accepted(model: Any) -> Any:
    return inspect.signature(_base(model).forward).parameters
