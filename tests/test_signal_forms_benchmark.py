"""The benchmark of signal forms on a tiny model: what its shares are, and that it goes on where it was stopped."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from siftune._common.files import read_json
from tests import tiny
from tests.interrupt import stopped_after
from tests.methods import texts

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def forms() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("signal_forms")
    finally:
        sys.path.remove(str(BENCHMARKS))
        sys.modules.pop("signal_forms", None)


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """A pool of 30 rows and two targets of three, for a tiny model."""
    def write(path: Path, rows: list[tuple[str, str]], family: str) -> None:
        path.write_text("".join(json.dumps({"prompt": prompt, "completion": answer, "family": f"{family}{i % 3}"})
                                + "\n" for i, (prompt, answer) in enumerate(rows)))

    write(tmp_path / "pool.jsonl", texts.demo("pool", 30), "f")
    (tmp_path / "targets").mkdir()
    for name, first in (("one", 0), ("two", 3)):
        write(tmp_path / "targets" / f"{name}.jsonl", texts.demo("target", first + 3)[first:], "t")
    (tmp_path / "skills.json").write_text(json.dumps({name: {"direct": ["f1"]} for name in ("one", "two")}))
    (tmp_path / "small.yaml").write_text(
        f"model: {tiny.save(tmp_path / 'model')}\nmax_length: 320\nlora_rank: 2\ngroup_field: family\nshard_rows: 10\n"
        "less: {warmup_epochs: 1, warmup_rows: 8, warmup_batch_size: 4}\n")
    files = {"--pool": "pool.jsonl", "--targets": "targets", "--run": "run", "--config": "small.yaml",
             "--skills": "skills.json", "--results": "results.json"}
    return [*(text for flag, name in files.items() for text in (flag, str(tmp_path / name))),
            "--budget", "3", "--first", "bm25", "bm25+embed", "--dims", "4096"]


def test_its_tables_are_whole_and_it_goes_on(forms: ModuleType, flags: list[str], tmp_path: Path) -> None:
    with stopped_after(5), pytest.raises(KeyboardInterrupt):
        forms.main(flags)
    forms.main(flags)
    found = read_json(tmp_path / "results.json")
    assert set(found["arms"]) == set(forms.ARMS) == set(found["two_stage"])
    for first in ("bm25", "bm25+embed"):
        for keep in forms.KEEP:
            told = found["two_stage"]["paper"][first][str(keep)]
            kept = min(30, keep * 3) / 30
            assert told["by_chance"]["by_target"] == {"one": pytest.approx(kept), "two": pytest.approx(kept)}
            for name in ("one", "two"):
                assert told["selected"]["by_target"][name] <= told["recall"]["by_target"][name] <= 1
        assert found["two_stage"]["paper"][first]["16"]["recall"]["mean"] == 1
    assert found["projected"]["4096"]["selection"]["mean"] > 0.5, "more dimensions than the adapter has"
    assert set(found["forms"]) == {f"{a} / {b}" for a, b in forms.PAIRS}
    assert (tmp_path / "run" / "warmup").is_dir()
    assert not (tmp_path / "run" / "forms" / "no-momentum" / "warmup").exists(), "one warmup run for all"


def test_what_its_numbers_are(forms: ModuleType) -> None:
    assert forms.common(np.array([1, 2, 3, 4]), np.array([4, 2, 9])) == 0.5
    assert forms.top(np.array([0.1, 0.9, 0.5, 0.9]), 0.5).tolist() == [1, 3]
    told = forms.told({"a": 0.0, "b": 1.0, "c": 0.5})
    half = 4.302653 * 0.5 / np.sqrt(3)
    assert (told["mean"], told["low"], told["high"]) == (0.5, round(0.5 - half, 4), round(0.5 + half, 4))
    assert "low" not in forms.told({"a": 0.3})
