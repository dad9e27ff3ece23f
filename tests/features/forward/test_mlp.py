"""MLPs are found by their shapes, and what has none that can be read is refused with what was found."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from siftune._common.errors import ModelError
from siftune.features.forward.mlp import mlps, neurons, watch
from siftune.models.lora import LoraSettings, attach_lora
from tests import tiny
from tests.features.forward.oracle import mlp_modules

SHAPE = dict(vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=4, bos_token_id=0, eos_token_id=2, pad_token_id=0)


def made(architecture: str, **more):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **{**SHAPE, **more})).eval()


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_both_ends_of_every_mlp_are_found(architecture):
    model = tiny.model(architecture)
    found = mlps(model)
    assert [(m.up, m.down) for m in found] == mlp_modules(model, architecture)
    assert neurons(model) == (3, 128 if architecture == "gpt2" else 64)
    wrapped = attach_lora(model, LoraSettings(rank=2), seed=0)  # adapters elsewhere change nothing
    assert mlps(wrapped) == found


def test_hidden_size_and_neurons_may_be_equal():
    model = tiny.model("llama", intermediate_size=32)
    assert [(m.up, m.down) for m in mlps(model)] == mlp_modules(model, "llama")


def test_a_fused_projection_shows_its_second_half():
    model = made("phi3")
    ids = torch.randint(3, 384, (2, 7), generator=torch.Generator().manual_seed(0))
    ups, gated, inputs = [], [], []
    watch(model, "up", lambda layer, values: ups.append((layer, values)))
    watch(model, "gated", lambda layer, values: gated.append((layer, values)))
    for block in model.model.layers:
        block.mlp.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with torch.no_grad():
        model(input_ids=ids)
    assert [layer for layer, _ in ups] == [layer for layer, _ in gated] == [0, 1, 2]
    for block, x, (_, up), (_, activation) in zip(model.model.layers, inputs, ups, gated, strict=True):
        gate, other = (x @ block.mlp.gate_up_proj.weight.T).split(64, dim=-1)
        torch.testing.assert_close(up, other)
        torch.testing.assert_close(activation, torch.nn.functional.silu(gate) * other)


@pytest.mark.parametrize(("architecture", "more"), [
    ("falcon", {}), ("gptj", {"n_embd": 32, "n_layer": 3, "n_head": 4, "rotary_dim": 4}), ("opt", {"ffn_dim": 128}),
    ("starcoder2", {"intermediate_size": 128}), ("olmo2", {"intermediate_size": 128}),
])
def test_other_architectures_are_read_too(architecture, more):
    model = made(architecture, **more)
    assert neurons(model) == (3, 128)
    layers = []
    watch(model, "gated", lambda layer, values: layers.append((layer, values.numel())))
    with torch.no_grad():
        model(input_ids=torch.full((2, 5), 7))
    assert layers == [(layer, 2 * 5 * 128) for layer in range(3)]


@pytest.mark.parametrize(("architecture", "more", "told"), [
    ("mixtral", {"num_local_experts": 4}, "experts"),
    ("qwen3_moe", {"num_experts": 4, "moe_intermediate_size": 16}, "experts"),
    ("mamba", {}, "in_proj"),
])
def test_what_has_no_dense_mlp_is_refused_with_what_was_found(architecture, more, told):
    with pytest.raises(ModelError) as caught:
        neurons(made(architecture, **more))
    error = caught.value
    assert told in str(error)
    assert error.hint
    assert error.where
