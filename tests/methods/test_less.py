"""LESS's scores equal a plain-loop oracle of the paper: one example, one checkpoint, one parameter at a time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from siftune._common.errors import ConfigError, StoreMismatch
from siftune._common.seeds import derive
from siftune.data.rows import Rendered
from siftune.features import centring, exact_scores
from siftune.features.base import Context
from siftune.features.centring import reference_rows
from siftune.features.gradient_settings import lora_settings, warmup_settings
from siftune.features.gradients.engine import LayerGradient
from siftune.features.gradients.projections import projection
from siftune.features.gradients.warmup import run_warmup, score_weights
from siftune.features.store import FeatureStore
from siftune.methods.less import Less
from siftune.models.lora import attach_lora, detach_lora, load_adapter_state
from tests.interrupt import stopped_after
from tests.methods.contexts import examples, for_method, whole

context = for_method("less")


def oracle(made: Context) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(S[M, N], subtask -> Inf[N]) in float64 loops, from the formulas of sections 3 and 4."""
    config, settings, loaded = made.config, made.settings, made.model
    model = attach_lora(loaded.model, lora_settings(config), derive(config.seed, "adapter"))
    checkpoints = run_warmup(model, made.pool.rendered, made.pool.ids, warmup_settings(settings, config),
                             made.folder / "oracle", derive(config.seed, "warmup"), pad_id=0, device="cpu",
                             base_key=f"{loaded.weights} {loaded.dtype}")
    if settings.checkpoints == "last":
        checkpoints = checkpoints[-1:]
    dot = settings.gradient_score == "dot"
    etas = [c.mean_learning_rate for c in checkpoints]
    exact = settings.projection == "none"
    kind = "sparse-jl" if settings.projection in ("auto", "none") else settings.projection
    sketch = projection(kind, settings.projection_dim, derive(config.seed, "projection"))
    matrices: dict[str, np.ndarray] = {}
    S = np.zeros((len(made.target), len(made.pool)))
    groups = list(dict.fromkeys(row.subtask for row in made.target.rows))
    influence = {g: np.zeros(len(made.pool)) for g in groups}

    def gradient(row: Rendered) -> dict[str, np.ndarray]:
        model.eval()
        model.zero_grad()
        for parameter in adapters.values():
            parameter.requires_grad_(True)
        ids = torch.from_numpy(row.ids.astype(np.int64))[None]
        logits = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
        terms = [-logits[t - 1, ids[0, t]] for t in range(len(row)) if row.mask[t]]
        (sum(terms) / len(terms)).backward()
        return {n: p.grad.double().numpy().flatten() for n, p in adapters.items()}

    def projected(parts: dict[str, np.ndarray]) -> np.ndarray:
        if exact:
            return np.concatenate(list(parts.values()))
        total = np.zeros(settings.projection_dim)
        for name, part in parts.items():
            if name not in matrices:
                out = sketch.new(len(part), "cpu")
                sketch.add(out, LayerGradient.of(name, torch.eye(len(part))))
                matrices[name] = sketch.read(out).double().numpy()
            total += part @ matrices[name]
        return total

    for checkpoint, eta in zip(checkpoints, etas, strict=True):
        load_adapter_state(model, checkpoint.load_weights())
        adapters = {n: p for n, p in model.named_parameters() if ".lora_" in n}
        m, v = ({n: t.double().numpy().flatten() for n, t in part.items()} for part in checkpoint.load_moments())
        b1, b2 = checkpoint.betas
        t = checkpoint.step + 1
        x = []
        for row in made.pool.rendered:
            parts = {}
            for name, g in gradient(row).items():
                first, second = b1 * m[name] + (1 - b1) * g, b2 * v[name] + (1 - b2) * g * g
                if settings.adam == "paper":
                    parts[name] = (first / (1 - b1**t)) / (np.sqrt(second / (1 - b2**t)) + checkpoint.eps)
                elif settings.adam == "less-code":
                    parts[name] = first / np.sqrt(second + checkpoint.eps)
                elif settings.adam == "no-momentum":
                    parts[name] = g / (np.sqrt(v[name] / (1 - b2**checkpoint.step)) + checkpoint.eps)
                else:
                    parts[name] = g
            direction = projected(parts)
            x.append(direction if dot else direction / np.linalg.norm(direction))
        q = [projected(gradient(row)) for row in made.target.rendered]
        if settings.center:
            few = set(reference_rows(made.pool, config.seed).ids)  # all, where there are no more than 256
            sample = [j for j, row in enumerate(made.pool.rows) if row.id in few]
            plain = [projected(gradient(made.pool.rendered[j])) for j in sample]
            common = sum(g / np.linalg.norm(g) for g in plain) / len(plain)
            q = [g - np.linalg.norm(g) * common for g in q]
            mean = sum(x[j] for j in sample) / len(sample) if exact else sum(x) / len(x)
            x = [(row - mean) / np.linalg.norm(row - mean) for row in x]
        weight = eta / sum(etas)
        for i, target in enumerate(q):
            for j, row in enumerate(x):
                S[i, j] += weight * float(np.dot(target, row)) / (1 if dot else np.linalg.norm(target))
        for group in groups:
            own = [g for g, row in zip(q, made.target.rows, strict=True) if row.subtask == group]
            if settings.target_mean == "gradient":
                mean = sum(own) / len(own)
                mean = mean / (1 if dot else np.linalg.norm(mean))
            else:
                mean = sum(g / np.linalg.norm(g) for g in own) / len(own)
            for j, row in enumerate(x):
                influence[group][j] += weight * float(np.dot(mean, row))
    assert np.allclose(score_weights(checkpoints), np.array(etas) / sum(etas))
    detach_lora(model)
    return S, influence


@pytest.mark.parametrize("changes", [
    {},
    {"target_mean": "cosine", "adam": "less-code"},
    {"adam": "none", "projection": "countsketch", "architecture": "gpt2"},
    {"projection": "rademacher", "architecture": "gemma2"},
    {"projection": "srht", "architecture": "qwen2"},
    {"checkpoints": "last"},
    {"gradient_score": "dot", "adam": "none"},
    {"gradient_score": "dot", "target_mean": "cosine"},
    {"center": True},
    {"center": True, "adam": "none", "target_mean": "cosine", "checkpoints": "last"},
    {"projection": "none"},
    {"projection": "none", "target_mean": "cosine", "adam": "less-code", "architecture": "gpt2"},
    {"adam": "no-momentum"},
    {"adam": "no-momentum", "center": True, "checkpoints": "last"},
    {"adam": "no-momentum", "projection": "none"},
    {"center": True, "projection": "none"},
    {"center": True, "projection": "none", "target_mean": "cosine", "architecture": "gpt2"},
    {"center": True, "projection": "none", "adam": "none", "checkpoints": "last"},
], ids=["paper", "code", "plain", "dense", "hadamard", "last", "dot", "dot of cosines", "centred",
        "centred plain", "exact", "exact code", "no momentum",
        "no momentum centred", "no momentum exact", "centred exact", "centred exact code", "centred exact plain"])
def test_scores_equal_a_plain_loop_oracle_of_the_paper(tmp_path, changes):
    made = context(tmp_path, **changes)
    found = Less().compute(made)
    S, influence = oracle(made)
    got = np.concatenate([block for _, block in found.blocks()], axis=1)
    near = 2e-5 * max(1.0, np.abs(S).max())
    np.testing.assert_allclose(got, S, rtol=1e-3, atol=near)
    subtasks = np.concatenate([block for _, block in found.subtask_blocks()], axis=1)
    np.testing.assert_allclose(subtasks, np.stack([influence["b"], influence["a"]]), rtol=1e-3, atol=near)


@pytest.mark.parametrize("given", [{"projection": "none"}, {"damping": 0.1}, {"center": True}])
def test_inner_products_of_what_is_kept_as_a_cosine_are_refused(tmp_path, given):
    with pytest.raises(ConfigError, match="inner products") as caught:
        Less().compute(context(tmp_path, gradient_score="dot", **given))
    assert next(iter(given)) in str(caught.value)


def test_of_a_large_pool_the_exact_means_are_those_of_some_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(centring, "REFERENCE_ROWS", 5)
    made = context(tmp_path, center=True, projection="none")
    found = Less().compute(made)
    S, influence = oracle(made)
    np.testing.assert_allclose(whole(found.blocks), S, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(whole(found.subtask_blocks), np.stack([influence["b"], influence["a"]]), rtol=1e-3,
                               atol=2e-5)


def test_exact_scores_are_centred_from_what_is_kept_and_one_pass_for_all_targets(tmp_path):
    plain = whole(Less().compute(context(tmp_path, projection="none")).blocks)
    first = context(tmp_path, projection="none", center=True)
    found = Less().compute(first)
    assert [step["step"] for step in first.clock.steps if not step["reused"]] == ["centre", "centre of the pool"]
    assert all(0 < share <= 1 for share in found.notes["shared_by_all_rows"])
    assert np.abs(whole(found.blocks) - plain).max() > 0.01
    other = context(tmp_path, projection="none", center=True)
    other.target = examples(3, 9)
    Less().compute(other)
    fresh = [step["step"] for step in other.clock.steps if not step["reused"]]
    assert fresh == ["target directions", "pool scores"], "the means are of the pool"


def test_directions_of_subtasks_alone_cannot_be_centred(tmp_path):
    with pytest.raises(ConfigError, match="too little is kept"):
        Less().compute(context(tmp_path, center=True, projection="none", directions="subtasks"))


def several_targets(folder, first, **changes):
    """Contexts of three targets of one study, the second the sibling of the first."""
    made = [context(folder, projection="none", **changes) for _ in range(3)]
    made[1].target, made[2].target = examples(3, 9, ("c",)), examples(2, 10)
    for one in made:
        one.pool = made[0].pool  # the very same rows, as in a study
        one.siblings = lambda one=one: [other for other in made if other is not one]
    return made[first:] + made[:first]


@pytest.mark.parametrize("changes", [{}, {"center": True}], ids=["plain", "centred"])
def test_one_exact_pass_serves_several_targets_and_gives_each_what_it_has_alone(tmp_path, changes):
    for one in several_targets(tmp_path / "study", 0, **changes):
        found = Less().compute(one)
        steps = {step["step"]: step["reused"] for step in one.clock.steps}
        assert steps["pool scores" if "pool scores" in steps else "centre of the pool"] == (len(one.target) != 5)
        alone = dataclasses.replace(one, folder=tmp_path / f"{len(one.target)}", siblings=tuple)
        expected = Less().compute(alone)
        np.testing.assert_array_equal(whole(found.blocks), whole(expected.blocks))
        np.testing.assert_array_equal(whole(found.subtask_blocks), whole(expected.subtask_blocks))


def test_targets_whose_directions_do_not_fit_in_memory_together_take_further_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(exact_scores, "IN_MEMORY", 1)
    for one in several_targets(tmp_path, 1):
        Less().compute(one)
        assert {step["step"]: step["reused"] for step in one.clock.steps}["pool scores"] is False


def test_the_last_checkpoint_and_inner_products_need_no_other_features(tmp_path):
    Less().compute(context(tmp_path))
    for changes in ({"checkpoints": "last"}, {"gradient_score": "dot"}):
        again = context(tmp_path, **changes)
        Less().compute(again)
        assert all(step["reused"] for step in again.clock.steps)


def test_features_are_reused_and_an_interrupted_pass_continues(tmp_path, monkeypatch):
    undisturbed = whole(Less().compute(context(tmp_path / "whole")).blocks)

    with stopped_after(4), pytest.raises(KeyboardInterrupt):
        Less().compute(context(tmp_path / "part"))
    computed, real = [], FeatureStore.write
    monkeypatch.setattr(FeatureStore, "write",
                        lambda self, shard, arrays: (computed.append(shard), real(self, shard, arrays)))
    again = Less().compute(context(tmp_path / "part"))
    assert len(computed) == 3 * 3 + 3 - 4, "three checkpoints of three pool shards and one target shard, less four"
    np.testing.assert_array_equal(whole(again.blocks), undisturbed)

    computed.clear()
    clock = context(tmp_path / "part")
    Less().compute(clock)
    assert not computed
    assert all(step["reused"] for step in clock.clock.steps)


@pytest.mark.parametrize(("change", "field"), [
    ({"model_seed": 1}, "model"),
    ({"lora_rank": 3}, "lora.rank"),
    ({"projection_dim": 64}, "settings.projection_dim"),
    ({"adam": "less-code"}, "settings.adam"),
    ({"warmup_learning_rate": 1e-3}, "settings.warmup_learning_rate"),
    ({"warmup_epochs": 2}, "settings.warmup_epochs"),
    ({"seed": 1}, "seed"),
])
def test_a_store_of_other_settings_is_refused_before_any_work(tmp_path, change, field):
    Less().compute(context(tmp_path))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(StoreMismatch) as caught:
        Less().compute(context(tmp_path, **change))
    assert caught.value.field == field
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_recompute_replaces_what_was_made_from_something_else(tmp_path):
    Less().compute(context(tmp_path))
    replaced = Less().compute(context(tmp_path, adam="none", recompute=True))
    fresh = Less().compute(context(tmp_path / "fresh", adam="none"))
    for (_, a), (_, b) in zip(replaced.blocks(), fresh.blocks(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_target_reuses_the_features_of_the_pool(tmp_path):
    first = context(tmp_path)
    Less().compute(first)
    other = context(tmp_path)
    other.target = examples(3, 9)
    Less().compute(other)
    reused = {step["step"]: step["reused"] for step in other.clock.steps}
    assert reused == {"warmup": True, "pool features": True, "target features": False}
