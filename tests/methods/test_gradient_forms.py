"""Store-free scores, base-model gradients, preconditioning, storage types: each against plain autograd or algebra."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from siftune._common.errors import ConfigError
from siftune.data.rows import Examples
from siftune.features.similarity import identical_blocks
from siftune.features.store import FeatureStore
from siftune.features.store.codec import DTYPES
from siftune.methods.less import Less
from siftune.methods.logra import LoGra
from siftune.models.lora import block_modules
from tests.methods.contexts import examples, for_method, tiny_model, whole
from tests.methods.test_less import oracle

context, of_logra = for_method("less"), for_method("logra")


def test_store_free_scores_are_exact_to_a_relative_error_of_1e_4(tmp_path):
    made = context(tmp_path, projection="none")
    found = Less().compute(made)
    S, influence = oracle(made)
    for got, want in ((whole(found.blocks), S), (whole(found.subtask_blocks), np.stack([influence["b"],
                                                                                       influence["a"]]))):
        assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-4
        assert (np.abs(got - want) <= 1e-4 * np.abs(want) + 1e-6).all()
    store = FeatureStore.load(found.stores[0])
    assert store.read(store.shards()[0], "similarity").shape[1] == 5 + 2, "a float a target and subtask"


def test_directions_of_subtasks_alone_give_the_same_subtask_scores(tmp_path):
    both = Less().compute(context(tmp_path / "a", projection="none"))
    alone = Less().compute(context(tmp_path / "b", projection="none", directions="subtasks"))
    assert alone.lines == ["b", "a"]
    np.testing.assert_allclose(whole(alone.blocks), whole(both.subtask_blocks), atol=1e-6)
    store = FeatureStore.load(alone.stores[0])
    assert store.read(store.shards()[0], "similarity").shape[1] == 2


def test_store_free_scores_are_made_again_for_other_targets_only(tmp_path):
    Less().compute(context(tmp_path, projection="none"))
    again = context(tmp_path, projection="none")
    Less().compute(again)
    assert all(step["reused"] for step in again.clock.steps)
    other = context(tmp_path, projection="none")
    other.target = examples(3, 9)
    Less().compute(other)
    assert [step["reused"] for step in other.clock.steps] == [True, False, False]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
def test_base_model_gradients_through_both_factors_equal_the_projected_autograd_gradient(tmp_path, architecture):
    made = context(tmp_path, architecture=architecture, projection_dim=256)
    found = LoGra().compute(made)
    model = made.model.model
    assert not any(p.requires_grad for p in model.parameters()), "the model is left as it was"
    from siftune._common.seeds import derive
    from siftune.features.gradients.engine import LayerGradient
    from siftune.features.gradients.projections import LoGra as Projection

    names = block_modules(model)
    sketch = Projection(256, derive(0, "projection"))

    def feature(row) -> np.ndarray:
        weights = [model.get_submodule(name).weight for name in names]
        for weight in weights:
            weight.requires_grad_(True)
            weight.grad = None
        ids = torch.from_numpy(row.ids.astype(np.int64))[None]
        logits = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
        terms = [-logits[t - 1, ids[0, t]] for t in range(len(row)) if row.mask[t]]
        (sum(terms) / len(terms)).backward()
        sums = sketch.new(1, "cpu")
        for name, weight in zip(names, weights, strict=True):
            # G = G^T-of-identity: the factors of a matrix that is already there are itself and the unit matrix.
            sketch.add(sums, LayerGradient(f"{name}.weight", torch.eye(len(weight))[None], weight.grad[None]))
        value = sketch.read(sums)[0].double().numpy()
        return value / np.linalg.norm(value)

    x = np.array([feature(row) for row in made.pool.rendered])
    q = np.array([feature(row) for row in made.target.rendered])
    np.testing.assert_allclose(whole(found.blocks), q @ x.T, atol=1e-4)


@pytest.mark.parametrize("projection", ["factgrass", "sparse-jl"])
def test_base_model_gradients_have_other_projections_and_workers(tmp_path, projection):
    one = LoGra().compute(of_logra(tmp_path / "one", projection=projection))
    two = of_logra(tmp_path / "two", projection=projection, workers=2)
    two.load = tiny_model
    np.testing.assert_allclose(whole(LoGra().compute(two).blocks), whole(one.blocks), atol=1e-5)


def test_the_last_layers_alone_give_the_gradients_of_those_layers(tmp_path):
    found = LoGra().compute(of_logra(tmp_path, lora_layers=1, projection="sparse-jl", projection_dim=20_000))
    model = context(tmp_path).model.model
    last = [name for name in block_modules(model) if ".2." in name]
    assert block_modules(model, 1) == last
    assert found.fingerprint["layers"] == 1


def test_damping_is_the_cosine_after_whitening(tmp_path):
    plain = Less().compute(context(tmp_path))
    damped = Less().compute(context(tmp_path, damping=0.1))
    weights = np.array(damped.notes["checkpoint_weights"])
    expected = np.zeros((5, 13))
    for i, folder in enumerate(plain.stores):
        store = FeatureStore.load(folder)
        x = np.concatenate([store.features(shard) for shard in store.shards()]).astype(np.float64)
        targets = FeatureStore.load(next(folder.parent.parent.glob("target-*")) / folder.name)
        q = np.concatenate([targets.features(shard) for shard in targets.shards()]).astype(np.float64)
        gram = sum(np.outer(row, row) for row in x) / len(x)
        inverse = np.linalg.inv(gram + 0.1 * np.trace(gram) / len(gram) * np.eye(len(gram)))
        for a in range(len(q)):
            for b in range(len(x)):
                expected[a, b] += weights[i] * (q[a] @ inverse @ x[b]) / np.sqrt(
                    (q[a] @ inverse @ q[a]) * (x[b] @ inverse @ x[b]))
    np.testing.assert_allclose(whole(damped.blocks), expected, atol=2e-4)
    assert np.abs(whole(damped.blocks) - whole(plain.blocks)).max() > 0.01


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_storage_type_ranks_like_float32(tmp_path, dtype):
    exact = whole(Less().compute(context(tmp_path / "float32", projection_dim=2048)).blocks)
    found = Less().compute(context(tmp_path / dtype, projection_dim=2048, feature_dtype=dtype))
    tolerance = {"float32": 0, "float16": 1e-3, "bfloat16": 5e-3, "int8": 0.02, "1bit": 0.2}[dtype]
    assert np.abs(whole(found.blocks) - exact).max() <= tolerance
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(whole(found.blocks), exact, strict=True)]
    # A tiny model has fewer parameters than features have dimensions: its features are peaky, and signs lose that.
    assert min(correlation) > (0.3 if dtype == "1bit" else 0.999)
    sizes = {p.stat().st_size for p in (tmp_path / dtype).rglob("shard-00000.safetensors") if "pool" in str(p)}
    assert max(sizes) < 5 * 2048 * {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "1bit": 1 / 8}[dtype] + 1500


def test_copies_of_a_row_have_the_very_same_similarities(tmp_path):
    """They land in other batches and shards, where rounding differs; that must not decide between them."""
    made = context(tmp_path, batch_tokens=40)
    rows, rendered = list(made.pool.rows), list(made.pool.rendered)
    for copy, original in ((2, 0), (11, 0), (12, 5)):
        rendered[copy] = rendered[original]
        rows[copy] = dataclasses.replace(rows[original], id=f"copy-{copy}")
    made.pool = Examples(rows, rendered)
    S = whole(Less().compute(made).blocks)
    for copy, original in ((2, 0), (11, 0), (12, 5)):
        np.testing.assert_array_equal(S[:, copy], S[:, original])


def test_rows_alike_are_shared_across_blocks():
    S = np.arange(12.0).reshape(2, 6)
    blocks = lambda: ((i, S[:, i : i + 2].copy()) for i in (0, 2, 4))  # noqa: E731
    got = whole(identical_blocks(blocks, np.array([0, 1, 1, 3, 0, 5])))
    np.testing.assert_array_equal(got, S[:, [0, 1, 1, 3, 0, 5]])


@pytest.mark.parametrize(("representation", "projection", "why"), [
    (Less(), "logra", "Adam's direction"), (LoGra(), "none", "too many directions"),
    (Less(), "sparsejl", "did you mean"),
])
def test_a_projection_that_does_not_fit_is_refused(tmp_path, representation, projection, why):
    with pytest.raises(ConfigError, match="projection") as caught:
        representation.compute(for_method(representation.name)(tmp_path, projection=projection))
    assert why in str(caught.value)


def test_store_free_scores_follow_the_subtasks_that_targets_are_in(tmp_path):
    """The same target rows in other subtasks have other directions: what is stored for the first serves not."""
    run = context(tmp_path, projection="none")
    before = whole(Less().compute(run).subtask_blocks)
    for row in run.target.rows:
        object.__setattr__(row, "subtask", {"a": "b", "b": "a"}[row.subtask] if row.id.endswith("0") else row.subtask)
    after, fresh = (whole(Less().compute(dataclasses.replace(run, folder=folder)).subtask_blocks)
                    for folder in (tmp_path, tmp_path / "fresh"))
    np.testing.assert_array_equal(after, fresh)
    assert not np.allclose(before[: len(after)], after)
