"""What a study tells beside its main tests, against plain loops over what its cells hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from siftune._common.artefacts import write_sealed
from siftune._common.files import read_json
from siftune.experiments.analysis.ranks import rho
from siftune.experiments.analysis.subtasks import places_of
from siftune.experiments.results import Results
from siftune.experiments.run import study
from siftune.experiments.text import tables
from tests import tiny
from tests.experiments.studies import config, write_files


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Of a finished study with another model. A random tiny model answers nothing right, so right answers are made up,
    as many more for each training; the first row has no answer that could be compared."""
    folder = tmp_path_factory.mktemp("exploratory")
    values = write_files(folder, test_rows=14)
    tiny.save(folder / "other", "gpt2")
    made = config(folder, {**values, "targets": values["targets"][:1]}, "study", methods=["embed", "bm25"],
                  headline=["embed"], budgets=["10%"], baselines={"random": 2}, learning_rate=5e-3,
                  train_models=[str(folder / "other")])
    study(made)
    kept = sorted((folder / "study" / "training").glob("*/scores-*.json"))
    assert len(kept) < 14, "so that no two trainings have as many right answers"
    for number, path in enumerate(kept):
        head, scores = (read_json(path)[part] for part in ("artefact", "content"))
        scores["correct"] = [None if i == 0 else i <= number for i in range(len(scores["loss"]))]
        write_sealed(path, head["kind"], head["made_from"], scores)
    return study(made).results.to_dict()


def of_subset(result, name):
    return [s["id"] for s in result["subsets"] if s["name"] == name]


def losses_of(result, name, model, metric="loss"):
    """[trainings][test rows]"""
    return [c["results"]["sums"][metric] for c in result["cells"]
            if c["model"] == model and c["subset"] in of_subset(result, name)]


def mean(values):
    return sum(values) / len(values)


def holm(p_values):
    """One after the other from the smallest, each times how many are left, never falling (Holm 1979); None is not in
    the family."""
    tested = [p for p in p_values if p is not None]
    if len(tested) < len(p_values):
        adjusted = iter(holm(tested))
        return [None if p is None else next(adjusted) for p in p_values]
    adjusted, largest = {}, 0.0
    for k, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - k) * p_values[i]))
        adjusted[i] = largest
    return [adjusted[i] for i in range(len(p_values))]


def p_of_parts(ours, theirs):
    """The level at which Student's quantiles, each times the standard error of its part of the variance, together just
    reach the difference; not below what so few signs can show. Of [trainings][rows]; halved sixty times."""
    rows = [mean(o) - mean(t) for o, t in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)]
    parts = [(float(np.var(values, ddof=1)) / len(values), len(values) - 1)
             for values in ([mean(r) for r in ours], [mean(r) for r in theirs], rows)]
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        reach = sum(V * student.isf(middle / 2, degrees) ** 2 for V, degrees in parts)
        low, high = (middle, high) if reach > mean(rows) ** 2 else (low, middle)
    return max(high, 2.0 ** (1 - len(rows)))


def test_rows_by_subtask():
    found = places_of(["b", None, "a", "b"])
    assert {name: places.tolist() for name, places in found.items()} == {"b": [0, 3], "a": [2]}
    assert places_of(["a", "a", None]) == places_of([]) == {}


def test_each_subtask_is_measured_on_its_rows_alone(result):
    model, [target] = result["settings"]["model"], result["targets"]
    told = result["analyses"]["subtasks"]
    names = list(dict.fromkeys(target["subtasks"]))
    assert len(names) == 2
    assert {(t["subtask"], t["name"]) for t in told} == {
        (s, n) for s in names for n in ("zero-shot", "random", "embed", "bm25")}
    for one in told:
        places = [i for i, s in enumerate(target["subtasks"]) if s == one["subtask"]]
        assert one["n_examples"] == len(places) < len(target["test_ids"])
        if one["name"] == "zero-shot":
            assert one["difference"] is None
            continue
        both = [[[losses[i] for i in places] for losses in losses_of(result, name, model)]
                for name in (one["name"], "random")]
        ours, theirs = ([mean(row) for row in zip(*side, strict=True)] for side in both)
        assert one["loss"] == pytest.approx(mean(ours))
        if one["name"] == "random":
            assert one["p_value"] is None
            continue
        apart = [a - b for a, b in zip(ours, theirs, strict=True)]
        assert one["difference"] == pytest.approx(mean(apart))
        assert one["low"] <= one["difference"] <= one["high"]
        if one["name"] == "bm25":
            assert (one["verdict"], one["covers"], one["p_value"]) == ("single training", "rows", None)
        else:
            assert (one["verdict"], one["covers"]) == ("no different", "trainings and rows")
            assert one["p_value"] == pytest.approx(p_of_parts(*both))


def test_subtasks_are_a_family_of_their_own(result):
    tested = [t for t in result["analyses"]["subtasks"] if t["p_value"] is not None]
    assert [t["p_value_holm"] for t in tested] == pytest.approx(holm([t["p_value"] for t in tested]))
    assert {t["family"] for t in tested} == {len(tested)} == {2}, "one training is no test"
    main = result["tests"]
    assert [t["p_value_holm"] for t in main] == pytest.approx(holm([t["p_value"] for t in main]))


def test_gains_on_other_models_are_adjusted_together(result):
    gains = [g for t in result["analyses"]["transfer"] for g in t["gains"]]
    assert [g["name"] for g in gains] == ["embed", "bm25"]
    assert [g["p_value_holm"] for g in gains] == pytest.approx(holm([g["p_value"] for g in gains]))
    other = result["settings"]["train_models"][0]
    for gain in gains:
        if gain["name"] == "bm25":
            assert gain["p_value"] is None
        else:
            ours, theirs = (losses_of(result, name, other) for name in (gain["name"], "random"))
            assert gain["p_value"] == pytest.approx(p_of_parts(ours, theirs))


def test_the_pairs_behind_each_correlation_are_there(result):
    model = result["settings"]["model"]
    subsets = {s["id"]: s for s in result["subsets"]}
    told = result["analyses"]["distance_predicts_loss"]
    assert {(t["representation"], t["measure"]) for t in told} == {("embed", "nearest"), ("embed", "wasserstein")}
    for one in told:
        assert {p["subset"] for p in one["pairs"]} == set(subsets)
        for pair in one["pairs"]:
            cells = [c["results"]["sums"] for c in result["cells"]
                     if (c["subset"], c["model"]) == (pair["subset"], model)]
            assert pair["distance"] == subsets[pair["subset"]]["distances"]["embed"]["sums"][one["measure"]]
            assert pair["loss"] == pytest.approx(mean([mean(c["loss"]) for c in cells]))
            answered = [[x for x in c["correct"] if x is not None] for c in cells]
            assert pair["exact_match"] == pytest.approx(mean([mean(a) for a in answered]))
        for found, metric in ((one, "loss"), (one["exact_match"], "exact_match")):
            x, y = (np.array([p[key] for p in one["pairs"]]) for key in ("distance", metric))
            assert found["rho"] == pytest.approx(rho(x, y))
            assert found["n"] == len(subsets) == 4
    assert len({p["exact_match"] for p in told[0]["pairs"]}) > 1


def test_the_ranking_is_in_per_cent(result):
    ranked = result["ranking"]
    lines = tables(Results.model_validate(result)).partition("## Ranking")[2].splitlines()
    for rank in ranked:
        [line] = [line for line in lines if line.startswith(f"| {rank['name']} ")]
        assert f"{100 * rank['improvement']:+.1f}%" in line
