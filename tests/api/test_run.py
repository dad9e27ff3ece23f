"""Result objects out: what a run says of itself, and that one loaded from its folder says the same."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

import siftune
from siftune import SiftuneError
from siftune._common.errors import ConfigError
from siftune.api import Run
from tests.api.conftest import Inputs


@pytest.fixture(scope="module")
def run(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    rows = [*inputs.rows, {"messages": [{"role": "user", "content": "no answer"}]}]
    banned = folder / "banned.txt"
    banned.write_text("pool:0:" + _key(inputs, 0) + "\n")
    return siftune.select(pool=rows, **inputs.text_search, bad_rows="drop", output_dir=folder / "a",
                          must_exclude=banned)


def _key(inputs: Inputs, i: int) -> str:
    from siftune.data.rows import Message, content_hash

    return content_hash([Message(m["role"], m["content"]) for m in inputs.rows[i]["messages"]])[:12]


def test_a_run_has_the_selection_in_order(run: Run, inputs: Inputs) -> None:
    table = parquet.read_table(run.folder / "selection.parquet").to_pydict()
    assert len(run) == len(run.ids) == 5
    assert run.ids == table["id"]
    assert run.scores.dtype == np.float64
    assert run.scores.tolist() == table["score"]
    assert run.nearest_target == table["nearest_target"]
    assert list(run) == run.rows
    assert all(row in inputs.rows for row in run)
    assert run.report.is_file()
    best, second = run.head(2)
    assert (best.rank, best.id, best.score, best.row) == (1, run.ids[0], run.scores[0], run.rows[0])
    assert second.rank == 2
    assert [len(run.head(n)) for n in (-1, 0, 99)] == [0, 0, 5]
    for wrong in ("two", 2.0, None, True):
        for ask in (run.head, run.rejected):
            with pytest.raises(ConfigError, match="n cannot be"):
                ask(wrong)  # pyright: ignore[reportArgumentType]


def test_its_repr_is_one_short_line(run: Run) -> None:
    assert repr(run) == f"Run(5 of 30 rows, bm25 + round-robin, '{run.folder}')"


def test_it_becomes_a_frame_and_a_dataset(run: Run) -> None:
    frame = run.to_frame()
    assert frame["id"].tolist() == run.ids
    assert frame["rank"].tolist() == [1, 2, 3, 4, 5]
    assert run.to_dataset().to_list() == run.rows


def test_rows_of_several_formats_become_a_dataset_with_all_their_keys(inputs: Inputs) -> None:
    mixed = [{"prompt": "Add 7 and 9.", "completion": "16", "n": 1}, *inputs.rows[:2]]
    run = siftune.select(pool=mixed, **{**inputs.text_search, "budget": "100%"}, format="mixed")
    assert set(run.to_dataset().column_names) == {"prompt", "completion", "n", "messages", "subtask"}
    clashing = siftune.select(pool=[{**mixed[0], "n": "one"}, {**mixed[1], "n": 2}, {**mixed[2], "n": [3]}],
                              **{**inputs.text_search, "budget": "100%"}, format="mixed")
    with pytest.raises(SiftuneError, match="do not fit into one table"):
        clashing.to_dataset()


def test_rejected_rows_come_closest_first(run: Run) -> None:
    first, second = run.rejected(2)
    assert first["rank"] == 6
    assert first["score"] >= second["score"]
    assert first["id"] not in run.ids


def test_a_selected_row_is_explained_by_its_rank_and_its_targets(run: Run, inputs: Inputs) -> None:
    told = run.explain(run.ids[1])
    assert (told.status, told.rank, told.would_rank) == ("selected", 2, None)
    assert told.similarities is not None
    assert set(told.similarities) == {target["id"] for target in inputs.targets}
    assert told.nearest[0].similarity == max(told.similarities.values()) == told.score
    assert told.nearest[0].text == next(t["messages"][0]["content"] for t in inputs.targets
                                        if t["id"] == told.nearest[0].id)
    assert f"{run.ids[1]}: selected; rank 2 of 5, taken for {run.nearest_target[1]}" in str(told)


def test_a_row_that_was_not_selected_is_explained_by_where_it_would_come(run: Run) -> None:
    for row in run.rejected(4):
        told = run.explain(row["id"])
        assert (told.status, told.would_rank, told.score) == ("not selected", row["rank"], row["score"])
        assert f"rank {row['rank']}" in told.reason


def test_rows_that_could_not_be_selected_are_explained_by_the_reason(run: Run, inputs: Inputs) -> None:
    [dropped] = [json.loads(line) for line in (run.folder / "dropped.jsonl").read_text().splitlines()]
    told = run.explain(dropped["id"])
    assert told.status == "left out"
    assert "no-assistant-turn" in str(told)
    banned = run.explain("pool:0:" + _key(inputs, 0))
    assert banned.status == "left out"
    assert "must not be selected" in banned.reason
    with pytest.raises(SiftuneError, match="unknown row of the pool 'pool:1:x'"):
        run.explain("pool:1:x")


def test_a_near_duplicate_is_explained_by_the_row_that_was_taken(inputs: Inputs) -> None:
    twins = [{**row, "id": f"{name}{i}"} for i, row in enumerate(inputs.rows) for name in "ab"]
    run = siftune.select(pool=twins, **inputs.text_search, near_duplicates=0.9)
    taken = run.ids[0]
    told = run.explain(("b" if taken[0] == "a" else "a") + taken[1:])
    assert told.status == "not selected"
    assert told.reason == f"it is a near-duplicate of {taken}, which is selected"


def test_rows_are_explained_for_methods_without_targets_or_scores_too(inputs: Inputs, tmp_path: Path) -> None:
    rest = {"pool": inputs.rows, "model": inputs.model, "budget": 4}
    drawn = siftune.select(**rest, method="random", output_dir=tmp_path / "random")
    every = parquet.read_table(drawn.folder / "scores.parquet")["id"].to_pylist()
    other = next(row_id for row_id in every if row_id not in drawn.ids)
    for run in (drawn, siftune.load_run(drawn.folder)):
        assert run.explain(run.ids[2]).rank == 3
        assert run.explain(other).score is run.explain(other).would_rank is None
        assert "no score" in run.explain(other).reason
        assert run.rejected(3) == []
    hardest = siftune.select(**rest, method="loss", output_dir=tmp_path / "loss")
    nearly = hardest.rejected(1)[0]
    for run in (hardest, siftune.load_run(hardest.folder)):
        told = run.explain(nearly["id"])
        assert (told.score, told.would_rank, told.nearest) == (nearly["score"], 5, ())


def test_rows_that_the_method_rules_out_are_explained_by_its_reason(inputs: Inputs) -> None:
    run = siftune.select(pool=inputs.rows, model=inputs.model, method="ifd", budget=4)
    out = [json.loads(line) for line in (run.folder / "dropped.jsonl").read_text().splitlines()]
    assert out  # a random model finds that prompts do not help
    told = run.explain(out[0]["id"])
    assert (told.status, told.reason) == ("left out", f"{out[0]['reason']}: ruled out by ifd")


def test_a_loaded_run_says_the_same(run: Run) -> None:
    loaded = siftune.load_run(run.folder)
    assert repr(loaded) == repr(run)
    assert (loaded.ids, loaded.rows, loaded.nearest_target) == (run.ids, run.rows, run.nearest_target)
    assert loaded.scores.tolist() == run.scores.tolist()
    assert (loaded.head(3), loaded.rejected(3)) == (run.head(3), run.rejected(3))
    made, read = run.explain(run.ids[0]), loaded.explain(run.ids[0])
    assert (made.status, made.rank, made.score, made.nearest[0]) == (read.status, read.rank, read.score,
                                                                     read.nearest[0])
    other = run.rejected(1)[0]
    assert loaded.explain(other["id"]).status == "not selected"


def test_a_folder_that_is_no_finished_run_is_not_loaded(run: Run, tmp_path: Path) -> None:
    for damage, say in ((lambda f: shutil.rmtree(f), "no such run folder"),
                        (lambda f: (f / "manifest.json").unlink(), "has not finished"),
                        (lambda f: (f / "manifest.json").write_text("{}"), "not as siftune writes it"),
                        (lambda f: (f / "selected.jsonl").write_text("{}\n"), "do not belong together"),
                        (lambda f: (f / "selected.jsonl").write_text("{\n"), "not JSON"),
                        (lambda f: (f / "selection.parquet").write_text("x"), "selection.parquet is not a")):
        folder = Path(shutil.copytree(run.folder, tmp_path / "copy", dirs_exist_ok=True))
        damage(folder)
        with pytest.raises(SiftuneError, match=say):
            siftune.load_run(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SiftuneError, match="not a run folder"):
        siftune.load_run(tmp_path / "empty")


def test_a_temporary_folder_lives_as_long_as_the_result(inputs: Inputs) -> None:
    run = siftune.select(pool=inputs.rows, **inputs.text_search)
    folder, ids = run.folder, run.ids
    assert folder.is_dir()
    with pytest.raises(SiftuneError, match="temporary folder"):
        siftune.export(run, to="trl")
    other = siftune.select(from_run=run, budget=3)
    del run
    gc.collect()
    assert folder.is_dir()  # the other run's features may be in it
    assert other.ids == ids[:3]
    others = other.folder
    del other
    gc.collect()
    assert not folder.exists()
    assert not others.exists()


def test_nothing_is_left_of_a_call_that_fails(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SiftuneError):
        siftune.select(pool=inputs.rows, **{**inputs.text_search, "budget": 10**6})
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_exported_by_object_or_folder(run: Run, tmp_path: Path) -> None:
    for number, given in enumerate((run, run.folder, str(run.folder))):
        written = siftune.export(given, to="trl", output=tmp_path / str(number))
        assert written.rows == 5
        assert str(written.files[0]) in str(written)
    from siftune import export  # the package of that name has been imported by now, and means the same
    from siftune.export import trainers

    assert trainers.write_trl
    assert export(run, "jsonl", tmp_path / "b").rows == 5


def test_plans_and_inspections_are_texts(inputs: Inputs) -> None:
    assert "bm25 + round-robin" in str(siftune.plan(pool=inputs.rows, **inputs.text_search))
    found = siftune.inspect([*inputs.rows, {"messages": []}], model=inputs.model, show=1)
    assert (found.stats.rows, found.stats.dropped) == (30, 1)
    assert repr(found) == "Inspection(30 usable rows, 1 that cannot be used)"
    assert "no-assistant-turn" in str(found)
    assert "[[The answer is 2." in str(found)


def test_the_front_door_has_these_names_and_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    assert set(siftune.__all__) == {
        "select", "encode", "compare", "choose", "study", "plan", "inspect", "export", "load_run", "Problem",
        "Selection", "LessCheckpoints", "Budget", "SelectConfig", "CompareConfig", "SiftuneError", "__version__"}
    assert all(getattr(siftune, name) is not None for name in siftune.__all__)
    code = ("import sys, siftune; assert not {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules); "
            "siftune.select, siftune.plan; assert not {'torch', 'transformers', 'pyarrow'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("what", [None, {}, 5])
def test_a_study_of_a_wrong_type_says_what_is_expected(what: object) -> None:
    with pytest.raises(SiftuneError, match="a study is not made from") as caught:
        siftune.study(what)  # type: ignore[arg-type]
    assert "study file" in (caught.value.hint or "")


def test_an_unknown_row_of_a_large_pool_is_told_in_a_hint_of_bounded_length() -> None:
    from siftune._common.registry import unknown_name

    hint = unknown_name("row", "?", [f"row-{i}" for i in range(10_000)]).hint or ""
    assert hint.endswith("... (10,000 in all)")
    assert len(hint) < 1000
