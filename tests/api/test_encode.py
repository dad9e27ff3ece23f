"""Features of rows as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import siftune
from siftune import SiftuneError
from tests.api.conftest import Inputs

SMALL = dict(lora_rank=2, projection_dim=64, warmup_epochs=2, warmup_rows=8, warmup_batch_size=4, max_length=128)


def test_vectors_have_length_one_and_their_products_are_the_similarities_of_a_selection(inputs: Inputs) -> None:
    rows = siftune.encode(inputs.rows, model=inputs.model)
    targets = siftune.encode(inputs.targets, model=inputs.model)
    assert (rows.kind, rows.array.dtype, rows.array.shape) == ("vectors", np.float32, (30, 32))
    np.testing.assert_allclose(np.linalg.norm(rows.array, axis=1), 1, atol=1e-5)
    run = siftune.select(pool=inputs.rows, target=inputs.targets, model=inputs.model, method="rds+", budget=30)
    similarity = rows.array @ targets.array.T
    for row_id in run.ids[:5]:
        told = run.explain(row_id).similarities
        assert told is not None
        assert list(told) == targets.ids
        np.testing.assert_allclose(similarity[rows.ids.index(row_id)], list(told.values()), atol=1e-6)


@pytest.mark.parametrize(("representation", "kind", "shape"), [
    ("less", "vectors", (30, 128)), ("logra", "vectors", (30, 64)), ("loss", "scores", (30,)), ("ifd", "scores", (30,)),
    ("mads", "sets", (30, 3 * 64)), ("rds+", "vectors", (30, 32))])
def test_what_comes_without_a_target(representation: str, kind: str, shape: tuple[int, ...], inputs: Inputs) -> None:
    found = siftune.encode(inputs.rows, model=inputs.model, representation=representation, **SMALL)
    assert (found.kind, found.array.shape, np.asarray(found).shape) == (kind, shape, shape)
    assert len(found.ids) == len(found) == 30
    assert np.isfinite(np.asarray(found)).all()


@pytest.mark.parametrize(("representation", "kind", "columns"), [
    ("bm25", "similarities", 4), ("dsir", "scores", 0), ("nag", "similarities", 2), ("nait", "similarities", 2),
    ("gist", "vectors", 0)])
def test_what_needs_a_target_says_so_and_is_had_with_one(
        representation: str, kind: str, columns: int, inputs: Inputs) -> None:
    rest: dict[str, Any] = {"model": inputs.model, "representation": representation, **SMALL}
    with pytest.raises(SiftuneError, match="comparing rows with targets") as error:
        siftune.encode(inputs.rows, **rest)
    assert "rds" in str(error.value.hint)
    assert representation not in str(error.value.hint).split(": ")[1].split(", ")
    found = siftune.encode(inputs.rows, target=inputs.targets, **rest)
    assert (found.kind, len(found.columns)) == (kind, columns)
    assert len(found.array) == 30


def test_the_vectors_of_less_do_not_depend_on_the_targets(inputs: Inputs) -> None:
    rest: dict[str, Any] = {"model": inputs.model, "representation": "less", **SMALL}
    with_target = siftune.encode(inputs.rows, target=inputs.targets, **rest)
    assert np.array_equal(with_target.array, siftune.encode(inputs.rows, **rest).array)


@pytest.mark.parametrize("representation", ["delift", "random", "utility", "none"])
def test_what_is_no_feature_of_a_row_is_refused(representation: str, inputs: Inputs) -> None:
    with pytest.raises(SiftuneError, match="no features of single rows"):
        siftune.encode(inputs.rows, model=inputs.model, representation=representation)


def test_an_unknown_representation_is_refused(inputs: Inputs) -> None:
    with pytest.raises(SiftuneError, match="did you mean 'rds'"):
        siftune.encode(inputs.rows, model=inputs.model, representation="rdss")


def test_a_folder_keeps_the_features_for_a_selection(inputs: Inputs, tmp_path: Any) -> None:
    siftune.encode(inputs.rows, model=inputs.model, output_dir=tmp_path / "run")
    run = siftune.select(pool=inputs.rows, target=inputs.targets, model=inputs.model, method="rds+", budget=3,
                         output_dir=tmp_path / "run")
    assert [s["reused"] for s in run.manifest["times"] if s["step"].startswith("pool")] == [True]


def test_rows_that_cannot_be_used_are_named_or_left_out(inputs: Inputs) -> None:
    wrong = [*inputs.rows[:2], {"messages": []}, inputs.rows[2]]
    with pytest.raises(SiftuneError, match="no-assistant-turn") as error:
        siftune.encode(wrong, model=inputs.model)
    assert error.value.where == "rows[2]"
    found = siftune.encode(wrong, model=inputs.model, bad_rows="drop")
    assert [i.split(":")[1] for i in found.ids] == ["0", "1", "3"]
    assert len(found.array) == 3
