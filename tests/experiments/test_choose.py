"""`choose` measures arms on rows that did not select, keeps random rows unless an arm is worth it, and says so."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from siftune import api
from siftune._common.errors import ConfigError, DataError
from siftune._common.files import read_json
from siftune._common.seeds import permutation
from siftune.config.settings import CompareConfig, SelectConfig, load
from siftune.evaluation.choosing import Training, choose, claim
from siftune.experiments.choosing import summary
from siftune.experiments.choosing.arms import read_arms
from siftune.experiments.choosing.prepared import prepared
from siftune.experiments.choosing.rows import folds_of, read_rows
from siftune.experiments.choosing.schedule import plan_key
from siftune.experiments.results.choice import read_choice
from siftune.training import sft
from tests.cli.pools import jsonl
from tests.experiments.choices import config, kind, other, taught_model, timeless, write_files


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choose")
    return folder, write_files(folder)


@pytest.fixture
def trained(monkeypatch):
    """Titles of the trainings that are really run."""
    titles, real = Counter(), sft.train_lora

    def train(model, rendered, settings, folder, **more):
        if not (Path(folder) / "training.json").is_file():
            titles[more["title"]] += 1
        return real(model, rendered, settings, folder, **more)

    monkeypatch.setattr(sft, "train_lora", train)
    return titles


@pytest.fixture(scope="module")
def done(setting):
    """Two rounds of two arms: one that finds the targets' kind, one that puts it last."""
    folder, values = setting
    return api.choose(config(folder, values, "run", budget="8", smallest_round=4, random_trainings=4,
                             arms=("bm25", f"file:{folder / 'last.npy'}")))


def test_the_arm_that_finds_the_targets_kind_is_taken_and_selects_with_all_targets(setting, done):
    folder, _ = setting
    results = done.results
    assert done.take == results.take == results.selected == "bm25"
    assert results.worth_training
    assert results.expected > 0
    assert results.gains[0].arm == "bm25"
    assert results.gains[0].low < results.gains[0].expected < results.gains[0].high
    assert results.gain("untuned").expected < 0
    assert len(done.run) == 8
    assert all(row["messages"][1]["content"] == "zz zz zz" for row in done.run.rows)
    assert done.run.manifest["data"]["target_rows"] == 8, "the winner sees the targets of all folds"
    again = api.select(load(SelectConfig, folder / "run" / "config.yaml", {"output_dir": str(folder / "again")}))
    assert again.ids == done.run.ids
    assert "chosen by measurement" in done.run.manifest["method"]["reason"]
    assert done.to_frame()["arm"].iloc[0] == "bm25"


def test_every_round_trains_every_arm_on_every_fold_and_random_rows_once_for_all(setting, done):
    folder, _ = setting
    last = f"file:{folder / 'last.npy'}"
    results = done.results
    assert [one.budget for one in results.rounds] == [4, 8]
    assert [one.random for one in results.rounds] == [2, 4]
    cells = {(one.arm, one.budget, one.number): one.cells for one in results.trainings}
    assert {key: len(made) for key, made in cells.items()} == {
        ("untuned", None, 0): 1, ("bm25", 4, 0): 2, ("bm25", 8, 0): 2, (last, 4, 0): 1, (last, 8, 0): 1,
        **{("random", 4, k): 1 for k in range(2)}, **{("random", 8, k): 1 for k in range(4)}}
    assert results.costs.trainings == len({cell for made in cells.values() for cell in made} - set(
        cells["untuned", None, 0]))
    assert sorted(results.rows.scored_ids) == sorted(f"target{i}" for i in range(8))
    assert results.claim.random_trainings == 4


def test_the_rows_that_score_did_not_select_and_their_losses_are_those_of_the_kept_trainings(setting, done):
    rows = read_rows(config(*setting, "run"))
    split = rows.split(2, 200)
    for chosen, scored in zip(split.select, split.scored, strict=True):
        assert not set(chosen) & set(scored)
        assert sorted([*chosen, *scored]) == list(range(8))
        assert Counter(rows.inputs.target.rows[i].subtask for i in scored) == {"a": 2, "b": 2}
    by_id = {}
    for one in done.results.trainings:
        kept = [read_json(path)["content"] for cell in one.cells
                for path in (done.folder / "training" / cell).glob("scores-*.json")]
        losses = {row: loss for scores in kept for row, loss in zip(scores["ids"], scores["loss"], strict=True)}
        by_id[one.arm, one.budget, one.number] = losses
        if one.arm != "bm25":  # whose adapters are scored on the fold that each of them has not seen
            assert one.losses == [losses[row] for row in done.results.rows.scored_ids]
        assert one.loss == pytest.approx(np.mean(one.losses))


def test_the_decision_is_that_of_the_rule_on_the_scores_that_are_told(done):
    results = read_choice(done.file)
    trainings = [Training(one.arm, one.budget, np.array(one.scores)) for one in results.trainings]
    found = choose(trainings, results.at, point=results.point)
    assert (found.take, found.rows_to_settle) == (results.take, results.rows_to_settle)
    assert found.expected == pytest.approx(results.expected)
    assert [(one.arm, one.utility) for one in found.arms] == [
        (one.arm, pytest.approx(one.utility)) for one in results.gains]
    told = claim(trainings, 8, point=results.point)
    assert {one.arm: one.gain for one in told.tests} == {
        one.arm: pytest.approx(one.gain) for one in results.claim.tests}


def test_run_again_nothing_is_trained_and_the_result_is_the_same(setting, done, trained):
    folder, values = setting
    before = read_json(done.file)
    again = api.choose(config(folder, values, "run", budget="8", smallest_round=4, random_trainings=4,
                              arms=("bm25", f"file:{folder / 'last.npy'}")))
    assert not trained
    assert timeless(read_json(again.file)) == timeless(before)
    assert again.run.ids == done.run.ids


def test_the_first_words_say_what_was_taken_by_how_much_and_how_little_eight_rows_tell(done):
    told = done.verdict.splitlines()
    assert told[0].startswith("Take bm25: it is expected to gain +")
    assert "90% interval" in told[0]
    assert "claimed" in told[1]
    assert any(line.startswith(("Training is worth it", "Whether to train")) for line in told)
    assert any("Only 8 rows score, which tells little" in line for line in told)
    page = done.report.read_text()
    assert page.index("Take bm25") < page.index('id="choice"') < page.index('id="comparison"')
    assert json.loads((done.folder / "report.json").read_text())["choice"]["take"] == "bm25"


def test_validation_rows_score_by_their_options_and_the_trainings_are_those_of_compare(setting, trained):
    folder, values = setting
    given = {"budget": "4", "arms": ("bm25",), "random_trainings": 2, "metric": "auto"}
    validation = [*map(json.loads, (folder / "validation.jsonl").read_text().splitlines()), kind(0, "seen")]
    jsonl(folder / "with-a-target.jsonl", validation)
    chosen = api.choose(config(folder, values, "shared", **given,
                               validation=(str(folder / "with-a-target.jsonl"),)))
    results = chosen.results
    assert (results.rows.scored_by, results.rows.folds, len(results.rows.scored_ids)) == ("validation", None, 10)
    assert results.notes == ["1 row of the validation file also in the target file: not scored on"]
    assert results.metric == "acc" or "the same for every training" in results.metric_why
    assert sum(trained.values()) == 3, "two of random rows and one of the arm"
    trained.clear()
    shared = {k: v for k, v in values.items() if k not in ("folds", "metric")}
    compared = api.compare(CompareConfig(**{
        **shared, "output_dir": str(folder / "shared"), "budget": "4", "methods": ("bm25",), "seeds": 2,
        "test": (str(folder / "test.jsonl"),)}))
    assert sum(trained.values()) == 1, "the second training of bm25 alone: the other three are shared"
    ids = {cell.id for cell in compared.results.cells}
    assert {cell for one in results.trainings for cell in one.cells} <= ids


def test_on_a_target_that_no_row_helps_it_says_so_and_selects_nothing_unless_asked(setting, trained):
    folder, values = setting
    harmful = {**values, "pool": (str(folder / "others.jsonl"),), "learning_rate": 0.1,
               "model": taught_model(folder / "taught"), "budget": "4", "arms": ("bm25",), "random_trainings": 2}
    chosen = api.choose(config(folder, harmful, "harmful"))
    assert chosen.take == "untuned"
    assert not chosen.results.worth_training
    assert chosen.run is None
    assert not (chosen.folder / "selected.jsonl").exists()
    assert chosen.verdict.startswith("Do not train: ")
    assert "not worth it" in chosen.verdict
    page = chosen.report.read_text()
    assert "Training is not worth it" in page
    assert 'id="rows"' not in page
    trained.clear()
    anyway = api.choose(config(folder, harmful, "harmful", select_anyway=True))
    assert not trained
    assert anyway.take == "untuned"
    assert anyway.results.selected in ("random", "bm25")
    assert len(anyway.run) == 4
    back = api.choose(config(folder, harmful, "harmful"))
    assert back.run is None
    assert not (back.folder / "manifest.json").exists(), "an earlier selection would look like this choice's"


def test_where_every_arm_is_a_random_subset_a_winner_is_claimed_in_at_most_one_of_twenty(setting):
    """Trainings on random subsets are exchangeable: any four of them may be the random arm, and three others arms."""
    folder, values = setting
    mixed = api.choose(config(folder, values, "null", budget="6", epochs=1, random_trainings=8, smallest_round=0,
                              arms=(f"file:{folder / 'last.npy'}",)))
    pool = [np.array(one.scores) for one in mixed.results.trainings if one.arm == "random"]
    assert len(pool) == 8
    claimed, cases = 0, 100
    for case in range(cases):
        places = permutation(8, 0, "null", case)[:7].tolist()
        arms = ["random"] * 4 + ["a", "b", "c"]
        told = summary.tested([Training(arm, 6, pool[i]) for arm, i in zip(arms, places, strict=True)], 6,
                      mixed.results.point, 0.05, {"a", "b", "c"})
        claimed += bool(told.winners)
    assert claimed / cases <= 0.05


def test_an_arm_that_was_stopped_still_counts_among_those_tried():
    rows = np.linspace(0, 1, 40)
    random = [Training("random", 100, rows * 0.2 + 0.002 * k) for k in range(6)]
    arms = [Training("best", 100, rows * 0.2 + 0.018), Training("untuned", None, rows * 0.1)]
    few = summary.tested([*random, *arms], 100, 0.01, 0.05, {"best", "untuned"})
    many = summary.tested([*random, *arms], 100, 0.01, 0.05, {"best", "untuned", "c", "d", "e", "f"})
    p = {one.arm: one.p_value for one in few.tests}["best"]
    assert {one.arm: one.p_value for one in many.tests}["best"] == pytest.approx(min(1.0, 3 * p))
    assert (few.winners == ["best"]) == (p < 0.05)
    assert (many.winners == ["best"]) == (3 * p < 0.05)


def test_folds_are_even_hold_every_subtask_and_keep_rows_that_say_the_same_together(tmp_path, setting):
    twice = [kind(i // 2, f"row{i}-", subtask="ab"[i // 2 % 2]) for i in range(24)]
    jsonl(tmp_path / "target.jsonl", twice)
    rows = read_rows(config(tmp_path, setting[1], "run", target=(str(tmp_path / "target.jsonl"),), folds=3))
    target = rows.inputs.target.rows
    folds = folds_of(target, 3, 0)
    assert sorted(itertools.chain(*folds)) == list(range(24))
    said = [{target[i].messages[0].content for i in fold} for fold in folds]
    assert sum(map(len, said)) == len(set().union(*said)) == 12
    assert [Counter(target[i].subtask for i in fold) for fold in folds] == [{"a": 4, "b": 4}] * 3
    assert [list(f) for f in folds_of(target, 3, 0)] == [list(f) for f in folds]
    with pytest.raises(DataError, match="too few for 13 folds"):
        folds_of(target, 13, 0)


def test_five_hundred_targets_get_no_more_folds_and_no_more_rows_that_score(tmp_path, setting):
    jsonl(tmp_path / "target.jsonl", [kind(1000 + i, "many") for i in range(500)])
    rows = read_rows(config(tmp_path, setting[1], "run", target=(str(tmp_path / "target.jsonl"),), folds=None))
    assert rows.most_folds == 4
    split = rows.split(4, 200)
    assert [len(places) for places in split.scored] == [50] * 4
    assert [len(places) for places in split.select] == [375] * 4


def test_rows_that_would_score_what_was_trained_on_them_are_left_out_or_refused(tmp_path, setting):
    folder, values = setting
    jsonl(tmp_path / "pool.jsonl", [kind(0, "leaked"), *(other(i) for i in range(20))])
    leaking = {**values, "pool": (str(tmp_path / "pool.jsonl"),)}
    rows = read_rows(config(tmp_path, leaking, "run"))
    assert len(rows.inputs.pool) == 20
    assert "1 row of the pool also in the target file: left out" in rows.notes[0]
    jsonl(tmp_path / "validation.jsonl", [kind(30, "v"), kind(31, "v")])
    jsonl(tmp_path / "pool.jsonl", [kind(30, "leaked"), *(other(i) for i in range(20))])
    given = {"validation": (str(tmp_path / "validation.jsonl"),)}
    with pytest.raises(DataError, match="1 row of the pool also in the validation file"):
        read_rows(config(tmp_path, leaking, "run", **given))
    rows = read_rows(config(tmp_path, leaking, "run", overlap="drop", **given))
    assert len(rows.inputs.pool) == 20
    with pytest.raises(DataError, match="validation file also in the test file"):
        read_rows(config(tmp_path, values, "run", validation=(str(folder / "test.jsonl"),),
                         test=(str(folder / "test.jsonl"),)))
    jsonl(tmp_path / "few.jsonl", [kind(i, "few") for i in range(3)])
    with pytest.raises(DataError, match="3 rows of the target cannot tell"):
        read_rows(config(tmp_path, values, "run", target=(str(tmp_path / "few.jsonl"),)))


@pytest.mark.parametrize(("changes", "told"), [
    ({"arms": ("bm52",)}, "did you mean 'bm25'"),
    ({"arms": ("bm25", "bm25")}, "stands twice"),
    ({"arms": ("longest",)}, "longest is a baseline"),
    ({"arms": ("auto",)}, "auto cannot be an arm"),
    ({"method": "less"}, "'method' is not one of a choice"),
    ({"within": "soon"}, "cannot read the time 'soon'"),
    ({"target": ()}, "the method bm25 compares with targets, and there are none"),
    ({"metric": "acc", "arms": ("bm25",)}, "acc cannot be scored"),
    ({"metric": "exact_match", "exact_match_tokens": 1, "arms": ("bm25",)}, "exact match cannot be scored"),
    ({"arms": ({"name": "x", "method": "bm25", "settings": {"adam": "none"}},)}, "does not read adam"),
])
def test_mistakes_are_told_before_anything_is_trained(setting, changes, told):
    with pytest.raises(ConfigError) as error:
        prepared(config(*setting, "wrong", **changes), probe=False)
    assert told in str(error.value)
    assert not (setting[0] / "wrong").exists()


def test_an_arm_with_other_settings_is_an_arm_of_its_own(setting):
    made = prepared(config(*setting, "arms", arms=(
        "rds+", "logra", {"name": "plain rds", "method": "rds+", "settings": {"center": False}})), probe=False)
    assert made.arms.names == ("rds+", "logra", "plain rds")
    assert made.arms.config.settings_of("rds").center, "centred unless the user says otherwise"
    assert made.arms.variant("plain rds").of(made.arms.config).settings_of("rds").center is False
    assert config(*setting, "arms", arms=("bm25, rds+", "random", "untuned")).named_arms == ("bm25", "rds+")


def test_an_arm_whose_package_is_missing_is_left_out_and_that_is_told(setting, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "bm25s" else real(name, *more))
    made = prepared(config(*setting, "missing", arms=("bm25", "rds+", "fusion")), probe=False)
    assert made.arms.names == ("rds+",)
    assert made.schedule.left_out["bm25"] == "it needs the package bm25s: pip install 'siftune[lexical]'"
    assert "bm25s" in made.schedule.left_out["fusion"], "one of whose signals it is"


def test_an_arm_that_is_stopped_is_trained_no_more_and_random_rows_never_are(setting, done, tmp_path, monkeypatch,
                                                                              trained):
    folder, values = setting
    last = f"file:{folder / 'last.npy'}"
    shutil.copytree(done.folder, tmp_path / "run")
    monkeypatch.setattr("siftune.evaluation.choosing.DROP", 0.9)  # only the arm in front is as likely to be the best
    stopped = api.choose(config(tmp_path, values, "run", budget="8", smallest_round=4, random_trainings=4,
                                arms=("bm25", last)))
    first, second = stopped.results.rounds
    assert first.trained == ["bm25", last]
    assert first.stopped == {last: f"less than 5% chance to be better than {first.front}"}
    assert (second.trained, second.random) == (["bm25"], 4)
    assert {one.arm for one in stopped.results.trainings if one.budget == 8} == {"bm25", "random"}
    assert {one.arm for one in stopped.results.claim.tests} == {"bm25", "untuned"}
    assert not trained, "whatever is left was trained before"
    assert f"stopped early: {last} after 4" in stopped.verdict


def test_a_plan_belongs_to_all_that_decides_what_is_tried(setting):
    def key(name="one", **changes):
        made = config(*setting, name, **{"arms": ("bm25", "rds+"), "within": "1h", **changes})
        arms = read_arms(made)
        return plan_key(read_rows(arms.config), arms)

    assert key() == key("another", workers=3, shard_rows=5)
    others = [key(seed=1), key(arms=("bm25",)), key(within="2h"), key(epochs=2), key(budget="3"), key(folds=3),
              key(target=(str(setting[0] / "test.jsonl"),)), key(validation=(str(setting[0] / "validation.jsonl"),))]
    assert len({key(), *others}) == 1 + len(others)
