"""Every reader against plain loops over one row at a time, whatever the batches, on every architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.artefacts import keep_file
from siftune._common.errors import ConfigError, ModelError
from siftune.data.rows import Rendered
from siftune.features.forward.active_sets import ActiveNeurons, largest
from siftune.features.forward.directions import Along, Deltas
from siftune.features.forward.engine import forward_features
from siftune.features.forward.hidden import PositionWeightedMean
from siftune.features.forward.loss import Loss, ResponseAloneLoss
from siftune.models.batching import collate
from siftune.models.lora import LoraSettings, attach_lora
from tests import tiny
from tests.features.forward import oracle
from tests.methods.contexts import examples

ROWS = examples(9, 4).rendered
BATCH_TOKENS = (1, 60, 4096)
SETS = [ActiveNeurons(neurons, span, aggregate, 5)
        for neurons in ("gated", "up") for span in ("response", "prompt", "all") for aggregate in ("mean", "max")]


def directions(folder, layers: int, width: int) -> Along:
    made = np.random.default_rng(0).standard_normal((2, layers, width)).astype(np.float32)
    np.save(folder / "directions.npy", made)
    return Along(keep_file(folder / "directions.npy", "directions", "a test"), "targets", 2)


def read(model, readers, batch_tokens: int, rows=ROWS):
    return forward_features(model, rows, readers, pad_id=0, batch_tokens=batch_tokens)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_readers_equal_their_plain_loop_oracles(architecture, tmp_path):
    model = tiny.model(architecture)
    seen = [oracle.see(model, architecture, row) for row in ROWS]
    layers, width = len(seen[0].gated), seen[0].gated.shape[2]
    threshold = float(np.median([np.abs(s.gated).mean() for s in seen]))
    bits = ActiveNeurons("gated", "response", "mean", 0, threshold)
    along = directions(tmp_path, layers, width)
    readers = [PositionWeightedMean(), Loss(), Deltas(), along, bits, *SETS, ResponseAloneLoss()]
    v = np.load(tmp_path / "directions.npy").astype(np.float64)
    alone = [ResponseAloneLoss().view(row) for row in ROWS]
    alone_losses = [oracle.loss(oracle.see(model, architecture, row), row) for row in alone]
    sets = []
    for batch_tokens in BATCH_TOKENS:
        hidden, loss, delta, lain, above, *active, without = read(model, readers, batch_tokens)
        for i, (row, s) in enumerate(zip(ROWS, seen, strict=True)):
            np.testing.assert_allclose(hidden["feature"][i], oracle.weighted_mean(s), atol=1e-4)
            assert loss["loss"][i] == pytest.approx(oracle.loss(s, row), abs=1e-4)
            assert without["loss"][i] == pytest.approx(alone_losses[i], abs=1e-4)
            scale = np.abs(s.gated).max()
            np.testing.assert_allclose(delta["delta"][i], oracle.delta(s, row), atol=1e-4 * scale)
            mean = oracle.response_mean(s, row)
            for k in range(2):
                for layer in range(layers):
                    assert lain["dot"][i, k, layer] == pytest.approx(mean[layer] @ v[k, layer], abs=1e-4 * scale)
            np.testing.assert_allclose(lain["norm"][i], [np.sqrt((m**2).sum()) for m in mean], atol=1e-4 * scale)
            magnitude = oracle.magnitudes(s, row, "gated", "response", "mean")
            flags = np.unpackbits(above["active.bits"][i], count=layers * width).astype(bool)
            unsure = np.abs(magnitude.ravel() - threshold) < 1e-5 * scale
            assert ((flags == (magnitude.ravel() > threshold)) | unsure).all()
            for reader, found in zip(SETS, active, strict=True):
                assert found["active"].dtype == np.uint16
                chosen = found["active"][i].reshape(layers, 5)
                assert (np.diff(chosen.astype(int), axis=1) > 0).all()
                magnitude = oracle.magnitudes(s, row, reader.neurons, reader.span, reader.aggregate)
                assert [set(layer.tolist()) for layer in chosen] == oracle.strongest(magnitude, 5)
        sets.append([found["active"] for found in active])
    for other in sets[1:]:
        for a, b in zip(sets[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_an_adapter_is_read_with_what_it_adds():
    rows = ROWS[:4]
    model = tiny.model("llama")
    [plain] = read(model, [Deltas()], 100, rows)
    adapted = attach_lora(model, LoraSettings(rank=2, targets=("up_proj", "down_proj")), seed=0)
    [fresh] = read(adapted, [Deltas()], 100, rows)
    np.testing.assert_allclose(fresh["delta"], plain["delta"], atol=1e-5)  # B is zero
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    [changed] = read(adapted, [Deltas()], 100, rows)
    assert np.abs(changed["delta"] - plain["delta"]).max() > 1e-2
    seen = [oracle.see(adapted.base_model.model, "llama", row) for row in rows]
    expected = [oracle.delta(s, row) for s, row in zip(seen, rows, strict=True)]
    np.testing.assert_allclose(changed["delta"], expected, atol=1e-4 * np.abs(expected).max())


def test_a_model_that_flattens_rows_and_positions_is_read_as_well():
    from tests.features.forward.test_mlp import made

    model = made("opt", ffn_dim=128)
    readers = [Deltas(), ActiveNeurons("up", "all", "mean", 5)]
    (delta, active), (wide, together) = read(model, readers, 1), read(model, readers, 4096)
    np.testing.assert_allclose(delta["delta"], wide["delta"], atol=1e-6)
    assert np.abs(delta["delta"]).max() > 1e-3
    np.testing.assert_array_equal(active["active"], together["active"])


def test_what_readers_keep_is_as_large_as_they_say(tmp_path):
    from siftune.features.store.codec import encode

    rows = examples(40, 7).rendered
    model = tiny.model("llama")
    bits = ActiveNeurons("gated", "response", "mean", 0, 0.1)
    readers = [PositionWeightedMean(), Loss(), ResponseAloneLoss(), Deltas(), directions(tmp_path, 3, 64), SETS[0],
               bits]
    for reader, arrays in zip(readers, read(model, readers, 500, rows), strict=True):
        for dtype in ("float32", "int8", "1bit"):
            kept = dict(arrays)
            for name in reader.features:
                kept.update(encode(name, kept.pop(name), dtype))
            assert sum(a.nbytes for a in kept.values()) == 40 * reader.bytes_per_row(model, dtype), reader.name


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_largest_are_a_stable_sort_s_first(data):
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12)))
    values = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5]), min_size=int(np.prod(shape)),
                                max_size=int(np.prod(shape))))
    tensor, count = torch.tensor(values).view(shape), data.draw(st.integers(1, shape[2]))
    expected = np.sort(np.argsort(-tensor.numpy(), axis=2, kind="stable")[:, :, :count], axis=2)
    np.testing.assert_array_equal(largest(tensor, count).numpy(), expected)


def test_more_neurons_than_there_are_cannot_be_the_strongest():
    with pytest.raises(ConfigError, match="64 neurons, of which 65") as caught:
        read(tiny.model("llama"), [ActiveNeurons(top=65)], 100)
    assert caught.value.where == "--set active"
    [whole] = read(tiny.model("llama"), [ActiveNeurons(top=64)], 100)
    np.testing.assert_array_equal(whole["active"][0], np.tile(np.arange(64), 3))


@pytest.mark.parametrize("reader", [ActiveNeurons(), Deltas(), PositionWeightedMean(), Loss()])
def test_what_is_not_finite_is_refused(reader):
    model = tiny.model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not a finite number"):
        read(model, [reader], 100)


def test_a_span_without_tokens_cannot_pass_unseen():
    from siftune.features.forward.spans import span_mask

    whole = Rendered(np.arange(3, 8, dtype=np.int32), np.ones(5, bool))
    with pytest.raises(ValueError, match="no prompt token"):
        span_mask(collate([whole], 0), "prompt")


def test_a_pass_leaves_no_hook_behind():
    model = tiny.model("llama")
    read(model, [PositionWeightedMean(), Loss(), *SETS], 100)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ConfigError):
        read(model, [ActiveNeurons(top=65)], 100)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
