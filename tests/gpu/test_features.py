"""Features, losses and trainings are on an accelerator what they are on the CPU, whatever the batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from siftune.data.render import Renderer
from siftune.data.rows import Message, Rendered
from siftune.evaluation.loss import row_losses
from siftune.features.forward.active_sets import ActiveNeurons
from siftune.features.forward.engine import forward_features
from siftune.features.gradients.adam import AdamDirection
from siftune.features.gradients.engine import GradientEngine
from siftune.features.gradients.features import gradient_features
from siftune.features.gradients.projections import projection
from siftune.models.lora import LoraSettings, adapter_parameters, attach_lora
from siftune.training.settings import TrainSettings
from siftune.training.sft import train_lora
from tests import tiny
from tests.cli.pools import conversation

ARCHITECTURES = ("llama", "qwen3", "gemma2", "gpt2")
CLOSE = 2e-3  # relative, of float32 sums in another order


def rows(count: int = 12) -> list[Rendered]:
    renderer = Renderer(tiny.tokenizer(), max_length=128)
    return [renderer.render([Message("user", question), Message("assistant", answer)])
            for question, answer in map(conversation, range(count))]


def adapted(architecture: str, device: str, dtype: torch.dtype = torch.float32) -> Any:
    model = attach_lora(tiny.model(architecture).to(dtype), LoraSettings(rank=4), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model).items():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.to(device)


def gradients(architecture: str, device: str, *, batch_tokens: int = 256, kind: str = "sparse-jl",
              dtype: torch.dtype = torch.float32) -> dict[str, np.ndarray]:
    model = adapted(architecture, device, dtype)
    generator = torch.Generator().manual_seed(2)
    draws = {name: torch.randn(2, *p.shape, generator=generator) * 1e-3
             for name, p in adapter_parameters(model).items()}
    direction = AdamDirection({n: d[0].to(device) for n, d in draws.items()},
                              {n: d[1].square().to(device) for n, d in draws.items()}, step=10)
    return gradient_features(GradientEngine(model), rows(), projection=projection(kind, 256, 3),
                             precondition=direction, pad_id=0, batch_tokens=batch_tokens, device=device)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest error of a row, relative to its length."""
    found, expected = (x.reshape(len(x), -1).astype(np.float64) for x in (found, expected))
    return float((np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradient_features_are_those_of_the_cpu(device: str, architecture: str) -> None:
    expected = gradients(architecture, "cpu")
    for batch_tokens in (64, 1024):
        found = gradients(architecture, device, batch_tokens=batch_tokens)
        for name in ("projected", "norm", "loss"):
            assert relative(found[name], expected[name]) < CLOSE, name


def test_every_projection_is_the_same_matrix_on_every_device(device: str) -> None:
    from siftune.features.gradients.projections import KINDS

    for kind in KINDS:
        if kind != "logra":
            found, expected = (gradients("llama", place, kind=kind)["projected"] for place in (device, "cpu"))
            assert relative(found, expected) < CLOSE, kind


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_forward_features_are_those_of_the_cpu(device: str, architecture: str) -> None:
    reader = ActiveNeurons(neurons="up", top=4)
    found, expected = (
        forward_features(tiny.model(architecture).to(place), rows(), [reader], pad_id=0, batch_tokens=256,
                         device=place)[0] for place in (device, "cpu"))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if values.dtype.kind == "f":
            assert relative(found[name], values) < CLOSE, name
        else:  # of equal activations another one may be the fourth
            assert (found[name] != values).mean() < 0.02, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_are_those_of_the_cpu(device: str, architecture: str) -> None:
    found, expected = (row_losses(adapted(architecture, place), rows(), device=place) for place in (device, "cpu"))
    np.testing.assert_allclose(found, expected, rtol=CLOSE)


def test_the_same_pass_twice_gives_the_same_bits(device: str) -> None:
    first, second = gradients("llama", device), gradients("llama", device)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def test_bfloat16_weights_give_directions_near_those_of_float32(device: str) -> None:
    found = gradients("llama", device, dtype=torch.bfloat16)["projected"]
    expected = gradients("llama", device)["projected"]
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.95


def test_a_training_lowers_the_loss_and_ends_near_the_cpus(device: str, tmp_path: Any) -> None:
    settings = TrainSettings(learning_rate=5e-3, epochs=3, batch_size=4)
    after = {}
    for place in dict.fromkeys((device, "cpu")):
        model = adapted("llama", place)
        before = row_losses(model, rows(), device=place).mean()
        train_lora(model, rows(), settings, tmp_path / place.replace(":", "-"), pad_id=0, device=place)
        after[place] = row_losses(model, rows(), device=place).mean()
        assert after[place] < before - 0.1
    assert after[device] == pytest.approx(after["cpu"], rel=0.02)
