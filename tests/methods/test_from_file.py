"""A user's own vectors and scores: every kind of file, by order and by id, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from siftune._common.errors import ConfigError, DataError, SiftuneError
from siftune.features import user_files
from siftune.methods.from_file import FromFile
from tests.methods.contexts import whole
from tests.methods.texts import examples, for_method

context = for_method("file")

N, M, D = 11, 3, 4
RNG = np.random.default_rng(0)
X, Q = RNG.normal(size=(N, D)) * RNG.uniform(0.1, 1e3, (N, 1)), RNG.normal(size=(M, D))
POOL = examples([(f"prompt {i}", "answer") for i in range(N)])
TARGET = examples([(f"target {i}", "answer") for i in range(M)], "target")
S = np.array([[np.dot(q, x) / np.sqrt(np.dot(q, q) * np.dot(x, x)) for x in X] for q in Q])


def npy(folder: Path, array: Any, name: str = "vectors.npy") -> str:
    np.save(folder / name, array)
    return str(folder / name)


def table(folder: Path, name: str = "given.parquet", **columns: Any) -> str:
    if name.endswith(".csv"):
        with (folder / name).open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    else:
        parquet.write_table(pa.table(columns), folder / name, row_group_size=3)
    return str(folder / name)


def shuffled() -> tuple[list[str], np.ndarray]:
    """Ids of the pool and of two other rows in any order, and where each is in the pool; N and more for the others."""
    order = np.random.default_rng(1).permutation(N + 2)
    return [POOL.rows[i].id if i < N else f"other-{i}" for i in order], order


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("numbers", [1, 8, 1 << 20])
def test_vectors_in_pool_order_give_the_cosines(tmp_path, monkeypatch, dtype, numbers):
    monkeypatch.setattr(user_files, "BLOCK_NUMBERS", numbers)
    made = context(tmp_path, POOL, TARGET, target_vectors=npy(tmp_path, Q, "targets.npy"))
    given = X.astype(dtype)
    found = FromFile(npy(tmp_path, np.asfortranarray(given) if numbers == 8 else given)).compute(made)
    assert found.blocks is not None
    assert found.vectors is not None
    np.testing.assert_allclose(whole(found.blocks), S, atol=2e-3 if dtype == "float16" else 1e-6)
    unit = np.concatenate([block for _, block in found.vectors()])
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert len(list(found.vectors())) == {1: N, 8: 6, 1 << 20: 1}[numbers]
    assert (found.notes["extra_rows"], found.notes["zero_vectors"]) == (0, 0)


def test_vectors_by_id_are_put_in_pool_order_a_part_at_a_time(tmp_path):
    ids, order = shuffled()
    wide = np.concatenate([X, RNG.normal(size=(2, D))])[order]
    for kind in (pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), D)):
        path = table(tmp_path, id=ids, vector=pa.array(wide.tolist(), kind))
        targets = table(tmp_path, "targets.parquet", id=[row.id for row in TARGET.rows[::-1]], vector=Q[::-1].tolist())
        found = FromFile(path).compute(context(tmp_path, POOL, TARGET, target_vectors=targets))
        np.testing.assert_allclose(whole(found.blocks), S, atol=1e-6)
        assert found.notes["extra_rows"] == 2
    kept = sorted(path.stat().st_mtime_ns for path in (tmp_path / "store/file").glob("*.npy"))
    FromFile(path).compute(context(tmp_path, POOL, TARGET, target_vectors=targets))
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "store/file").glob("*.npy")) == kept
    assert len(kept) == 4, "one for each file, and the targets'"


def test_without_vectors_of_targets_rows_are_compared_with_each_other_only(tmp_path):
    found = FromFile(npy(tmp_path, X)).compute(context(tmp_path, POOL, TARGET))
    assert found.blocks is None
    assert found.vectors is not None
    assert found.scores is None


@pytest.mark.parametrize("name", ["given.parquet", "given.csv", "given.npy"])
def test_scores_are_taken_as_they_are(tmp_path, name):
    values = RNG.normal(size=N + 2)
    ids, order = shuffled()
    path = npy(tmp_path, values[:N], name) if name.endswith("npy") else table(
        tmp_path, name, id=ids, score=values[order].tolist(), more=["x"] * len(ids))
    found = FromFile(path).compute(context(tmp_path, POOL))
    np.testing.assert_array_equal(found.scores, values[:N])
    assert found.notes["extra_rows"] == (0 if name.endswith("npy") else 2)
    assert found.blocks is None
    assert found.vectors is None


def test_ids_that_look_like_numbers_stay_text(tmp_path):
    pool = examples([("a", "b"), ("c", "d")])
    pool.rows = [type(row)(**{**{name: getattr(row, name) for name in row.__slots__}, "id": row_id})
                 for row, row_id in zip(pool.rows, ("007", "7"), strict=True)]
    path = table(tmp_path, "given.csv", id=["7", "007"], score=[1, 2])
    np.testing.assert_array_equal(FromFile(path).compute(context(tmp_path, pool)).scores, [2, 1])


def test_a_vector_of_zeros_is_like_nothing_and_huge_ones_do_not_overflow(tmp_path):
    extreme = X.copy()
    extreme[2], extreme[3], extreme[4] = 0, extreme[3] * 1e200, extreme[4] * 1e-200
    made = context(tmp_path, POOL, TARGET, target_vectors=npy(tmp_path, Q, "targets.npy"))
    found = FromFile(npy(tmp_path, extreme)).compute(made)
    expected = S.copy()
    expected[:, 2] = 0
    np.testing.assert_allclose(whole(found.blocks), expected, atol=1e-6)
    assert found.notes["zero_vectors"] == 1


def test_the_fingerprint_is_of_the_numbers(tmp_path):
    first = FromFile(npy(tmp_path, X)).compute(context(tmp_path, POOL)).fingerprint
    assert FromFile(npy(tmp_path, X, "copy.npy")).compute(context(tmp_path, POOL)).fingerprint == first
    changed = X.copy()
    changed[5, 1] = np.nextafter(changed[5, 1], 0)
    assert FromFile(npy(tmp_path, changed)).compute(context(tmp_path, POOL)).fingerprint != first


def _with(place: tuple[int, ...], value: float, array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed[place] = value
    return changed


IDS = [row.id for row in POOL.rows]
REFUSED = {
    "no file": (lambda f: str(f / "absent.npy"), ("there is no file", "--representation")),
    "another kind": (lambda f: str((f / "vectors.txt").write_text("1") and f / "vectors.txt"), ("no kind",)),
    "too many rows": (lambda f: npy(f, np.ones((N + 3, D))), ("14 rows", "11 usable", "3 rows too many", "by id")),
    "too few rows": (lambda f: npy(f, np.ones(N - 1)), ("10 rows", "1 rows too few")),
    "three dimensions": (lambda f: npy(f, np.ones((N, 2, 2))), ("[11, 2, 2]",)),
    "no dimension": (lambda f: npy(f, np.ones((N, 0))), ("[11, 0]",)),
    "text": (lambda f: npy(f, np.array(["a"] * N)), ("<U1",)),
    "objects": (lambda f: npy(f, np.array([{}] * N)), ("cannot be read",)),
    "broken": (lambda f: str((f / "x.npy").write_bytes(b"\x93NUMPY") and f / "x.npy"), ("cannot be read",)),
    "NaN in a vector": (lambda f: npy(f, _with((5, 2), np.nan, X)), ("'row-005'", "not a finite number")),
    "infinite score": (lambda f: npy(f, _with((7,), -np.inf, X[:, 0])), ("'row-007'",)),
    "broken Parquet": (lambda f: str((f / "x.parquet").write_bytes(b"PAR1") and f / "x.parquet"), ("cannot be read",)),
    "no id": (lambda f: table(f, key=IDS, score=[1.0] * N), ("It has key, score",)),
    "both columns": (lambda f: table(f, id=IDS, score=[1.0] * N, vector=X.tolist()), ("one of the two",)),
    "rows missing": (lambda f: table(f, id=IDS[2:], score=[1.0] * (N - 2)), ("2 of 11", "'row-000', 'row-001'")),
    "a row twice": (lambda f: table(f, id=[*IDS, IDS[3]], score=[1.0] * (N + 1)), ("'row-003' 2 times",)),
    "null score": (lambda f: table(f, id=IDS, score=[None, *[1.0] * (N - 1)]), ("'row-000'",)),
    "null in a vector": (lambda f: table(f, id=IDS, vector=[[1.0, None], *[[1.0, 2.0]] * (N - 1)]), ("'row-000'",)),
    "null vector": (lambda f: table(f, id=IDS, vector=[[1.0], None, *[[1.0]] * (N - 2)]), ("'row-001'", "0 numbers")),
    "ragged vectors": (lambda f: table(f, id=IDS, vector=[*[[1.0, 2.0]] * (N - 1), [1.0]]), ("'row-010'",)),
    "vectors of text": (lambda f: table(f, id=IDS, vector=[["a"]] * N), ("list of numbers",)),
    "scores of text": (lambda f: table(f, id=IDS, score=["high"] * N), ("cannot be read",)),
    "vectors in CSV": (lambda f: table(f, "x.csv", id=IDS, vector=["[1]"] * N), (".parquet",)),
    "words in CSV": (lambda f: table(f, "x.csv", id=IDS, score=["high"] * N), ("high", "id,score")),
    "nothing in CSV": (lambda f: table(f, "x.csv", id=IDS, score=["", *"1" * (N - 1)]), ("'row-000'",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused(tmp_path, case):
    make, parts = REFUSED[case]
    with pytest.raises(DataError) as caught:
        FromFile(make(tmp_path)).compute(context(tmp_path, POOL))
    said = str(caught.value)
    assert "-->" in said
    assert "hint:" in said
    for part in parts:
        assert part in said
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(("given", "targets", "target_rows", "part"), [
    (X[:, 0], Q, TARGET, "one number for each row"),
    (X, Q, None, "no targets"),
    (X, Q[:, 1:], TARGET, "[3, 3]"),
    (X, Q[:2], TARGET, "2 rows"),
    (X, Q[:, 0], TARGET, "[3]"),
])
def test_vectors_of_targets_that_do_not_fit_are_refused(tmp_path, given, targets, target_rows, part):
    made = context(tmp_path, POOL, target_rows, target_vectors=npy(tmp_path, targets, "targets.npy"))
    with pytest.raises(SiftuneError) as caught:
        FromFile(npy(tmp_path, given)).compute(made)
    assert isinstance(caught.value, ConfigError | DataError)
    assert part in str(caught.value)
    assert "hint:" in str(caught.value)
