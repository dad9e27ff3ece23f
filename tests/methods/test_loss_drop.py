"""Loss drop against its formulas, on adapters trained by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import safetensors.torch

from siftune._common.seeds import derive
from siftune.features.gradient_settings import lora_settings
from siftune.methods.loss_drop import LossDrop, relative_drop
from siftune.models.lora import attach_lora, detach_lora, load_adapter_state
from siftune.training.settings import TrainSettings
from siftune.training.sft import train_lora
from tests.features.forward.test_loss import own_loss
from tests.interrupt import stopped_after
from tests.methods.contexts import examples, for_method, whole

context = for_method("loss-drop")
FAST = {"training_learning_rate": 3e-2, "training_epochs": 2, "training_batch_size": 2}


def losses(made, rows, folder) -> np.ndarray:
    """float64 [N]: the pool's losses after a training on some rows, one row at a time; plain where there are none."""
    loaded = made.model
    if rows is None:
        return np.array([own_loss(loaded.model, r.ids.tolist(), r.mask.tolist()) for r in made.pool.rendered])
    model = attach_lora(loaded.model, lora_settings(made.config), derive(made.config.seed, "adapter"))
    train = TrainSettings(learning_rate=3e-2, epochs=2, batch_size=2, micro_batch_tokens=1024,
                          seed=derive(made.config.seed, "loss-drop"))
    result = train_lora(model, rows, train, folder, pad_id=0, device="cpu")
    load_adapter_state(model, safetensors.torch.load_file(result.adapter))
    model.eval()
    found = np.array([own_loss(model, r.ids.tolist(), r.mask.tolist()) for r in made.pool.rendered])
    detach_lora(model)
    return found


def of(made, subtask):
    return [r for r, row in zip(made.target.rendered, made.target.rows, strict=True) if row.subtask == subtask]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_each_subtask_has_the_relative_drop_of_its_own_adapter(tmp_path, architecture):
    made = context(tmp_path / "run", architecture=architecture, **FAST)
    found = LossDrop().compute(made)
    assert list(found.lines) == ["b", "a"]
    plain = losses(made, None, tmp_path)
    expected = np.stack([(plain - losses(made, of(made, name), tmp_path / name)) / plain for name in ("b", "a")])
    assert np.ptp(expected, axis=1).min() > 0.05, "the instance tells rows apart"
    np.testing.assert_allclose(whole(found.blocks), expected, atol=2e-4)
    told = found.notes["loss_drop"]
    assert {name: one["rows"] for name, one in told.items()} == {"b": 3, "a": 2}
    assert told["b"]["harder"] == (expected[0] < 0).sum()


def test_with_a_control_it_is_the_difference_to_an_adapter_of_random_rows(tmp_path):
    made = context(tmp_path / "run", control="random", **FAST)
    found = LossDrop().compute(made)
    every = [losses_of(made, folder) for folder in (tmp_path / "run" / "loss-drop").iterdir()]
    steps = [step["step"] for step in made.clock.steps]
    assert steps == ["training on b", "training on a", "loss after b", "loss after a", "training on 3 random rows",
                     "training on 2 random rows", "loss after random rows", "loss after random rows"]
    after = {name: losses(made, of(made, name), tmp_path / name) for name in ("b", "a")}
    others = [line for line in every if not any(np.allclose(line, one, atol=1e-4) for one in after.values())]
    assert len(others) == 2
    for line, name in zip(whole(found.blocks), ("b", "a"), strict=True):
        assert any(np.allclose(line, other - after[name], atol=2e-4) for other in others)


def losses_of(made, folder) -> np.ndarray:
    model = attach_lora(made.model.model, lora_settings(made.config), derive(made.config.seed, "adapter"))
    load_adapter_state(model, safetensors.torch.load_file(folder / "adapter.safetensors"))
    model.eval()
    found = np.array([own_loss(model, r.ids.tolist(), r.mask.tolist()) for r in made.pool.rendered])
    detach_lora(model)
    return found


def test_it_is_read_again_and_other_targets_share_the_losses_of_the_plain_model(tmp_path):
    found = LossDrop().compute(context(tmp_path, **FAST))
    again = context(tmp_path, **FAST)
    np.testing.assert_array_equal(whole(LossDrop().compute(again).blocks), whole(found.blocks))
    assert all(step["reused"] for step in again.clock.steps)
    other = context(tmp_path, **FAST)
    other.target = examples(3, 9)
    LossDrop().compute(other)
    assert [step["reused"] for step in other.clock.steps] == [True, False, False]
    LossDrop().compute(context(tmp_path, **{**FAST, "training_epochs": 1}))
    back = context(tmp_path, **FAST)
    LossDrop().compute(back)
    assert all(step["reused"] for step in back.clock.steps), "other settings have adapters and stores of their own"


def test_interrupted_it_goes_on(tmp_path):
    undisturbed = whole(LossDrop().compute(context(tmp_path / "whole", **FAST)).blocks)
    with stopped_after(5), pytest.raises(KeyboardInterrupt):
        LossDrop().compute(context(tmp_path / "part", **FAST))
    again = context(tmp_path / "part", **FAST)
    np.testing.assert_array_equal(whole(LossDrop().compute(again).blocks), undisturbed)
    assert {step["step"]: step["reused"] for step in again.clock.steps}["loss before"]


def test_the_order_of_the_pool_decides_nothing(tmp_path):
    made = context(tmp_path / "a", control="random", **FAST)
    order = np.random.default_rng(0).permutation(len(made.pool))
    turned = dataclasses.replace(made, folder=tmp_path / "b", shared={}, pool=type(made.pool)(
        [made.pool.rows[i] for i in order], [made.pool.rendered[i] for i in order]))
    np.testing.assert_allclose(whole(LossDrop().compute(turned).blocks),
                               whole(LossDrop().compute(made).blocks)[:, order], atol=1e-6)


def test_a_row_without_a_loss_has_nothing_to_lose():
    before, after = np.array([0.0, 1e-5, 2.0, 1.0]), np.array([0.1, 0.0, 1.0, 1.5])
    np.testing.assert_array_equal(relative_drop(before, after), [0.0, 0.0, 0.5, -0.5])


def test_a_plan_counts_every_pass(tmp_path):
    made = context(tmp_path, control="random", **FAST)
    steps = [work.step for work in LossDrop().work(made)]
    assert steps == ["loss-drop", "loss after random rows", "loss after random rows", "loss after b", "loss after a"]
    plain = LossDrop().work(context(tmp_path, **FAST))
    assert [work.step for work in plain] == ["loss-drop", "loss before", "loss after b", "loss after a"]
    assert plain[0].tokens == 2 * made.target.tokens.sum()
