"""What `--method auto` chooses, and what a method's name stands for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from siftune._common.errors import ConfigError
from siftune.config.catalogue import DELIFT_STAGES, RECIPES
from siftune.pipeline.auto import PATIENCE, Situation, recommend
from siftune.pipeline.recipes import representation_of, resolve
from siftune.selectors import SELECTORS

ROOT = Path(__file__).resolve().parents[2]
LAPTOP = Situation(has_target=True, tokens=1_000_000, parameters=135_000_000, speed=1e11)


def test_a_target_gets_the_method_with_the_largest_recorded_gain() -> None:
    recorded = json.loads((ROOT / "benchmarks/results/fixed-methods.json").read_text())["methods"]
    assert recommend(LAPTOP).method == "less-round-robin"
    assert max(recorded, key=lambda name: recorded[name]["over_random"]["mean"]) == "LESS (RR)"
    ahead = [(name, budget) for name, one in recorded.items() for budget, at in one["by_budget"].items()
             if at["over_less"]["low"] > 0]
    assert ahead == [], "at no budget is another one beyond chance ahead"


def test_gradients_that_take_more_than_half_a_day_give_way_to_one_forward_pass() -> None:
    slow = replace(LAPTOP, tokens=10_000_000)
    assert slow.gradients > PATIENCE
    advice = recommend(slow)
    assert advice.method == "rds+"
    assert "gradients would take" in advice.reason
    assert recommend(replace(slow, speed=1e13)).method == "less-round-robin"


def test_between_them_two_stages_take_a_part_of_the_passes() -> None:
    slow = replace(LAPTOP, tokens=3_000_000, kept=0.08)
    assert PATIENCE < slow.gradients < 2.8 * PATIENCE
    assert slow.stages == pytest.approx(slow.gradients * (1 + 4 * (0.05 + 0.08)) / (4 * 1.05))
    advice = recommend(slow)
    assert advice.method == "two-stage"
    assert "gradients at all checkpoints would take about" in advice.reason
    recorded = json.loads((ROOT / "benchmarks/results/two-stages-by-gradients.json").read_text())["two_stage"]["paper"]
    assert f"{recorded['less']['8']['selected']['mean']:.0%} of the same selection" in advice.reason
    assert recommend(replace(slow, kept=1.0)).method == "rds+", "nothing is saved"
    assert recommend(replace(slow, tokens=30_000_000)).method == "rds+"


def test_without_a_target_neurons_are_covered_and_known_rows_are_complemented() -> None:
    assert recommend(replace(LAPTOP, has_target=False)).method == "mads"
    small = replace(LAPTOP, has_target=False, has_existing=True, tokens=50_000)
    assert recommend(small).method == "delift"
    assert (recommend(replace(small, tokens=50_000_000)).method,
            recommend(replace(small, tokens=50_000_000)).selector) == ("rds+", "flcg")
    both = replace(LAPTOP, has_existing=True)
    assert (recommend(both).method, recommend(both).selector) == ("less", "flcmi")


def test_every_reason_tells_the_expected_cost() -> None:
    for target in (True, False):
        for existing in (True, False):
            for tokens in (10_000, 10_000_000, 10_000_000_000):
                s = replace(LAPTOP, has_target=target, has_existing=existing, tokens=tokens)
                assert "about" in recommend(s).reason
                assert recommend(s).method in RECIPES
                resolve("auto", has_target=target, has_existing=existing, situation=s)


def test_what_is_said_of_a_method_is_what_was_recorded() -> None:
    """The published cells, as `benchmarks/fixed_methods.py` counts them."""
    recorded = json.loads((ROOT / "benchmarks/results/fixed-methods.json").read_text())["methods"]
    for advice, name in ((recommend(LAPTOP), "LESS (RR)"),
                         (recommend(replace(LAPTOP, tokens=10_000_000)), "RDS+ (RR)")):
        one, gain = recorded[name], recorded[name]["over_random"]
        assert f"in {one['better']:.0%} of 250 published cells and worse in {one['worse']:.0%}" in advice.reason
        assert f"by {gain['mean']:.1f} points on average ({gain['low']:.1f} to {gain['high']:.1f})" in advice.reason
        assert "siftune choose" in advice.reason


def test_vectors_serve_without_a_target_where_the_selector_asks_for_no_similarities() -> None:
    assert resolve("rds:flcg", has_target=False, has_existing=True).selector == "flcg"
    assert resolve("embed:k-center", has_target=False).representation == "embed"
    for name in ("rds+", "rds:top-k", "embed", "less:facility-location"):
        with pytest.raises(ConfigError, match="compares with targets"):
            resolve(name, has_target=False)


def test_every_method_names_parts_that_exist() -> None:
    for method in RECIPES.values():
        representation_of(method.representation)
        assert method.selector in SELECTORS
    assert all(selector in SELECTORS for selector in DELIFT_STAGES.values())


@pytest.mark.parametrize(("target", "existing", "selector"), [
    (False, False, "facility-location"), (True, False, "flqmi"), (False, True, "flcg"), (True, True, "flcmi")])
def test_delift_has_a_stage_for_what_is_given(target: bool, existing: bool, selector: str) -> None:
    assert resolve("delift", has_target=target, has_existing=existing).selector == selector
    assert resolve("delift", selector="graph-cut", has_target=target).selector == "graph-cut"


def test_free_combinations_and_files() -> None:
    assert (resolve("less:flmi").representation, resolve("less:flmi").selector) == ("less", "flmi")
    file = resolve("file:a/vectors.npy:k-center", has_target=False)
    assert (file.representation, file.selector) == ("file:a/vectors.npy", "k-center")
    assert resolve("file:scores.npy", has_target=False).representation == "file:scores.npy"
    assert resolve("random", representation="file:v.npy").representation == "file:v.npy"
    for name in ("lesss", "less:roundrobin", "lss:top-k"):
        with pytest.raises(ConfigError, match="unknown"):
            resolve(name)
