"""NAG against its formulas in plain loops, and what its similarity means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune.features.activations import Sets
from siftune.features.similarity import Subtasks
from siftune.features.store import FeatureStore
from siftune.methods.nag import Nag, overlaps, profiles
from tests import tiny
from tests.features.forward import oracle
from tests.methods.contexts import examples, for_method, whole

context = for_method("nag")


def expected(made, architecture: str, count: int) -> np.ndarray:
    """float64 [K, N]: for each subtask, then each row, the mean over the layers of the profile's weight."""
    def sets(rows):
        return [oracle.strongest(oracle.magnitudes(oracle.see(made.model.model, architecture, row), row, "up", "all",
                                                   "mean"), count) for row in rows]

    pool, targets = sets(made.pool.rendered), sets(made.target.rendered)
    names = list(dict.fromkeys(row.subtask for row in made.target.rows))
    scores = np.zeros((len(names), len(pool)))
    for k, name in enumerate(names):
        own = [t for t, row in zip(targets, made.target.rows, strict=True) if row.subtask == name]
        for j, row in enumerate(pool):
            for layer, neurons in enumerate(row):
                occurrences = [neuron for target in own for neuron in target[layer]]
                weights = [occurrences.count(neuron) / len(occurrences) for neuron in neurons]
                scores[k, j] += sum(weights) / len(row)
    return scores


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_similarities_equal_the_plain_loop_oracle(architecture, tmp_path):
    for batch_tokens, count in ((1, 20), (64, 6), (4096, 20)):
        made = context(tmp_path / str(batch_tokens), architecture=architecture, batch_tokens=batch_tokens, active=count)
        found = Nag().compute(made)
        np.testing.assert_allclose(whole(found.blocks), expected(made, architecture, count), atol=1e-4)
        assert list(found.lines) == ["b", "a"]


def test_a_threshold_weighs_neurons_in_the_same_way(tmp_path):
    made = context(tmp_path, threshold=0.4)
    found = Nag().compute(made)
    flags = {}
    for name, rows in (("pool", made.pool), ("target", made.target)):
        flags[name] = np.array([oracle.magnitudes(oracle.see(made.model.model, "llama", row), row, "up", "all", "mean")
                                > 0.4 for row in rows.rendered])  # [n, L, I]
    for k, name in enumerate(("b", "a")):
        own = np.array([row.subtask == name for row in made.target.rows])
        counts = flags["target"][own].sum(axis=0)
        profile = counts / counts.sum(axis=1, keepdims=True)
        scores = [np.mean([profile[layer][row[layer]].sum() for layer in range(3)]) for row in flags["pool"]]
        np.testing.assert_allclose(whole(found.blocks)[k], scores, atol=1e-9)


def test_subtasks_take_turns(tmp_path):
    made = context(tmp_path)
    blocks = whole(Nag().compute(made).blocks)
    from siftune.selectors import Problem, select

    chosen = select(Problem.from_similarities(blocks, ids=made.pool.ids, targets=["b", "a"]), 2, "round-robin")
    assert chosen.indices[0] == blocks[0].argmax()
    assert chosen.nearest_target.tolist() == [0, 1]


def test_other_targets_cost_a_pass_over_them_only(tmp_path):
    Nag().compute(context(tmp_path))
    other = context(tmp_path)
    other.target = examples(4, 9)
    Nag().compute(other)
    assert [step["reused"] for step in other.clock.steps] == [True, False]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_profiles_sum_to_one_and_similarities_lie_between_0_and_1(tmp_path_factory, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows, layers, width = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    count = int(rng.integers(1, width + 1))
    places = np.sort(np.argsort(rng.random((rows, layers, width)), axis=2)[:, :, :count], axis=2).astype(np.uint16)
    store = FeatureStore.open(tmp_path_factory.mktemp("sets"), {}, rows=rows, shard_rows=3)
    for shard in store.shards():
        store.write(shard, {"active": places[shard.start:shard.stop].reshape(len(shard), -1)})
    sets = Sets(store, layers, width, bits=False)
    names = tuple("ab"[: data.draw(st.integers(1, 2))])
    subtasks = Subtasks(examples(rows, 1, names))
    profile = profiles(sets, subtasks)
    np.testing.assert_allclose(profile.reshape(-1, layers, width).sum(axis=2), 1)
    found = whole(lambda: overlaps(sets, profile))
    assert (found >= 0).all()
    assert (found <= 1 + 1e-12).all()
    for line, member in enumerate(subtasks.members):
        if member.sum() == 1:
            assert found[line][member] == pytest.approx(1), "a row that is the only target has its whole weight"
