"""Batched per-example gradients against one-example-at-a-time autograd, for every architecture."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from siftune._common.errors import ModelError
from siftune.data.rows import Rendered
from siftune.features.gradients.engine import GradientEngine, train_linear_weights
from siftune.features.gradients.features import gradient_features, normalised
from siftune.features.gradients.projections import CountSketch
from siftune.models.batching import collate, plan_batches
from siftune.models.lora import block_modules
from tests import tiny

TARGETS = {"gpt2": ["c_attn", "attn.c_proj"], "gpt_neox": ["query_key_value", "attention.dense"]}


@cache
def adapted(architecture: str, bias: str = "none"):
    """A tiny model with a LoRA adapter whose B is not zero, so that A has gradients too."""
    torch.manual_seed(0)
    targets = TARGETS.get(architecture, ["q_proj", "k_proj", "v_proj", "o_proj"])
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.3, target_modules=targets, bias=bias,
                        fan_in_fan_out=architecture == "gpt2")
    model = get_peft_model(tiny.model(architecture), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.train()  # dropout must not matter


def rows(seed: int = 0, lengths=(9, 30, 17, 5, 24, 12, 3, 28)) -> list[Rendered]:
    """Rows of mixed length: several turns, one-token answers, long prompts."""
    rng = np.random.default_rng(seed)
    made = []
    for i, length in enumerate(lengths):
        mask = np.zeros(length, bool)
        mask[-1 - (i % 4) * (length // 5):] = True
        mask[length // 3] = i % 2 == 0
        mask[0] = False
        made.append(Rendered(rng.integers(3, 384, length).astype(np.int32), mask))
    return made


def oracle(model, row: Rendered) -> dict[str, torch.Tensor]:
    """Plain autograd: one example, one loss, ``backward``."""
    model.eval()
    model.zero_grad()
    ids = torch.from_numpy(row.ids.astype(np.int64))[None]
    logits = model(input_ids=ids).logits[0].float()
    losses = [-torch.log_softmax(logits[t - 1], -1)[ids[0, t]] for t in range(len(row)) if row.mask[t]]
    (sum(losses) / len(losses)).backward()
    return {n: p.grad.detach().flatten().clone() for n, p in model.named_parameters() if p.requires_grad}


def batched(model, examples: list[Rendered], batches: list[list[int]]) -> list[dict[str, torch.Tensor]]:
    engine = GradientEngine(model)
    found: list[dict[str, torch.Tensor]] = [{} for _ in examples]
    for positions in batches:
        def consume(gradient, positions=positions):
            for row, position in enumerate(positions):
                assert gradient.name not in found[position], "each parameter arrives once"
                found[position][gradient.name] = gradient.full()[row].clone()
        with engine.capture():
            engine.backward(collate([examples[i] for i in positions], pad_id=0), consume)
    return found


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_batched_gradients_equal_autograd_one_example_at_a_time(architecture):
    model, examples = adapted(architecture), rows()
    expected = [oracle(model, row) for row in examples]
    for batches in ([[i] for i in range(8)], [list(range(8))], [[7, 2, 5], [0, 6], [1, 4, 3]]):
        for row, (got, want) in enumerate(zip(batched(model, examples, batches), expected, strict=True)):
            assert got.keys() == want.keys()
            whole_got, whole_want = (torch.cat([g[n] for n in want]) for g in (got, want))
            error = (whole_got - whole_want).norm() / whole_want.norm()
            assert error < 1e-4, f"row {row} in batches {batches}: relative error {error:.1e}"
            for name in want:  # and no single matrix hides behind the large ones
                assert torch.allclose(got[name], want[name], rtol=1e-3, atol=1e-5 * whole_want.norm()), name


def test_biases_of_adapted_layers_have_gradients_too():
    model = adapted("qwen2", bias="lora_only")
    examples = rows()[:3]
    want = [oracle(model, row) for row in examples]
    assert any(name.endswith("bias") for name in want[0])
    for got, expected in zip(batched(model, examples, [[0, 1, 2]]), want, strict=True):
        assert got.keys() == expected.keys()
        for name in expected:
            assert torch.allclose(got[name], expected[name], rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_full_weights_of_linear_layers_without_any_adapter(architecture):
    model = tiny.model(architecture)
    model.requires_grad_(False)
    chosen = [n for n, _ in model.named_parameters() if n.endswith(("mlp.down_proj.weight", "mlp.c_proj.weight",
                                                                    "mlp.c_proj.bias"))]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    examples = rows()[:4]
    want = [oracle(model, row) for row in examples]
    for got, expected in zip(batched(model, examples, [[3, 1], [0, 2]]), want, strict=True):
        assert set(got) == set(chosen)
        for name in expected:
            assert torch.allclose(got[name], expected[name], rtol=1e-3, atol=1e-5), name


def test_capturing_leaves_the_model_as_it_was():
    model = adapted("llama")
    before = {n: (p.requires_grad, p.detach().clone()) for n, p in model.named_parameters()}
    model.zero_grad()
    model.train()
    batched(model, rows(), [list(range(8))])
    assert model.training
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert parameter.grad is None, "no batch-summed gradient was computed"


def test_features_do_not_depend_on_batch_size_or_order():
    model, examples = adapted("llama"), rows()
    engine = GradientEngine(model)

    def features(order, batch_tokens):
        made = normalised(gradient_features(engine, [examples[i] for i in order], projection=CountSketch(512, seed=1),
                                            pad_id=0, batch_tokens=batch_tokens))
        back = np.argsort(order)
        return {k: v[back] for k, v in made.items()}

    whole = features(list(range(8)), 10_000)
    for order, batch_tokens in (([3, 1, 0, 7, 6, 5, 2, 4], 1), (list(range(8))[::-1], 64), (list(range(8)), 40)):
        for key, value in features(order, batch_tokens).items():
            np.testing.assert_allclose(value, whole[key], rtol=2e-4, atol=1e-5, err_msg=key)
    np.testing.assert_allclose(np.linalg.norm(whole["feature"], axis=1), 1, rtol=1e-5)


def test_norm_and_loss_are_those_of_the_example():
    model, examples = adapted("mistral"), rows()[:3]
    made = gradient_features(GradientEngine(model), examples, projection=CountSketch(64, 0),
                             pad_id=0, batch_tokens=64)
    for i, row in enumerate(examples):
        gradient = torch.cat(list(oracle(model, row).values()))
        assert made["norm"][i] == pytest.approx(float(gradient.norm()), rel=1e-4)
        ids = torch.from_numpy(row.ids.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(row.mask)[None], ids, -100)
        assert made["loss"][i] == pytest.approx(model.eval()(input_ids=ids, labels=labels).loss.item(), rel=1e-4)


def test_a_row_without_a_direction_is_refused():
    model = adapted("llama")
    empty = Rendered(np.arange(3, 9, dtype=np.int32), np.zeros(6, bool))
    with pytest.raises(ModelError, match=r"not a finite number|exactly zero"):
        gradient_features(GradientEngine(model), [rows()[0], empty], projection=CountSketch(64, 0), pad_id=0,
                          batch_tokens=64)


LONG = (9, 300, 17, 470, 24, 12, 3, 28)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2", "gpt_neox"])
def test_gradient_checkpointing_changes_memory_and_nothing_else(architecture):
    """Long rows too: longer than the sliding window, and of most of the batch."""
    model, examples = adapted(architecture).train(), rows(lengths=LONG)

    def features(**options):
        return gradient_features(GradientEngine(model, **options), examples, projection=CountSketch(4096, 1), pad_id=0,
                                 batch_tokens=600)

    plain, checkpointed = features(), features(checkpointing=True)
    assert model.training, "dropout would be on, were it not turned off"
    for name in plain:
        np.testing.assert_allclose(checkpointed[name], plain[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_half_precision_passes_stay_near_the_full_ones():
    model, examples = adapted("llama"), rows()
    full, half = (normalised(gradient_features(GradientEngine(model, autocast=dtype), examples, pad_id=0,
                                               projection=CountSketch(4096, 1), batch_tokens=100))["feature"]
                  for dtype in (None, torch.bfloat16))
    assert (full * half).sum(axis=1).min() > 0.98
    assert not np.array_equal(full, half)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_rows_of_special_tokens_and_one_token_answers_have_gradients(architecture):
    model = adapted(architecture)
    special = Rendered(np.array([1, 2, 1, 2, 0], np.int32), np.array([False, False, False, True, True]))
    single = Rendered(np.array([5, 2], np.int32), np.array([False, True]))
    examples = [special, rows()[1], single]
    want = [oracle(model, row) for row in examples]
    for got, expected in zip(batched(model, examples, [[0, 1, 2]]), want, strict=True):
        for name in expected:
            assert torch.allclose(got[name], expected[name], rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_do_not_matter_to_layers_inside(tied):
    model = tiny.model("llama", tie_word_embeddings=tied)
    train_linear_weights(model, block_modules(model))
    assert not model.get_output_embeddings().weight.requires_grad
    examples = rows()[:3]
    want = [oracle(model, row) for row in examples]
    for got, expected in zip(batched(model, examples, [[0, 1, 2]]), want, strict=True):
        assert got.keys() == expected.keys()
        assert len(got) == 3 * 7, "seven linear layers a block; grouped-query attention has narrower k and v"
        for name in expected:
            assert torch.allclose(got[name], expected[name], rtol=1e-3, atol=1e-5), name


def test_the_backward_pass_stops_below_the_lowest_adapted_layer():
    model = tiny.model("llama")
    train_linear_weights(model, block_modules(model, 1))
    reached = []
    handles = [layer.register_full_backward_hook(lambda module, i, o, k=k: reached.append(k))
               for k, layer in enumerate(model.model.layers)]
    batched(model, rows()[:2], [[0, 1]])
    for handle in handles:
        handle.remove()
    assert 0 not in reached
    assert 1 not in reached


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    model, examples = adapted("llama"), rows(lengths=(9, 9, 9, 9, 8, 8, 8, 8))
    engine = GradientEngine(model)
    whole = gradient_features(engine, examples, projection=CountSketch(64, 0), pad_id=0, batch_tokens=10_000)
    real, seen = GradientEngine.backward, []

    def short_of_memory(self, batch, consume):
        seen.append(len(batch.input_ids))
        if len(batch.input_ids) > 2:
            raise torch.OutOfMemoryError("too little memory")
        return real(self, batch, consume)

    monkeypatch.setattr(GradientEngine, "backward", short_of_memory)
    parts = gradient_features(engine, examples, projection=CountSketch(64, 0), pad_id=0, batch_tokens=10_000)
    assert seen == [8, 4, 2, 2, 4, 2, 2]
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=2e-4, atol=1e-5)


def test_only_linear_layers_can_be_captured():
    model = tiny.model("llama")
    model.requires_grad_(False)
    with pytest.raises(ModelError, match="no trainable parameters"):
        GradientEngine(model)
    model.get_input_embeddings().weight.requires_grad_(True)  # tied to the output embedding, so claimed by it
    model.model.norm.weight.requires_grad_(True)
    with pytest.raises(ModelError, match="not weights of linear layers"):
        GradientEngine(model)


def test_batches_hold_every_row_once_within_the_budget():
    lengths = [5, 90, 7, 33, 33, 60, 1, 200, 12]
    for budget in (1, 50, 100, 400, 10_000):
        batches = plan_batches(lengths, budget)
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@settings(max_examples=150, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=9), budget=st.integers(1, 120),
       cost=st.integers(0, 40))
def test_batches_are_the_cheapest_that_any_cut_of_the_sorted_rows_gives(lengths, budget, cost):
    def price(batch):
        return len(batch) * max(batch) + cost

    ordered = sorted(lengths, reverse=True)
    best = float("inf")
    for cuts in product([False, True], repeat=len(ordered) - 1):
        batches = [[ordered[0]]]
        for length, cut in zip(ordered[1:], cuts, strict=True):
            batches.append([length]) if cut else batches[-1].append(length)
        if all(len(b) == 1 or len(b) * b[0] <= budget for b in batches):
            best = min(best, sum(map(price, batches)))
    found = plan_batches(lengths, budget, batch_cost=cost)
    assert sum(price([lengths[i] for i in batch]) for batch in found) == best
    widest = [max(lengths[i] for i in batch) for batch in found]
    assert widest == sorted(widest, reverse=True), "the first batch is the one to run out of memory"
