"""LESS is exact where scores will do, and keeps features where they are wanted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siftune.config.settings import CompareConfig, SelectConfig
from siftune.features.gradient_settings import settled
from siftune.methods.gist import Gist
from siftune.methods.less import Less
from siftune.methods.logra import LoGra
from siftune.pipeline.plan.estimate import Plan
from siftune.pipeline.plan.gradients import estimate
from tests.methods.contexts import examples, for_method, whole

context = for_method("less")
OWN: dict[str, Any] = {"projection_dim": 8192}
"""As by default: the tests' own number of dimensions would ask for features."""


def projection(folder: Path, config: dict[str, Any] | None = None, **own: Any) -> str:
    made = context(folder, **{**OWN, **own})
    made.config = dataclasses.replace(made.config, **(config or {}))
    return settled(made, Less()).projection


@pytest.mark.parametrize(("config", "own"), [
    ({}, {"keep_features": True}), ({}, {"projection_dim": 64}), ({}, {"damping": 0.1}),
    ({}, {"gradient_score": "dot"}), ({"existing": ("old.jsonl",)}, {}), ({"selector": "k-center"}, {}),
    ({"method": "less:facility-location"}, {}), ({"method": "less:coverage"}, {}),
], ids=str)
def test_features_are_kept_where_they_are_asked_for_or_needed(tmp_path, config, own):
    assert projection(tmp_path, config, **own) == "sparse-jl"


@pytest.mark.parametrize("config", [{}, {"method": "less"}, {"method": "less-ot"}, {"method": "less:bids"},
                                    {"method": "embed:k-center"}, {"method": "fusion"}], ids=str)
def test_without_a_reason_to_keep_features_scores_are_exact(tmp_path, config):
    assert projection(tmp_path, config) == "none"


def test_one_method_of_several_that_needs_features_has_them_kept_for_all(tmp_path):
    made = context(tmp_path, **OWN)
    names = [f.name for f in dataclasses.fields(SelectConfig)]
    for methods, kept in ((("less", "rds:k-center"), "none"), (("less", "less:k-center"), "sparse-jl")):
        made.config = CompareConfig(**{name: getattr(made.config, name) for name in names}, methods=methods)
        assert settled(made, Less()).projection == kept


def test_what_is_said_is_done_and_other_methods_are_as_they_were(tmp_path):
    assert projection(tmp_path, {"selector": "k-center"}, projection="none") == "none"
    assert projection(tmp_path, projection="srht") == "srht"
    assert settled(for_method("logra")(tmp_path), LoGra()).projection == "logra"
    assert settled(for_method("gist")(tmp_path), Gist()).target_rank == 0.95


def test_either_way_of_asking_for_features_finds_the_same_ones(tmp_path):
    named = Less().compute(context(tmp_path, **OWN, projection="sparse-jl"))
    again = context(tmp_path, **OWN, keep_features=True)
    found = Less().compute(again)
    assert all(step["reused"] for step in again.clock.steps)
    assert found.stores == named.stores
    assert found.vectors is not None


def test_by_default_it_is_exact_and_says_why_other_targets_take_a_pass(tmp_path, capsys):
    found = Less().compute(context(tmp_path, **OWN))
    same = context(tmp_path, **OWN, projection="none")
    np.testing.assert_array_equal(whole(found.blocks), whole(Less().compute(same).blocks))
    assert all(step["reused"] for step in same.clock.steps)
    assert found.vectors is None
    capsys.readouterr()
    other = context(tmp_path, **OWN)
    other.target = examples(3, 9)
    Less().compute(other)
    told = capsys.readouterr().err
    assert "exact, and for other targets" in told
    assert "keep_features=true" in told


def test_a_run_with_features_of_before_is_told_of_them(tmp_path, capsys):
    Less().compute(context(tmp_path, **OWN, keep_features=True))
    capsys.readouterr()
    Less().compute(context(tmp_path, **OWN))
    assert "features that are kept here" in capsys.readouterr().err


@pytest.mark.parametrize(("own", "said"), [
    ({}, ("exact, for these targets only", "keep_features=true")),
    ({"keep_features": True}, ("projected (sparse-jl, 8,192 numbers), since they are asked for", "exact scores")),
], ids=["exact", "kept"])
def test_a_plan_tells_both(tmp_path, own, said):
    made, plan = context(tmp_path, **OWN, **own), Plan()
    estimate(made.config, Less(), made, plan)
    for words in said:
        assert words in plan.text()
    assert (plan.disk > 8192 * 4 * len(made.pool)) == bool(own)
