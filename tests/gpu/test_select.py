"""A selection on an accelerator is that of the CPU, with one worker and with one for each device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import siftune
from tests import tiny
from tests.cli.pools import records

SMALL: dict[str, dict[str, Any]] = {
    "rds+": {}, "mads": {},
    "less-round-robin": {"warmup_rows": 8, "warmup_epochs": 1, "projection_dim": 256, "lora_rank": 2},
}


@pytest.mark.parametrize("method", SMALL)
def test_the_subset_is_that_of_the_cpu(device: str, method: str, tmp_path: Path) -> None:
    model = tiny.save(tmp_path / "model")
    pool, target = records("messages", range(30)), records("messages", range(90, 94))
    runs = {place: siftune.select(pool=pool, target=target, budget=6, method=method, model=model, device=place,
                                  dtype="float32", max_length=128, **SMALL[method])
            for place in dict.fromkeys((device, "cpu"))}
    found, expected = runs[device], runs["cpu"]
    shared = set(found.ids) & set(expected.ids)
    assert len(shared) >= 5, "a tie may fall otherwise"
    scores = dict(zip(expected.ids, expected.scores, strict=True))
    mine = dict(zip(found.ids, found.scores, strict=True))
    np.testing.assert_allclose([mine[i] for i in sorted(shared)], [scores[i] for i in sorted(shared)],
                               rtol=2e-2, atol=1e-4)


@pytest.mark.slow
def test_one_worker_for_each_device_gives_the_same(device: str, tmp_path: Path) -> None:
    count = torch.cuda.device_count() if device.startswith("cuda") else 2
    if count < 2:
        pytest.skip("one device only")
    model = tiny.save(tmp_path / "model")
    pool, target = records("messages", range(30)), records("messages", range(90, 94))
    one, several = (siftune.select(pool=pool, target=target, budget=6, method="rds+", model=model, shard_rows=8,
                                   device=device.split(":")[0], dtype="float32", max_length=128, workers=workers)
                    for workers in (1, count))
    assert one.ids == several.ids
