from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siftune._common.artefacts import sealed, working_in
from siftune._common.errors import DataError
from siftune.config.settings import DataConfig
from siftune.data import collect, pool_cache, rendering, stored
from siftune.data.load import Inputs, load_inputs
from siftune.data.readers import read_sources
from siftune.data.rows import Examples, Row, column, content_of, conversation_of
from siftune.data.stored import StoredRows
from siftune.data.text.rows import (
    conversation_text,
    conversation_texts,
    digest_of,
    first_same_text,
    text_digests,
    text_key,
)
from siftune.pipeline import inspection
from tests import tiny
from tests.data.samples import jsonl, record

CASES = Path(__file__).parent / "cases"


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows are so many that they are kept in a file, in batches of three."""
    monkeypatch.setattr(collect, "MANY", 5)
    monkeypatch.setattr(stored, "BATCH_ROWS", 3)
    monkeypatch.setattr(rendering, "BLOCK", 4)


def records(count: int, named: bool = True) -> list[dict[str, Any]]:
    """Some with a group, a subtask, a system turn; some twice but for a letter's case; one too long for the limit."""
    made = []
    for i in range(count):
        one = record("messages", f"question {i % 9}" if i != 4 else "long " * 200, f"answer {i}<|im_end|>é")
        if i % 3 == 0:
            one["group"] = f"g{i % 2}"
        if i % 4 == 0:
            one["subtask"] = "s"
        if i % 5 == 0:
            one["messages"].insert(0, {"role": "system", "content": "Be brief."})
        made.append({"id": f"r{i}", **one} if named else one)
    return made


def plain(rows: Any) -> list[Row]:
    return list(rows)


@pytest.mark.parametrize("case", [
    "toolcalls_text.jsonl", "tools_sharegpt.jsonl", "reasoning_content.jsonl", "weight0.jsonl", "thinking_field.jsonl",
    "union.parquet", "toolcalls_null.jsonl", "p.jsonl.zst"])
def test_rows_in_a_file_are_the_rows_that_were_read(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = read_sources([CASES / case], role="pool", format="mixed")
    monkeypatch.setattr(collect, "MANY", 1 if len(listed.rows) > 1 else 0)
    monkeypatch.setattr(stored, "BATCH_ROWS", 2)
    found = read_sources([CASES / case], role="pool", format="mixed")
    assert isinstance(found.rows, StoredRows)
    assert plain(found.rows) == listed.rows
    assert (found.dropped, found.sources) == (listed.dropped, listed.sources)
    for row in listed.rows:
        assert conversation_of(content_of(row.messages, row.tools)) == (row.messages, row.tools)


@pytest.mark.parametrize("many", [0, 1, 7, 12, 19])
@pytest.mark.parametrize("id_field", ["auto", "none"])
def test_where_many_rows_begin_decides_nothing(many: int, id_field: str, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps(one) for one in records(12)]
    lines[3] = "{broken"
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    jsonl(tmp_path / "b.jsonl", *records(8, named=False))
    how: dict[str, Any] = {"role": "pool", "bad_rows": "drop", "id_field": id_field}
    listed = read_sources([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], **how)
    monkeypatch.setattr(collect, "MANY", many)
    monkeypatch.setattr(stored, "BATCH_ROWS", 3)
    found = read_sources([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], **how)
    assert isinstance(found.rows, StoredRows) == (many < 19)
    assert plain(found.rows) == listed.rows
    assert (found.dropped, found.sources) == (listed.dropped, listed.sources)
    rows = found.rows
    order = np.array([3, 3, 0, 18, 7])
    for name in ("id", "source", "where", "raw", "content_hash", "format", "subtask", "group"):
        assert column(rows, name) == column(listed.rows, name)
        assert column(rows[2:9:3], name) == column(listed.rows[2:9:3], name)
    if isinstance(rows, StoredRows):
        for some, expected in ((rows.take(order), [listed.rows[i] for i in order]), (rows[::-1], listed.rows[::-1]),
                               (rows[4:9][1:3], listed.rows[5:7]), (rows[5:5], []),
                               (pickle.loads(pickle.dumps(rows[6:])), listed.rows[6:])):
            assert plain(some) == expected
            assert [some[i] for i in range(-len(some), len(some))] == [*expected, *expected]
            assert list(some.conversations()) == [(row.messages, row.tools) for row in expected]
        with pytest.raises(IndexError):
            rows[len(rows)]


def test_two_rows_of_one_id_are_refused_where_rows_are_many(few_are_many: None, tmp_path: Path) -> None:
    jsonl(tmp_path / "p.jsonl", *records(12), *records(9)[8:])
    with pytest.raises(DataError, match="the id 'r8'") as error:
        read_sources([tmp_path / "p.jsonl"], role="pool")
    assert error.value.where == f"{tmp_path / 'p.jsonl'}:13"
    assert f"{tmp_path / 'p.jsonl'}:9" in str(error.value.why)


def test_nothing_is_left_behind_by_a_reading_that_fails(few_are_many: None, tmp_path: Path) -> None:
    pool = jsonl(tmp_path / "p.jsonl", *records(12), {"prompt": "another format", "completion": "x"})
    with pytest.raises(DataError, match="prompt-completion"):
        read_sources([pool], role="pool", folder=tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())
    jsonl(pool, *records(12), {"nothing": "known"})
    with pytest.raises(DataError, match="cannot be used"):
        read_sources([pool], role="pool", folder=tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


def same(a: Inputs, b: Inputs) -> None:
    """Everything that a run works on is equal."""
    for x, y in ((a.pool, b.pool), (a.target, b.target), (a.test, b.test)):
        assert plain(x.rows) == plain(y.rows)
        assert [(r.ids.tolist(), r.mask.tolist(), r.cut_tokens) for r in x.rendered] == \
            [(r.ids.tolist(), r.mask.tolist(), r.cut_tokens) for r in y.rendered]
        for name in ("ids", "dropped", "unmatched_turns", "special_tokens_in_content", "truncated"):
            assert getattr(x, name) == getattr(y, name), name
        assert x.supervised.tolist() == y.supervised.tolist()
        texts = [conversation_text(row) for row in plain(y.rows)]
        assert list(conversation_texts(x.rows)) == texts
        assert [bytes(one) for one in text_digests(x.rows)] == [digest_of(text) for text in texts]
        assert first_same_text(x.rows).tolist() == [texts.index(text) for text in texts]
        assert text_key(x.rows) == text_key(plain(y.rows))
    assert plain(a.overlaps.pool) == plain(b.overlaps.pool)
    for name in ("dropped", "in_test", "in_target", "same_prompt"):
        assert getattr(a.overlaps, name) == getattr(b.overlaps, name), name
    for name in ("pool_rows", "dropped", "render", "warnings", "sources"):
        assert getattr(a, name) == getattr(b, name), name


class Counting:
    """How often the sources were read, and how many rows rendered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.read = self.rendered = 0
        real = collect.SourceRows.add
        monkeypatch.setattr(collect.SourceRows, "add", lambda rows, one: (self._saw(), real(rows, one))[1])
        block = rendering.render_block
        monkeypatch.setattr(rendering, "render_block",
                            lambda *given, **how: (self._rendered(given[1]), block(*given, **how))[1])

    def _saw(self) -> None:
        self.read += 1

    def _rendered(self, some: Any) -> None:
        self.rendered += len(some)

    @property
    def since(self) -> tuple[int, int]:
        """Rows read and rendered since this was asked last."""
        found = self.read, self.rendered
        self.read = self.rendered = 0
        return found


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


def config(folder: Path, **more: Any) -> DataConfig:
    return DataConfig(pool=(str(folder / "p.jsonl"),), max_length=100, bad_rows="drop", **more)


def load(how: DataConfig, run: Path | None = None, **changes: Any) -> Inputs:
    tokenizer = tiny.tokenizer()
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    if run is None:
        return load_inputs(how, tokenizer)
    with working_in(run):
        return load_inputs(how, tokenizer, runs=(run,))


@pytest.mark.parametrize("overlap", ["drop", "error"])
def test_a_large_pool_gives_the_inputs_of_a_small_one_when_it_is_read_and_when_it_is_kept(
        overlap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = records(20)
    jsonl(tmp_path / "p.jsonl", *pool)
    target = [record("messages", "QUESTION  2!", "answer 2<|im_end|>é"), record("messages", "t", "t")]
    jsonl(tmp_path / "t.jsonl", *target)
    jsonl(tmp_path / "e.jsonl", *([pool[6]] if overlap == "drop" else []), record("messages", "question 3", "other"),
          record("messages", "", "x"))
    how = config(tmp_path, overlap=overlap, target=(str(tmp_path / "t.jsonl"),), test=(str(tmp_path / "e.jsonl"),))
    expected = load(how)
    assert expected.overlaps.same_prompt
    assert len(expected.overlaps.dropped) == (2 if overlap == "drop" else 0)
    monkeypatch.setattr(collect, "MANY", 5)
    monkeypatch.setattr(stored, "BATCH_ROWS", 3)
    monkeypatch.setattr(rendering, "BLOCK", 4)
    same(load(how), expected)  # nowhere to be kept
    count = Counting(monkeypatch)
    same(load(how, tmp_path / "run"), expected)
    assert count.since == (20 + len(target) + (3 if overlap == "drop" else 2), 20 + 2 + (3 if overlap == "drop" else 2))
    same(load(how, tmp_path / "run"), expected)
    assert count.since[0] <= 5, "the pool was read again"


def test_what_is_kept_is_read_once_and_only_as_long_as_nothing_has_changed(
        few_are_many: None, counting: Counting, tmp_path: Path) -> None:
    jsonl(tmp_path / "p.jsonl", *records(20))
    run = tmp_path / "run"
    first = load(config(tmp_path), run)
    assert counting.since == (20, 20)
    assert sorted(path.name for path in (run / "pool").iterdir() if not path.name.endswith(".note.json")) == [
        "ids.bin", "mask.bin", "rendering.bin", "rows.arrow"]
    same(load(config(tmp_path), run), first)
    assert counting.since == (0, 0)
    assert load(DataConfig(pool=config(tmp_path).pool, max_length=50, bad_rows="drop"), run).render != first.render
    assert counting.since == (0, 20)  # another length: rendered again, not read again
    load(config(tmp_path), run, chat_template=tiny.CHATML.replace("\n", "\t"))
    assert counting.since == (0, 20)
    assert column(load(config(tmp_path, id_field="none"), run).pool.rows, "id") != first.pool.ids
    assert counting.since[0] == 20
    jsonl(tmp_path / "p.jsonl", *records(20)[1:])
    assert load(config(tmp_path), run).pool.ids == first.pool.ids[1:]
    assert counting.since == (19, 19)


def test_rows_that_cannot_be_used_are_refused_from_what_is_kept_as_well(
        few_are_many: None, counting: Counting, tmp_path: Path) -> None:
    jsonl(tmp_path / "p.jsonl", *records(12), {"nothing": "known"})
    load(config(tmp_path), tmp_path / "run")
    strict = DataConfig(pool=config(tmp_path).pool, max_length=100)
    with pytest.raises(DataError, match="1 of 13 pool rows cannot be used") as fresh:
        load(strict)
    assert counting.since[0] == 26
    with pytest.raises(DataError) as kept:
        load(strict, tmp_path / "run")
    assert counting.since[0] == 0
    assert str(kept.value) == str(fresh.value)


@pytest.mark.parametrize("name", ["rows.arrow", "ids.bin", "mask.bin", "rendering.bin", "rows.arrow.note.json",
                                  "rendering.bin.note.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone", "folder"])
def test_what_is_damaged_is_made_again(name: str, how: str, few_are_many: None, tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    jsonl(tmp_path / "p.jsonl", *records(20))
    run = tmp_path / "run"
    first = load(config(tmp_path), run)
    path = run / "pool" / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if how == "flip":
        at = random.Random(name).randrange(len(content) // 4, 3 * len(content) // 4)
        content[at] ^= 1
        path.write_bytes(bytes(content))
    elif how == "cut":
        path.write_bytes(bytes(content[:-20]))
    elif how == "folder":
        path.mkdir()
    capsys.readouterr()
    sealed._told.clear()
    same(load(config(tmp_path), run), first)
    if not (how == "gone" and name.endswith("note.json")):
        assert "was damaged" in capsys.readouterr().err
    assert path.is_file()


def test_who_does_not_hold_the_folder_reads_what_is_kept_and_writes_nothing(
        few_are_many: None, counting: Counting, tmp_path: Path) -> None:
    jsonl(tmp_path / "p.jsonl", *records(20))
    run = tmp_path / "run"
    first = load_inputs(config(tmp_path), tiny.tokenizer(), runs=(run,))
    assert not run.exists()
    load(config(tmp_path), run)
    assert counting.since == (40, 40)
    same(load_inputs(config(tmp_path), tiny.tokenizer(), runs=(run,)), first)
    assert counting.since == (0, 0)


def test_a_pool_that_changes_while_it_is_read_is_not_kept(few_are_many: None, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    path = jsonl(tmp_path / "p.jsonl", *records(20))
    real = pool_cache._key_of
    keys = iter([real, lambda *given: (path.write_text(path.read_text() + " \n"), real(*given))[1]])
    monkeypatch.setattr(pool_cache, "_key_of", lambda *given: next(keys)(*given))
    assert len(load(config(tmp_path), tmp_path / "run").pool) == 19
    assert not (tmp_path / "run" / "pool" / "rows.arrow").exists()
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_inspect_says_the_same_of_a_large_pool(few_are_many: None, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl(tmp_path / "p.jsonl", *records(20))
    monkeypatch.setattr(collect, "MANY", 1000)
    expected = inspection.inspect(config(tmp_path), "embedded")
    monkeypatch.setattr(collect, "MANY", 5)
    with working_in(tmp_path / "run"):
        for run in (None, tmp_path / "run", tmp_path / "run"):
            found = inspection.inspect(config(tmp_path), "embedded", run=run)
            assert isinstance(found.examples.rows, StoredRows)
            assert found.stats == expected.stats
            assert str(found) == str(expected)


def test_what_is_taken_of_examples_in_files_is_what_is_taken_of_lists(few_are_many: None, tmp_path: Path) -> None:
    jsonl(tmp_path / "p.jsonl", *records(20))
    whole = load(config(tmp_path)).pool
    places = np.array([7, 0, 7, 18])
    listed = Examples(plain(whole.rows), list(whole.rendered)).take(places)
    part = whole.take(places)
    assert plain(part.rows) == listed.rows
    assert part.tokens.tolist() == listed.tokens.tolist()
    sent = pickle.loads(pickle.dumps(part.rendered))
    assert [r.ids.tolist() for r in sent] == [r.ids.tolist() for r in listed.rendered]


def test_a_tokenizer_whose_own_code_has_changed_renders_again(
        few_are_many: None, counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    jsonl(tmp_path / "p.jsonl", *records(20))
    load(config(tmp_path), tmp_path / "run")
    assert counting.since == (20, 20)
    real = type(tiny.tokenizer()).apply_chat_template
    monkeypatch.setattr(type(tiny.tokenizer()), "apply_chat_template",
                        lambda *given, **how: real(*given, **how).replace("question", "riddle"))
    changed = load(config(tmp_path), tmp_path / "run")
    assert counting.since == (0, 20)
    assert "otherwise than before" in capsys.readouterr().err
    same(changed, load(config(tmp_path)))


def test_a_run_that_goes_on_from_another_reads_its_pool_and_keeps_its_own_if_it_is_another(
        few_are_many: None, counting: Counting, tmp_path: Path) -> None:
    jsonl(tmp_path / "p.jsonl", *records(20))
    first, second = tmp_path / "first", tmp_path / "second"
    load(config(tmp_path), first)
    assert counting.since == (20, 20)

    def onward() -> Inputs:
        with working_in(second):
            return load_inputs(config(tmp_path), tiny.tokenizer(), runs=(second, first))

    onward()
    assert counting.since == (0, 0)
    assert not (second / "pool").exists()
    jsonl(tmp_path / "p.jsonl", *records(21))
    assert len(onward().pool) == 20  # one is too long
    assert counting.since == (21, 21)
    onward()
    assert counting.since == (0, 0)
    jsonl(tmp_path / "p.jsonl", *records(20))
    load(config(tmp_path), first)
    assert counting.since == (0, 0), "the first run has lost what it kept"
