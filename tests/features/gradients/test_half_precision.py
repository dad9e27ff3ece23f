"""A model in bfloat16 on a CPU: LoRA gradients stay float32 and point where those of the float32 model do."""

from __future__ import annotations

import numpy as np
import pytest

from siftune.features.gradients.engine import GradientEngine
from siftune.features.gradients.features import gradient_features
from siftune.features.gradients.projections import projection
from siftune.models.loading import load_model
from siftune.models.lora import LoraSettings, attach_lora
from tests import tiny
from tests.methods.contexts import examples


def features(folder, dtype: str) -> tuple[dict[str, np.ndarray], str]:
    loaded = load_model(str(folder), device="cpu", dtype=dtype)
    how = loaded.model.config._attn_implementation
    model = attach_lora(loaded.model, LoraSettings(rank=2, alpha=8.0, dropout=0.0), seed=3)
    projected = projection("countsketch", 512, 1)
    made = gradient_features(GradientEngine(model), examples(9, 5).rendered, projection=projected,
                             pad_id=loaded.pad_id, batch_tokens=64)
    return made, how


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_features_in_half_precision_are_those_of_the_float32_model(tmp_path, architecture):
    tiny.save(tmp_path, architecture)
    (exact, how), (half, how_half) = features(tmp_path, "float32"), features(tmp_path, "bfloat16")
    assert how != "eager", "the fast attention where it is fast"
    assert how_half == "eager", "torch's own takes nine times as long backward in bfloat16 on a CPU"
    assert half["projected"].dtype == np.float32
    cosines = (exact["projected"] * half["projected"]).sum(axis=1) / (
        np.linalg.norm(exact["projected"], axis=1) * np.linalg.norm(half["projected"], axis=1))
    assert cosines.min() > 0.99
    np.testing.assert_allclose(half["loss"], exact["loss"], rtol=0.02)
    assert (half["projected"] != exact["projected"]).any(), "it was really computed in half precision"
