"""How comparisons are judged together."""

from __future__ import annotations

import numpy as np
import pytest

from siftune.experiments.estimates import difference, judge


def side(seed: int, shift: float, trainings: int = 4) -> np.ndarray:
    bits = np.random.default_rng(seed)
    return shift + 0.1 * bits.standard_normal((trainings, 1)) + 0.1 * bits.standard_normal((trainings, 30))


def test_the_adjusted_p_value_decides_and_an_interval_may_leave_out_zero_beside_no_difference() -> None:
    random = side(0, 1.0)
    one = difference(side(1, 0.6), random, "loss", 0.95)
    assert one is not None
    assert 0.003 < one["p_value"] < 0.05
    alone, many = [dict(one)], [dict(one) for _ in range(20)]
    judge(alone, 0.95)
    judge(many, 0.95)
    assert (alone[0]["verdict"], alone[0]["p_value_holm"]) == ("better", one["p_value"])
    assert {t["verdict"] for t in many} == {"no different"}
    assert many[0]["high"] < 0
    assert many[0]["p_value_holm"] == pytest.approx(min(1.0, 20 * one["p_value"]))


def test_one_training_has_no_p_value_and_costs_the_others_nothing() -> None:
    random = side(0, 1.0)
    tests = [difference(ours, random, "loss", 0.95) for ours in (side(1, 0.5), side(2, 0.5, trainings=1))]
    assert all(t is not None for t in tests)
    judge([t for t in tests if t], 0.95)
    first, second = tests
    assert first
    assert second
    assert first["p_value_holm"] == first["p_value"]
    assert (second["p_value"], second["p_value_holm"], second["verdict"], second["covers"]) == (
        None, None, "single training", "rows")


def test_a_higher_score_is_better_and_a_higher_loss_worse() -> None:
    for metric, verdict in (("exact_match", "better"), ("task:acc", "better"), ("loss", "worse")):
        found = difference(side(1, 2.0), side(0, 1.0), metric, 0.95)
        assert found is not None
        test = {**found, "metric": metric}
        judge([test], 0.95)
        assert found["verdict"] == test["verdict"] == verdict
