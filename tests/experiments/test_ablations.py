"""An ablation is its method with another setting, and nothing that both share is computed twice."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from siftune._common.errors import ConfigError
from siftune._common.files import read_json
from siftune.config.settings import SelectConfig, from_mapping
from siftune.experiments.config import load_study
from siftune.experiments.preview import preview
from siftune.experiments.run import study
from siftune.experiments.selecting import shared_settings
from siftune.experiments.text import tables
from siftune.pipeline import select as api
from siftune.pipeline.plan.gradients import Probe
from tests.experiments.studies import config, plain, study_file, timeless, write_files

SETTINGS = {
    "plain": {"adam": "none"}, "last": {"checkpoints": "last"}, "dot": {"gradient_score": "dot"},
    "narrow": {"projection_dim": 16}, "short": {"warmup_epochs": 1}, "forfeit": {"on_taken": "forfeit"},
    "centred": {"center": True},
}
METHOD = "less-round-robin"
CHANGES = {
    "methods": [METHOD], "headline": None, "headline_seeds": None, "budgets": ["10%"], "exact_match_tokens": 0,
    "learning_rate": 5e-3, "batch_size": 8,
    "less": {"projection_dim": 64, "warmup_epochs": 2, "warmup_rows": 8, "warmup_learning_rate": 5e-3},
    "ablations": [{"name": name, "method": METHOD, "settings": told} for name, told in SETTINGS.items()],
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablations")
    values = write_files(folder)
    return folder, {**values, "targets": values["targets"][:1]}


@pytest.fixture(scope="module")
def done(setting):
    return study(config(*setting, "varied", **CHANGES))


def chosen(done, name):
    return next(s for s in done.result["subsets"] if s["name"] == name)


def ids(done, name):
    return read_json(done.file.parent / chosen(done, name)["file"])["ids"]


@pytest.mark.parametrize("name", SETTINGS)
def test_its_rows_are_those_of_select_with_these_settings(setting, done, tmp_path, name):
    made = config(*setting, "varied", **CHANGES)
    known = {f.name for f in dataclasses.fields(SelectConfig)}
    common = {k: v for k, v in dataclasses.asdict(made.common).items() if k in known}
    told = {**common, "method": METHOD, "budget": "10%", "target": made.targets[0].target,
            "output_dir": str(tmp_path / "run")}
    alone = api.choose(from_mapping(SelectConfig, {**told, **SETTINGS[name]}))
    assert ids(done, name) == alone.selection.ids(alone.problem)
    told = chosen(done, name)
    assert (told["kind"], told["varies"], told["settings"]) == ("ablation", METHOD, SETTINGS[name])


def test_the_settings_matter_here(done):
    varied = {tuple(ids(done, name)) for name in ("plain", "last", "dot", "narrow", "short", "centred")}
    assert len(varied | {tuple(ids(done, METHOD))}) >= 4, "else the test above would pass whatever was selected"


def test_what_is_shared_is_computed_once(done):
    home = done.file.parent
    own = {made["settings"]["adam"] + str(made["projection"]["dim"]): head.parents[2] for head, made in (
        (head, read_json(head)["content"]) for head in home.glob("ablations/*/store/less/fingerprint.json"))}
    assert len(list(home.glob("ablations/*"))) == 3, "plain, narrow, short; the others read the method's own features"
    assert set(own) == {"none64", "paper16", "paper64"}
    assert [name for name, folder in own.items() if (folder / "warmup").exists()] == ["paper64"], "the short warmup"
    steps = [(s["representation"], s["step"]) for s in read_json(home / "costs.json")["content"]]
    assert sorted(label for label, step in steps if step == "warmup") == ["less", "less (warmup_epochs: 1)"]
    assert sorted(label for label, step in steps if step == "pool features") == [
        "less", "less (adam: none)", "less (projection_dim: 16)", "less (warmup_epochs: 1)"]
    charged = {name: {s["step"]: s for s in chosen(done, name)["feature_steps"]} for name in (METHOD, *SETTINGS)}
    assert charged["plain"]["warmup"]["seconds"] == charged[METHOD]["warmup"]["seconds"] > 0
    assert charged["dot"]["pool features"] == charged[METHOD]["pool features"]
    assert charged["plain"]["pool features"]["run_for"] == ["less (adam: none)", "sums"]


def test_a_second_run_does_nothing_again(setting, done):
    before = {p: p.stat().st_mtime_ns for part in ("selections", "training", "ablations", "store", "warmup")
              for p in (done.file.parent / part).rglob("*") if p.is_file()}
    again = study(config(*setting, "varied", **CHANGES))
    assert timeless(again.result) == timeless(done.result)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_preview_counts_its_trainings(setting, done):
    seen = preview(config(*setting, "varied", **CHANGES))
    assert (seen.total, seen.done) == (1 + 2 + 1 + len(SETTINGS),) * 2
    more = [*CHANGES["ablations"], {"name": "broad", "method": METHOD, "settings": {"projection_dim": 96}}]
    longer = preview(config(*setting, "varied", **{**CHANGES, "ablations": more}))
    assert (longer.total, longer.done) == (seen.total + 1, seen.total)
    assert [title for title, _ in longer.features] == ["features of less (projection_dim: 96)"]


def test_it_is_held_against_random_and_against_its_method(done):
    result = done.result
    losses = {}
    for cell in result["cells"]:
        name = next((s["name"] for s in result["subsets"] if s["id"] == cell["subset"]), "zero-shot")
        losses.setdefault(name, []).append(cell["results"]["sums"]["loss"])
    told = {a["name"]: a for a in result["analyses"]["ablations"]}
    assert list(told) == list(SETTINGS)
    for name in SETTINGS:
        tests = {t["against"]: t for t in result["tests"] if t["method"] == name}
        assert set(tests) == {"random", METHOD}
        for against, test in tests.items():
            apart = [np.mean(ours) - np.mean(theirs) for ours in losses[name] for theirs in losses[against]]
            assert test["difference"] == pytest.approx(np.mean(apart), abs=1e-9)
        mine, theirs = set(ids(done, name)), set(ids(done, METHOD))
        same = sum(row in theirs for row in mine)
        assert told[name]["jaccard"] == pytest.approx(same / (len(mine) + len(theirs) - same))
        assert told[name]["settings"] == SETTINGS[name]
        for key in ("difference", "low", "high", "p_value", "p_value_holm", "verdict"):
            assert told[name][key] == tests[METHOD][key]
    assert {r["kind"] for r in result["ranking"]} == {"method", "ablation"}
    text = tables(plain(result))
    assert "What a setting changes" in text
    assert "projection_dim: 16" in text


def test_a_kept_subset_depends_on_no_setting_that_decides_nothing():
    """Each one more in the key makes every study that was ever begun select, and maybe train, anew."""
    assert set(shared_settings(SelectConfig())) == {
        "format", "columns", "limits", "id_field", "subtask_field", "group_field", "bad_rows", "overlap",
        "max_length", "model", "dtype", "trust_remote_code",
        "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_layers",
        "representation", "selector", "quotas", "strata", "must_include", "must_exclude", "near_duplicates",
        "feature_dtype", "autocast", "micro_batch_tokens", "seed"}


def test_a_preview_of_two_gradient_methods_leaves_the_model_as_it_was(setting, monkeypatch):
    """The second one adapts the model in its own way; adapters of the first once made that fail."""
    probed = []
    real = Probe.close

    def close(self):
        real(self)
        probed.append({n: p.requires_grad for n, p in self.loaded.model.named_parameters()})

    monkeypatch.setattr(Probe, "close", close)
    seen = preview(config(*setting, "fresh", methods=["less-round-robin", "logra", "gist"], headline=None,
                          headline_seeds=None, budgets=["10%"]))
    assert [title for title, _ in seen.features] == [f"features of {n}" for n in ("gist", "less", "logra")]
    assert "not known" not in {words for _, words in seen.features}
    assert len(probed) == 3
    for parameters in probed:
        assert not [n for n in parameters if "lora" in n]
        assert not any(parameters.values())


@pytest.mark.parametrize(("entry", "parts"), [
    ("less", ("an ablation is not a mapping",)),
    ({"name": "x", "metod": METHOD}, ("unknown key of an ablation: 'metod'", "did you mean 'method'?")),
    ({"method": METHOD, "settings": {"adam": "none"}}, ("has no name",)),
    ({"name": "random"}, ("'random' is the name of a method or baseline",)),
    ({"name": METHOD}, ("name of a method",)),
    ({"name": "x"}, ("names no method",)),
    ({"name": "x", "method": "less-ruond-robin"}, ("unknown method of the study", f"did you mean '{METHOD}'?")),
    ({"name": "x", "method": "gist"}, ("gist is not among the methods", "add gist to methods")),
    ({"name": "x", "method": METHOD}, ("changes no setting",)),
    ({"name": "x", "method": METHOD, "settings": {"adma": "none"}}, ("unknown setting 'adma'", "did you mean 'adam'?")),
    ({"name": "x", "method": METHOD, "settings": {"adam": "nnone"}}, ("'nnone'", "did you mean 'none'?")),
    ({"name": "x", "method": METHOD, "settings": {"adam": "paper"}}, ("what the study has without",)),
    ({"name": "x", "method": METHOD, "settings": {"warmup_epochs": 0}}, ("cannot be 0",)),
    ({"name": "x", "method": METHOD, "settings": {"learning_rate": 1.0}}, ("same for all of a study",)),
    ({"name": "x", "method": METHOD, "settings": {"pool": "p.jsonl"}}, ("same for all of a study",)),
    ({"name": "x", "method": METHOD, "settings": {"seed": 1}}, ("same for all of a study",)),
    ({"name": "x", "method": METHOD, "settings": {"selector": "top-k"}}, ("METHOD:SELECTOR",)),
    ({"name": "x", "method": METHOD, "settings": {"target_rank": 4}}, ("does not read target_rank", "gist")),
    ({"name": "x", "method": "bm25", "settings": {"adam": "none"}}, ("bm25 does not read adam",)),
    ({"name": "x", "method": "logra", "settings": {"on_taken": "forfeit"}}, ("does not read on_taken",)),
    ({"name": "x", "method": METHOD, "settings": {"projection": "logra"}}, ("does not work with the projection",)),
    ({"name": "x", "method": METHOD, "settings": {"projection": "spares-jl"}}, ("did you mean 'sparse-jl'?",)),
    ({"name": "x", "method": METHOD, "settings": {"gradient_score": "dot", "damping": 0.1}}, ("inner products",)),
    ({"name": "x", "method": METHOD, "settings": {"on_tkaen": "forfeit"}}, ("did you mean 'on_taken'?",)),
    ({"name": "x", "method": METHOD, "settings": {"options": ["on_taken=forfeit"]}}, ("{NAME: VALUE}",)),
    ({"name": "x", "method": METHOD, "settings": {"gist": {"target_rank": 4}}}, ("settings of gist",)),
    ({"name": "x", "method": "bm25", "settings": {"feature_dtype": "int8"}}, ("does not read feature_dtype",)),
])
def test_what_is_wrong_with_an_ablation_is_told(setting, tmp_path, entry, parts):
    _, values = setting
    path = study_file(tmp_path / "study.yaml", {**values, "output_dir": "x"}, ablations=[entry])
    with pytest.raises(ConfigError) as error:
        load_study(path)
    assert error.value.hint
    for part in (*parts, f"{path}, ablation 1"):
        assert part in str(error.value)


def test_two_ablations_of_one_name_are_refused(setting, tmp_path):
    _, values = setting
    one = {"name": "x", "method": METHOD, "settings": {"adam": "none"}}
    with pytest.raises(ConfigError, match="two ablations are called 'x'"):
        load_study(study_file(tmp_path / "study.yaml", {**values, "output_dir": "x"}, ablations=[one, one]))
    with pytest.raises(ConfigError, match="ablations cannot be"):
        load_study(study_file(tmp_path / "study.yaml", {**values, "output_dir": "x"}, ablations=one))
