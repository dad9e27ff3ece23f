"""Compare trains every arm on the right rows, scores them on the test rows alone, and never does a cell twice."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from siftune import api
from siftune._common.errors import ConfigError
from siftune._common.files import read_json
from siftune._common.seeds import derive
from siftune.api import compare
from siftune.config.settings import CompareConfig
from siftune.evaluation.statistics import holm
from siftune.experiments import cells
from siftune.experiments.compare import table
from siftune.features.gradient_settings import lora_settings
from siftune.models.loading import load_model
from siftune.models.lora import attach_lora, detach_lora, load_adapter_state
from siftune.pipeline import select as select_job
from tests import tiny


def write_rows(path, n, offset, subtasks=None):
    rows = []
    for i in range(n):
        row = {"id": f"{path.stem}-{i}", "prompt": f"Add {offset + i} and {i}.", "completion": f"{offset + 2 * i}"}
        rows.append(row | ({"subtask": subtasks[i % len(subtasks)]} if subtasks else {}))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    values = dict(
        model=tiny.save(folder / "model"), pool=(write_rows(folder / "pool.jsonl", 24, 100),),
        target=(write_rows(folder / "target.jsonl", 4, 300, ["x", "y"]),),
        test=(write_rows(folder / "test.jsonl", 6, 500, ["y", "x", "x"]),),
        budget="5", seeds=2, epochs=1, lora_rank=2, max_length=128,
        own={"less": {"projection_dim": 64, "warmup_epochs": 1, "warmup_rows": 8, "warmup_batch_size": 4}},
        methods=("less-round-robin", "less"), baselines=("random", "full"), batch_size=4, exact_match_tokens=8,
    )
    return folder, values


def config(setting, name, **changes) -> CompareConfig:
    folder, values = setting
    return CompareConfig(**{**values, "output_dir": str(folder / name), **changes})


@pytest.fixture(scope="module")
def done(setting):
    return compare(config(setting, "run"))


def test_every_arm_is_there_with_its_rows_and_subtasks(done):
    arms = {arm["name"]: arm for arm in done.result["arms"]}
    assert list(arms) == ["zero-shot", "random", "full", "less+round-robin", "less+top-k-subtask"]
    assert arms["zero-shot"]["rows"] is None
    assert arms["random"]["rows"] == arms["less+round-robin"]["rows"] == 5
    assert arms["full"]["rows"] == 24
    for arm in arms.values():
        assert {k: v["n"] for k, v in arm["results"].items()} == {"all": 6, "y": 2, "x": 4}
        for part in arm["results"].values():
            assert part["loss"]["low"] <= part["loss"]["mean"] <= part["loss"]["high"]
    assert arms["random"]["seeds"] == [0, 1]
    assert {t["against"] for t in done.result["tests"]} == {"random", "full"}
    assert (done.folder / "report.html").is_file()
    assert "zero-shot" in table(done.result)
    assert done.verdict


def test_tests_on_all_rows_with_the_full_pool_and_on_subtasks_are_adjusted_apart(done):
    tests = done.result["tests"]
    families = [[t for t in tests if t["subtask"] == "all" and (t["against"] == "full") == full]
                for full in (False, True)] + [[t for t in tests if t["subtask"] != "all"]]
    assert sum(map(len, families)) == len(tests)
    for family in families:
        assert family
        assert [t["p_value_holm"] for t in family] == holm([t["p_value"] for t in family])


def test_the_scores_are_those_of_the_trained_adapter_on_the_test_rows(setting, done):
    made = config(setting, "run")
    loaded = load_model(made.model)
    inputs = select_job.read_inputs(made)
    folders = [p for p in (done.folder / "training").iterdir() if (p / "adapter.safetensors").is_file()]
    assert len(folders) == 2 * 4, "two seeds of random, full and two methods"
    found = []
    for folder in folders:
        scores = read_json(next(folder.glob("scores-*.json")))["content"]
        assert scores["ids"] == inputs.test.ids
        model = attach_lora(loaded.model, lora_settings(made), derive(made.seed, "training adapter", 0))
        load_adapter_state(model, load_file(folder / "adapter.safetensors"))
        for row, loss in zip(inputs.test.rendered, scores["loss"], strict=True):
            ids = torch.from_numpy(row.ids.astype(np.int64))[None]
            labels = torch.where(torch.from_numpy(row.mask)[None], ids, -100)
            with torch.no_grad():
                expected = model(input_ids=ids, labels=labels).loss.item()
            assert loss == pytest.approx(expected, rel=1e-4)
        found.append(np.mean(scores["loss"]))
        detach_lora(model)
    random = next(arm for arm in done.result["arms"] if arm["name"] == "random")
    for value in random["results"]["all"]["loss"]["per_seed"]:
        assert any(abs(value - f) < 1e-9 for f in found)


def test_a_second_run_trains_nothing_and_says_the_same(setting, done, monkeypatch):
    monkeypatch.setattr(cells.CellWorker, "__call__", lambda self, cell: pytest.fail(f"trained again: {cell.title}"))
    again = compare(config(setting, "run"))
    assert again.result == done.result


def test_another_test_file_scores_the_kept_trainings(setting, done, monkeypatch):
    folder, _ = setting
    trained = {p.name: (p / "adapter.safetensors").stat().st_mtime_ns for p in (done.folder / "training").iterdir()
               if (p / "adapter.safetensors").is_file()}
    other = compare(config(setting, "other", from_run=str(done.folder),
                           test=(write_rows(folder / "other.jsonl", 3, 900),)))
    assert {k: v["n"] for k, v in other.result["arms"][0]["results"].items()} == {"all": 3}
    assert {p.name: (p / "adapter.safetensors").stat().st_mtime_ns for p in (done.folder / "training").iterdir()
            if (p / "adapter.safetensors").is_file()} == trained


def test_the_warmup_and_the_trainings_have_learning_rates_of_their_own(setting, done, tmp_path):
    """Another one of the trainings leaves warmup and features as they are, another one of the warmup run the trainings
    on random rows."""
    shutil.copytree(done.folder, tmp_path / "run")
    random = cells_of(done.folder)
    faster = compare(config(setting, "faster", output_dir=str(tmp_path / "run"), learning_rate=1e-3,
                            methods=("less",), baselines=("random",)))
    steps = {step["step"]: step["reused"] for step in read_json(faster.folder / "manifest.json")["times"]}
    assert steps["warmup"]
    assert steps["pool features"]
    assert steps["target features"]
    assert "train and score (4 trainings)" in steps, "two of less, two of random; zero-shot is not trained"
    own = {"less": {**setting[1]["own"]["less"], "warmup_learning_rate": 1e-3}}
    warmer = compare(config(setting, "warmer", output_dir=str(tmp_path / "run"), own=own, recompute=True,
                            methods=("less",), baselines=("random",)))
    steps = {step["step"]: step["reused"] for step in read_json(warmer.folder / "manifest.json")["times"]}
    assert not steps["warmup"]
    assert not steps["pool features"]
    assert cells_of(tmp_path / "run").items() >= random.items(), "nothing that was trained is trained again"
    trained = next(int(step.split("(")[1].split()[0]) for step in steps if step.startswith("train and score"))
    assert trained <= 2, "at most those of less"


def cells_of(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in (folder / "training").glob("*/scores-*.json")}


def test_several_workers_come_to_the_same_numbers(setting, done):
    again = compare(config(setting, "two", workers=2, methods=("less-round-robin",), baselines=("random",)))
    losses = {arm["name"]: arm["results"]["all"]["loss"]["mean"] for arm in done.result["arms"]}
    for arm in again.result["arms"]:
        assert arm["results"]["all"]["loss"]["mean"] == pytest.approx(losses[arm["name"]], rel=1e-4)


def test_another_selection_in_the_folder_takes_the_comparison_away(setting, done):
    made = config(setting, "stale", from_run=str(done.folder), methods=("less-round-robin",))
    folder = compare(made).folder
    api.select(made)
    assert (folder / "comparison.json").is_file(), "the same subset: the comparison still holds"
    api.select(config(setting, "stale", from_run=str(done.folder), budget="4"))
    assert not (folder / "comparison.json").is_file()


def test_without_held_out_rows_nothing_can_be_proven(setting):
    with pytest.raises(ConfigError, match="nothing to score on"):
        compare(config(setting, "none", test=()))
    with pytest.raises(ConfigError, match="unknown baseline 'radnom'"):
        compare(config(setting, "none", baselines=("radnom",)))
