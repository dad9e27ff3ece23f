"""Pools, real rows and synthetic vectors, for the map and the rows on the page of a study."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from siftune.config.settings import CompareConfig
from siftune.data.load import Inputs
from siftune.data.overlap import Disjoint
from siftune.data.rows import Examples, Message, Rendered, Row, content_hash
from siftune.experiments.config import StudyConfig
from siftune.experiments.inputs import StudyInputs
from siftune.experiments.pool.map import STEPS
from siftune.experiments.pool.rows import study_rows
from siftune.experiments.subsets import Subset, SubsetSpec
from tests.report import studies

TARGETS, METHODS, BUDGETS = ("math", "code"), ("less-round-robin", "rds+", "bm25"), ("1%", "20%")


def plain_texts(i: int) -> tuple[str, str]:
    return f"Question number {i}, about {('apples', 'pears', 'figs')[i % 3]}?", f"Answer {i}."


def inputs(rows: int, texts: Callable[[int], Sequence[str]] = plain_texts, *, ids: str = "row", groups: str = "group",
           ) -> StudyInputs:
    """Rows of a pool as a study has read them; row ``i`` has 10 + i % 90 tokens, and one of three groups."""
    made = []
    for i in range(rows):
        messages = tuple(Message(("user", "assistant")[k % 2], text) for k, text in enumerate(texts(i)))
        made.append(Row(f"{ids}{i}", "pool", f"pool:{i}", messages, "{}", content_hash(messages), "messages",
                        group=f"{groups}{i % 3}"))
    known = [Rendered(np.zeros(length, np.int32), np.ones(length, bool)) for length in range(10, 100)]
    pool = Examples(made, [known[i % 90] for i in range(rows)])
    nothing = Examples([], [])
    free = Inputs(pool, nothing, nothing, rows, [], Disjoint(pool=pool.rows, in_target=[], in_test=[]), {})
    return StudyInputs(StudyConfig(CompareConfig(), (), (), ()), free, {})


def subsets(result: dict[str, Any], rows: int) -> list[Subset]:
    """The subsets that a synthetic result names, with the first of so many rows in an order of their own."""
    made, ids = [], {}
    for place, told in enumerate(result["subsets"]):
        order = np.random.default_rng(place).permutation(rows)
        share = {"1%": 0.01, "5%": 0.05, "20%": 0.2}.get(told["budget"], 1.0)
        wanted = SubsetSpec(told["kind"], told["name"], told["target"], told["budget"], told["draw"])
        ids[told["id"]] = told["id"] = wanted.id
        made.append(Subset(wanted, order[: max(1, round(share * rows))]))
    for cell in result["cells"]:
        cell["subset"] = ids.get(cell["subset"])
    return made


def result(**changes: Any) -> dict[str, Any]:
    return studies.study(**{"targets": TARGETS, "methods": METHODS, "budgets": BUDGETS, "test_rows": 6, "trainings": 2,
                            **changes})


@cache
def _brief() -> str:
    return json.dumps(result(methods=("bm25",), budgets=("1%",), other=None, deciles=()))


def brief() -> dict[str, Any]:
    """A result with little in it but its rows."""
    return json.loads(_brief())


def write(folder: Path, told: dict[str, Any], pool: StudyInputs, *, has_map: bool = True) -> list[Subset]:
    """``study.json`` and ``rows.json``, and a ``map.json`` of clouds by group; returns the subsets."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subsets(told, len(pool.pool))
    shown = study_rows(pool, made, folder / "rows.json")
    (folder / "study.json").write_text(json.dumps(told), encoding="utf-8")
    bits = np.random.default_rng(3)
    centres = np.array([[700, 600], [2900, 900], [1800, 2400]])

    def cloud(group: np.ndarray) -> tuple[list[int], list[int]]:
        x, y = np.clip(centres[group] + bits.normal(0, 260, (len(group), 2)), 0, [STEPS - 1, 3000]).astype(int).T
        return x.tolist(), y.tolist()

    x, y = cloud(shown % 3)
    there = {name: cloud(np.full(5, k)) for k, name in enumerate([t["name"] for t in told["targets"]])}
    drawn = {"key": "k", "representation": "embed", "dimensions": 384, "pool": len(pool.pool), "fitted": 2000,
             "variance": [0.12, 0.07], "width": STEPS - 1, "height": 3000, "rows": shown.tolist(), "x": x, "y": y,
             "targets": [{"name": n, "rows": 5, "x": a, "y": b} for n, (a, b) in there.items()]}
    (folder / "map.json").write_text(json.dumps(drawn if has_map else {"key": "k", "none": "no vectors"}))
    return made
