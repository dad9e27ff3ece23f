"""GIST against its formulas in plain loops, and what its subspace means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.errors import ConfigError
from siftune._common.seeds import derive
from siftune.features.gradient_settings import lora_settings, warmup_settings
from siftune.features.gradients.warmup import run_warmup
from siftune.methods.gist import Gist, subspace
from siftune.methods.less import Less
from siftune.models.lora import attach_lora, detach_lora, load_adapter_state
from tests.methods.contexts import examples, for_method, whole

context = for_method("gist")


def gradients(model, rows) -> np.ndarray:
    """float64 [n, D] by autograd, one example at a time."""
    found = []
    for row in rows:
        model.zero_grad()
        adapters = [p for n, p in model.named_parameters() if ".lora_" in n]
        for parameter in adapters:
            parameter.requires_grad_(True)
        ids = torch.from_numpy(row.ids.astype(np.int64))[None]
        logits = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
        terms = [-logits[t - 1, ids[0, t]] for t in range(len(row)) if row.mask[t]]
        (sum(terms) / len(terms)).backward()
        found.append(np.concatenate([p.grad.double().numpy().ravel() for p in adapters]))
    return np.array(found)


def oracle(made, rank: int | None) -> tuple[np.ndarray, dict[str, np.ndarray], list[np.ndarray]]:
    """(S[M, N], subtask -> score[N], captured share of every row per checkpoint), from the paper's formulas."""
    config, loaded = made.config, made.model
    model = attach_lora(loaded.model, lora_settings(config), derive(config.seed, "adapter")).eval()
    checkpoints = run_warmup(model, made.pool.rendered, made.pool.ids, warmup_settings(made.settings, config),
                             made.folder / "oracle", derive(config.seed, "warmup"), pad_id=0, device="cpu",
                             base_key=f"{loaded.weights} {loaded.dtype}")
    model.eval()
    total = sum(c.mean_learning_rate for c in checkpoints)
    S = np.zeros((len(made.target), len(made.pool)))
    names = list(dict.fromkeys(row.subtask for row in made.target.rows))
    scores, captured = {name: np.zeros(len(made.pool)) for name in names}, []
    for checkpoint in checkpoints:
        load_adapter_state(model, checkpoint.load_weights())
        G, g = gradients(model, made.target.rendered), gradients(model, made.pool.rendered)
        left, scale, right = np.linalg.svd(G, full_matrices=False)
        if rank is None:
            share = np.cumsum(scale**2) / (scale**2).sum()
            r = next(i for i in range(len(share)) if share[i] >= made.settings.target_rank - 1e-12) + 1
        else:
            r = rank
        P = right[:r].T  # [D, r]: the same span as G^T U_r diag(1 / S_r)
        targets, pool = G @ P, g @ P
        np.testing.assert_allclose(np.abs(targets), np.abs(left[:, :r] * scale[:r]), atol=1e-8)
        captured.append(np.linalg.norm(pool, axis=1) / np.linalg.norm(g, axis=1))
        weight = checkpoint.mean_learning_rate / total
        for j in range(len(pool)):
            for q in range(len(targets)):
                S[q, j] += weight * np.dot(targets[q], pool[j]) / (
                    np.linalg.norm(targets[q]) * np.linalg.norm(pool[j]))
            for name in names:
                own = [t for t, row in zip(targets, made.target.rows, strict=True) if row.subtask == name]
                mean = sum(own) / len(own)
                scores[name][j] += weight * np.dot(mean, pool[j]) / (np.linalg.norm(mean) * np.linalg.norm(pool[j]))
    detach_lora(model)
    return S, scores, captured


@pytest.mark.parametrize(("changes", "rank"), [
    ({}, None), ({"target_rank": 3.0}, 3), ({"target_rank": 0.6, "architecture": "gpt2"}, None),
])
def test_gist_equals_its_plain_loop_oracle(tmp_path, changes, rank):
    made = context(tmp_path, **changes)
    found = Gist().compute(made)
    S, scores, captured = oracle(made, rank)
    np.testing.assert_allclose(whole(found.blocks), S, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(whole(found.subtask_blocks), np.stack([scores["b"], scores["a"]]), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.notes["captured_share"], [c.mean() for c in captured], atol=1e-3)
    if rank:
        assert found.notes["rank"] == [rank] * 3


def test_the_whole_span_gives_the_exact_cosines_divided_by_the_captured_share(tmp_path):
    """Inside the span of all targets nothing of <q, x> is lost; only the length of x shrinks to what lies inside."""
    full = context(tmp_path / "gist", target_rank=5.0, warmup_epochs=1)
    found = Gist().compute(full)
    exact = Less().compute(for_method("less")(tmp_path / "less", adam="none", projection="none", warmup_epochs=1))
    from siftune.features.store import FeatureStore

    store = FeatureStore.load(found.stores[0])
    captured = store.array("projected_norm") / store.array("norm")
    assert (captured < 1).all()
    np.testing.assert_allclose(whole(found.blocks) * captured, whole(exact.blocks), rtol=1e-3, atol=1e-5)


def test_it_is_reused_and_belongs_to_its_targets(tmp_path):
    first = Gist().compute(context(tmp_path))
    again = context(tmp_path)
    np.testing.assert_array_equal(whole(Gist().compute(again).blocks), whole(first.blocks))
    assert all(step["reused"] for step in again.clock.steps)
    other = context(tmp_path)
    other.target = examples(4, 9)
    Gist().compute(other)
    assert [step["reused"] for step in other.clock.steps] == [True, False, False], "the warmup is shared"


def test_one_pass_serves_several_targets_and_gives_each_what_it_has_alone(tmp_path):
    def targets(folder):
        first, second, broken = (context(folder) for _ in range(3))
        second.pool = broken.pool = first.pool  # the very same rows, as in a study
        second.target = examples(3, 9, ("c",))
        broken.target = examples(1, 9)  # spans less than two dimensions
        return first, second, broken

    rank = {"target_rank": 2.0}
    alone = []
    for i in (0, 1):
        made = targets(tmp_path / f"alone-{i}")[i]
        made.config = made.config.with_own({"gist": rank})
        alone.append(Gist().compute(made))
    first, second, broken = targets(tmp_path / "together")
    for made in (first, second, broken):
        made.config = made.config.with_own({"gist": rank})
    first.siblings = lambda: (second, broken)
    together = [Gist().compute(first), Gist().compute(second)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(whole(one.blocks), whole(other.blocks))
        np.testing.assert_array_equal(whole(one.subtask_blocks), whole(other.subtask_blocks))
        assert one.notes == other.notes
    assert [step["reused"] for step in first.clock.steps] == [False, False, False]
    assert [step["reused"] for step in second.clock.steps] == [True, True, True], "the first target's pass was its too"
    with pytest.raises(ConfigError, match="do not span"):  # a target that cannot be served says so on its own turn
        Gist().compute(broken)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_subspace_is_orthonormal_and_explains_what_it_says(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    M, D = data.draw(st.integers(1, 8)), 40
    G = rng.standard_normal((M, D)) * rng.uniform(0.1, 5, (M, 1))
    if data.draw(st.booleans()):
        G[-1] = G[0]  # a repeated target adds no dimension
    wanted = data.draw(st.one_of(st.floats(0.05, 0.999), st.integers(1, M).map(float)))
    combination, features, explained = subspace(G @ G.T, wanted)
    P = (combination @ G).T
    np.testing.assert_allclose(P.T @ P, np.eye(P.shape[1]), atol=1e-6)
    np.testing.assert_allclose(G @ P, features, atol=1e-6 * np.abs(G).sum())
    assert explained == pytest.approx(((G @ P) ** 2).sum() / (G**2).sum(), abs=1e-6)
    if wanted < 1:
        assert explained >= wanted - 1e-9
        if P.shape[1] > 1:
            assert ((G @ P[:, :-1]) ** 2).sum() / (G**2).sum() < wanted + 1e-9, "no direction more than needed"


@pytest.mark.parametrize("rank", [6.0, 2.5])
def test_more_directions_than_targets_are_refused(tmp_path, rank):
    with pytest.raises(ConfigError, match="do not span") as caught:
        Gist().compute(context(tmp_path, target_rank=rank, warmup_epochs=1))
    assert "up to 5" in str(caught.value)
