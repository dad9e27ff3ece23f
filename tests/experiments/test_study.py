"""A study does everything once, goes on after whatever stops it, and says what failed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from siftune import api
from siftune._common.artefacts import write_sealed
from siftune._common.errors import ConfigError, SiftuneError
from siftune._common.files import read_json
from siftune.evaluation.statistics import holm
from siftune.execution import LocalExecutor
from siftune.experiments.config import load_study
from siftune.experiments.costs import Costs
from siftune.experiments.inputs import read_study
from siftune.experiments.preview import preview
from siftune.experiments.results import Results
from siftune.experiments.run import study
from siftune.experiments.selecting import Selecting
from siftune.experiments.subsets import wanted_subsets
from siftune.experiments.text import failures, tables
from siftune.training import sft
from tests import tiny
from tests.experiments.studies import METHODS, config, plain, study_file, timeless, write_files

BRIEF = {"methods": ["bm25"], "headline": None, "budgets": ["10%"], "headline_seeds": None}
"""Changes that leave five cells: zero-shot, two of random, one of a method for each target."""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, write_files(folder)


@pytest.fixture(scope="module")
def done(setting):
    return study(config(*setting, "whole"))


@pytest.fixture(scope="module")
def brief(setting):
    return study(config(*setting, "brief", **BRIEF))


@pytest.fixture
def trained(monkeypatch):
    """Titles of the trainings that are really run; one that is in ``trained["fails"]`` raises instead."""
    titles, real = Counter(), sft.train_lora
    fails: set[str] = set()

    def train(model, rendered, settings, folder, **more):
        if not (Path(folder) / "training.json").is_file():
            titles[more["title"]] += 1
        if more["title"] in fails:
            raise RuntimeError("the lamp went out")
        return real(model, rendered, settings, folder, **more)

    monkeypatch.setattr(sft, "train_lora", train)
    titles.fails = fails  # type: ignore[attr-defined]
    return titles


def test_every_target_method_and_budget_is_there(done):
    result = done.results.to_dict()
    assert result["complete"]
    assert result == read_json(done.file)
    arms = {(a["target"], a["budget"], a["name"]): a for a in result["arms"]}
    expected = {(t, b, m) for t in ("sums", "sorting") for b in ("10%", "150tok") for m in (*METHODS, "random")}
    assert set(arms) == expected | {("sums", None, "zero-shot"), ("sorting", None, "zero-shot")}
    for (_, _, name), arm in arms.items():
        assert arm["trainings"] == {"random": 2, "less-round-robin": 2, "zero-shot": 0}.get(name, 1)
        assert arm["loss"]["low"] <= arm["loss"]["mean"] <= arm["loss"]["high"]
    for subset in result["subsets"]:
        ids = read_json(done.file.parent / subset["file"])["ids"]
        assert len(ids) == len(set(ids)) == subset["rows"]
        assert subset["rows"] == 4 if subset["budget"] == "10%" else subset["tokens"] <= 150
    assert {(t["method"], t["verdict"]) for t in result["tests"] if t["method"] != "less-round-robin"} == {
        ("bm25", "single training"), ("logra", "single training")}
    assert all(t["p_value_holm"] >= t["p_value"] for t in result["tests"] if t["p_value"] is not None)


def test_arms_are_the_means_of_their_cells(done):
    result = done.results.to_dict()
    of_subset = {s["id"]: s for s in result["subsets"]}
    for arm in result["arms"]:
        if arm["name"] == "zero-shot":
            continue
        losses = [c["results"][arm["target"]]["loss"] for c in result["cells"]
                  if c["subset"] and of_subset[c["subset"]]["name"] == arm["name"]
                  and of_subset[c["subset"]]["budget"] == arm["budget"] and arm["target"] in c["results"]]
        assert len(losses) == arm["trainings"]
        assert arm["loss"]["mean"] == pytest.approx(np.mean(losses))


def test_subsets_chosen_for_a_target_are_scored_on_it_alone(done):
    of_subset = {s["id"]: s for s in done.results.to_dict()["subsets"]}
    for cell in done.results.to_dict()["cells"]:
        target = of_subset[cell["subset"]]["target"] if cell["subset"] else None
        assert set(cell["results"]) == ({target} if target else {"sums", "sorting"})


def test_features_are_charged_to_all_and_spent_once(done):
    result = done.results.to_dict()
    steps = {(s["target"], step["step"]): step for s in result["subsets"] if s["name"] == "less-round-robin"
             for step in s["feature_steps"]}
    assert {step for _, step in steps} == {"warmup", "pool features", "target features"}
    for step in ("warmup", "pool features"):
        assert steps["sums", step]["seconds"] == steps["sorting", step]["seconds"] > 0
    assert steps["sums", "target features"]["run_for"] == ["less", "sums"]
    assert steps["sorting", "target features"]["run_for"] == ["less", "sorting"]
    spent = read_json(done.file.parent / "costs.json")["content"]
    assert result["costs"]["feature_seconds"] == pytest.approx(sum(s["seconds"] for s in spent), abs=1e-3)
    assert [s["step"] for s in spent].count("warmup") == 1
    arm = next(a for a in result["arms"] if a["name"] == "less-round-robin")
    assert arm["selection_seconds"] >= sum(steps["sums", s]["seconds"] for s in ("warmup", "pool features"))


def test_a_step_that_another_run_left_has_no_known_cost(tmp_path):
    costs = Costs(tmp_path / "costs.json")
    found = {"step": "pool features", "seconds": 0.0, "reused": True}
    assert costs.charge("less", "a", [found]) == [{"step": "pool features", "seconds": None, "run_for": None}]
    costs.charge("ifd", None, [{"step": "losses", "seconds": 5.0, "reused": False}], collects=["rds"])
    run = {"step": "pool features", "seconds": 3.0, "reused": False}
    assert costs.charge("less", "a", [run])[0]["seconds"] == 3
    assert Costs(tmp_path / "costs.json").charge("less", "b", [found]) == [
        {"step": "pool features", "seconds": 3, "run_for": ["less", "a"]}]
    kept = {"step": "pool forward pass", "seconds": 0.0, "reused": True}
    assert costs.charge("rds", "a", [kept])[0] == {"step": "pool forward pass", "seconds": 5, "run_for": ["ifd", None]}
    assert costs.total == 8


def test_a_second_run_trains_nothing_and_says_the_same(setting, done, trained):
    again = study(config(*setting, "whole"))
    assert not trained
    assert timeless(again.results.to_dict()) == timeless(done.results.to_dict())


def test_the_order_of_the_methods_in_the_file_changes_nothing(setting, done, trained):
    turned = config(*setting, "whole", methods=METHODS[::-1])
    assert turned == config(*setting, "whole")
    assert timeless(study(turned).results.to_dict()) == timeless(done.results.to_dict())
    assert not trained


def test_the_numbers_are_those_of_compare(setting, done, tmp_path):
    made = config(*setting, "whole")
    files = made.targets[0]
    common = dataclasses.replace(made.common, target=files.target, test=files.test, methods=("less-round-robin",),
                                 baselines=("random",), seeds=2, budget="10%", output_dir=str(tmp_path / "run"))
    compared = {a["name"]: a for a in api.compare(common).results.to_dict()["arms"]}
    mine = [a for a in done.results.to_dict()["arms"] if a["target"] == "sums" and a["budget"] in ("10%", None)]
    arms = {a["name"]: a for a in mine}
    for name in ("zero-shot", "random", "less-round-robin"):
        assert arms[name]["loss"] == compared[name]["loss"]
        assert arms[name]["exact_match"] == compared[name]["exact_match"]


class Interrupted(LocalExecutor):
    """Ends after so many jobs, as Ctrl-C or a dying worker ends it."""

    def map(self, start, jobs):
        for number, result in enumerate(super().map(start, jobs)):
            yield result
            if number == 1:
                raise self.error

    error: BaseException = KeyboardInterrupt()


def test_interrupted_it_has_partial_results_and_goes_on(setting, brief, trained):
    made = config(*setting, "interrupted", **BRIEF)
    with pytest.raises(KeyboardInterrupt):
        study(made, executor=Interrupted())
    first = dict(trained)
    partial = read_json(Path(made.common.output_dir) / "study.json")
    assert not partial["complete"]
    assert [c["status"] for c in partial["cells"]] == ["done", "done", "missing", "missing", "missing"]
    assert {a["name"] for a in partial["arms"]} == {"zero-shot", "random"}
    finished = study(made)
    assert timeless(finished.results.to_dict()) == timeless(brief.results.to_dict())
    assert set(trained.values()) == {1}, "what was finished was not trained again"
    assert set(first) < set(trained)
    assert len(trained) == 4


def test_a_dead_worker_is_told_with_every_cell_that_it_left(setting, trained):
    made = config(*setting, "dead", **BRIEF)
    executor = Interrupted()
    object.__setattr__(executor, "error", SiftuneError("a worker process died", hint="again"))
    finished = study(made, executor=executor)
    assert [c["status"] for c in finished.results.to_dict()["cells"]] == ["done", "done", "failed", "failed", "failed"]
    assert failures(finished.results).count("a worker process died") == 3
    assert not study(made).failed


def test_a_failing_cell_is_told_and_tried_again(setting, brief, trained):
    made = config(*setting, "failing", **BRIEF)
    title = "bm25, sums, 10%, seed 0"
    trained.fails.add(title)
    finished = study(made)
    assert finished.failed
    assert not finished.results.to_dict()["complete"]
    [failed] = finished.results.to_dict()["failures"]
    assert (failed["what"], failed["title"]) == ("training", title)
    assert "the lamp went out" in failed["message"]
    assert "Traceback" in Path(failed["traceback"]).read_text()
    assert Counter(c["status"] for c in finished.results.to_dict()["cells"]) == {"done": 4, "failed": 1}
    assert title in failures(finished.results)

    trained.fails.clear()
    again = study(made)
    assert timeless(again.results.to_dict()) == timeless(brief.results.to_dict())
    assert trained == {**dict.fromkeys(trained, 1), title: 2}
    assert not Path(failed["traceback"]).exists()


def test_a_loss_that_is_no_number_is_a_failure_and_no_result(setting, brief, tmp_path):
    made = config(*setting, "brief", **BRIEF)
    run = Path(shutil.copytree(made.common.output_dir, tmp_path / "run"))
    cell = next(c for c in brief.results.to_dict()["cells"] if c["subset"] and c["subset"].startswith("bm25--sums"))
    [path] = (run / "training" / cell["id"]).glob("scores-*.json")
    head, scores = (read_json(path)[part] for part in ("artefact", "content"))
    write_sealed(path, head["kind"], head["made_from"], {**scores, "loss": [float("inf"), *scores["loss"][1:]]})
    moved = dataclasses.replace(made, common=dataclasses.replace(made.common, output_dir=str(run)))
    result = study(moved).results.to_dict()
    assert [(f["what"], f["title"]) for f in result["failures"]] == [("training", "bm25, sums, 10%, seed 0")]
    assert "is inf" in result["failures"][0]["message"]
    assert ("sums", "bm25") not in {(a["target"], a["name"]) for a in result["arms"]}
    assert ("sorting", "bm25") in {(a["target"], a["name"]) for a in result["arms"]}
    json.loads((run / "study.json").read_text(), parse_constant=pytest.fail)


def test_without_the_headlines_subset_there_are_no_lengths_to_match(setting):
    made = config(*setting, "brief", **{**BRIEF, "methods": ["bm25", "loss:round-robin"],
                                        "headline": ["loss:round-robin"],
                                        "baselines": {"random": 2, "length-matched-random": 1}})
    told = [f.message for f in study(made).results.failures if f.title.startswith("length-matched-random")]
    assert len(told) == 2
    assert all("no lengths to match: loss:round-robin has no subset" in message for message in told)


def test_a_failing_selection_does_not_end_the_others(setting, brief):
    made = config(*setting, "brief", **{**BRIEF, "methods": ["bm25", "loss:round-robin"]})
    result = study(made).results.to_dict()
    assert {f["what"] for f in result["failures"]} == {"selection"}
    assert len(result["failures"]) == 2
    assert "similarities" in result["failures"][0]["message"]
    kept = [a for a in result["arms"] if a["name"] in ("bm25", "random")]
    assert plain(kept) == plain([a for a in brief.results.to_dict()["arms"] if a["name"] in ("bm25", "random")])


def test_other_models_deciles_steps_and_matched_lengths(setting):
    folder, values = setting
    tiny.save(folder / "other", "gpt2")
    made = config(folder, values, "more", methods=["embed"], headline=None, budgets=["10%"],
                  targets=values["targets"][:1],
                  baselines={"random": 1, "length-matched-random": 1, "longest": 1, "full": 1}, steps=3,
                  train_models=[str(folder / "other")], deciles=["embed"])
    result = study(made).results.to_dict()
    assert result["complete"]
    names = {s["name"] for s in result["subsets"] if s["kind"] != "decile"}
    assert names == {"random", "embed", "length-matched-random", "longest", "full"}
    [decile] = result["analyses"]["deciles"]
    assert decile["bins"] == list(range(10))
    bins = [read_json(folder / "more" / s["file"])["ids"] for s in result["subsets"] if s["kind"] == "decile"]
    assert {len(b) for b in bins} == {4}
    assert len(set().union(*bins)) == 40, "ten bins of four rows out of forty: the whole pool"
    assert decile["losses"] == pytest.approx([np.mean(c["results"]["sums"]["loss"]) for c in result["cells"]
                                              if c["subset"] and c["subset"].startswith("deciles")])
    [transfer] = result["analyses"]["transfer"]
    assert transfer["names"] == ["embed", "length-matched-random", "longest", "random"]
    assert {g["name"] for g in transfer["gains"]} == {"embed", "length-matched-random", "longest"}
    assert {s["steps"] for c in result["cells"] for s in [c] if c["subset"]} == {3, 10}, "four rows a step; ten of all"
    assert any("not matched" in note for note in result["notes"])
    [overlap] = result["analyses"]["overlap"]
    assert np.allclose(np.diag(overlap["jaccard"]), 1)
    near = {s["name"]: s["distances"]["embed"]["sums"] for s in result["subsets"] if s["kind"] == "baseline"
            and s["name"] != "full"} | {"embed": next(s for s in result["subsets"] if s["name"] == "embed"
                                                      and s["kind"] == "method")["distances"]["embed"]["sums"]}
    assert near["embed"]["nearest"] == min(n["nearest"] for n in near.values()), "it takes what is nearest"
    [curve] = [c for c in result["analyses"]["curves"] if c["name"] == "random"]
    assert [p["rows"] for p in curve["points"]] == [4]
    [pays] = result["analyses"]["break_even"]
    assert pays["selection_seconds"] > 0
    assert pays["against_full"]["saved"] is not None
    losses = {c["subset"]: np.array(c["results"]["sums"]["loss"]) for c in result["cells"]
              if c["subset"] and c["model"] == made.common.model and not c["subset"].startswith("deciles")}
    whole, chosen = (next(v for k, v in losses.items() if k.startswith(name)) for name in ("full", "embed"))
    by = {t["against"]: t for t in result["tests"] if t["method"] == "embed" and t["metric"] == "loss"}
    assert set(by) == {"random", "length-matched-random", "full"}
    assert by["full"]["difference"] == pytest.approx((chosen - whole).mean())
    assert by["full"]["verdict"] == "single training"
    for family in ([t for t in result["tests"] if (t["against"] == "full") == whole] for whole in (True, False)):
        assert [t["p_value_holm"] for t in family] == holm([t["p_value"] for t in family]), "two families"
    assert "embed" in tables(Results.model_validate(result))


def test_a_preview_counts_what_is_done_and_writes_nothing(setting, brief):
    folder, _ = setting
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    seen = preview(config(*setting, "brief", **{**BRIEF, "baselines": {"random": 3}}))
    assert (seen.total, seen.done) == (6, 5)
    assert "random, 10%, draw 2" in seen.text()
    assert seen.seconds > 0
    assert preview(config(*setting, "brief", **BRIEF)).text().endswith("5 cells, 5 done, nothing is left to do")
    after = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.suffix != ".yaml"}
    assert after == {p: t for p, t in before.items() if p.suffix != ".yaml"}


def test_headline_and_baselines_come_first(setting):
    made = config(*setting, "order", baselines={"random": 1, "longest": 1, "full": 1})
    names = dict.fromkeys(w.name for w in wanted_subsets(made))
    assert list(names) == ["random", "less-round-robin", "longest", "bm25", "logra", "full"]


def test_an_ablation_may_be_of_the_headline(setting):
    told = {"name": "centred", "method": "less-round-robin", "settings": {"center": True}}
    made = config(*setting, "order", ablations=[told, {**told, "name": "plain", "settings": {"adam": "none"}}],
                  headline=["centred", "less-round-robin"], headline_seeds=3, seeds=1)
    assert made.methods[0] == made.reference == "less-round-robin"
    trainings = {w.name: len(w.seeds) for w in wanted_subsets(made) if w.kind in ("method", "ablation")}
    assert trainings == {"less-round-robin": 3, "centred": 3, "plain": 1, "bm25": 1, "logra": 1}


@pytest.mark.parametrize(("changes", "parts"), [
    ({"tragets": []}, ("unknown setting 'tragets'", "did you mean 'targets'?")),
    ({"budget": "5%"}, ("'budget' is not one of a study", "budgets")),
    ({"test": ["x"]}, ("'test' is not one of a study", "targets")),
    ({"methods": ["les"]}, ("unknown method 'les'", "did you mean 'less'?")),
    ({"methods": ["random"], "headline": None}, ("random is a baseline", "baselines: {random: 3}")),
    ({"methods": ["auto"], "headline": None}, ("methods that are named", "less-ot")),
    ({"methods": ["bm25", "bm25"]}, ("'bm25' stands twice",)),
    ({"methods": None}, ("methods is missing",)),
    ({"headline": ["bm52"]}, ("unknown method of the headline 'bm52'", "did you mean 'bm25'?")),
    ({"budgets": ["5 %%"]}, ("cannot read the budget",)),
    ({"budgets": []}, ("no entry in budgets",)),
    ({"baselines": {"rnadom": 1}}, ("unknown baseline 'rnadom'", "did you mean 'random'?")),
    ({"baselines": {"random": 0}}, ("random cannot be 0", "1 or more")),
    ({"baselines": ["random"]}, ("baselines cannot be",)),
    ({"seeds": "two"}, ("seeds cannot be 'two'",)),
    ({"steps": "epoch"}, ("steps cannot be 'epoch'",)),
    ({"targets": []}, ("needs targets",)),
    ({"deciles": ["random"]}, ("no order of the pool",)),
    ({"model": "m", "train_models": ["n", "m"]}, ("m is the study's own model",)),
    ({"learning_rate": -1}, ("--learning-rate cannot be -1",)),
    ({"output_dir": None}, ("no folder is named",)),
])
def test_what_is_wrong_in_the_file_is_told(setting, tmp_path, changes, parts):
    _, values = setting
    path = study_file(tmp_path / "study.yaml", {**values, "output_dir": "x"}, **changes)
    with pytest.raises(ConfigError) as error:
        load_study(path)
    assert error.value.hint
    for part in parts:
        assert part in str(error.value)


def test_targets_are_checked_one_by_one(setting, tmp_path):
    _, values = setting
    first, second = values["targets"]
    for targets, part in (
        ([first, {**second, "name": first["name"]}], "two targets are called 'sums'"),
        ([{**first, "tests": []}], "did you mean 'test'?"),
        ([{k: v for k, v in first.items() if k != "test"}], "test is missing"),
        ([{**first, "test": str(tmp_path / "not.jsonl")}], "not.jsonl"),
        (["sums"], "a target is not a mapping"),
    ):
        with pytest.raises(SiftuneError) as error:
            load_study(study_file(tmp_path / "study.yaml", values, targets=targets, output_dir="x"))
        assert part in str(error.value)
        assert error.value.hint


def test_what_a_fusion_knows_depends_on_the_settings_of_its_signals(tmp_path):
    values = write_files(tmp_path)

    def key(**changes):
        own = {"fusion": {"signals": ["less", "bm25"]}, **changes}
        made = config(tmp_path, values, "fused", methods=["fusion"], headline=["fusion"], **own)
        return Selecting(read_study(made), tmp_path / "fused").output_key("fusion", "sums")

    assert key() != key(less={**values["less"], "projection_dim": 32})
    assert key() != key(fusion={"signals": ["less", "bm25"], "weights": [1, 2]})
    assert key() == key(logra={"projection_dim": 32}), "it is none of the signals"


def test_each_budget_has_a_first_stage_of_its_own_and_targets_share_an_exact_pass(tmp_path):
    values = write_files(tmp_path)
    exact = {"less": {"warmup_epochs": 1, "warmup_rows": 8, "warmup_batch_size": 4}}
    made = config(tmp_path, values, "stages", methods=["less-round-robin", "two-stage"], budgets=["2", "4"], **exact,
                  **{"two-stage": {"first": ["bm25"], "keep": 2}, "logra": None})
    selecting = Selecting(read_study(made), tmp_path / "stages")
    subsets = [one for one in selecting.all() if one.wanted.kind == "method"]
    assert not [one.error for one in subsets if one.error]
    kept = {one.wanted.budget: selecting.output("two-stage", "sums", budget=one.wanted.budget)[0].notes["kept"]["rows"]
            for one in subsets if one.wanted.name == "two-stage"}
    assert kept == {"2": 4, "4": 8}
    passes = [step for step in selecting.costs.steps if step["step"] == "pool scores"]
    assert [(step["representation"], step["target"]) for step in passes] == [("less", "sums")], "one for all"
    two = next(one for one in subsets if (one.wanted.name, one.wanted.target, one.wanted.budget) == (
        "two-stage", "sums", "4"))
    assert len(two.rows) == 4
