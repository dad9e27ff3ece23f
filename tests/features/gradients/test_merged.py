"""Adapted layers run merged while gradients are captured: the same gradients, and a model that is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from siftune.features.gradients import merged
from siftune.features.gradients.engine import GradientEngine
from siftune.models.batching import collate
from tests import tiny
from tests.features.gradients.test_engine import adapted, rows

MERGED = ["llama", "qwen2", "gemma3_text"]


def gradients(engine: GradientEngine) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    with engine.capture():
        engine.backward(collate(rows()[:4], pad_id=0), lambda one: found.update({one.name: one.full().clone()}))
    return found


@pytest.mark.parametrize("architecture", [name for name in MERGED if name in tiny.ARCHITECTURES])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_merged_layers_have_the_gradients_of_adapters_that_run(architecture: str, checkpointing: bool) -> None:
    model = adapted(architecture)
    engine = GradientEngine(model, checkpointing=checkpointing)
    assert len(engine._adapted) * 2 == sum("lora_" in name for name, _ in model.named_parameters()), "all are merged"
    found = gradients(engine)
    engine._adapted = []
    expected = gradients(engine)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.allclose(found[name], values, rtol=1e-4, atol=1e-6 * float(values.abs().max())), name


def test_the_model_is_afterwards_as_it_was_and_meanwhile_its_weights_are_the_base_s() -> None:
    model = adapted("llama")
    before = {name: p.clone() for name, p in model.state_dict().items()}
    engine = GradientEngine(model)
    layer: Any = engine._adapted[0].layer
    x = torch.randn(3, engine._adapted[0].base.in_features)
    model.eval()
    with torch.no_grad():
        expected = layer(x)
    with engine.capture():
        assert torch.equal(layer.weight, engine._adapted[0].base.weight)
        assert torch.equal(layer.weight, before[next(n for n in before if n.endswith("q_proj.base_layer.weight"))])
        assert torch.allclose(layer(x), expected, atol=1e-5)
        assert "forward" in vars(layer)
    assert all("forward" not in vars(one.layer) for one in engine._adapted)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    with pytest.raises(KeyboardInterrupt), engine.capture():
        raise KeyboardInterrupt
    assert all("forward" not in vars(one.layer) for one in engine._adapted)
    with torch.no_grad():
        assert torch.equal(layer(x), expected)


def test_an_adapter_that_has_changed_is_merged_anew() -> None:
    model = adapted("llama")
    engine = GradientEngine(model)
    first = gradients(engine)
    changed = engine._adapted[0].B
    kept = changed.detach().clone()
    try:
        with torch.no_grad():
            changed.mul_(3)
        second = gradients(engine)
    finally:
        with torch.no_grad():
            changed.copy_(kept)
    assert not torch.allclose(first[engine._adapted[0].down], second[engine._adapted[0].down])
    again = gradients(engine)
    assert all(torch.equal(first[name], again[name]) for name in first)


def lora(architecture: str, dtype: torch.dtype = torch.float32, **settings: Any) -> GradientEngine:
    model = tiny.model(architecture).to(dtype)
    targets = {"gpt2": ["c_attn"]}.get(architecture, ["q_proj"])
    return GradientEngine(get_peft_model(model, LoraConfig(r=2, target_modules=targets,
                                                           fan_in_fan_out=architecture == "gpt2", **settings)))


@pytest.mark.parametrize(("architecture", "dtype", "settings"), [
    ("llama", torch.bfloat16, {}),  # a narrower weight would round the adapter away
    ("gpt2", torch.float32, {}),  # its layers are no plain linear ones
    ("qwen2", torch.float32, {"bias": "lora_only"}),  # the base's bias has a gradient of its own
    ("llama", torch.float32, {"lora_bias": True}),
], ids=["bfloat16", "conv1d", "bias", "lora-bias"])
def test_what_is_not_plain_runs_as_it_is(architecture: str, dtype: torch.dtype, settings: dict[str, Any]) -> None:
    assert lora(architecture, dtype, **settings)._adapted == []


def test_weights_that_would_take_too_much_memory_are_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lora("llama")._adapted
    monkeypatch.setattr(merged, "MOST_BYTES", 1)
    assert lora("llama")._adapted == []


def test_reduced_precision_of_passes_leaves_adapters_alone() -> None:
    assert GradientEngine(adapted("llama"), autocast=torch.bfloat16)._adapted == []
