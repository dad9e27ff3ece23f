"""Models in 8 and 4 bits: gradients through the quantised base are those of one row at a time.

bitsandbytes is no dependency: where it is not installed these tests are skipped.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from siftune._common.errors import ModelError
from siftune.features.gradients.engine import train_linear_weights
from siftune.models.loading import load_model
from siftune.models.lora import LoraSettings, attach_lora, block_modules, detach_lora
from siftune.models.objects import named
from tests import tiny

pytest.importorskip("bitsandbytes")

BITS: dict[str, dict[str, Any]] = {
    "4-bit NF4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "8-bit": {"load_in_8bit": True},
}


SIZES = {"hidden_size": 64, "intermediate_size": 128}  # weights are quantised in blocks of 64


@pytest.fixture(params=BITS)
def quantised(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    plain = tmp_path / "plain"
    tiny.model("qwen2", **SIZES).save_pretrained(plain)
    model = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=BitsAndBytesConfig(**BITS[request.param]), dtype=torch.float32)
    model.save_pretrained(tmp_path / "quantised")
    tiny.tokenizer().save_pretrained(tmp_path / "quantised")
    return model, str(tmp_path / "quantised")


def test_gradients_are_those_of_autograd_through_the_quantised_base(
        quantised: Any, table: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load_model(quantised[1], device="cpu", dtype="float32")
    assert not loaded.model.model.layers[0].self_attn.q_proj.weight.is_floating_point()
    assert loaded.parameters == sum(p.numel() for p in tiny.model("qwen2", **SIZES).parameters())
    adapted = attach_lora(loaded.model, LoraSettings(rank=4, dropout=0.0), seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    eight = "depends on its batch" in capsys.readouterr().err  # which columns are outliers is seen over all rows of it
    assert eight == loaded.model.config.quantization_config.load_in_8bit
    error, without = table.largest_error(adapted, table.rows(), alone=eight)
    assert error < 1e-4
    assert not without
    assert table.trains(adapted, table.rows())
    loaded.model = detach_lora(adapted)
    for reader in (table.PositionWeightedMean(), table.ActiveNeurons("gated", "response", "mean", 4, 0.0)):
        assert eight or not table.readings(loaded, table.rows(), reader)


def test_their_own_weights_have_no_gradients_and_that_is_said(quantised: Any) -> None:
    model = load_model(quantised[1], device="cpu", dtype="float32").model
    with pytest.raises(ModelError, match="21 linear layers of Qwen2ForCausalLM are quantised") as caught:
        train_linear_weights(model, block_modules(model))
    assert "--method less" in str(caught.value.hint)


def test_a_quantised_object_can_be_lent(quantised: Any) -> None:
    with named((quantised[0], tiny.tokenizer())) as name:
        assert name.startswith("object:Qwen2ForCausalLM:")
