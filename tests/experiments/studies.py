"""A small study on a tiny model: two targets, three methods, two budgets; runs in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from siftune.experiments.config import StudyConfig, load_study
from tests import tiny
from tests.cli.pools import jsonl, record, records

SMALL = {"lora_rank": 2, "batch_size": 4, "max_length": 128, "shard_rows": 16, "epochs": 1, "exact_match_tokens": 8,
         "less": {"projection_dim": 64, "warmup_epochs": 1, "warmup_rows": 8, "warmup_batch_size": 4},
         "logra": {"projection_dim": 64}}
METHODS = ["logra", "bm25", "less-round-robin"]


def write_files(folder: Path, test_rows: int = 5) -> dict[str, Any]:
    """Model, pool, two targets with their test rows (16 at most); returns the values of a study but for its folder."""
    tiny.save(folder / "model")
    jsonl(folder / "pool.jsonl", records("messages", range(40)))
    for name, first in (("sums", 102), ("sorting", 103)):  # one kind of conversation each, none of them in the pool
        numbers = range(first, first + 60, 3)
        rows = [record("messages", i, id=f"{name}{i}", subtask="ab"[i % 2]) for i in numbers]
        jsonl(folder / f"{name}.jsonl", rows[:4])
        jsonl(folder / f"{name}-test.jsonl", rows[4:4 + test_rows])
    return {
        "model": str(folder / "model"), "pool": [str(folder / "pool.jsonl")], **SMALL,
        "targets": [{"name": n, "target": [str(folder / f"{n}.jsonl")], "test": [str(folder / f"{n}-test.jsonl")]}
                    for n in ("sums", "sorting")],
        "methods": METHODS, "budgets": ["10%", "150tok"], "seeds": 1,
        "headline": ["less-round-robin"], "headline_seeds": 2, "baselines": {"random": 2},
    }


def study_file(path: Path, values: dict[str, Any], **changes: Any) -> Path:
    """Write a study as a user does; ``None`` takes a key out."""
    told = {k: v for k, v in {**values, **changes}.items() if v is not None}
    path.write_text(yaml.safe_dump(told))
    return path


def config(folder: Path, values: dict[str, Any], name: str, **changes: Any) -> StudyConfig:
    changes = {"output_dir": str(folder / name), **changes}
    return load_study(study_file(folder / f"{name}.yaml", values, **changes))


def timeless(result: Any) -> Any:
    """A result without what differs from run to run: times, and what follows from them."""
    drop = ("costs", "break_even", "train_seconds", "select_seconds", "selection_seconds", "feature_steps")
    if isinstance(result, dict):
        return {k: timeless(v) for k, v in result.items() if k not in drop}
    return [timeless(v) for v in result] if isinstance(result, list | tuple) else result


def check_same(one: Any, other: Any, at: str = "") -> None:
    """Equal but for the last digits of numbers, which hang on how many threads a sum was spread over."""
    if isinstance(one, float) and isinstance(other, float):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-7, nan_ok=True), at
    elif isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), at
        for key in one:
            check_same(one[key], other[key], f"{at}.{key}")
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), at
        for place, pair in enumerate(zip(one, other, strict=True)):
            check_same(*pair, f"{at}[{place}]")
    else:
        assert one == other, at


def plain(result: Any) -> Any:
    """As it comes back out of the file."""
    return json.loads(json.dumps(result))
