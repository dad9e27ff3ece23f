"""A grid is the ablations that somebody would have written by hand, and no more than can be read."""

from __future__ import annotations

import itertools

import pytest
import yaml

from siftune._common.errors import ConfigError
from siftune.experiments.config import load_study
from siftune.experiments.grid import MOST_ARMS
from siftune.experiments.preview import preview
from siftune.experiments.results import read_results
from siftune.experiments.run import study
from tests.cli.command import siftune
from tests.docs.pages import ROOT, blocks
from tests.experiments.studies import config, study_file, write_files

LESS, RDS = "less-round-robin", "rds+"


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    values = write_files(folder)
    return folder, {**values, "targets": values["targets"][:1], "budgets": ["10%"], "methods": [LESS, RDS],
                    "headline": [LESS], "exact_match_tokens": 0, "logra": None}


def loaded(setting, tmp_path, **changes):
    _, values = setting
    return load_study(study_file(tmp_path / "study.yaml", {**values, "output_dir": "x"}, **changes))


def test_every_combination_is_an_arm_but_for_what_the_study_has_anyway(setting, tmp_path):
    grid = {"adam": ["paper", "none"], "gradient_score": ["cosine", "dot"], "less.projection_dim": [16, 64]}
    arms = loaded(setting, tmp_path, grid=grid).ablations
    own = {"adam": "paper", "gradient_score": "cosine", "projection_dim": 64}  # of the study, or as siftune has them
    expected = [{k: v for k, v in zip(own, values, strict=True) if v != own[k]}
                for values in itertools.product(*grid.values())]
    assert [arm.settings for arm in arms] == [settings for settings in expected if settings]
    assert {arm.method for arm in arms} == {LESS}
    assert arms[0].name == f"{LESS} projection_dim=16"
    assert arms[-2].name == f"{LESS} adam=none gradient_score=dot projection_dim=16"


def test_a_setting_without_its_owner_varies_every_method_that_reads_it_and_no_other(setting, tmp_path):
    arms = loaded(setting, tmp_path, methods=[LESS, RDS, "rds:k-center"], grid={"on_taken": ["forfeit"]}).ablations
    assert [(arm.name, arm.own) for arm in arms] == [
        (f"{name} on_taken=forfeit", {"round-robin": {"on_taken": "forfeit"}}) for name in (LESS, RDS)]
    shared = loaded(setting, tmp_path, methods=[LESS, "bm25"], grid={"feature_dtype": ["float32", "int8"]}).ablations
    assert [arm.name for arm in shared] == [f"{LESS} feature_dtype=int8"]


def test_it_stands_beside_ablations_and_its_arms_may_be_of_the_headline(setting, tmp_path):
    by_hand = {"name": "plain", "method": LESS, "settings": {"adam": "none"}}
    made = loaded(setting, tmp_path, ablations=[by_hand], grid={"less": {"projection_dim": [16, 32]}},
                  headline=[f"{LESS} projection_dim=32"])
    assert [arm.name for arm in made.ablations] == ["plain", f"{LESS} projection_dim=16", f"{LESS} projection_dim=32"]
    assert [made.trainings(arm.name) for arm in made.ablations] == [1, 1, 2]
    assert loaded(setting, tmp_path, grid=None).ablations == ()


def test_an_arm_is_the_ablation_of_these_settings(setting, tmp_path):
    from_grid = loaded(setting, tmp_path, grid={"less.projection_dim": [16], "on-taken": ["forfeit"]}, methods=[LESS])
    by_hand = loaded(setting, tmp_path, methods=[LESS], ablations=[
        {"name": f"{LESS} projection_dim=16 on_taken=forfeit", "method": LESS,
         "settings": {"projection_dim": 16, "on_taken": "forfeit"}}])
    assert from_grid == by_hand


@pytest.mark.parametrize(("grid", "parts"), [
    ({"projection_dim": list(range(1, 5)), "adam": ["none", "less-code", "no-momentum"], "center": [True, False],
      "on_taken": ["advance", "forfeit"]}, (f"51 arms, more than {MOST_ARMS}", f"48 of {LESS}, 3 of {RDS}")),
    ({"projection_dim": list(range(1, 10**4))}, ("projection_dim has 9,999 values", f"{MOST_ARMS} arms at most")),
    ({"learning_rate": [1e-4, 1e-3]}, ("'learning_rate' is the same for all", "one study for each of its values")),
    ({"epochs": [1, 2]}, ("'epochs' is the same for all",)),
    ({"budget": ["5%"]}, ("write it under budgets",)),
    ({"seeds": [1, 2]}, ("'seeds' is a key of the study itself", "beside grid")),
    ({"projetcion_dim": [16]}, ("unknown setting of the grid 'projetcion_dim'", "did you mean 'projection_dim'?")),
    ({"less.projetcion_dim": [16]}, ("did you mean 'projection_dim'?",)),
    ({"lesss.adam": ["none"]}, ("unknown method or selector 'lesss'", "did you mean 'less'?")),
    ({"gist.target_rank": [4]}, ("no method of the study reads settings of gist",)),
    ({"target_rank": [4]}, ("no method of the study reads target_rank", "one of gist")),
    ({"less": ["none"]}, ("less is a method or selector", "less: {NAME: [VALUE, ANOTHER]}")),
    ({"adam": "none"}, ("adam is not a list of values", "write adam: [none]")),
    ({"less": {"adam": []}}, ("less.adam is not a list of values",)),
    ({"adam": ["none", "none"]}, ("none stands twice", "grid: adam")),
    ({"less.adam": ["none"], "less": {"adam": ["none"]}}, ("less.adam stands twice",)),
    ({"less.adam": ["none"], "adam": ["less-code"]}, ("adam of less stands twice",)),
    ({"adam": ["nnone"]}, ("did you mean 'none'?", "grid: adam")),
    ({"projection_dim": ["wide"]}, ("cannot be 'wide'",)),
    ({"projection": ["logra"]}, ("does not work with the projection", f"grid ({LESS} projection=logra)")),
    ({"adam": ["paper"]}, ("the grid changes nothing",)),
    ({"less": {}}, ("a grid names no setting",)),
    ([{"adam": ["none"]}], ("a grid cannot be",)),
])
def test_what_is_wrong_with_a_grid_is_told(setting, tmp_path, grid, parts):
    with pytest.raises(ConfigError) as error:
        loaded(setting, tmp_path, grid=grid)
    assert error.value.hint
    for part in (*parts, "study.yaml: grid"):
        assert part in str(error.value)


def test_an_arm_that_is_an_ablation_already_is_refused(setting, tmp_path):
    by_hand = {"name": "plain", "method": LESS, "settings": {"adam": "none"}}
    with pytest.raises(ConfigError, match="'plain' is an arm of the grid already"):
        loaded(setting, tmp_path, ablations=[by_hand], grid={"adam": ["none"]})


def test_a_misspelt_grid_meets_its_name(setting, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'grid'"):
        loaded(setting, tmp_path, gird={"adam": ["none"]})


def test_the_study_of_the_page_is_one(setting, tmp_path):
    _, values = setting
    written = yaml.safe_load(blocks(ROOT / "docs/study.md", "yaml")[0])
    own = {key: values[key] for key in ("pool", "targets", "model")}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**written, **own}, sort_keys=False))
    arms = load_study(path).ablations
    grid = [arm for arm in arms if arm.name not in {one["name"] for one in written["ablations"]}]
    assert [arm.method for arm in grid] == [*["less-round-robin"] * 4, *["less:knn-kde"] * 4]
    assert "less-round-robin projection_dim=1024 center=true" in {arm.name for arm in grid}


def test_a_study_shows_and_runs_the_arms_of_its_grid(setting):
    folder, values = setting
    changes = {"methods": [RDS], "headline": None, "less": None, "grid": {"on_taken": ["forfeit"]}}
    name = f"{RDS} on_taken=forfeit"
    path = study_file(folder / "shown.yaml", {**values, "output_dir": str(folder / "done")}, **changes)
    shown = siftune("study", path, "--dry-run").ok()
    assert f"{name}, sums, 10%" in shown.out
    done = study(config(folder, values, "done", **changes))
    assert not done.failed
    assert [a["name"] for a in read_results(done.file).to_dict()["analyses"]["ablations"]] == [name]
    assert preview(config(folder, values, "done", **changes)).total == 1 + 2 + 2
