"""One pool after another into one folder: features of the first never pass for those of the second."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import siftune
from tests.cli.pools import jsonl
from tests.cli.runs import table

KEPT = ("less", "gist", "logra", "rds+", "mads", "nag", "nait", "ifd", "loss", "delift", "embed",
        "learning-percentage")
"""Methods that keep what they have computed of a pool."""

COUNTED = ("bm25", "dsir", "random", "longest")
"""Methods that keep nothing."""

SMALL = ("--budget", 4, "--lora-rank", 2, "--max-length", 128, "--shard-rows", 5, "--config",
         Path(__file__).with_name("short.yaml"))


def conversation(number: int, prompt: str, response: str) -> dict[str, Any]:
    return {"id": f"r{number}", "messages": [{"role": "user", "content": prompt},
                                             {"role": "assistant", "content": response}]}


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two pools of 16 rows with other ids and texts, one with the first's ids and other texts, the first shuffled."""
    folder = tmp_path_factory.mktemp("pools")
    fruit = ("apple", "banana", "cherry", "fig", "grape")
    first = [conversation(i, f"Add {i} and {i + 2}.", f"The answer is {2 * i + 2}.") if i % 2 else
             conversation(i, f"Sort: {fruit[i % 5]}{i}, {fruit[(i + 1) % 5]}", f"{fruit[i % 5]}{i}, {fruit[i % 3]}")
             for i in range(16)]
    second = [conversation(20 + i, f"Sort: {fruit[-i % 5]}{20 + i}, fig", f"fig, {fruit[-i % 5]}{20 + i}") if i % 2
              else conversation(20 + i, f"Add {20 + 3 * i} and {i}.", f"{20 + 4 * i}") for i in range(16)]
    renamed = [{**row, "id": other["id"]} for row, other in zip(second, first, strict=True)]
    shuffled = random.Random(1).sample(first, len(first))
    rows = {"first": first, "second": second, "same ids": renamed, "shuffled": shuffled}
    targets = [conversation(900 + i, f"Add {100 + i} and {103 + i}.", f"The answer is {203 + 2 * i}.")
               for i in range(3)]
    return {name: jsonl(folder / f"{name}.jsonl", some) for name, some in (*rows.items(), ("target", targets))}


def select(files: dict[str, Path], pools: dict[str, Path], pool: str, method: str, run: Path, *more: Any) -> Any:
    return siftune("select", "--model", files["model"], "--pool", pools[pool], "--target", pools["target"],
                   "--method", method, *SMALL, "--output-dir", run, *more)


def numbers(run: Path) -> Any:
    scores = table(run / "scores.parquet", "id", "score", "selected")
    return sorted(zip(scores["id"], scores["score"], scores["selected"], strict=True))


@pytest.mark.parametrize("method", KEPT)
def test_another_pool_of_as_many_rows_is_refused_and_the_pool_is_named(method: str, files: dict[str, Path],
                                                                       pools: dict[str, Path], tmp_path: Path) -> None:
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    select(files, pools, "first", method, run).ok()
    before = numbers(run)
    # The utility is one of contents, in the order of their ids: the order of the rows is nothing to it.
    for other in ("second", "same ids", *(("shuffled",) if method != "delift" else ())):
        select(files, pools, other, method, run).refused("made with another pool", "--recompute", "--output-dir")
    if method == "delift":
        select(files, pools, "shuffled", method, run).ok()
    assert numbers(run) == before, "a refusal changes nothing"
    select(files, pools, "first", method, run).ok()
    assert numbers(run) == before
    select(files, pools, "second", method, run, "--recompute").ok()
    select(files, pools, "second", method, fresh).ok()
    assert numbers(run) == numbers(fresh)


@pytest.mark.parametrize("method", COUNTED)
def test_what_keeps_nothing_has_the_numbers_of_each_pool(method: str, files: dict[str, Path], pools: dict[str, Path],
                                                         tmp_path: Path) -> None:
    for pool in ("first", "second", "same ids", "shuffled"):
        select(files, pools, pool, method, tmp_path / "run").ok()
        select(files, pools, pool, method, tmp_path / pool).ok()
        assert numbers(tmp_path / "run") == numbers(tmp_path / pool)
    assert numbers(tmp_path / "first") == numbers(tmp_path / "shuffled")
