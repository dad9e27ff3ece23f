"""Landmarks against kernel ridge regression written out in loops."""

from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np
import pytest

from siftune.features.store import FeatureStore
from siftune.methods.embedding import Embedding
from siftune.methods.landmarks import Carried, Landmarks, landmark_rows
from siftune.methods.less import Less
from siftune.pipeline.plan import estimate_method
from siftune.pipeline.plan.estimate import Plan
from siftune.selectors import SELECTORS
from tests.methods import contexts, texts
from tests.methods.contexts import examples, whole

SMALL = {"warmup_epochs": 2, "warmup_rows": 8, "warmup_learning_rate": 5e-3, "warmup_batch_size": 4}


def made(folder, landmarks: int = 6, **changes):
    context = contexts.context(folder, owner="landmarks", landmarks=landmarks, **changes)
    spoken = texts.examples(texts.demo("pool", len(context.pool)), "pool").rows
    context.pool.rows[:] = spoken
    context.config = context.config.with_own({"less": SMALL})
    return context


def oracle(E: np.ndarray, rows: list[int], P: np.ndarray, ridge: float) -> np.ndarray:
    """[M, N] by the formula, an entry at a time."""
    distance = lambda a, b: math.dist(E[a].tolist(), E[b].tolist())  # noqa: E731
    sigma = statistics.median(distance(a, b) for i, a in enumerate(rows) for b in rows[:i])
    k = lambda a, b: math.exp(-distance(a, b) ** 2 / (2 * sigma**2))  # noqa: E731
    among = np.array([[k(a, b) for b in rows] for a in rows])
    inverse = np.linalg.inv(among + ridge * np.mean([among[i, i] for i in range(len(rows))]) * np.eye(len(rows)))
    every = np.array([[k(j, b) for b in rows] for j in range(len(E))])
    return (every @ inverse @ P).T


@pytest.mark.parametrize("ridge", [0.01, 0.5])
def test_it_is_the_formula_on_the_exact_scores_of_the_landmarks(tmp_path, ridge):
    context = made(tmp_path / "some", ridge=ridge)
    found = Landmarks().compute(context)
    apart = dataclasses.replace(context, folder=tmp_path / "all")
    exact = whole(Less().compute(dataclasses.replace(apart, owner="less")).blocks)
    E = np.concatenate([b for _, b in Embedding().compute(dataclasses.replace(apart, owner="embed")).vectors()])
    rows = landmark_rows(context)
    assert len(rows) == 6
    expected = oracle(E.astype(np.float64), rows.tolist(), exact[:, rows].T, ridge)
    np.testing.assert_allclose(whole(found.blocks), expected, rtol=1e-4, atol=1e-5)
    kept = FeatureStore.load(found.stores[0])
    assert sum(len(shard) for shard in kept.shards()) == 6, "no gradients but the landmarks'"
    assert found.notes["landmark_tokens"] == context.pool.tokens[rows].sum()


def test_with_every_row_a_landmark_and_hardly_a_ridge_the_scores_come_back(tmp_path):
    found = Landmarks().compute(made(tmp_path, landmarks=99, ridge=1e-9))
    exact = Less().compute(dataclasses.replace(made(tmp_path / "less"), owner="less"))
    np.testing.assert_allclose(whole(found.blocks), whole(exact.blocks), atol=1e-4)
    assert found.notes["fit"] > 0.999
    assert found.notes["landmarks"] == 13


def test_one_pass_over_the_landmarks_serves_several_targets(tmp_path):
    first, second = made(tmp_path), made(tmp_path)
    second.target, second.pool = examples(3, 9, ("c",)), first.pool
    first.siblings, second.siblings = (lambda: [second]), (lambda: [first])
    Landmarks().compute(first)
    Landmarks().compute(second)
    assert {s["step"]: s["reused"] for s in second.clock.steps}["pool scores"]


def test_landmarks_are_the_same_rows_for_every_order_of_the_pool(tmp_path):
    context = made(tmp_path)
    backwards = dataclasses.replace(context, pool=type(context.pool)(context.pool.rows[::-1],
                                                                     context.pool.rendered[::-1]))
    ids = [{one.pool.ids[i] for i in landmark_rows(one)} for one in (context, backwards)]
    assert ids[0] == ids[1]


def test_landmarks_on_one_spot_have_a_kernel_all_the_same():
    carried = Carried(np.ones((3, 2)), np.array([[1.0, 2.0, 3.0]]), 0.01)
    np.testing.assert_allclose(carried.predicted(np.ones((2, 2))), 2.0, rtol=0.01)


def test_a_plan_tells_the_landmarks(tmp_path):
    plan = Plan()
    estimate_method(Landmarks(), made(tmp_path), SELECTORS.get("round-robin").info, plan)
    assert dict(plan.lines)["landmarks"] == "less on 6 of 13 rows"
