"""The recombined pools of `benchmarks/pools.py`."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest


def test_a_recombined_pool_has_real_lengths_new_ids_and_no_text_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    recombined = importlib.import_module("pools").recombined
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    records = [{"id": f"x{i}", "messages": [{"role": "user", "content": " ".join(words[i:])},
                                            {"role": "assistant", "content": " ".join(words[: 9 - i])}]}
               for i in range(4)]
    made = [json.loads(line) for line in recombined(records, 40)]
    assert [record["id"] for record in made] == [f"row-{i}" for i in range(40)]
    assert [json.loads(line) for line in recombined(records, 40)] == made
    for i, record in enumerate(made):
        for turn, before in zip(record["messages"], records[i % 4]["messages"], strict=True):
            new, old = turn["content"].split(), before["content"].split()
            assert turn["role"] == before["role"]
            assert len(new) == len(old)
            assert sum(a != b for a, b in zip(new, old, strict=True)) <= 1
    assert len({json.dumps(record["messages"]) for record in made}) > 30
