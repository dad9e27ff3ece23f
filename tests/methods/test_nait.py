"""NAIT against its formulas in plain loops, the corner cases of its directions, and the plain loss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.errors import DataError
from siftune.data.rows import Rendered
from siftune.methods.loss import LossScore
from siftune.methods.nait import Nait, principal_directions
from tests import tiny
from tests.features.forward import oracle
from tests.methods.contexts import examples, for_method, whole

context = for_method("nait")


def first_component(deltas: list[np.ndarray]) -> np.ndarray:
    """The first principal component of a few vectors by singular values, its sign such that the mean lies along it."""
    mean = sum(deltas) / len(deltas)
    centred = np.array([d - mean for d in deltas])
    if len(deltas) == 1:
        return mean / np.sqrt((mean**2).sum())
    v = np.linalg.svd(centred)[2][0]
    return v if v @ mean > 0 else -v


def expected(made, architecture: str, *, cosine: bool) -> np.ndarray:
    model = made.model.model
    names = list(dict.fromkeys(row.subtask for row in made.target.rows))
    pool = [oracle.response_mean(oracle.see(model, architecture, row), row) for row in made.pool.rendered]
    scores = np.zeros((len(names), len(pool)))
    for k, name in enumerate(names):
        own = [rendered for row, rendered in zip(made.target.rows, made.target.rendered, strict=True)
               if row.subtask == name and rendered.supervised > 1]
        deltas = [oracle.delta(oracle.see(model, architecture, row), row) for row in own]
        for layer in range(len(deltas[0])):
            v = first_component([d[layer] for d in deltas])
            for j, mean in enumerate(pool):
                dot = sum(mean[layer] * v)
                scores[k, j] += dot / np.sqrt(sum(mean[layer] ** 2)) / len(deltas[0]) if cosine else dot
    return scores


def two_tokens_or_more(made) -> None:
    """Targets 0 (subtask b), 1 (a), 2 (b), 3 (b) with responses of several tokens; target 4 (a) has one of one."""
    for rendered, count in zip(made.target.rendered, (3, 2, 4, 2, 1), strict=True):
        rendered.mask[:] = False
        rendered.mask[-count:] = True


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_scores_equal_the_plain_loop_oracle(architecture, kind, tmp_path):
    for batch_tokens in (1, 64, 4096):
        made = context(tmp_path / str(batch_tokens), architecture=architecture, batch_tokens=batch_tokens,
                       nait_score=kind)
        two_tokens_or_more(made)
        found = Nait().compute(made)
        wanted = expected(made, architecture, cosine=kind == "cosine")
        np.testing.assert_allclose(whole(found.blocks), wanted, atol=1e-4 * max(1.0, np.abs(wanted).max()))
        assert list(found.lines) == ["b", "a"]
        assert found.notes["one_token_targets"] == 1


def test_both_scores_come_from_one_store(tmp_path):
    made = context(tmp_path)
    two_tokens_or_more(made)
    Nait().compute(made)
    again = context(tmp_path, nait_score="cosine")
    two_tokens_or_more(again)
    Nait().compute(again)
    assert [step["reused"] for step in again.clock.steps] == [True, True]


def test_the_same_targets_in_other_subtasks_have_other_directions(tmp_path):
    made = context(tmp_path)
    two_tokens_or_more(made)
    apart = whole(Nait().compute(made).blocks)
    together = context(tmp_path)
    together.target = examples(5, 2)
    two_tokens_or_more(together)
    one = whole(Nait().compute(together).blocks)
    assert len(one) == 1
    assert np.abs(one - apart).max() > 1e-3
    again = context(tmp_path)
    two_tokens_or_more(again)
    np.testing.assert_array_equal(whole(Nait().compute(again).blocks), apart)


def test_other_weights_replace_directions_too(tmp_path):
    made = context(tmp_path)
    two_tokens_or_more(made)
    Nait().compute(made)
    for folder in (tmp_path, tmp_path / "fresh"):
        other = context(folder, model_seed=3, recompute=True)
        two_tokens_or_more(other)
        np.testing.assert_allclose(whole(Nait().compute(other).blocks), expected(other, "llama", cosine=False),
                                   atol=1e-3)


def test_a_subtask_of_one_token_responses_is_refused(tmp_path):
    made = context(tmp_path)
    two_tokens_or_more(made)
    made.target.rendered[1].mask[-2] = False
    with pytest.raises(DataError, match="'a' has a response of two tokens") as caught:
        Nait().compute(made)
    assert caught.value.hint


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_directions_are_unit_vectors_of_most_variance_along_the_mean(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    count, layers, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3)), data.draw(st.integers(2, 12))
    deltas = (rng.standard_normal((count, layers, width)) * rng.uniform(0.1, 3, width)).astype(np.float32)
    if data.draw(st.booleans()):
        deltas[:] = deltas[0]  # no variance
    found = principal_directions(deltas).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    for layer in range(layers):
        own = deltas[:, layer].astype(np.float64)
        mean = own.mean(axis=0)
        assert found[layer] @ mean > -1e-6
        variance = np.linalg.eigvalsh((own - mean).T @ (own - mean))[-1]
        if variance > 1e-6:
            assert (((own - mean) @ found[layer]) ** 2).sum() == pytest.approx(variance, rel=1e-4)
        else:
            np.testing.assert_allclose(found[layer], mean / np.linalg.norm(mean), atol=1e-5)


def test_a_delta_of_zero_has_no_direction():
    np.testing.assert_array_equal(principal_directions(np.zeros((1, 2, 4), np.float32)), np.zeros((2, 4)))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_the_loss_is_a_score(architecture, tmp_path):
    made = context(tmp_path, architecture=architecture)
    made.pool.rendered[11] = made.pool.rendered[2]
    found = LossScore().compute(made)
    losses = [oracle.loss(oracle.see(made.model.model, architecture, row), row) for row in made.pool.rendered]
    np.testing.assert_allclose(found.scores, losses, atol=1e-4)
    assert found.scores[11] == found.scores[2]


def test_the_end_of_a_turn_is_not_the_last_token_of_a_response(tmp_path):
    """Responses that end with the tokenizer's end-of-turn token have the deltas of what stands before it."""
    closed, plain = context(tmp_path / "closed"), context(tmp_path / "plain")
    for made in (closed, plain):
        two_tokens_or_more(made)
    end = closed.model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for i, row in enumerate(closed.target.rendered):
        closed.target.rendered[i] = Rendered(np.append(row.ids, np.int32(end)), np.append(row.mask, True))
    found, wanted = whole(Nait().compute(closed).blocks), whole(Nait().compute(plain).blocks)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert Nait().compute(closed).notes["one_token_targets"] == 1, "one token and an end is one token"
