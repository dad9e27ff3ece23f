"""Batches of rows of like length under a token budget, and their padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from siftune.data.rows import Rendered


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group rows so that rows x longest row <= ``batch_tokens`` in each batch (a longer row stands alone).

    Rows are taken by length, so that padding is small; ties keep their order. Longest first: if memory does not
    suffice, the first batch shows it.

    Args:
        lengths: token count of each row.
        batch_tokens: padded tokens a batch may hold.

    Returns:
        Lists of row positions; every row in exactly one.
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # Sorted downwards: the first row of a batch is its longest and sets the padded width.
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


@dataclass(frozen=True)
class Batch:
    """Right-padded tensors of some rows.

    Attributes:
        input_ids: int64 [b, T].
        attention_mask: int64 [b, T]; 1 for real tokens.
        supervised: bool [b, T]; true where the token at that position is a label.
    """

    input_ids: Tensor
    attention_mask: Tensor
    supervised: Tensor


def collate(rendered: Sequence[Rendered], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Pad rows on the right to their longest."""
    width = max(len(r) for r in rendered)
    ids = np.full((len(rendered), width), pad_id, dtype=np.int64)
    attention = np.zeros((len(rendered), width), dtype=np.int64)
    supervised = np.zeros((len(rendered), width), dtype=bool)
    for i, row in enumerate(rendered):
        ids[i, : len(row)] = row.ids
        attention[i, : len(row)] = 1
        supervised[i, : len(row)] = row.mask
    return Batch(*(torch.from_numpy(x).to(device) for x in (ids, attention, supervised)))
