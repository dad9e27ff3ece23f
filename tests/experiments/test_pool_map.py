"""The map of a pool is the plane of its first two principal components; no row that was chosen is left out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from siftune._common.files import read_json, write_json
from siftune.data.rows import Message, Row, content_hash
from siftune.experiments.pool import rows as study_rows_module
from siftune.experiments.pool.map import STEPS, Plane, fit_plane, place_rows, place_targets, pool_map, whole_numbers
from siftune.experiments.pool.rows import TURN_CHARACTERS, TURNS, in_order, text_of
from siftune.experiments.results.pool import TEXT_BYTES, embedded_bytes
from siftune.experiments.run import study
from siftune.features.base import Computed
from siftune.features.cosines import cosines
from tests.cli.pools import jsonl, record, records
from tests.experiments.studies import config, write_files
from tests.report.test_hostile import INVISIBLE, SHOWN

MANY = 16  # turns, more than are shown


def vectors(rows: int, width: int, seed: int = 0) -> np.ndarray:
    """float32 [rows, width], of many lengths, in a few directions more than in others."""
    bits = np.random.default_rng(seed)
    spread = 1 / (1 + np.arange(width))
    return (bits.normal(0.3, 1, (rows, width)) * spread * bits.uniform(0.1, 9, (rows, 1))).astype(np.float32)


def streamed(X: np.ndarray, step: int):
    return lambda: ((start, X[start : start + step]) for start in range(0, len(X), step))


def unit(X: np.ndarray) -> np.ndarray:
    return np.array([x / np.sqrt(sum(float(v) ** 2 for v in x)) for x in X.astype(np.float64)])


def oracle(X: np.ndarray, fitted: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Places of the rows and of the targets and the shares of variance, by a plain SVD of the whole matrix."""
    mean = unit(X)[fitted].mean(axis=0)
    axes = np.linalg.svd(unit(X)[fitted] - mean, full_matrices=False)[2][:2].T
    rows = (unit(X) - mean) @ axes
    deviations = unit(X) - unit(X).mean(axis=0)
    total = sum(float(d @ d) for d in deviations) / len(X)
    return rows, (unit(targets) - mean) @ axes, (rows.var(axis=0) / total).tolist()


@pytest.mark.parametrize(("rows", "width", "step", "most"), [
    (80, 12, 7, 2000), (80, 12, 80, 2000), (300, 1500, 64, 2000), (300, 20, 33, 60), (3, 2, 1, 2000)])
def test_it_is_the_plane_of_a_plain_singular_value_decomposition(rows, width, step, most):
    X, targets = vectors(rows, width), vectors(9, width, seed=1)
    blocks = streamed(X, step)
    plane = fit_plane(blocks, rows, most=most)
    assert len(plane.sample) == min(rows, most)
    placed, variance = place_rows(plane, blocks, rows)
    similar = lambda: ((at, (unit(targets) @ unit(block).T * np.linalg.norm(block, axis=1)).astype(np.float64))  # noqa: E731
                       for at, block in blocks())
    there = place_targets(plane, similar)
    wanted, wanted_targets, shares = oracle(X, plane.sample, targets)
    signs = np.sign((placed * wanted).sum(axis=0))
    assert placed == pytest.approx(wanted * signs, abs=1e-5)
    assert there == pytest.approx(wanted_targets * signs, abs=1e-5)
    assert variance == pytest.approx(shares, abs=1e-5)
    again = fit_plane(streamed(X, 1), rows, most=most)
    assert np.array_equal(again.axes, plane.axes), "the blocks change nothing, signs included"


def test_similarities_as_the_methods_have_them_place_a_copy_of_a_row_on_the_row():
    X = unit(vectors(120, 30)).astype(np.float32)
    plane = fit_plane(streamed(X, 50), len(X))
    placed, _ = place_rows(plane, streamed(X, 50), len(X))
    there = place_targets(plane, cosines(streamed(X, 32), X[[5, 119]]))
    assert there == pytest.approx(placed[[5, 119]], abs=1e-5)


@pytest.mark.parametrize("X", [
    np.ones((6, 4)), np.ones((1, 4)), np.zeros((5, 3)), np.eye(3)[[0, 0, 1, 1]], np.eye(2)[[0, 1]],
    np.ones((4, 1)), np.vstack([np.zeros(3), np.eye(3)])])
def test_rows_that_do_not_span_a_plane_have_one_all_the_same(X):
    plane = fit_plane(streamed(X, 2), len(X))
    placed, variance = place_rows(plane, streamed(X, 2), len(X))
    targets = place_targets(plane, lambda: ((0, X @ X.T) for _ in range(1)))
    assert np.isfinite(placed).all()
    assert np.isfinite(targets).all()
    distinct = len(np.unique(X, axis=0))
    assert (np.ptp(placed, axis=0) > 1e-6).sum() == min(2, distinct - 1)
    assert sum(variance) == pytest.approx({1: 0.0, 2: 1.0}.get(distinct, sum(variance)))
    assert sum(variance) <= 1 + 1e-9


def test_coordinates_are_whole_and_keep_their_proportions():
    places = np.array([[-1.0, 0.0], [3.0, 2.0], [1.0, 1.0]])
    found = whole_numbers(places, places.min(axis=0), 4.0)
    assert found.tolist() == [[0, 0], [STEPS - 1, 2048], [2048, 1024]]


def plain_order(rows: int, methods: list[list[int]], baselines: list[list[int]], most: int, points: int) -> set[int]:
    """Chosen rows that must be shown, one by one: of methods by their best rank, then of baselines."""
    best: dict[int, tuple[int, int]] = {}
    for kind, subsets in enumerate((methods, baselines)):
        for subset in subsets:
            for rank, row in enumerate(subset):
                best[row] = min(best.get(row, (2, 0)), (kind, rank))
    room = max(points, min(len(best), most))
    if len(best) <= room:
        return set(best)
    worst = sorted(best.values())[room - 1]
    return {row for row, rank in best.items() if rank < worst}


@pytest.mark.parametrize(("points", "most"), [(300, 600), (50, 60), (10, 200), (1000, 1000), (20, 20)])
def test_no_chosen_row_is_left_out_but_for_those_ranked_last(points, most):
    bits = np.random.default_rng(points)
    methods = [bits.permutation(500)[:40] for _ in range(3)]
    baselines = [bits.permutation(500)[:80] for _ in range(2)]
    by = in_order(500, methods, baselines, 0, points=points, most=most)
    assert len(set(by.tolist())) == len(by) <= min(500, max(points, most))
    needed = plain_order(500, [m.tolist() for m in methods], [b.tolist() for b in baselines], most, points)
    assert needed <= set(by.tolist())
    assert len(by) >= min(500, points)
    assert np.array_equal(by, in_order(500, methods, baselines, 0, points=points, most=most))


def row(number: int, *said: str) -> Row:
    messages = tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(said))
    return Row(f"row{number}", "s", f"s:{number}", messages, "{}", content_hash(messages), "messages")


def test_texts_are_cut_and_spelled_out():
    place, row_id, said, more = text_of(row(3, "a" * 5000, INVISIBLE, *["x"] * (MANY + 3)), 7)
    assert (place, row_id) == (7, "row3")
    assert said[0] == ["user", "a" * TURN_CHARACTERS, 5000 - TURN_CHARACTERS]
    assert said[1] == ["assistant", SHOWN, 0]
    assert len(said) + more == MANY + 5
    assert len(said) == TURNS


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A pool that holds copies of two rows of a target."""
    folder = tmp_path_factory.mktemp("study")
    values = write_files(folder)
    copies = [{**record("messages", i), "id": f"copy{i}", "group": "copies"} for i in (102, 105)]
    jsonl(folder / "pool.jsonl", [*records("messages", range(40)), *copies])
    return folder, {**values, "budgets": ["10%"], "headline": None, "headline_seeds": None, "baselines": {"random": 1}}


class Nothing:
    """Runs no training, but looks at what is there before the first."""

    def __init__(self, folder: Path):
        self.folder, self.seen = folder, []

    def map(self, start, jobs):
        self.seen = sorted(p.name for p in self.folder.glob("*.json"))
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def made(setting):
    folder = setting[0] / "mapped"
    executor = Nothing(folder)
    with pytest.raises(KeyboardInterrupt):
        study(config(*setting, "mapped", methods=["logra", "bm25"]), executor=executor)
    assert {"map.json", "rows.json"} <= set(executor.seen)
    return folder


def test_a_study_has_its_map_before_the_first_training(made):
    told, shown = read_json(made / "map.json"), read_json(made / "rows.json")
    assert told["representation"] == "logra"
    assert told["rows"] == shown["rows"] == list(range(42))
    assert max(told["x"]) - min(told["x"]) <= told["width"] < STEPS
    assert STEPS - 1 in (told["width"], told["height"])
    assert [t["name"] for t in told["targets"]] == ["sums", "sorting"]
    sums = told["targets"][0]
    assert sums["rows"] == 4
    for copy, place in ((40, 0), (41, 1)):  # what is the same row lies in the same place
        assert [told["x"][copy], told["y"][copy]] == pytest.approx([sums["x"][place], sums["y"][place]], abs=2)
    assert len(set(zip(told["x"], told["y"], strict=True))) > 30


def test_the_rows_file_tells_who_chose_what(made):
    shown = read_json(made / "rows.json")
    assert shown["groups"] == ["x", "y", "z", "copies"]
    assert [shown["groups"][g] for g in shown["group"]] == [*("xyz"[i % 3] for i in range(40)), "copies", "copies"]
    assert [entry[0] for entry in shown["texts"]] == list(range(42))
    assert shown["texts"][0][1:3] == ["row000", [["user", "Add 0 and 2.", 0], ["assistant", "The answer is 2.", 0]]]
    ids = [entry[1] for entry in shown["texts"]]
    for subset in shown["subsets"]:
        kept = read_json(made / "selections" / f"{subset['id']}.json")["ids"]
        assert [ids[place] for place in subset["first"]] == kept
        assert subset["members"] == ""
        assert subset["rows"] == subset["shown"] == len(kept)


def test_files_are_kept_and_made_again_to_the_byte(setting, made):
    paths = [made / name for name in ("map.json", "rows.json")]
    before = [(p.stat().st_mtime_ns, p.read_bytes()) for p in paths]
    again = config(*setting, "mapped", methods=["logra", "bm25"])
    for gone in ([], paths):
        for path in gone:
            path.unlink()
        with pytest.raises(KeyboardInterrupt):
            study(again, executor=Nothing(made))
        assert [p.read_bytes() for p in paths] == [content for _, content in before]
        if not gone:
            assert [p.stat().st_mtime_ns for p in paths] == [time for time, _ in before]


def test_without_vectors_there_is_no_map_and_the_reason(setting):
    folder = setting[0] / "bare"
    with pytest.raises(KeyboardInterrupt):
        study(config(*setting, "bare", methods=["bm25"]), executor=Nothing(folder))
    told = read_json(folder / "map.json")
    assert "give no vectors" in told["none"]
    assert "embed, rds, less" in told["none"]
    assert len(read_json(folder / "rows.json")["rows"]) == 42


class Selecting:
    """What a map asks of a study's selecting, with vectors that are given."""

    def __init__(self, real, found):
        self.config, self.inputs, self._found = real, type("Inputs", (), {"pool": range(50)}), found

    def output_key(self, space, target):
        return f"{space} {target}"

    def output(self, space, target):
        found = self._found[space]
        if isinstance(found, Exception):
            raise found
        return found, []


def test_what_fails_gives_way_to_the_next_and_is_tried_again(setting, tmp_path):
    real = config(*setting, "ways", methods=["embed", "rds+", "less"])
    X = vectors(50, 8)
    found = {"embed": RuntimeError("no such model"), "rds": Computed(scores=np.zeros(50)),
             "less": Computed(vectors=streamed(X, 20), blocks=cosines(streamed(X, 20), unit(X[:3])))}
    path = tmp_path / "map.json"
    shown = np.arange(0, 50, 2)
    pool_map(Selecting(real, found), shown, path)  # type: ignore[arg-type]
    told = read_json(path)
    assert told["representation"] == "less"
    assert told["rows"] == shown.tolist()
    assert len(told["targets"]) == 2
    # Similarities in another metric than that of the vectors place no target.
    whitened = dataclasses.replace(real, common=real.common.with_own({"less": {"damping": 0.1}}))
    write_json(path, {})
    pool_map(Selecting(whitened, found), shown, path)  # type: ignore[arg-type]
    assert read_json(path)["targets"] == []
    pool_map(Selecting(real, dict.fromkeys(found, ValueError("broken store"))), shown[:9], path)  # type: ignore[arg-type]
    assert "broken store" in read_json(path)["none"]
    assert read_json(path)["key"] == "", "so that the next run tries again"


def test_many_texts_end_where_their_bytes_do(monkeypatch):
    rows = [row(i, "<" * 600, "é" * 600) for i in range(900)]
    by = in_order(900, [np.array([899, 5, 17])], [], 0)
    kept = study_rows_module._texts(rows, by, np.arange(900))
    taken = sum(embedded_bytes(entry) for entry in kept)
    assert TEXT_BYTES - embedded_bytes(kept[0]) < taken <= TEXT_BYTES
    assert {899, 5, 17} <= {entry[0] for entry in kept}
    assert len(kept) < 900
    assert kept == sorted(kept)
    assert json.dumps(kept) == json.dumps(study_rows_module._texts(rows, by, np.arange(900)))


def test_the_plane_says_what_it_was_fitted_on():
    X = vectors(500, 6)
    plane = fit_plane(streamed(X, 90), 500, seed=3, most=100)
    assert isinstance(plane, Plane)
    assert np.array_equal(plane.sample, np.unique(plane.sample))
    assert plane.norms == pytest.approx(np.linalg.norm(X[plane.sample], axis=1))
    assert not np.array_equal(plane.sample, fit_plane(streamed(X, 90), 500, seed=4, most=100).sample)
