"""Objects in: whatever holds the rows, the selection is that of a file with them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import siftune
from siftune import SelectConfig, SiftuneError
from siftune.config.settings import load
from siftune.experiments.finished import Experiment
from tests.api.conftest import Inputs
from tests.cli.pools import records

KINDS: dict[str, Callable[[Inputs], Any]] = {
    "a list of dicts": lambda i: i.rows,
    "a tuple of dicts": lambda i: tuple(i.rows),
    "a path": lambda i: i.pool,
    "a path as text": lambda i: str(i.pool),
    "a list of a path": lambda i: [i.pool],
    "a Dataset": lambda i: datasets.Dataset.from_list(i.rows),
    "a formatted Dataset": lambda i: datasets.Dataset.from_list(i.rows).with_format("numpy"),
    "a DatasetDict of one split": lambda i: datasets.DatasetDict(train=datasets.Dataset.from_list(i.rows)),
    "a DataFrame": lambda i: pd.DataFrame(i.rows),
    "a filtered DataFrame": lambda i: pd.DataFrame([*i.rows, i.rows[0]]).iloc[:-1].sample(frac=1, random_state=0)
    .sort_index(),
    "a Table": lambda i: pa.Table.from_pylist(i.rows),
}


@pytest.fixture(scope="module")
def from_file(inputs: Inputs) -> siftune.api.Run:
    return siftune.select(pool=inputs.pool, **inputs.text_search)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pool_gives_the_selection_of_the_file(
        kind: str, inputs: Inputs, from_file: siftune.api.Run) -> None:
    run = siftune.select(pool=KINDS[kind](inputs), **inputs.text_search)
    assert run.ids == from_file.ids
    assert run.rows == from_file.rows == [inputs.rows[int(i.split(":")[1])] for i in run.ids]
    assert run.scores.tolist() == from_file.scores.tolist()
    assert run.nearest_target == from_file.nearest_target


def test_targets_and_existing_rows_may_be_objects_too(inputs: Inputs, from_file: siftune.api.Run) -> None:
    run = siftune.select(pool=inputs.rows, **{**inputs.text_search, "target": pd.DataFrame(inputs.targets)},
                         existing=datasets.Dataset.from_list(inputs.rows[:3]),
                         test=records("messages", range(200, 202)))
    assert run.ids == from_file.ids
    assert run.manifest["data"]["test_rows"] == 2


def test_several_sources_keep_their_order_and_are_told_apart(inputs: Inputs) -> None:
    run = siftune.select(pool=[inputs.rows[:10], inputs.pool, pa.Table.from_pylist(inputs.rows[10:])],
                         **{**inputs.text_search, "budget": "100%"})
    sources = [source["name"] for source in run.manifest["data"]["sources"]]
    assert sources == ["pool-1", "pool", "pool-2"]
    assert len(run) == 60


def test_an_index_with_a_name_is_a_column_and_one_without_is_not(inputs: Inputs) -> None:
    frame = pd.DataFrame(inputs.rows).assign(id=[f"own-{i}" for i in range(len(inputs.rows))])
    run = siftune.select(pool=frame.set_index("id"), **inputs.text_search)
    assert all(i.startswith("own-") for i in run.ids)
    numbered = frame.drop(columns="id")
    numbered.index = pd.Index([f"own-{i}" for i in range(len(frame))])
    run = siftune.select(pool=numbered, **inputs.text_search)
    assert all(i.startswith("pool:") for i in run.ids)
    assert set(run.rows[0]) == {"messages", "subtask"}


def test_missing_values_of_a_frame_become_null_and_numpy_values_plain_ones(inputs: Inputs) -> None:
    frame = pd.DataFrame(inputs.rows)
    frame["weight"] = [1.5, np.nan] * 15
    frame["tags"] = [np.array([1, 2])] * 30
    frame["when"] = pd.to_datetime(["2024-01-02", None] * 15)
    frame["count"] = pd.array([1, None] * 15, dtype="Int64")
    run = siftune.select(pool=frame, **{**inputs.text_search, "budget": "100%"})
    found = {int(i.split(":")[1]): row for i, row in zip(run.ids, run.rows, strict=True)}
    told = ("weight", "tags", "when", "count")
    assert [found[0][name] for name in told] == [1.5, [1, 2], "2024-01-02T00:00:00", 1]
    assert [found[1][name] for name in told] == [None, [1, 2], None, None]


def test_rows_come_back_with_every_digit_and_character(inputs: Inputs) -> None:
    rows = [{**row, "extra": {"x": 0.1 + 0.2, "big": 10**25, "text": "\u2028 naïve \U0001f600", "none": None}}
            for row in inputs.rows]
    assert siftune.select(pool=rows, **inputs.text_search).rows[0]["extra"] == rows[0]["extra"]


def test_the_run_folder_replays_and_a_second_call_writes_nothing_new(inputs: Inputs, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = siftune.select(pool=inputs.rows, **inputs.text_search, output_dir=folder)
    [written] = folder.glob("inputs/*/pool.jsonl")
    assert [json.loads(line) for line in written.read_text().splitlines()] == inputs.rows
    before = written.stat().st_mtime_ns
    again = siftune.select(pool=pd.DataFrame(inputs.rows), **inputs.text_search, output_dir=folder)
    assert (again.ids, written.stat().st_mtime_ns) == (run.ids, before)
    config = load(SelectConfig, folder / "config.yaml", {"output_dir": str(tmp_path / "replayed")})
    assert siftune.select(config).ids == run.ids
    written.write_text(written.read_text().replace("letters", "leaves"))  # damaged: made again, not used
    assert siftune.select(pool=inputs.rows, **inputs.text_search, output_dir=folder).ids == run.ids
    assert [json.loads(line) for line in written.read_text().splitlines()] == inputs.rows


def refused(say: str, hint: str, **given: Any) -> SiftuneError:
    with pytest.raises(SiftuneError, match=say) as error:
        siftune.select(**given)
    assert hint in (error.value.hint or ""), error.value.hint
    return error.value


@pytest.mark.parametrize(("pool", "say", "hint"), [
    (5, "pool cannot be a int", "list of dicts"),
    (b"pool.jsonl", "pool cannot be a bytes", "path"),
    ([], "pool is an empty list", "list of dicts"),
    ({"prompt": "a", "completion": "b"}, "pool is a dict", "put the row into a list"),
    ({"prompt": ["a"], "completion": ["b"]}, "pool is a dict", "Dataset.from_dict"),
    ((row for row in [{}]), "can be read only once", "pool=list(rows)"),
    ([{"prompt": "a", "completion": "b"}, "pool.jsonl"], "mixes rows with other things", "must be a dict"),
    (["pool.jsonl", {"prompt": "a", "completion": "b"}], "mixes rows with other things", "pool=[path, rows]"),
    ([5], r"pool\[0\] cannot be a int", "path"),
    ([[1, 2]], r"pool\[0\] is a list of something other than dicts", "list of dicts"),
    ([{"prompt": "a", "completion": "b", "more": {1: 2}}], "the key 1 is no text", "with a text"),
    ([{"prompt": "a", "completion": {"b"}}], "there is a set in a row", "lists and dicts"),
    (pd.DataFrame({"prompt": [], "completion": []}), "there is no row in pool", "at least one"),
    (pd.DataFrame([["a", "b"]]), "the column 0 has no text", "name every column"),
    (pd.DataFrame([["a", "b"]], columns=["prompt", "prompt"]), "two columns 'prompt'", "name of its own"),
    (datasets.DatasetDict(a=datasets.Dataset.from_dict({}), b=datasets.Dataset.from_dict({})), "has several splits",
     "pool=dataset['a']"),
    ("no-such-file.jsonl", "no such file", "check the path"),  # one file, not its letters
])
def test_what_cannot_be_a_pool_is_refused_with_what_can(pool: Any, say: str, hint: str, inputs: Inputs) -> None:
    refused(say, hint, pool=pool, **inputs.text_search)


def test_a_wrong_row_is_named_as_the_program_knows_it(inputs: Inputs) -> None:
    wrong = [*inputs.rows[:3], {"messages": [{"role": "user", "content": "?"}]}]
    assert refused("no-assistant-turn", "", pool=wrong, **inputs.text_search).where == "pool[3]"
    assert refused("no-assistant-turn", "", pool=pd.DataFrame(wrong), **inputs.text_search).where == "pool.iloc[3]"
    assert refused("no-assistant-turn", "", pool=[inputs.pool, wrong], **inputs.text_search).where == "pool[1][3]"
    deep = [*inputs.rows, {"messages": inputs.rows[0]["messages"], "when": [datetime.date(2024, 1, 2), object()]}]
    assert refused("a object in a row", "", pool=deep, **inputs.text_search).where == "pool[30]['when'][1]"


def test_settings_are_checked_before_anything_is_written(inputs: Inputs, tmp_path: Path) -> None:
    error = refused("unknown setting 'lora_rnak'", "lora_rank", pool=inputs.rows, **inputs.text_search, lora_rnak=4,
                    output_dir=tmp_path / "run")
    assert error.where is None
    assert not (tmp_path / "run").exists()
    refused("given twice", "the one or the other", config=SelectConfig(), pool=inputs.rows)
    with pytest.raises(SiftuneError, match="first argument cannot be a list"):
        siftune.select(inputs.rows)  # type: ignore[arg-type]
    refused("no pool is named", "", target=inputs.targets, model=inputs.model)


def test_budgets_may_be_numbers_shares_or_budgets(inputs: Inputs) -> None:
    rest = {**inputs.text_search, "pool": inputs.rows}
    for budget, rows in ((3, 3), (np.int64(3), 3), ("10%", 3), (siftune.Budget.parse("4"), 4)):
        assert len(siftune.select(**{**rest, "budget": budget})) == rows
    refused("ambiguous", "5%", **{**rest, "budget": 0.05})


@pytest.mark.parametrize("wrong", [3, ["runs/a"], object()])
def test_only_a_folder_or_a_run_can_be_gone_on_from(wrong: Any) -> None:
    refused("--from cannot be", "siftune.select", from_run=wrong)


def test_only_a_path_can_be_loaded() -> None:
    with pytest.raises(SiftuneError, match="cannot be a int"):
        siftune.load_run(5)  # type: ignore[arg-type]


def test_the_result_of_a_comparison_can_be_gone_on_from(inputs: Inputs, tmp_path: Path) -> None:
    made = siftune.select(**inputs.text_search, pool=inputs.rows, output_dir=tmp_path / "run")
    finished = Experiment(tmp_path / "run/comparison.json", None)  # type: ignore[arg-type]
    again = siftune.select(from_run=finished, output_dir=tmp_path / "again")
    assert again.ids == made.ids
