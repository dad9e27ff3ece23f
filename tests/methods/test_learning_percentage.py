"""Learning percentage against its formulas in plain loops, on the checkpoints of the run; rows never learned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import safetensors.torch
from hypothesis import given
from hypothesis import strategies as st

from siftune._common.errors import StoreMismatch
from siftune._common.seeds import derive
from siftune.data.rows import Examples, Rendered
from siftune.features.gradient_settings import lora_settings
from siftune.features.gradients import warmup
from siftune.features.store import FeatureStore
from siftune.methods.learning_percentage import (
    LearningPercentage,
    approximate_percentage,
    learning_percentage,
)
from siftune.models.lora import attach_lora, detach_lora, load_adapter_state
from tests.features.forward.test_loss import own_loss
from tests.methods.contexts import examples, for_method

context = for_method("learning-percentage")


def perplexities(made) -> list[list[float]]:
    """P_0, P_1 and so on, by loading each checkpoint's weights into a fresh adapter."""
    rendered, loaded = made.pool.rendered, made.model
    found = [[math.exp(own_loss(loaded.model, row.ids.tolist(), row.mask.tolist())) for row in rendered]]
    model = attach_lora(loaded.model, lora_settings(made.config), derive(made.config.seed, "adapter")).eval()
    for epoch in (1, 2, 3):
        file = made.folder / f"learning-percentage/epoch-{epoch}/adapter.safetensors"
        if file.exists():
            tensors = safetensors.torch.load_file(file)
            load_adapter_state(model, {n[2:]: value for n, value in tensors.items() if n.startswith("w.")})
            found.append([math.exp(own_loss(model, row.ids.tolist(), row.mask.tolist())) for row in rendered])
    detach_lora(model)
    return found


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_both_forms_equal_their_plain_loop_oracles(tmp_path, architecture):
    batches = [{"batch_tokens": 64}, {"batch_tokens": 1, "shard_rows": 3}]
    for number, changes in enumerate(batches if architecture == "llama" else batches[:1]):
        full = context(tmp_path / str(number), architecture=architecture, training_learning_rate=3e-2, **changes)
        found = LearningPercentage().compute(full).scores
        p0, p1, _, p3 = perplexities(full)
        expected = [-(a - b) / (a - c) if a > c else 0.0 for a, b, c in zip(p0, p1, p3, strict=True)]
        assert max(expected) - min(expected) > 0.05, "the instance tells rows apart"
        # A ratio of small differences: rounding counts for more in it than in the losses.
        np.testing.assert_allclose(found, np.clip(expected, -2, 1), rtol=2e-3, atol=1e-4)
        app = context(tmp_path / str(number), architecture=architecture, training_learning_rate=3e-2,
                      learning_percentage="app", **changes)
        np.testing.assert_allclose(LearningPercentage().compute(app).scores,
                                   [-(a - b) / a for a, b in zip(p0, p1, strict=True)], atol=1e-4)


def contradictory() -> Examples:
    """Twelve rows that answer alike, and one that is asked the same and answers otherwise: training makes it worse."""
    made = examples(13, 1)
    rng = np.random.default_rng(3)
    prompt = rng.integers(3, 384, 8)
    for i, row in enumerate(made.rendered):
        answer = np.full(3, 50 if i < 12 else 70)
        ids = np.concatenate([prompt, answer]).astype(np.int32)
        made.rendered[i] = Rendered(ids, np.arange(11) >= 8)
        assert len(row)
    return made


def test_a_row_that_training_makes_worse_has_percentage_0_and_is_counted(tmp_path):
    made = context(tmp_path, training_learning_rate=3e-2)
    made.pool = contradictory()
    found = LearningPercentage().compute(made)
    p0, p1, _, p3 = perplexities(made)
    assert p0[12] < min(p1[12], p3[12]), "the instance is as its name says"
    assert found.scores is not None
    assert found.scores[12] == 0
    assert found.notes["never_learned"] == 1
    assert found.notes["less_likely_after_epoch_1"] == 1
    assert (found.scores[:12] < 0).all()
    assert len(set(found.scores[:12])) == 1, "rows with the same content have the very same score"
    assert np.argmax(found.scores) == 12


def test_the_short_form_is_the_first_epoch_of_the_long_one_and_either_goes_on_from_the_other(tmp_path, monkeypatch):
    whole = LearningPercentage().compute(context(tmp_path / "whole"))
    short = context(tmp_path / "parts", learning_percentage="app")
    first = LearningPercentage().compute(short)
    assert [step["step"] for step in short.clock.steps] == [
        "loss before training", "learning-percentage", "loss after epoch 1"]
    assert not (tmp_path / "parts/learning-percentage/epoch-2").exists()
    trained: list[int] = []
    write = warmup._write
    monkeypatch.setattr(warmup, "_write", lambda folder, epoch, *rest: (trained.append(epoch),
                                                                        write(folder, epoch, *rest)))
    longer = context(tmp_path / "parts")
    second = LearningPercentage().compute(longer)
    assert trained == [2, 3], "the first epoch is not trained again"
    assert {step["step"]: step["reused"] for step in longer.clock.steps} == {
        "loss before training": True, "learning-percentage": False, "loss after epoch 1": True,
        "loss after epoch 3": False}
    np.testing.assert_array_equal(second.scores, whole.scores)
    again = context(tmp_path / "whole", learning_percentage="app")
    np.testing.assert_array_equal(LearningPercentage().compute(again).scores, first.scores)
    assert all(step["reused"] for step in again.clock.steps)
    assert trained == [2, 3]


def test_every_usable_row_is_trained_on(tmp_path):
    from siftune._common.files import read_json

    made = context(tmp_path, learning_percentage="app")
    LearningPercentage().compute(made)
    assert sorted(read_json(tmp_path / "learning-percentage/rows.json")["rows"]) == sorted(made.pool.ids)


@pytest.mark.parametrize("changes", [{"training_learning_rate": 1e-3}, {"seed": 1}, {"model_seed": 3}])
def test_other_settings_are_refused_before_training_and_replace_everything_when_told_to(tmp_path, monkeypatch, changes):
    changes["learning_percentage"] = "app"
    run = tmp_path / "run"
    LearningPercentage().compute(context(run, learning_percentage="app"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(warmup, "train_lora", lambda *a, **k: pytest.fail("trained first"))
        with pytest.raises(StoreMismatch) as caught:
            LearningPercentage().compute(context(run, **changes))
    assert "--recompute" in str(caught.value)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    replaced = LearningPercentage().compute(context(run, recompute=True, **changes))
    fresh = LearningPercentage().compute(context(tmp_path / "fresh", **changes))
    np.testing.assert_array_equal(replaced.scores, fresh.scores)


def test_a_broken_off_training_and_a_broken_off_pass_end_with_the_same_scores(tmp_path, monkeypatch):
    calm = LearningPercentage().compute(context(tmp_path / "calm"))
    write, store = warmup._write, FeatureStore.write
    seen = {"epochs": 0, "shards": 0}

    def epoch_two(folder, epoch, *rest):
        seen["epochs"] += 1
        if seen["epochs"] == 2:
            raise KeyboardInterrupt
        write(folder, epoch, *rest)

    def fifth_shard(self, shard, arrays):
        seen["shards"] += 1
        if seen["shards"] == 5:
            raise KeyboardInterrupt
        store(self, shard, arrays)

    monkeypatch.setattr(warmup, "_write", epoch_two)
    monkeypatch.setattr(FeatureStore, "write", fifth_shard)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            LearningPercentage().compute(context(tmp_path / "cut"))
    assert seen == {"epochs": 4, "shards": 5}, "once in the second epoch, once in the pass after the first"
    found = LearningPercentage().compute(context(tmp_path / "cut"))
    np.testing.assert_array_equal(found.scores, calm.scores)


def test_embeddings_are_not_made_before_they_are_asked_for(tmp_path):
    made = context(tmp_path, learning_percentage="app", embedding_model="no-such-model")
    assert LearningPercentage().compute(made).vectors is not None


LOSSES = st.floats(0, 5e4, width=32)


@given(LOSSES, LOSSES, LOSSES)
def test_percentages_are_finite_bounded_and_those_of_the_perplexities(before, first, last):
    [lp] = learning_percentage(*(np.array([x]) for x in (before, first, last)))
    [app] = approximate_percentage(np.array([before]), np.array([first]))
    assert np.isfinite([lp, app]).all()
    assert -1 <= lp <= 2
    assert app <= 1
    if before <= last:
        assert lp == 0
    if max(before, first, last) < 300:
        p0, p1, p3 = (math.exp(x) for x in (before, first, last))
        assert app == pytest.approx((p0 - p1) / p0, rel=1e-6, abs=1e-9)
        if before - last > 1e-3:
            assert lp == pytest.approx(min(2, max(-1, (p0 - p1) / (p0 - p3))), rel=1e-6, abs=1e-9)


@given(st.lists(LOSSES, min_size=2, max_size=6), LOSSES, st.floats(2e-4, 100))
def test_of_two_rows_that_begin_and_end_alike_the_one_that_is_worse_after_an_epoch_is_not_the_easier(
        after, last, learned):
    first = np.sort(np.array(after))
    lp = learning_percentage(np.full(len(after), last + learned), first, np.full(len(after), last))
    app = approximate_percentage(np.full(len(after), last + learned), first)
    assert (np.diff(lp) <= 0).all()
    assert (np.diff(app) <= 0).all()
