"""Small runs to be damaged: made once, copied for each test."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from siftune.experiments import cells
from siftune.features.store import FeatureStore
from tests import tiny
from tests.cli.pools import jsonl, records


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("faults")
    tiny.save(folder / "model")
    return {"model": folder / "model", "pool": jsonl(folder / "pool.jsonl", records("messages", range(40))),
            "target": jsonl(folder / "target.jsonl", records("messages", range(100, 104), "target")),
            "test": jsonl(folder / "test.jsonl", records("messages", range(200, 203), "test"))}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What is computed inside a test, counted: shards by store and name, scores by the folder of their cell."""
    seen: Counter[str] = Counter()
    write, score = FeatureStore.write, cells._score

    def spied_write(self: FeatureStore, shard: Any, arrays: Any) -> None:
        seen[f"{self.folder.parent.name}/{self.folder.name}/{shard.name}"] += 1
        write(self, shard, arrays)

    def spied_score(loaded: Any, model: Any, shelf: Any, cell: Any, key: str, *rest: Any, **more: Any) -> None:
        seen[f"scores {shelf.folder(cell).name}"] += 1
        score(loaded, model, shelf, cell, key, *rest, **more)

    monkeypatch.setattr(FeatureStore, "write", spied_write)
    monkeypatch.setattr(cells, "_score", spied_score)
    return seen
