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
LAPTOP = Situation(has_target=True, budget_rows=300, rows=10_000, tokens=1_000_000, parameters=135_000_000,
                   speed=1e11)


def test_a_small_budget_takes_turns_and_a_larger_one_is_transported() -> None:
    assert recommend(LAPTOP).method == "less-round-robin"
    assert recommend(replace(LAPTOP, budget_rows=1_000)).method == "less-round-robin", "a tenth of the pool"
    assert recommend(replace(LAPTOP, budget_rows=1_001)).method == "less-ot"
    large = replace(LAPTOP, rows=1_000_000, speed=1e15)
    assert recommend(replace(large, budget_rows=5_000)).method == "less-round-robin"
    assert recommend(replace(large, budget_rows=5_001)).method == "less-ot"
    assert recommend(replace(LAPTOP, rows=40, budget_rows=20)).method == "less-round-robin"


def test_gradients_that_take_more_than_half_a_day_give_way_to_one_forward_pass() -> None:
    slow = replace(LAPTOP, tokens=10_000_000)
    assert slow.gradients > PATIENCE
    advice = recommend(slow)
    assert advice.method == "rds+"
    assert "gradients would take" in advice.reason
    assert recommend(replace(slow, speed=1e13)).method == "less-round-robin"


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
    """The share of the published cells, as `benchmarks/choice_rules.py` counts them."""
    counted = json.loads((ROOT / "benchmarks/results/choice-rules.json").read_text())["as_published"]
    for advice, rule in ((recommend(LAPTOP), "always LESS, round-robin"),
                         (recommend(replace(LAPTOP, tokens=10_000_000)), "always RDS+")):
        better, worse = counted[rule]["better"], counted[rule]["worse"]
        assert f"in {better:.0%} of 250 published cells and worse in {worse:.0%}" in advice.reason
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
