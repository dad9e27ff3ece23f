"""The demo data: well formed, disjoint, small enough for its time limit, and reproducible byte for byte.

And the pieces of the real pool's builder that need no package.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "demo"
BUILDER = ROOT / "examples" / "build_demo.py"
REAL_BUILDER = ROOT / "benchmarks" / "build_real_pool.py"
SPLITS = ("pool", "target", "test")


@cache
def rows(split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DEMO / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


@cache
def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def builder() -> ModuleType:
    return script(BUILDER)


def prompt(row: dict[str, Any]) -> str:
    return " ".join(row["messages"][0]["content"].casefold().split())


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_is_one_question_and_one_answer_with_its_family(split: str) -> None:
    label = "group" if split == "pool" else "subtask"
    for row in rows(split):
        assert list(row) == ["id", "messages", label]
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert all(message["content"] == message["content"].strip() != "" for message in row["messages"])
        assert f"-{row[label]}-" in row["id"]


def test_ids_are_unique_over_all_files() -> None:
    ids = [row["id"] for split in SPLITS for row in rows(split)]
    assert len(set(ids)) == len(ids)


def test_no_prompt_occurs_twice_within_or_between_the_files() -> None:
    times = Counter(prompt(row) for split in SPLITS for row in rows(split))
    assert [text for text, count in times.items() if count > 1] == []


def test_pool_holds_many_families_and_a_few_percent_of_each_target_family() -> None:
    families = Counter(row["group"] for row in rows("pool"))
    targets = {row["subtask"] for row in rows("target")}
    assert 280 <= families.total() <= 310
    assert len(families) >= 36
    assert len(targets) == 2
    for family in targets:
        assert 0.03 <= families[family] / families.total() <= 0.05


def test_target_and_test_hold_the_same_two_families_in_equal_parts() -> None:
    target = Counter(row["subtask"] for row in rows("target"))
    test = Counter(row["subtask"] for row in rows("test"))
    assert set(target) == set(test)
    assert set(target.values()) == {6}
    assert set(test.values()) == {20}


def test_rows_are_short_and_test_answers_short_enough_for_exact_match() -> None:
    for split in SPLITS:
        for row in rows(split):
            assert sum(len(message["content"]) for message in row["messages"]) <= builder().MAX_CHARACTERS
    assert max(len(row["messages"][1]["content"]) for row in rows("test")) <= 60


def test_position_in_the_pool_says_nothing_about_the_family() -> None:
    # Sorted by family there would be one change of family per family; in random order almost every step is one.
    groups = [row["group"] for row in rows("pool")]
    changes = sum(a != b for a, b in pairwise(groups))
    assert changes > 0.9 * len(groups)


def test_word_reversals_are_reversed() -> None:
    # An oracle of our own beside the package's verifier.
    checked = 0
    for split in SPLITS:
        for row in rows(split):
            if "-word_sequence_reversal-" in row["id"]:
                question, answer = (message["content"] for message in row["messages"])
                words = question.rpartition("list of words: ")[2].split(", ")
                assert answer == ", ".join(reversed(words))
                checked += 1
    assert checked == 38


def built_here() -> bool:
    try:
        return version("reasoning-gym") == builder().BUILT_WITH
    except PackageNotFoundError:
        return False


def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    if not built_here():
        pytest.skip(f"needs reasoning-gym {builder().BUILT_WITH}")
    # In a process of its own, with an order of Python's sets that is not the one it was built with: some generators
    # draw from sets.
    subprocess.run(
        [sys.executable, str(BUILDER), "--output-dir", str(tmp_path)],
        check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    for split in SPLITS:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (DEMO / f"{split}.jsonl").read_bytes()


def test_a_family_with_too_few_short_tasks_is_an_error_that_says_so() -> None:
    pytest.importorskip("reasoning_gym")
    from siftune._common.errors import DataError

    build = builder()
    with pytest.raises(DataError, match="gcd has only 0 of 3 different tasks below 10 characters"):
        build.draw("gcd", build.Family(3), 3, 1, set(), max_characters=10)


def test_an_answer_known_to_be_wrong_is_passed_over() -> None:
    pytest.importorskip("reasoning_gym")
    build = builder()
    drawn = build.draw("coin_flip", build.Family(5, wrong=r"^0\.0"), 5, 1, set())
    unfiltered = build.draw("coin_flip", build.Family(5), 5, 1, set())
    assert any(task.answer.startswith("0.0") for task in unfiltered)
    assert not any(task.answer.startswith("0.0") for task in drawn)


def test_a_cut_off_json_array_gives_its_complete_objects() -> None:
    whole = [{"id": "a", "text": "one, ] {two"}, {"id": "b", "turns": [{"x": 1}]}, {"id": "c"}]
    text = json.dumps(whole, indent=1)
    real = script(REAL_BUILDER)
    assert list(real.complete_objects(text)) == whole
    assert list(real.complete_objects(text[: text.index('"c"') + 1])) == whole[:2]


@pytest.mark.parametrize(("id", "senders", "usable"), [
    ("abc", ["human", "gpt"], True),
    ("abc_0", ["human", "gpt", "human", "gpt"], True),
    ("abc_13", ["human", "gpt"], False),  # a later piece of a long conversation
    ("abc_0", ["gpt", "human"], False),
    ("abc_0", ["human"], False),
    ("abc_0", [], False),
])
def test_only_the_start_of_a_conversation_is_an_exchange(id: str, senders: list[str], usable: bool) -> None:
    turns = [{"from": sender, "value": f" turn {i} "} for i, sender in enumerate(senders)]
    exchange = script(REAL_BUILDER).first_exchange({"id": id, "conversations": turns})
    assert (exchange is not None) == usable
    if exchange is not None:
        assert (exchange.question, exchange.answer) == ("turn 0", "turn 1")


def test_real_pool_and_its_targets_share_no_conversation_and_the_pool_keeps_some_of_each_slice() -> None:
    real = script(REAL_BUILDER)
    questions = {0: "python lists", 1: "Write a poem"}
    exchanges = [real.Exchange(str(i), questions.get(i % 10, f"question {i}"), "answer") for i in range(1000)]
    files = real.split_conversations(exchanges)
    ids = [row["id"] for rows in files.values() for row in rows]
    assert len(set(ids)) == len(ids)
    assert {name: len(rows) for name, rows in files.items()} == {
        "programming/test": 32, "programming/target": 8, "writing/test": 32, "writing/target": 8, "sharegpt": 580,
    }
    assert Counter(row["group"] for row in files["sharegpt"]) == {"programming": 58, "writing": 58, "other": 464}


def test_answers_that_stop_in_the_middle_of_a_line_are_recognised() -> None:
    cut_off = script(REAL_BUILDER).looks_cut_off
    assert cut_off("To add an element to the end of a list,")
    assert cut_off("Here is an example using Chakra UI")
    assert not cut_off("Ready")
    assert not cut_off("1. Sole Savvy\n2. Leather Luxe")
    assert not cut_off("It is 4.")
