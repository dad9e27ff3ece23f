"""Batches fit the memory that is free, and are halved where they do not after all."""

from __future__ import annotations

import numpy as np
import torch

from siftune.models.batching import run_batches
from siftune.models.memory import batch_tokens, free_memory
from tests import tiny
from tests.gpu.test_features import gradients


class _Loaded:
    def __init__(self, device: str):
        self.model, self.device = tiny.model("llama").to(device), torch.device(device)


def test_a_batch_takes_its_size_from_the_memory_that_is_free(device: str) -> None:
    free = free_memory(torch.device(device))
    assert free is not None
    assert free > 0
    chosen = batch_tokens(0, _Loaded(device))  # type: ignore[arg-type]  # the two that it reads
    assert chosen >= 64
    assert batch_tokens(321, _Loaded(device)) == 321  # type: ignore[arg-type]


def test_a_batch_that_does_not_fit_is_halved_until_it_does(device: str) -> None:
    """On CUDA memory is made scarce for real; elsewhere a batch of more than two rows is told not to fit."""
    done: list[list[int]] = []

    def run(positions: list[int]) -> None:
        if device.startswith("cuda"):
            free = torch.cuda.mem_get_info()[0]
            torch.empty(len(positions) * (free // 5), dtype=torch.uint8, device=device)
        elif len(positions) > 2:
            raise torch.OutOfMemoryError("told")
        done.append(positions)

    run_batches([8] * 16, 128, device, run)
    assert sorted(p for some in done for p in some) == list(range(16))
    assert len(done) > 1


def test_halved_batches_give_the_same_features(device: str) -> None:
    whole, halved = gradients("llama", device, batch_tokens=4096), gradients("llama", device, batch_tokens=1)
    np.testing.assert_allclose(whole["projected"], halved["projected"], atol=2e-3 * np.abs(whole["projected"]).max())


def test_nothing_of_a_pass_stays_on_the_device(cuda: str) -> None:
    gradients("llama", cuda)
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        gradients("llama", cuda)
    assert torch.cuda.memory_allocated() <= before
