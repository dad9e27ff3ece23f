from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.cli.pools import Record, jsonl, records


@dataclass(frozen=True)
class Inputs:
    """A pool and a target as dicts and as files, and a tiny model; never changed."""

    model: str
    rows: list[Record]
    targets: list[Record]
    pool: Path
    target: Path

    @property
    def text_search(self) -> dict[str, Any]:
        """A selection that runs no model."""
        return {"target": self.targets, "model": self.model, "method": "bm25", "budget": 5}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    rows = [{k: v for k, v in r.items() if k not in ("id", "group")} for r in records("messages", range(30))]
    targets = records("messages", range(100, 104), "target")
    return Inputs(tiny.save(folder / "model"), rows, targets, jsonl(folder / "pool.jsonl", rows),
                  jsonl(folder / "target.jsonl", targets))
