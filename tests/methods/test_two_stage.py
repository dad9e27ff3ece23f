"""Two stages against LESS on the whole pool: the same numbers on the rows that are kept, and no others."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from siftune._common.errors import ConfigError
from siftune.config.settings import SelectConfig, load
from siftune.features.parts import spread_out, taken
from siftune.features.passes import ShardWorker
from siftune.methods.bm25 import Bm25
from siftune.methods.embedding import Embedding
from siftune.methods.less import Less
from siftune.methods.two_stage import REASON, TwoStage
from siftune.pipeline.plan import estimate_method
from siftune.pipeline.plan.estimate import Plan
from siftune.selectors import SELECTORS, Problem, select
from siftune.selectors.core.arrays import sliced
from tests.methods import contexts, texts
from tests.methods.contexts import whole
from tests.methods.test_fusion import z_oracle

SMALL = {"warmup_epochs": 2, "warmup_rows": 8, "warmup_learning_rate": 5e-3, "warmup_batch_size": 4}


WORDS = ("bm25", "embed")


def made(folder, keep: float = 3.0, first: tuple[str, ...] = WORDS, **changes):
    """Thirteen rows of differing texts, a budget of two of them."""
    context = contexts.context(folder, owner="two-stage", keep=keep, first=first, budget="2", **changes)
    for rows, name in ((context.pool, "pool"), (context.target, "target")):
        spoken = texts.examples(texts.demo(name, len(rows)), name).rows
        rows.rows[:] = [dataclasses.replace(new, subtask=row.subtask)
                        for row, new in zip(rows.rows, spoken, strict=True)]
    context.config = context.config.with_own({"less": SMALL})
    return context


def alone(context, method, **own):
    config = context.config.with_own({method.name: own})
    return method().compute(dataclasses.replace(context, config=config, owner=method.name))


def expected_rows(context) -> np.ndarray:
    """What round-robin takes of the z-scores of words and centred embeddings."""
    fused = z_oracle([whole(alone(context, Bm25).blocks).astype(np.float64),
                      whole(alone(context, Embedding, center=True).blocks).astype(np.float64)], [1, 1])
    problem = Problem.from_similarities(fused, ids=context.pool.ids, targets=context.target.ids)
    return np.sort(select(problem, 6, "round-robin").indices)


def test_the_second_stage_ranks_the_rows_of_the_first_as_it_would_alone(tmp_path, monkeypatch):
    context = made(tmp_path / "two")
    rows = expected_rows(context)
    seen: list[int] = []
    real = ShardWorker.__call__
    monkeypatch.setattr(ShardWorker, "__call__", lambda self, job: (seen.append(len(job.rendered)), real(self, job))[1])
    found = TwoStage().compute(context)
    assert sum(seen) == 2 * len(rows), "a pass at each of two checkpoints over the kept rows alone"
    np.testing.assert_array_equal(found.excluded[REASON], np.setdiff1d(np.arange(13), rows))
    exact = alone(dataclasses.replace(context, folder=tmp_path / "less"), Less)
    for got, want in ((found.blocks, exact.blocks), (found.subtask_blocks, exact.subtask_blocks)):
        np.testing.assert_allclose(whole(got)[:, rows], whole(want)[:, rows], atol=1e-6)
        np.testing.assert_allclose(whole(got)[:, found.excluded[REASON]],
                                   np.repeat(whole(want)[:, rows].min(axis=1)[:, None], 7, axis=1), atol=1e-6)
    tokens = int(context.pool.tokens[rows].sum())
    assert found.notes["kept"] == {"rows": 6, "tokens": tokens, "ruled_out": 7,
                                   "share_of_tokens": round(tokens / int(context.pool.tokens.sum()), 4)}
    assert found.notes["second_stage_saw"] == {"rows": 6, "tokens": tokens, "read_from_earlier_scores": False}
    again = made(tmp_path / "two")
    np.testing.assert_array_equal(whole(TwoStage().compute(again).blocks), whole(found.blocks))
    done = {step["step"]: step["reused"] for step in again.clock.steps}
    assert done["warmup"]
    assert done["pool scores"]


def test_scores_of_the_whole_pool_that_are_there_already_are_read(tmp_path):
    context = made(tmp_path)
    for center in (False, True):
        context.config = context.config.with_own({"less": {"center": center}})
        exact = alone(context, Less)
        context.clock.steps.clear()
        found = TwoStage().compute(context)
        assert all(step["reused"] for step in context.clock.steps if step["step"] in ("warmup", "pool scores"))
        assert found.notes["second_stage_saw"] == {"rows": 0, "tokens": 0, "read_from_earlier_scores": True}
        rows = expected_rows(context)
        np.testing.assert_array_equal(whole(found.blocks)[:, rows], whole(exact.blocks)[:, rows])
        assert not list((tmp_path / "store").glob("part-*"))


@pytest.mark.parametrize("first", [(), ("less",)], ids=str)
def test_less_itself_says_at_its_last_checkpoint_which_rows_are_worth_the_others(first, tmp_path, monkeypatch):
    context = made(tmp_path / "two", first=first)
    exact = dataclasses.replace(context, folder=tmp_path / "less")
    last = whole(alone(exact, Less, **SMALL, checkpoints="last").blocks).astype(np.float64)
    problem = Problem.from_similarities(last, ids=context.pool.ids, targets=context.target.ids)
    rows = np.sort(select(problem, 6, "round-robin").indices)
    every = alone(exact, Less, **SMALL)
    seen: list[int] = []
    real = ShardWorker.__call__
    monkeypatch.setattr(ShardWorker, "__call__", lambda self, job: (seen.append(len(job.rendered)), real(self, job))[1])
    found = TwoStage().compute(context)
    assert sum(seen) == 13 + 2 * 6, "a pass over the pool at one of two checkpoints, both for the kept rows"
    np.testing.assert_array_equal(found.excluded[REASON], np.setdiff1d(np.arange(13), rows))
    np.testing.assert_allclose(whole(found.blocks)[:, rows], whole(every.blocks)[:, rows], atol=1e-6)
    plan = Plan()
    estimate_method(TwoStage(), made(tmp_path / "plan", first=first), SELECTORS.get("round-robin").info, plan)
    lines = dict(plan.lines)
    assert lines["first stage"] == "less"
    assert lines["first stage, less: features"].startswith(("less than", "about")), lines
    assert "1 checkpoint," in lines["first stage, less: features"]
    assert "2 checkpoints" in lines["less: features"]
    assert lines["less: warmup"] == "the one that is told of already"
    assert "disk" not in lines, "each stage tells its own"
    assert lines["second stage"] == "less on 6 of 13 rows"


@pytest.mark.parametrize(("own", "said"), [
    ({"first": ("rds",), "second": "rds"}, "no gradients at checkpoints"),
    ({"first": ("bm25", "less"), "less": {"checkpoints": "last"}}, "no cheaper form"),
], ids=str)
def test_a_method_without_a_cheaper_form_cannot_be_both_stages(own, said, tmp_path):
    less = own.pop("less", {})
    context = made(tmp_path, **own)
    context.config = context.config.with_own({"less": {**SMALL, **less}})
    with pytest.raises(ConfigError, match="both the first and the second") as error:
        TwoStage().compute(context)
    assert said in str(error.value.why)


def test_centred_the_means_are_those_of_the_whole_pool(tmp_path):
    context = made(tmp_path / "two")
    context.config = context.config.with_own({"less": {"center": True}})
    rows = expected_rows(context)
    exact = alone(dataclasses.replace(context, folder=tmp_path / "less"), Less)
    found = TwoStage().compute(context)
    np.testing.assert_allclose(whole(found.blocks)[:, rows], whole(exact.blocks)[:, rows], atol=1e-5)


def test_other_methods_can_be_stages_and_a_large_keep_rules_nothing_out(tmp_path):
    scores = np.random.default_rng(0).normal(size=13)
    np.save(tmp_path / "scores.npy", scores)
    found = TwoStage().compute(made(tmp_path, first=(f"file:{tmp_path}/scores.npy",), second="loss"))
    kept = np.sort(np.argsort(-scores)[:6])
    np.testing.assert_array_equal(np.setdiff1d(np.arange(13), found.excluded[REASON]), kept)
    assert found.scores is not None
    assert (found.scores[found.excluded[REASON]] == found.scores[kept].min()).all()
    every = TwoStage().compute(made(tmp_path / "all", keep=100.0, first=("bm25",), second="embed"))
    assert not len(every.excluded[REASON])


def test_a_budget_of_tokens_keeps_so_many_tokens(tmp_path):
    context = made(tmp_path, second="loss")
    context.config = dataclasses.replace(context.config, budget="30tok")
    found = TwoStage().compute(context)
    assert 60 <= found.notes["kept"]["tokens"] <= 90


def test_what_may_not_be_selected_is_not_looked_at_and_of_near_duplicates_one_is(tmp_path):
    scores = np.arange(13, 0, -1.0)
    np.save(tmp_path / "scores.npy", scores)
    context = made(tmp_path, first=(f"file:{tmp_path}/scores.npy",), second="loss")
    limits = Problem(ids=context.pool.ids, tokens=context.pool.tokens).constrained(
        must_exclude=[context.pool.ids[0]], duplicate_groups=[[1, 2, 3, 4], [5, 12]])
    found = TwoStage().compute(dataclasses.replace(context, limits=limits))
    np.testing.assert_array_equal(np.setdiff1d(np.arange(13), found.excluded[REASON]), [1, 5, 6, 7, 8, 9])
    most = limits.constrained(must_exclude=[context.pool.ids[i] for i in range(1, 9)])
    found = TwoStage().compute(dataclasses.replace(context, limits=most))
    np.testing.assert_array_equal(np.setdiff1d(np.arange(13), found.excluded[REASON]), [9, 10, 11, 12])


@pytest.mark.parametrize("size", [1, 4, 20])
def test_blocks_of_some_rows_are_taken_and_spread_out(size):
    S, rows = np.random.default_rng(0).normal(size=(3, 11)), np.array([1, 2, 6, 10])
    some = taken(sliced(S, size), rows)
    np.testing.assert_array_equal(whole(some), S[:, rows])
    spread = whole(spread_out(some, rows, 11))
    assert spread.shape == S.shape
    np.testing.assert_array_equal(spread[:, rows], S[:, rows])
    others = np.setdiff1d(np.arange(11), rows)
    np.testing.assert_array_equal(spread[:, others], np.repeat(S[:, rows].min(axis=1)[:, None], 7, axis=1))


@pytest.mark.parametrize(("own", "said"), [
    ({"first": ("bm52",)}, "bm25"), ({"second": "fusion"}, "cannot be the second"),
    ({"second": "two-stage"}, "cannot be the second"), ({"second": "lss"}, "loss"), ({"keep": 0.5}, "1 or more"),
], ids=str)
def test_settings_that_make_no_sense_are_refused(own, said):
    with pytest.raises(ConfigError, match=said):
        SelectConfig(own={"two-stage": own}).settings_of("two-stage")


def test_settings_of_its_stages_are_read_with_its_own():
    assert load(SelectConfig, None, {"method": "two-stage"}).owners() == ["two-stage", "round-robin", "less"]
    config = load(SelectConfig, None, {"method": "two-stage", "own": ["second=rds", "rds.center=true", "keep=4"]})
    assert config.owners() == ["two-stage", "round-robin", "bm25", "embed", "rds"]
    assert config.settings_of("rds").center
    with pytest.raises(ConfigError, match="less is not in use"):
        load(SelectConfig, None, {"method": "two-stage", "own": ["second=rds", "less.center=true"]})


def test_a_plan_tells_both_stages(tmp_path):
    context, plan = made(tmp_path), Plan()
    estimate_method(TwoStage(), context, SELECTORS.get("round-robin").info, plan)
    lines = dict(plan.lines)
    assert lines["second stage"] == "less on 6 of 13 rows"
    assert {"less: warmup", "pool embeddings", "bm25"} <= set(lines)
    assert "loading" in {stage.name for stage in plan.stages}, "of the embedding model"
    assert json.dumps(plan.lines)
