"""Adapters sit on the attention projections of every architecture and start the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from siftune._common.errors import ConfigError, ModelError
from siftune.models.lora import (
    LoraSettings,
    adapter_parameters,
    adapter_state,
    attach_lora,
    detach_lora,
    load_adapter_state,
    target_modules,
)
from tests import tiny
from tests.training.test_sft import same

FUSED = {"gpt2": {"attn.c_attn", "attn.c_proj"}, "gpt_neox": {"attention.query_key_value", "attention.dense"}}
SEPARATE = {f"self_attn.{name}_proj" for name in "qkvo"}


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_auto_targets_are_the_attention_projections_and_nothing_of_the_mlp(architecture: str) -> None:
    names = target_modules(tiny.model(architecture), LoraSettings())
    expected = FUSED.get(architecture, SEPARATE)
    assert {".".join(name.split(".")[-2:]) for name in names} == expected
    assert len(names) == 3 * len(expected)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_a_fresh_adapter_changes_no_output_and_detaching_gives_the_model_back(architecture: str) -> None:
    model, ids = tiny.model(architecture), torch.arange(10)[None] + 5
    before, weights = model(input_ids=ids).logits, {n: p.clone() for n, p in model.named_parameters()}
    wrapped = attach_lora(model, LoraSettings(), seed=0)
    torch.testing.assert_close(wrapped(input_ids=ids).logits, before)
    assert {n for n, p in wrapped.named_parameters() if p.requires_grad} == set(adapter_parameters(wrapped))
    with torch.no_grad():
        for parameter in adapter_parameters(wrapped).values():
            parameter.fill_(0.3)
    assert not torch.allclose(wrapped(input_ids=ids).logits, before)
    assert detach_lora(wrapped) is model
    assert same(dict(model.named_parameters()), weights)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert same(adapter_state(attach_lora(model, LoraSettings(), 0)),
                adapter_state(attach_lora(tiny.model(architecture), LoraSettings(), 0)))


def test_the_start_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = adapter_state(attach_lora(tiny.model("llama"), LoraSettings(), seed=3))
    torch.manual_seed(2)
    drawn = torch.get_rng_state()
    again = adapter_state(attach_lora(tiny.model("llama"), LoraSettings(), seed=3))
    assert torch.equal(torch.get_rng_state(), drawn)
    other = adapter_state(attach_lora(tiny.model("llama"), LoraSettings(), seed=4))
    few = adapter_state(attach_lora(tiny.model("llama"), LoraSettings(targets=("v_proj",), layers=1), seed=3))
    assert same(first, again)
    assert not same(first, other)
    assert len(few) == 2
    assert all(torch.equal(first[name], value) for name, value in few.items())


def test_a_is_uniform_within_one_over_root_fan_in_and_b_is_zero() -> None:
    state = adapter_state(attach_lora(tiny.model("llama"), LoraSettings(rank=32), seed=0))
    for name, value in state.items():
        if ".lora_B." in name:
            assert not value.any()
        else:
            bound = 32**-0.5
            assert 0.98 * bound < float(value.abs().max()) <= bound
            assert abs(float(value.mean())) < 0.1 * bound


def test_the_adapter_is_float32_on_a_half_precision_base() -> None:
    wrapped = attach_lora(tiny.model("llama").to(torch.bfloat16), LoraSettings(), seed=0)
    full = adapter_state(attach_lora(tiny.model("llama"), LoraSettings(), seed=0))
    assert {p.dtype for p in adapter_parameters(wrapped).values()} == {torch.float32}
    assert same(adapter_state(wrapped), full)
    assert wrapped(input_ids=torch.arange(5)[None]).logits.dtype == torch.bfloat16


def test_named_targets_and_the_last_layers() -> None:
    names = target_modules(tiny.model("llama"), LoraSettings(targets=("mlp.down_proj", "q_proj"), layers=2))
    assert names == [f"model.layers.{i}.{end}" for i in (1, 2) for end in ("self_attn.q_proj", "mlp.down_proj")]


def test_state_is_loaded_by_name_and_strictly() -> None:
    wrapped = attach_lora(tiny.model("llama"), LoraSettings(), seed=0)
    state = {name: torch.full_like(value, i) for i, (name, value) in enumerate(adapter_state(wrapped).items())}
    load_adapter_state(wrapped, dict(reversed(state.items())))
    assert same(adapter_state(wrapped), state)
    first = next(iter(state))
    with pytest.raises(ModelError, match=r"missing \(1\): " + first):
        load_adapter_state(wrapped, {k: v for k, v in state.items() if k != first})
    with pytest.raises(ModelError, match=r"unexpected \(1\): other"):
        load_adapter_state(wrapped, {**state, "other": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"of another shape \(1\)"):
        load_adapter_state(wrapped, {**state, first: torch.zeros(1)})
    assert same(adapter_state(wrapped), state)


def test_mistakes_name_the_linear_modules_there_are() -> None:
    model = tiny.model("llama")
    with pytest.raises(ModelError, match=r"matches wq\n.*lora-targets\n.*q_proj"):
        attach_lora(model, LoraSettings(targets=("q_proj", "wq")), seed=0)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1))
    with pytest.raises(ModelError, match=r"no linear module of Mamba.* attention blocks\n(.*\n)*.*in_proj"):
        attach_lora(mamba, LoraSettings(), seed=0)
    with pytest.raises(ConfigError, match="the model has 3 layers, not 4"):
        attach_lora(model, LoraSettings(layers=4), seed=0)
    with pytest.raises(ModelError, match="already has adapters"):
        attach_lora(attach_lora(model, LoraSettings(), seed=0), LoraSettings(), seed=0)
    for wrong in (dict(rank=0), dict(dropout=1.0), dict(layers=0)):
        with pytest.raises(ConfigError):
            LoraSettings(**wrong)
