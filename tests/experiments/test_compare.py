"""Compare trains every arm on the right rows, scores them on the test rows alone, and never does a cell twice."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from siftune import api
from siftune._common.errors import ConfigError, DataError
from siftune._common.files import read_json
from siftune._common.seeds import derive
from siftune.config.settings import CompareConfig
from siftune.evaluation.statistics import holm
from siftune.experiments.results import read_results
from siftune.experiments.text import short_table
from siftune.experiments.trainings import StudyWorker
from siftune.features.gradient_settings import lora_settings
from siftune.models.loading import load_model
from siftune.models.lora import attach_lora, detach_lora, load_adapter_state
from siftune.pipeline.select import read_inputs
from siftune.training import sft
from tests import tiny
from tests.experiments.studies import timeless


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
    return api.compare(config(setting, "run"))


def test_every_arm_is_there_with_its_rows_and_subtasks(done):
    arms = {arm.name: arm for arm in done.results.arms}
    assert set(arms) == {"zero-shot", "random", "full", "less-round-robin", "less"}
    assert arms["zero-shot"].rows is None
    assert arms["random"].rows == arms["less-round-robin"].rows == 5
    assert arms["full"].rows == 24
    assert done.results.targets[0].tested == 6
    for arm in arms.values():
        assert {name: part.n for name, part in arm.subtasks.items()} == {"y": 2, "x": 4}
        for part in (arm, *arm.subtasks.values()):
            assert part.loss.low <= part.loss.mean <= part.loss.high
    assert {arm.name: arm.trainings for arm in arms.values()} == {
        "zero-shot": 0, "random": 2, "full": 2, "less-round-robin": 2, "less": 2}
    assert {t.against for t in done.results.tests} == {"random", "full"}
    assert (done.folder / "report.html").is_file()
    lines = short_table(done.results).splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["zero-shot", "random", "full", "less-round-robin", "less"]
    assert done.verdict


def test_a_part_is_the_mean_over_its_rows(done):
    [target] = done.results.targets
    for arm in done.results.arms:
        mine = [s.id for s in done.results.subsets if s.name == arm.name]
        losses = np.mean([c.results["target"].loss for c in done.results.cells
                          if c.subset in mine or (c.subset is None and arm.name == "zero-shot")], axis=0)
        assert arm.loss.mean == pytest.approx(losses.mean())
        for name, part in arm.subtasks.items():
            assert part.loss.mean == pytest.approx(losses[[s == name for s in target.subtasks]].mean())


def test_all_methods_are_one_family_the_full_pool_and_subtasks_another(done):
    tests, parts = done.results.tests, [t for t in done.results.analyses.subtasks if t.difference is not None]
    assert {(t.method, t.against, t.metric) for t in tests} >= {
        (m, a, "loss") for m in ("less-round-robin", "less") for a in ("random", "full")}
    for family in ([t for t in tests if (t.against == "full") == whole] for whole in (True, False)):
        assert {t.method for t in family} == {"less-round-robin", "less"}
        assert [t.p_value_holm for t in family] == holm([t.p_value for t in family])
    assert [t.p_value_holm for t in parts] == holm([t.p_value for t in parts])
    assert {(t.name, t.against, t.subtask) for t in parts} == {
        (m, a, s) for m in ("less-round-robin", "less") for a in ("random", "full") for s in "xy"}


def test_the_scores_are_those_of_the_trained_adapter_on_the_test_rows(setting, done):
    made = config(setting, "run")
    loaded = load_model(made.model)
    inputs = read_inputs(made)
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
    random = next(arm for arm in done.results.arms if arm.name == "random")
    for value in random.loss.per_seed:
        assert any(abs(value - f) < 1e-9 for f in found)


def test_a_second_run_trains_nothing_and_says_the_same(setting, done, monkeypatch):
    monkeypatch.setattr(StudyWorker, "__call__", lambda self, job: pytest.fail(f"trained again: {job.cell.title}"))
    again = api.compare(config(setting, "run"))
    assert timeless(again.results.to_dict()) == timeless(done.results.to_dict())
    assert read_results(done.file) == again.results


def test_another_test_file_scores_the_kept_trainings(setting, done, monkeypatch):
    folder, _ = setting
    trained = {p.name: (p / "adapter.safetensors").stat().st_mtime_ns for p in (done.folder / "training").iterdir()
               if (p / "adapter.safetensors").is_file()}
    other = api.compare(config(setting, "other", from_run=str(done.folder),
                           test=(write_rows(folder / "other.jsonl", 3, 900),)))
    assert other.results.targets[0].tested == 3
    assert not other.results.arms[0].subtasks
    assert {p.name: (p / "adapter.safetensors").stat().st_mtime_ns for p in (done.folder / "training").iterdir()
            if (p / "adapter.safetensors").is_file()} == trained


def test_the_warmup_and_the_trainings_have_learning_rates_of_their_own(setting, done, tmp_path):
    """Another one of the trainings leaves warmup and features as they are, another one of the warmup run the trainings
    on random rows."""
    shutil.copytree(done.folder, tmp_path / "run")
    random = cells_of(done.folder)
    faster = api.compare(config(setting, "faster", output_dir=str(tmp_path / "run"), learning_rate=1e-3,
                            methods=("less",), baselines=("random",)))
    steps = {step["step"]: step["reused"] for step in read_json(faster.folder / "manifest.json")["times"]}
    assert steps["warmup"]
    assert steps["pool features"]
    assert steps["target features"]
    assert "train and score (4 trainings)" in steps, "two of less, two of random; zero-shot is not trained"
    own = {"less": {**setting[1]["own"]["less"], "warmup_learning_rate": 1e-3}}
    warmer = api.compare(config(setting, "warmer", output_dir=str(tmp_path / "run"), own=own, recompute=True,
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
    again = api.compare(config(setting, "two", workers=2, methods=("less-round-robin",), baselines=("random",)))
    losses = {arm.name: arm.loss.mean for arm in done.results.arms}
    for arm in again.results.arms:
        assert arm.loss.mean == pytest.approx(losses[arm.name], rel=1e-4)


def test_another_selection_in_the_folder_takes_the_comparison_away(setting, done):
    made = config(setting, "stale", from_run=str(done.folder), methods=("less-round-robin",))
    folder = api.compare(made).folder
    api.select(made)
    assert (folder / "comparison.json").is_file(), "the same subset: the comparison still holds"
    api.select(config(setting, "stale", from_run=str(done.folder), budget="4"))
    assert not (folder / "comparison.json").is_file()


def test_without_held_out_rows_nothing_can_be_proven(setting):
    with pytest.raises(ConfigError, match="nothing to score on"):
        api.compare(config(setting, "none", test=()))
    with pytest.raises(ConfigError, match="unknown baseline 'radnom'"):
        api.compare(config(setting, "none", baselines=("radnom",)))


@pytest.mark.parametrize("content", ["{ oops", "[]", '{"arms": 3}', '{"schema": 2, "targets": [{"name": 1}]}'])
def test_results_that_cannot_be_read_are_written_again(setting, done, content):
    before = read_results(done.file)
    done.file.write_text(content)
    with pytest.raises(DataError, match=r"comparison\.json"):
        read_results(done.file)
    api.compare(config(setting, "run"))
    assert timeless(read_results(done.file).to_dict()) == timeless(before.to_dict())


def test_results_of_a_newer_version_are_not_thrown_away(setting, done):
    kept = done.file.read_text()
    done.file.write_text('{"schema": 99}')
    with pytest.raises(DataError, match="newer siftune") as refused:
        api.compare(config(setting, "run"))
    assert "upgrade" in refused.value.hint
    assert done.file.read_text() == '{"schema": 99}'
    done.file.write_text(kept)


def test_as_a_frame_it_has_a_row_for_each_arm_and_metric(done):
    frame = done.to_frame().set_index(["name", "metric"])
    for arm in done.results.arms:
        row = frame.loc[arm.name, "loss"]
        assert (row["mean"], row["low"], row["high"], row["seeds"]) == (
            arm.loss.mean, arm.loss.low, arm.loss.high, arm.trainings)
    assert len(frame) == sum(1 + (arm.exact_match is not None) for arm in done.results.arms)
    assert re.fullmatch(r"<comparison: 2 methods, 9 trainings done; better than random in \d of 2 tests \(.*\)>",
                        repr(done))
    assert "comparison.json" in repr(done)


def test_a_study_of_the_same_target_and_budget_trains_nothing_again(setting, done, tmp_path, monkeypatch):
    made = config(setting, "run")
    path = tmp_path / "study.yaml"
    shared = {name: getattr(made, name) for name in (
        "model", "epochs", "lora_rank", "max_length", "batch_size", "exact_match_tokens")}
    path.write_text(json.dumps({
        **shared, "less": made.own["less"], "pool": list(made.pool), "output_dir": made.output_dir,
        "methods": list(made.methods), "budgets": ["5"],
        "targets": [{"name": "target", "target": list(made.target), "test": list(made.test)}],
        "seeds": 2, "baselines": {"random": 2, "full": 2}}))
    monkeypatch.setattr(StudyWorker, "__call__", lambda self, job: pytest.fail(f"trained again: {job.cell.title}"))
    studied = api.study(path).results
    arms = {arm.name: arm for arm in done.results.arms}
    for arm in studied.arms:
        assert (arm.loss, arm.exact_match) == (arms[arm.name].loss, arms[arm.name].exact_match)
    ours, theirs = ({(t.method, t.against, t.metric): (t.difference, t.p_value) for t in some.tests}
                    for some in (studied, done.results))
    assert ours == theirs


def test_a_training_that_fails_is_told_and_tried_again(setting, done, monkeypatch):
    made = config(setting, "failing", from_run=str(done.folder), seeds=3, methods=("less-round-robin",),
                  baselines=("random",))
    real = sft.train_lora

    def train(*args, **more):
        if more["title"].startswith("random") and more["title"].endswith("seed 2"):
            raise RuntimeError("the lamp went out")
        return real(*args, **more)

    monkeypatch.setattr(sft, "train_lora", train)
    finished = api.compare(made)
    assert finished.failed
    [failure] = finished.results.failures
    assert "the lamp went out" in failure.message
    assert "1 training or selection failed" in finished.verdict
    assert next(arm for arm in finished.results.arms if arm.name == "random").trainings == 2
    monkeypatch.undo()
    assert not api.compare(made).failed


def test_a_baseline_may_be_the_method_and_lend_its_lengths(setting, done):
    made = config(setting, "baseline", from_run=str(done.folder), methods=(), method="random", seeds=1,
                  baselines=("length-matched-random",))
    finished = api.compare(made)
    assert {arm.name for arm in finished.results.arms} == {"zero-shot", "random", "length-matched-random"}
    assert not finished.results.tests
    assert len((finished.folder / "selected.jsonl").read_text().splitlines()) == 5
