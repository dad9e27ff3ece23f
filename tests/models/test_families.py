"""A few model families of each kind, through siftune's own passes, against one row at a time by autograd.

All families of the installed transformers: benchmarks/model_families.py.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import CONFIG_MAPPING

from siftune._common.errors import ModelError
from siftune.features.gradients.engine import GradientEngine
from siftune.models import lora
from siftune.models.language_part import is_linear, language_modules
from siftune.models.lora import LoraSettings, attach_lora, detach_lora, target_modules
from tests import tiny

KINDS = {
    "minicpm3": "latent attention",
    "deepseek_v3": "latent attention and experts",
    "qwen3_moe": "experts",
    "gemma3": "a language model in a multimodal wrapper",
    "qwen2_vl": "the same, with positions on the axes of an image",
    "jamba": "attention in some blocks, state spaces in others",
    "qwen3_next": "attention and linear attention",
    "mamba2": "state spaces alone",
    "zamba2": "one block's weights used in several places",
    "hrm_text": "blocks that run several times",
    "opt": "rows and positions flattened inside",
}


BEFORE_5 = Version(transformers.__version__) < Version("5")
newer = pytest.mark.skipif(BEFORE_5, reason="PEFT and the layers of earlier versions do adapt them")


def needs(family: str) -> None:
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {family}")


@pytest.mark.parametrize("family", KINDS)
def test_gradients_and_hidden_states_of_a_batch_are_those_of_each_row_alone(family: str, table: ModuleType) -> None:
    needs(family)
    told = table.run(family)
    if BEFORE_5 and ("not_made" in told or "Fast Mamba kernels" in str(told)):
        pytest.skip("this version of transformers makes none so small, or runs it on a GPU alone")
    assert told.get("error", 1.0) < 1e-4, told
    assert told["trains"]
    assert not told["hidden"]
    assert not told["without_gradient"], "every adapter is on a layer that text passes through"
    assert told.get("full_error", 0.0) < 1e-4, told


def test_the_named_projections_of_latent_attention_are_all_adapted(table: ModuleType) -> None:
    names = target_modules(table.tiny_model("deepseek_v3"), LoraSettings())
    kinds = {name.rpartition(".")[2] for name in names}
    assert kinds == {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen2_vl", "mllama"])
def test_adapters_of_a_multimodal_model_are_on_its_language_model_alone(family: str, table: ModuleType) -> None:
    try:
        model = table.tiny_model(family)
    except (AttributeError, TypeError):
        if BEFORE_5:
            pytest.skip("this version of transformers makes none so small")
        raise
    towers = [name for name, module in model.named_modules() if is_linear(module) and "vision" in name]
    assert towers or family == "qwen2_vl", "there is a tower to leave out"
    for names in (target_modules(model, LoraSettings()), lora.block_modules(model)):
        assert names
        assert all("language_model" in name for name in names)
        assert not any("cross_attn" in name for name in names), "which only look at images"
    with pytest.raises(ModelError, match="no linear module"):
        target_modules(model, LoraSettings(targets=("patch_embed.proj", "vision_tower.none")))


def test_a_plain_model_is_its_own_language_model() -> None:
    model = tiny.model("llama")
    assert list(language_modules(model)) == list(model.named_modules())


def test_how_few_layers_of_a_hybrid_are_adapted_is_said_once(
        table: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    lora._say_once.cache_clear()
    model = table.tiny_model("jamba")
    detach_lora(attach_lora(model, LoraSettings(rank=2), seed=0))
    said = capsys.readouterr().err
    assert "adapters on 2 of 4 layers: the others of JambaForCausalLM have no attention" in said
    assert "--lora-targets" in said
    named = said.rpartition("--lora-targets ")[2].rstrip(")\n").split(",")
    everywhere = target_modules(model, LoraSettings(targets=tuple(named)))
    assert lora.adapted_layers(model, everywhere) == (4, 4)
    detach_lora(attach_lora(model, LoraSettings(rank=2), seed=0))
    attach_lora(tiny.model("llama"), LoraSettings(rank=2), seed=0)
    assert capsys.readouterr().err == ""


@newer
def test_a_model_without_attention_is_refused_with_targets_that_work(table: ModuleType) -> None:
    model = table.tiny_model("mamba")
    with pytest.raises(ModelError, match="no linear module of MambaForCausalLM matches attention blocks") as caught:
        attach_lora(model, LoraSettings(), seed=0)
    named = str(caught.value.hint).rpartition("--lora-targets ")[2].split(",")
    adapted = attach_lora(model, LoraSettings(rank=2, targets=tuple(named)), seed=0)
    engine = GradientEngine(adapted)
    names: list[str] = []
    with engine.capture():
        engine.backward(table.collate(table.rows(), pad_id=0), lambda gradient: names.append(gradient.name))
    assert len(names) == len(set(names)) == 2 * 4 * len(named)
    with pytest.raises(ModelError, match="PEFT cannot adapt") as refused:
        attach_lora(table.tiny_model("mamba"), LoraSettings(targets=("out_proj",)), seed=0)
    assert ",".join(named) in str(refused.value.hint)


@newer
def test_weights_used_past_their_layer_are_no_silent_zeros(table: ModuleType) -> None:
    model = table.tiny_model("mamba")
    table.train_linear_weights(model, lora.block_modules(model))
    engine = GradientEngine(model)
    with engine.capture(), pytest.raises(ModelError, match="do not run as layers") as caught:
        engine.backward(table.collate(table.rows(), pad_id=0), lambda gradient: None)
    named = str(caught.value.hint).rpartition("--lora-targets ")[2].split(",")
    model = table.tiny_model("mamba")
    table.train_linear_weights(model, target_modules(model, LoraSettings(targets=tuple(named))))
    assert table.largest_error(model, table.rows())[0] < 1e-4


def test_the_output_embedding_is_no_layer_of_rows() -> None:
    model = attach_lora(tiny.model("qwen2"), LoraSettings(rank=2, targets=("q_proj", "lm_head")), seed=0)
    with pytest.raises(ModelError, match="output embedding"):
        GradientEngine(model)


@newer
def test_adapters_that_peft_would_put_on_experts_are_refused(table: ModuleType) -> None:
    needs("qwen3_moe")
    model = table.tiny_model("qwen3_moe", mlp_only_layers=[0])
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(ModelError, match="PEFT"):
        attach_lora(model, LoraSettings(targets=("gate_proj", "up_proj", "q_proj")), seed=0)
    assert before.keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize(("family", "told"), [
    ("bert", "lets a token see those that come after it"), ("xlnet", "lets a token see those that come after it"),
    ("paligemma", "lets a token see those that come after it"), ("blip-2", "cannot run a text of 6 tokens"),
    ("t5gemma2", "is an encoder-decoder model"),
])
def test_what_does_not_continue_a_text_is_refused_by_its_class(family: str, told: str, table: ModuleType) -> None:
    needs(family)
    outcome: dict[str, Any] = table.run(family)
    if BEFORE_5 and "not_made" in outcome:
        pytest.skip("this version of transformers makes none so small")
    assert told in outcome["refused"], outcome
    assert outcome["hint"]


def test_gradients_of_a_block_that_runs_twice_are_added_before_anything_is_made_of_them(table: ModuleType) -> None:
    """Adam's direction and norms are not linear: the two halves may not arrive one by one."""
    model = tiny.model("llama", num_hidden_layers=2)
    model.model.layers[1] = model.model.layers[0]
    wrapped = attach_lora(model, LoraSettings(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    error, without = table.largest_error(wrapped, table.rows())  # which asserts that each parameter arrives once
    assert error < 1e-4
    assert not without
