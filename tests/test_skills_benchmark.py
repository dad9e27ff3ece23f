"""The benchmark of skills on made-up data: what its proxy counts, and that its study is one."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from siftune.experiments.config import load_study

SKILLS = Path(__file__).resolve().parents[1] / "benchmarks" / "skills"


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    sys.path.insert(0, str(SKILLS))
    try:
        yield importlib.import_module("proxy"), importlib.import_module("study")
    finally:
        sys.path.remove(str(SKILLS))
        for name in ("proxy", "study"):
            sys.modules.pop(name, None)


@pytest.fixture
def data(tmp_path: Path, modules: tuple[ModuleType, ModuleType]) -> Path:
    """A pool of 40 rows of four families and, for each target, two rows."""
    _, study = modules
    lines = [json.dumps({"prompt": f"{'abcd'[i % 4] * 3} {i}", "completion": "x", "family": "abcd"[i % 4]})
             for i in range(40)]
    (tmp_path / "pool_2k.jsonl").write_text("\n".join(lines) + "\n")
    for folder in ("targets", "tests"):
        (tmp_path / folder).mkdir()
        for name in (*study.HARD, *study.OTHERS):
            rows = [{"prompt": f"{folder} {name} {i}", "completion": "x"} for i in range(2)]
            (tmp_path / folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    skills = {name: {"direct": ["a"], "related": ["b"]} for name in (*study.HARD, *study.OTHERS)}
    (tmp_path / "skills.json").write_text(json.dumps(skills))
    return tmp_path


def test_target_rows_take_turns(modules: tuple[ModuleType, ModuleType]) -> None:
    proxy, _ = modules
    S = np.random.default_rng(0).normal(size=(5, 60))
    left, expected = set(range(60)), []
    for turn in range(17):
        best = max(left, key=lambda i: S[turn % 5, i])
        expected.append(best)
        left.remove(best)
    assert proxy.first_rows(S, 17).tolist() == expected


def test_z_scores_have_mean_zero_and_deviation_one(modules: tuple[ModuleType, ModuleType]) -> None:
    proxy, _ = modules
    S = np.vstack([np.random.default_rng(1).normal(3, 2, size=(2, 50)), np.ones((1, 50))])
    found = proxy.standardised(S)
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(found.std(axis=1), [1, 1, 0])


def test_scores_of_any_method_are_counted(modules: tuple[ModuleType, ModuleType], data: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, study = modules
    scores, output = data / "scores", data / "proxy.json"
    scores.mkdir()
    good = np.array([[3.0, 2.0, 1.0, 0.0] * 10] * 2)  # families a, b, c, d in this order
    for place, name in enumerate((*study.HARD, *study.OTHERS)):
        np.save(scores / f"{name}.npy", good if place < 8 else -good)
    monkeypatch.setattr(sys, "argv", ["proxy.py", "--data", str(data), "--signals", "--scores", f"mine={scores}",
                                      "--rows", "10", "--output", str(output)])
    proxy.main()
    found = json.loads(output.read_text())
    assert set(found["pool"].values()) == {0.25}
    mine = found["signals"]["mine"]
    assert [mine["shares"][name] for name in (*study.HARD, *study.OTHERS)] == [1.0] * 8 + [0.0] * 12
    assert mine["hard"] == {"mean": 1.0, "above_pool": 0.75, "low": 0.75, "high": 0.75, "targets": 8}
    gains = np.array([0.75] * 8 + [-0.25] * 12)
    half = 2.093024 * gains.std(ddof=1) / np.sqrt(20)  # Student's t with 19 degrees of freedom
    assert mine["all"]["above_pool"] == pytest.approx(gains.mean())
    assert [mine["all"]["low"], mine["all"]["high"]] == pytest.approx([gains.mean() - half, gains.mean() + half])


@pytest.mark.parametrize(("flags", "targets", "rows"), [([], 20, "100"), (["--smaller"], 10, "64"),
                                                        (["--targets", "svamp"], 1, "100")])
def test_the_study_is_one_that_siftune_reads(modules: tuple[ModuleType, ModuleType], data: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch, flags: list[str], targets: int,
                                             rows: str) -> None:
    _, study = modules
    output = tmp_path / "made" / "study.yaml"
    monkeypatch.setattr(sys, "argv", ["study.py", "--data", str(data), "--output", str(output), *flags])
    study.main()
    made = load_study(output)
    assert len(made.targets) == targets
    assert made.budgets == (rows,)
    assert made.baselines == {"random": 16, "length-matched-random": 3}
    assert set(study.HARD) <= {one.name for one in made.targets} or targets == 1
    assert yaml.safe_load(output.read_text())["group_field"] == "family"


def test_a_missing_file_is_named(modules: tuple[ModuleType, ModuleType], data: Path, tmp_path: Path,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    _, study = modules
    (data / "tests" / "svamp.jsonl").unlink()
    monkeypatch.setattr(sys, "argv", ["study.py", "--data", str(data), "--output", str(tmp_path / "study.yaml")])
    with pytest.raises(SystemExit, match=r"tests/svamp.jsonl is missing"):
        study.main()


def test_bm25_is_the_formula_word_by_word(modules: tuple[ModuleType, ModuleType]) -> None:
    proxy, _ = modules
    pool = [["a", "b", "a"], ["b"], ["c", "c", "c", "d"], ["a", "d"]]
    queries = [["a", "d", "a", "unknown"], ["c"]]
    found = proxy.bm25_of_rows(pool, queries)
    for q, query in enumerate(queries):
        for i, row in enumerate(pool):
            expected = 0.0
            for word in set(query):
                n = sum(word in other for other in pool)
                count = row.count(word)
                if n:
                    rarity = np.log(1 + (4 - n + 0.5) / (n + 0.5))
                    expected += rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(row) / 2.5))
            assert found[q, i] == pytest.approx(expected)
