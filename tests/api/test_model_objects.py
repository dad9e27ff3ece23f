"""A model object in: used where it is, nothing of it on disk, and back as it was."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import siftune
from siftune import SiftuneError
from siftune.models.loading import load_model
from siftune.models.lora import LoraSettings, attach_lora
from siftune.models.objects import named, unchanged
from tests import tiny
from tests.api.conftest import Inputs
from tests.cli.pools import records

WARMUP = {"warmup_epochs": 1, "warmup_rows": 8, "warmup_batch_size": 4}
SMALL: dict[str, Any] = dict(lora_rank=2, max_length=128, budget=4, less={**WARMUP, "projection_dim": 64}, gist=WARMUP,
                             logra={"projection_dim": 64})


def state_of(model: Any) -> dict[str, Any]:
    """All that a caller could notice of a model."""
    modules = {name: (type(module), module.training, sorted(vars(module)), list(module._forward_hooks),
                      list(module._forward_pre_hooks), list(module._backward_hooks))
               for name, module in model.named_modules()}
    weights = {name: (id(p), p.requires_grad, str(p.device), p.dtype, p.grad is None, p.detach().numpy().tobytes())
               for name, p in model.named_parameters()}
    buffers = {name: b.numpy().tobytes() for name, b in model.state_dict().items()}
    return {"modules": modules, "weights": weights, "buffers": buffers, "config": str(model.config)}


@pytest.fixture
def model() -> Any:
    """As one comes out of a training: in train mode, some of it frozen, with a hook and a gradient."""
    made = tiny.model("llama").train()
    made.model.embed_tokens.requires_grad_(False)
    made.model.layers[0].eval()
    made.lm_head.weight.grad = torch.ones_like(made.lm_head.weight) if made.lm_head.weight.requires_grad else None
    made.model.norm.weight.grad = torch.ones_like(made.model.norm.weight)
    made.model.layers[1].register_forward_hook(lambda *_: None)
    return made


@pytest.mark.parametrize("method", ["less-round-robin", "gist", "logra", "rds+", "mads", "delift", "ifd",
                                    "learning-percentage"])
def test_a_model_comes_back_unchanged_from_every_kind_of_method(method: str, model: Any, inputs: Inputs) -> None:
    before = state_of(model)
    more = {"selector": "top-k"} if method == "learning-percentage" else {}
    siftune.select(pool=inputs.rows[:12], target=inputs.targets, model=(model, tiny.tokenizer()), method=method,
                   **more, **SMALL)
    assert state_of(model) == before


def test_an_object_gives_the_selection_of_the_same_model_in_a_folder(inputs: Inputs, tmp_path: Path) -> None:
    rest: dict[str, Any] = dict(pool=inputs.rows, target=inputs.targets, method="less-round-robin", **SMALL)
    by_name = siftune.select(model=inputs.model, output_dir=tmp_path / "named", **rest)
    pair = (tiny.model("llama"), tiny.tokenizer())
    by_object = siftune.select(model=pair, output_dir=tmp_path / "object", **rest)
    loaded = siftune.select(model=load_model(inputs.model), **rest)
    assert by_object.ids == by_name.ids == loaded.ids
    assert by_object.scores.tolist() == by_name.scores.tolist() == loaded.scores.tolist()
    weights = sum(p.numel() * 4 for p in pair[0].parameters())
    assert sum(f.stat().st_size for f in (tmp_path / "object").rglob("*.safetensors")) < weights
    assert yaml.safe_load((tmp_path / "object" / "config.yaml").read_text())["model"].startswith(
        "object:LlamaForCausalLM:")


def test_features_are_reused_for_the_same_weights_and_the_object_is_asked_for_again(
        inputs: Inputs, tmp_path: Path) -> None:
    pair = (tiny.model("llama"), tiny.tokenizer())
    run = siftune.select(pool=inputs.rows, target=inputs.targets, model=pair, method="rds+", budget=4,
                         output_dir=tmp_path / "a")
    with pytest.raises(SiftuneError, match="was an object of a program, a LlamaForCausalLM") as error:
        siftune.select(from_run=run, budget=3)
    assert "model=(model, tokenizer)" in str(error.value)
    for again in (pair, inputs.model):  # the object, or the same weights in a folder
        other = siftune.select(from_run=run, model=again, budget=3)
        assert other.ids == run.ids[:3]
        assert all(step["reused"] for step in other.manifest["times"] if step["step"].startswith("pool"))
    with torch.no_grad():
        pair[0].model.norm.weight.mul_(1.5)
    with pytest.raises(SiftuneError, match="another model"):
        siftune.select(from_run=run, model=pair, budget=3)


def test_a_model_comes_back_unchanged_when_the_selection_fails(model: Any, inputs: Inputs) -> None:
    before = state_of(model)
    with pytest.raises(SiftuneError):
        siftune.select(pool=inputs.rows, target=inputs.targets, model=(model, tiny.tokenizer()), budget=10**6)
    with contextlib.suppress(ZeroDivisionError), unchanged(model):
        model.gradient_checkpointing_enable()
        attach_lora(model, LoraSettings(), 0).train()
        assert state_of(model) != before
        raise ZeroDivisionError
    assert state_of(model) == before


def test_plan_inspect_and_encode_take_a_model_object_too(model: Any, inputs: Inputs) -> None:
    before, pair = state_of(model), (model, tiny.tokenizer())
    assert siftune.inspect(inputs.rows, model=pair).stats.rows == 30
    assert "memory" in str(siftune.plan(pool=inputs.rows, target=inputs.targets, model=pair, method="less", **SMALL))
    assert siftune.encode(inputs.rows, model=pair).array.shape == (30, 32)
    assert state_of(model) == before


class Encoder(torch.nn.Module):
    """A model without a head for words."""

    config = type("Config", (), {"is_encoder_decoder": False})

    def get_output_embeddings(self) -> None:
        return None


def refusals() -> dict[str, tuple[Any, str, str]]:
    from peft import LoraConfig, get_peft_model

    plain, tokenizer = tiny.model("llama"), tiny.tokenizer()
    adapted = get_peft_model(tiny.model("llama"), LoraConfig(target_modules=["q_proj"]))
    return {
        "a number": (5, "model cannot be a int", "(model, tokenizer)"),
        "no tokenizer": (plain, "needs its tokenizer", "model=(model, tokenizer)"),
        "the other way round": ((tokenizer, plain), "tokenizer comes second", "model=(model, tokenizer)"),
        "three things": ((plain, tokenizer, 1), "cannot be a tuple of 3", "(model, tokenizer)"),
        "two names": (("a", "b"), "a str is not a model", "(model, tokenizer)"),
        "a name for a tokenizer": ((plain, "gpt2"), "a str is not a tokenizer", "(model, tokenizer)"),
        "adapters": ((adapted, tokenizer), "has adapters", "merge_and_unload"),
        "an encoder": ((Encoder(), tokenizer), "not a decoder-only", "AutoModelForCausalLM"),
        "no weights": ((tiny.model("llama").to("meta"), tokenizer), "not all on one device", "model.to(device)"),
        "doubles": ((tiny.model("llama").double(), tokenizer), "weights are float64", "model.float()"),
    }


def test_what_cannot_be_a_model_is_refused_with_what_can(inputs: Inputs) -> None:
    for what, (model, say, hint) in refusals().items():
        with pytest.raises(SiftuneError) as error:
            siftune.select(pool=inputs.rows, target=inputs.targets, model=model, method="rds+", budget=3)
        assert say in error.value.what, what
        assert hint in (error.value.hint or ""), what


@pytest.mark.parametrize(("settings", "say"), [
    ({"workers": 2}, "cannot be handed to other processes"), ({"executor": "ray"}, "cannot be handed"),
    ({"device": "cuda"}, "is on cpu, not cuda"), ({"dtype": "bfloat16"}, "is in float32, not bfloat16")])
def test_settings_that_do_not_go_with_an_object_are_refused(
        settings: dict[str, Any], say: str, inputs: Inputs) -> None:
    with pytest.raises(SiftuneError, match=say):
        siftune.select(pool=inputs.rows, target=inputs.targets, model=(tiny.model("llama"), tiny.tokenizer()),
                       method="rds+", budget=3, **settings)


def test_a_loaded_model_is_named_by_the_weights_that_it_has_now() -> None:
    loaded = dataclasses.replace(load_model_object(), weights="of another time")
    with named(loaded) as name:
        assert load_model(name).weights != "of another time"
        assert load_model(name).model is loaded.model
    with pytest.raises(SiftuneError, match="object of a program"):
        load_model(name)


def load_model_object() -> Any:
    from siftune.models.loading import LoadedModel, weights_hash

    model = tiny.model("llama")
    return LoadedModel(model, tiny.tokenizer(), "mine", "cpu", "float32", weights_hash(model))


def test_a_comparison_takes_objects_and_leaves_the_model_alone(model: Any, inputs: Inputs) -> None:
    before = state_of(model)
    made = siftune.compare(pool=inputs.rows, target=inputs.targets, test=records("messages", range(200, 203), "test"),
                           model=(model, tiny.tokenizer()), methods=["bm25"], budget=4, seeds=1, epochs=1,
                           exact_match_tokens=0, lora_rank=2)
    assert {"zero-shot", "random", "bm25"} == {arm.name for arm in made.results.arms}
    assert made.report.is_file()
    assert state_of(model) == before
