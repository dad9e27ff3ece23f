"""A checkpoint that is not what it says, or an adapter that does not fit, is refused before anything is computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from siftune._common.errors import ModelError
from siftune.models.loading import load_model
from siftune.models.shape import model_shape
from tests import tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    tiny.model("qwen2").save_pretrained(folder)  # with an output embedding of its own
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture(scope="module")
def adapter_of(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def make(settings: Any = None, **model: Any) -> Path:
        folder = tmp_path_factory.mktemp("adapter")
        settings = settings or LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        adapted = get_peft_model(tiny.model("qwen2", **model), settings)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.1)
        adapted.save_pretrained(str(folder))
        change(folder / "adapter_config.json", base_model_name_or_path=str(whole))
        return folder
    return make


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None], name: str = "model.safetensors") -> None:
    weights = safetensors.torch.load_file(folder / name)
    edit(weights)
    safetensors.torch.save_file(weights, folder / name, metadata={"format": "pt"})


def refused(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert caught.value.hint
    return caught.value


def test_missing_weights_are_refused_rather_than_random(copy: Path) -> None:
    rewrite(copy, lambda w: [w.pop(n) for n in list(w) if ".layers.1.mlp." in n])
    error = refused(copy)
    assert "lacks 3 weights of Qwen2ForCausalLM" in error.what
    assert "random" in str(error.why)
    assert "model.layers.1.mlp.down_proj.weight" in str(error.why)


def test_a_checkpoint_without_its_output_embedding_is_named_for_what_it_is(copy: Path) -> None:
    rewrite(copy, lambda w: w.pop("lm_head.weight"))
    error = refused(copy)
    assert "lacks 1 weight of" in error.what
    assert "no output embedding" in str(error.hint)


def test_weights_without_a_place_are_told(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(copy, lambda w: w.update({"value_head.weight": torch.ones(2), "value_head.bias": torch.ones(1)}))
    load_model(str(copy))
    assert "2 weights in the checkpoint" in (said := capsys.readouterr().err)
    assert "are not used: value_head.bias, value_head.weight" in said


def test_weights_of_another_shape_than_the_configuration_says_are_named(copy: Path) -> None:
    change(copy / "config.json", intermediate_size=48)
    error = refused(copy)
    assert "other shapes" in error.what
    assert "down_proj.weight is" in str(error.why) or "gate_proj.weight is" in str(error.why)
    if int(transformers.__version__.split(".")[0]) >= 5:  # older ones do not tell the shapes
        assert "is 32x64 in the checkpoint, 32x48 by config.json" in str(error.why)


def test_a_padding_token_beyond_the_embedding_is_not_used(copy: Path) -> None:
    """As after `add_special_tokens({"pad_token": "[PAD]"})` without `resize_token_embeddings`."""
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 384
    tokenizer.save_pretrained(copy)
    assert load_model(str(copy)).pad_id == tokenizer.eos_token_id


@pytest.mark.parametrize(("changes", "told"), [
    ({"architectures": ["Qwen2ForSequenceClassification"]}, "no language model that continues a text"),
    ({"architectures": ["Qwen2ForTokenClassification"]}, "no language model that continues a text"),
    ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "no language model that continues a text"),
    ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
     "is an encoder-decoder model"),
    ({"model_type": "bart", "architectures": ["BartForConditionalGeneration"], "is_encoder_decoder": True},
     "is an encoder-decoder model"),
    ({"model_type": "clip", "architectures": ["CLIPModel"]}, "no language model that transformers knows: a clip"),
])
def test_models_of_other_kinds_are_refused_by_their_name(changes: dict[str, Any], told: str, copy: Path) -> None:
    change(copy / "config.json", **changes)
    error = refused(copy)
    assert told in error.what
    assert changes["architectures"][0] in str(error.why)
    assert "decoder-only" in str(error.hint)


def test_a_wrapper_of_several_models_has_no_shape_to_speak_of(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({
        "model_type": "musicgen", "text_encoder": {"model_type": "t5"}, "audio_encoder": {"model_type": "encodec"},
        "decoder": {"model_type": "musicgen_decoder"}}))
    model_shape(str(copy))
    assert "musicgen" in refused(copy).what or refused(copy).hint


def test_an_adapter_is_merged_whole(adapter_of: Callable[..., Path], whole: Path) -> None:
    merged, plain = load_model(str(adapter_of())), load_model(str(whole))
    assert merged.weights != plain.weights
    assert not hasattr(merged.model, "peft_config")
    assert not torch.equal(merged.model.model.layers[0].self_attn.q_proj.weight,
                           plain.model.model.layers[0].self_attn.q_proj.weight)


def test_adapters_that_do_not_fit_are_refused(adapter_of: Callable[..., Path]) -> None:
    missing = adapter_of()
    rewrite(missing, lambda w: w.pop(next(n for n in w if "layers.1." in n and "lora_B" in n)),
            "adapter_model.safetensors")
    assert "the adapter lacks 1 weight" in refused(missing).what

    deeper = adapter_of(num_hidden_layers=5)
    assert "no place for, 8 weights" in refused(deeper).what

    assert "cannot load the adapter" in refused(adapter_of(hidden_size=64)).what  # other shapes
    elsewhere = adapter_of()
    change(elsewhere / "adapter_config.json", target_modules=["c_attn"])
    assert "c_attn" in str(refused(elsewhere).why)


def test_adapters_of_other_kinds_are_refused(adapter_of: Callable[..., Path]) -> None:
    other_task = adapter_of()
    change(other_task / "adapter_config.json", task_type="SEQ_CLS")
    assert "another task: SEQ_CLS" in refused(other_task).what
    prompts = adapter_of(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    assert "cannot be merged" in refused(prompts).what


@pytest.mark.parametrize(("base", "told"), [
    ("/nowhere/base", "the base model '/nowhere/base' of the adapter is not there"),
    (None, "does not say which base model"), (7, "does not say which base model"),
])
def test_a_base_model_that_is_not_there_is_named(base: Any, told: str, adapter_of: Callable[..., Path]) -> None:
    folder = adapter_of()
    change(folder / "adapter_config.json", base_model_name_or_path=base)
    error = refused(folder)
    assert told in error.what
    assert "adapter_config.json" in str(error.where)


def test_an_adapter_on_an_adapter_is_refused(adapter_of: Callable[..., Path]) -> None:
    first, second = adapter_of(), adapter_of()
    change(second / "adapter_config.json", base_model_name_or_path=str(first))
    assert "itself an adapter" in refused(second).what


def test_models_whose_code_fails_are_refused_without_a_traceback(copy: Path) -> None:
    change(copy / "config.json", num_key_value_heads=3)
    assert "Error" in str(refused(copy).why) or refused(copy).what
