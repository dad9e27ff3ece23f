"""Batches of rows of like length under a token budget, and their padded tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from siftune.data.rows import Rendered

CPU_BATCH_COST, BATCH_COST = 32, 1024


def batch_cost(device: torch.device | str) -> int:
    """What a batch costs beside its tokens, in tokens: little where a core is busy with any batch, more elsewhere."""
    return CPU_BATCH_COST if torch.device(device).type == "cpu" else BATCH_COST


def plan_batches(lengths: Sequence[int], batch_tokens: int, *, batch_cost: int = CPU_BATCH_COST) -> list[list[int]]:
    """Group rows so that rows x longest row <= ``batch_tokens`` in each batch (a longer row stands alone).

    The batches are those of least cost, where a batch costs its padded tokens and ``batch_cost``: rows sorted by length
    are cut by dynamic programming, so that padding is only accepted where it saves more than it wastes. Longest first:
    if memory does not suffice, the first batch shows it.

    Args:
        lengths: token count of each row.
        batch_tokens: padded tokens a batch may hold.
        batch_cost: see :func:`batch_cost`.

    Returns:
        Lists of row positions; every row in exactly one; rows of equal length in their order.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    least = [0.0] + [float("inf")] * len(order)  # least[i]: cost of the first i rows
    start = [0] * (len(order) + 1)  # where the last batch of the best cut of the first i rows begins
    for first in range(len(order)):
        width = max(1, lengths[order[first]])
        for stop in range(first + 1, min(len(order), first + max(1, batch_tokens // width)) + 1):
            cost = least[first] + (stop - first) * width + batch_cost
            if cost < least[stop]:
                least[stop], start[stop] = cost, first
    batches: list[list[int]] = []
    stop = len(order)
    while stop:
        batches.append(order[start[stop] : stop])
        stop = start[stop]
    return batches[::-1]


def run_batches(lengths: Sequence[int], batch_tokens: int, device: torch.device | str,
                run: Callable[[list[int]], None]) -> None:
    """Call ``run`` with the row positions of each batch, longest rows first.

    A batch that does not fit in the device's memory is halved: what is computed of a row must not depend on its batch,
    so smaller ones give the same.

    Args:
        lengths: token count of each row.
        batch_tokens: padded tokens a batch may hold.
        device: where the batches run.
        run: keeps its results only once it has all of them.

    Raises:
        torch.OutOfMemoryError: a single row does not fit.
    """
    waiting = plan_batches(lengths, batch_tokens, batch_cost=batch_cost(device))[::-1]
    while waiting:
        positions = waiting.pop()
        try:
            run(positions)
        except torch.OutOfMemoryError:
            if len(positions) == 1:
                raise
            half = len(positions) // 2
            waiting += [positions[half:], positions[:half]]


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
