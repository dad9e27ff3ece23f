"""An arm over all targets: its mean against random, with an interval that knows what places share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from siftune.evaluation.statistics import holm, paired_difference
from siftune.experiments.analysis.overall import Effect, overall
from siftune.experiments.results import Results
from tests.report import studies


def effects(result: dict[str, Any]) -> dict[str, Effect]:
    return {effect.name: effect for effect in overall(Results.model_validate(result))}


def test_for_one_target_and_budget_it_is_the_paired_test_as_a_share_of_random_s_loss() -> None:
    result = studies.study(targets=("math",), budgets=("5%",), test_rows=15, other=None, deciles=(),
                           methods=("less-round-robin", "rds+", "bm25"))
    found = effects(result)
    random = next(a["loss"]["mean"] for a in result["arms"] if a["name"] == "random")
    tests = [t for t in result["tests"] if t["against"] == "random"]
    assert {t["verdict"] for t in tests} >= {"better", "single training"}
    for t in tests:
        effect = found[t["method"]]
        assert (effect.mean, effect.low, effect.high) == pytest.approx(
            [t[key] / random for key in ("difference", "low", "high")])
        assert effect.p_value == (t["p_value"] and pytest.approx(t["p_value"]))
        assert effect.singles == (t["verdict"] == "single training")
    known = [found[t["method"]] for t in tests]
    assert [e.p_value_holm for e in known] == pytest.approx(holm([e.p_value for e in known]), nan_ok=True)


def test_arms_that_are_tested_come_first_and_baselines_have_no_verdict() -> None:
    result = studies.study(targets=("math", "code"), budgets=("1%", "5%"), test_rows=20, other=None)
    listed = overall(Results.model_validate(result))
    names = [effect.name for effect in listed]
    assert set(names) == {*result["settings"]["methods"], "zero-shot", "full", "length-matched-random"}
    assert [effect.kind for effect in listed] == sorted((effect.kind for effect in listed), reverse=True)
    methods = [effect for effect in listed if effect.kind == "method"]
    assert [effect.mean for effect in methods] == sorted(effect.mean for effect in methods)
    for effect in listed:
        assert effect.places == 4
        assert (effect.verdict is None) == (effect.kind == "baseline")
        assert (effect.verdict == "single training") == (effect.name == "bm25")
    by_name = {effect.name: effect for effect in listed}
    assert by_name["less-round-robin"].verdict == "better"
    assert by_name["ifd"].verdict == "worse"
    ranks = {rank["name"]: rank["improvement"] for rank in result["ranking"]}
    assert {name: -by_name[name].mean for name in ranks} == pytest.approx(ranks)


def test_without_the_losses_of_single_rows_there_is_a_mean_and_no_interval() -> None:
    result = studies.study(targets=("math",), budgets=("5%",), test_rows=6, other=None, methods=("rds+",), singles=())
    [first, *_] = overall(Results.model_validate({**result, "cells": []}))
    assert first.name == "rds+"
    assert first.mean < 0
    assert (first.low, first.high, first.p_value, first.verdict) == (None, None, None, None)
    assert overall(Results.model_validate(studies.begun())) == []


TARGETS, ROWS, TRAININGS = ("a", "b", "c"), 8, 3


def simulated(bits: np.random.Generator) -> dict[str, Any]:
    """A method that is as good as random: each training of random is scored on all targets, one of the method on its
    own. Trainings of random vary three times as much."""
    subsets, cells, arms = [], [], []
    rows = {t: 2 + bits.normal(0, 0.3, ROWS) for t in TARGETS}
    for name, spread, chosen_for in [("random", 0.15, [None]), ("m", 0.05, TARGETS)]:
        for target in chosen_for:
            losses: dict[str, list[np.ndarray]] = {t: [] for t in ([target] if target else TARGETS)}
            for k in range(TRAININGS):
                luck, one = bits.normal(0, spread), f"{name}-{target}-{k}"
                results = {}
                for t in losses:
                    losses[t].append(rows[t] + luck + bits.normal(0, 0.05, ROWS))
                    results[t] = {"loss": losses[t][-1].tolist()}
                subsets.append({"id": one, "kind": "method" if target else "baseline", "name": name, "target": target,
                                "budget": "5"})
                cells.append({"id": one, "subset": one, "model": "model", "seed": k, "status": "done",
                              "results": results})
            arms += [{"model": "model", "target": t, "budget": "5", "name": name,
                      "kind": "method" if target else "baseline", "loss": {"mean": float(np.mean(made))}}
                     for t, made in losses.items()]
    return {"settings": {"model": "model", "budgets": ["5"]}, "targets": [{"name": t} for t in TARGETS],
            "subsets": subsets, "cells": cells, "arms": arms}


def test_the_interval_holds_where_one_training_of_random_stands_behind_every_target() -> None:
    bits, runs = np.random.default_rng(0), 100
    held = blind = 0
    for _ in range(runs):
        result = simulated(bits)
        effect = effects(result)["m"]
        assert effect.low is not None
        assert effect.high is not None
        held += effect.low <= 0 <= effect.high
        # As if targets had nothing in common: variances of three paired differences, a third of each.
        losses = {(s["name"], t): np.array([c["results"][t]["loss"] for c in result["cells"]
                                            if c["subset"].startswith(s["name"]) and t in c["results"]])
                  for s in result["subsets"] for t in TARGETS}
        widths = [paired_difference(losses["m", t], losses["random", t], 0.95).interval for t in TARGETS]
        half = np.sqrt(sum((i.high - i.mean) ** 2 for i in widths)) / len(TARGETS)
        blind += abs(np.mean([i.mean for i in widths])) <= half
    assert held / runs >= 0.93
    assert blind < held, "that trainings of random are shared matters here"
