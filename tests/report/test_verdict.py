"""The verdict says in plain words what the tests show, and what to know before relying on it."""

from __future__ import annotations

from typing import Any

import pytest

from siftune.experiments.results import Results
from siftune.experiments.results.earlier import Comparison, upgraded
from siftune.report.manifest import Manifest
from siftune.report.verdict import relative, verdict
from tests.report import runs


def judged(comparison: dict[str, Any], **method: Any) -> dict[str, Any]:
    return verdict(Results.model_validate(comparison), Manifest.model_validate({"method": method}))


def judged_earlier(comparison: dict[str, Any], **method: Any) -> dict[str, Any]:
    return verdict(upgraded(Comparison.model_validate(comparison)), Manifest.model_validate({"method": method}))


def only(difference: float, half: float, outcome: str, **changes: Any) -> dict[str, Any]:
    """A comparison whose only test is the pooled loss against random."""
    test = {"target": "target", "budget": "20", "method": "less-round-robin", "against": "random", "metric": "loss",
            "difference": difference, "low": difference - half, "high": difference + half, "p_value": 0.01,
            "n_examples": 80, "n_seeds": 3, "verdict": outcome}
    return runs.comparison(tests=[test | changes])


def test_a_better_method_is_given_in_per_cent_of_random_s_loss() -> None:
    found = judged(only(-0.12, 0.07, "better"))
    assert found["status"] == "better"
    assert found["sentences"] == ["less-round-robin lowered the held-out target loss by 12% against random "
                                  "(95% interval 5% to 19%, 3 seeds)."]
    assert found["cautions"] == []


def test_a_worse_method_is_called_worse() -> None:
    found = judged(only(0.12, 0.07, "worse"))
    assert found["sentences"] == ["less-round-robin raised the held-out target loss by 12% against random "
                                  "(95% interval 5% to 19%, 3 seeds): do not use this subset."]


def test_no_difference_is_no_better_and_shows_the_signs() -> None:
    found = judged(only(-0.02, 0.06, "no different"))
    assert found["status"] == "no different"
    assert found["sentences"] == [
        "less-round-robin was no better than random here: do not rely on it. The held-out target loss changed by "
        "−2.0% (95% interval −8.0% to +4.0%, 3 seeds), which is within the noise."]


def test_the_p_value_that_decides_is_the_adjusted_one_and_is_told() -> None:
    found = judged(only(-0.12, 0.07, "better", p_value_holm=0.0321))
    assert found["sentences"][0].endswith("(95% interval 5% to 19%, 3 seeds, p after Holm 0.032).")
    found = judged(only(-0.12, 0.07, "no different", p_value_holm=0.2))
    assert found["sentences"] == [
        "less-round-robin could not be told from random: do not rely on it. The held-out target loss changed by −12.0% "
        "(95% interval −19.0% to −5.0%, 3 seeds, p after Holm 0.200); that interval leaves out zero, yet not when all "
        "the questions asked here are counted, and p after Holm decides."]


def test_one_training_is_no_verdict_and_its_interval_is_over_rows() -> None:
    found = judged(only(-0.12, 0.07, "single training", p_value=None, n_seeds=1, covers="rows"))
    assert found["status"] == "single training"
    assert found["sentences"] == [
        "One training, no verdict: with less-round-robin the held-out target loss changed by −12.0% against random "
        "(95% interval over test rows alone −19.0% to −5.0%, 1 seed). The luck of a single training cannot be told "
        "from merit: compare with 3 seeds or more."]
    assert found["cautions"] == []


@pytest.mark.parametrize(("difference", "half", "wanted"), [
    (-0.0001, 0.0003, "−0.010% (95% interval −0.040% to +0.020%, 3 seeds)"),
    (0.000002, 0.000001, "+0.00020% (95% interval +0.00010% to +0.00030%, 3 seeds)"),
    (0.0004, 0.004, "+0.04% (95% interval −0.36% to +0.44%, 3 seeds)"),
])
def test_a_small_change_is_told_with_the_digits_that_it_has(difference: float, half: float, wanted: str) -> None:
    for outcome in ("no different", "single training"):
        found = judged(only(difference, half, outcome, covers="trainings and rows"))
        for text in (found["answer"], found["sentences"][0]):
            assert "0.0% to 0.0%" not in text
            assert wanted.partition("%")[0] in text
            assert wanted.partition("interval ")[2].partition(",")[0] in text


def test_a_small_gain_is_not_a_gain_of_nothing() -> None:
    told = judged(only(-0.0003, 0.0001, "better"))["sentences"][0]
    assert "by 0.03% against random (95% interval 0.02% to 0.04%" in told


def test_where_nothing_changed_at_all_it_is_said_in_words() -> None:
    for outcome in ("no different", "single training"):
        found = judged(only(0.0, 0.0, outcome))
        assert "did not change at all" in found["sentences"][0]
        assert "%" not in found["sentences"][0]
    assert judged(only(0.0, 0.0, "no different"))["answer"] == (
        "less-round-robin and random gave the very same held-out target loss (3 seeds).")


@pytest.mark.parametrize(("outcome", "starts"), [
    ("better", "less-round-robin lowered"), ("worse", "less-round-robin raised"),
    ("no different", "less-round-robin"), ("single training", "One training, no verdict")])
def test_the_answer_of_the_first_screen_is_one_short_sentence(outcome: str, starts: str) -> None:
    answer = judged(only(-0.12, 0.2 if outcome == "no different" else 0.07, outcome))["answer"]
    assert answer.startswith(starts)
    assert len(answer) < 160
    assert answer.count(". ") == 0
    assert answer.endswith(".")


def test_the_share_is_taken_of_the_mean_loss_of_the_arm_held_against() -> None:
    comparison = only(-0.12, 0.07, "better")
    comparison["arms"][1]["loss"]["mean"] = 2.0
    parsed = Results.model_validate(comparison)
    assert relative(parsed.tests[0], parsed) == pytest.approx((-0.06, -0.095, -0.025))


def test_without_random_s_loss_the_difference_is_given_in_nats() -> None:
    comparison = only(-0.12, 0.07, "better")
    comparison["arms"] = comparison["arms"][:1]
    assert "by 0.120 nats against random (95% interval −0.190 to −0.050, 3 seeds)" in judged(comparison)["sentences"][0]


def test_the_run_s_own_method_decides_whatever_the_others_do() -> None:
    comparison = only(-0.02, 0.06, "no different")
    comparison["tests"].append(comparison["tests"][0] | {"method": "rds:top-k", "difference": -0.3, "low": -0.4,
                                                         "high": -0.2, "verdict": "better"})
    own = judged(comparison, name="less-round-robin")
    assert own["status"] == "no different"
    assert own["sentences"][1].startswith("rds:top-k lowered")
    assert judged(comparison, representation="rds", selector="top-k")["status"] == "better"
    comparison["settings"]["methods"] = ["less-round-robin", "rds:top-k"]
    assert judged(comparison, name="less", representation="less", selector="round-robin")["status"] == "no different"


@pytest.mark.parametrize("change", [{"against": "longest"}, {"metric": "exact_match"}])
def test_only_the_pooled_loss_against_random_makes_a_verdict(change: dict[str, str]) -> None:
    found = judged(only(-0.12, 0.07, "better", **change))
    assert found["status"] == "not compared"
    assert "lowered" not in " ".join(found["sentences"])


def test_few_seeds_are_cautioned() -> None:
    assert judged(only(-0.12, 0.07, "better", n_seeds=1))["cautions"][0].startswith("Only 1 seed:")


def test_beating_random_but_not_the_untrained_model_is_cautioned() -> None:
    comparison = only(-0.12, 0.07, "better")
    comparison["arms"][2]["loss"]["mean"] = 0.5
    assert "training on these rows does not pay" in judged(comparison)["cautions"][0]


def test_a_stronger_baseline_that_is_not_beaten_is_cautioned() -> None:
    comparison = only(-0.12, 0.07, "better")
    comparison["arms"].append(comparison["arms"][1] | {"name": "length-matched-random"})
    comparison["tests"].append(comparison["tests"][0] | {"against": "length-matched-random",
                                                         "verdict": "no different"})
    assert "not shown to be better than length-matched-random" in judged(comparison)["cautions"][0]


def test_a_subtask_that_suffers_is_named() -> None:
    comparison = only(-0.12, 0.07, "better")
    comparison["analyses"]["subtasks"][1] |= {"verdict": "worse"}
    assert judged(comparison)["cautions"] == ["less-round-robin is worse than random on spell."]


def test_much_more_text_than_random_had_is_cautioned() -> None:
    comparison = only(-0.12, 0.07, "better")
    comparison["arms"][0]["tokens"] = 6100  # random: 3,050
    assert "6,100 tokens, random on 3,050 tokens (100.0% more)" in judged(comparison)["cautions"][0]
    comparison["arms"][0]["tokens"] = 1525
    assert "(50.0% fewer)" in judged(comparison)["cautions"][0]


def test_what_failed_is_cautioned() -> None:
    comparison = only(-0.12, 0.07, "better")
    comparison["failures"] = [{"what": "training", "title": "random, seed 1", "message": "out of memory"}]
    assert judged(comparison)["cautions"][0].startswith("1 training or selection failed")


def test_a_comparison_of_version_1_is_judged_by_the_run_s_own_method_too() -> None:
    found = judged_earlier(runs.earlier_comparison(), representation="less", selector="round-robin")
    assert found["sentences"] == ["less+round-robin lowered the held-out target loss by 12% against random "
                                  "(95% interval 5% to 19%, 3 seeds)."]
