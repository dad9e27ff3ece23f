"""What a trainer makes of an export, compared with what was scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.errors import ConfigError, SiftuneError
from siftune.data.render import Renderer
from siftune.data.rows import Message, Rendered, Row
from siftune.export import export
from siftune.export.alignment import aligned
from siftune.export.check import check_export, check_exports, compare
from siftune.export.scored import Scored, score
from siftune.export.selected import read_selected
from siftune.export.tokens import write_tokens
from siftune.export.trainers import write_trl
from siftune.export.written import Written
from tests import tiny
from tests.cli.command import siftune
from tests.export.runs import CHATS, MARKED, MAX_LENGTH, UNTRAINED, lines, make_model, make_run


def scored(records: int = 3) -> Scored:
    """Rows of ids 10, 11, ... of which the last two tokens are supervised."""
    rendered = [Rendered(np.array([10 * (i + 1) + t for t in range(5)], np.int32), np.arange(5) > 2)
                for i in range(records)]
    rows = [Row(f"r{i}", "pool", "pool:1", (Message("user", "x"),), "{}", "", "messages")
            for i in range(records)]
    return Scored("tiny", Renderer(tiny.tokenizer(), max_length=8), rows, rendered, [])


def made(one: Scored) -> list[dict[str, Any]]:
    return [{"id": row.id, "input_ids": rendered.ids.tolist(), "labels": one.labels(i)}
            for i, (row, rendered) in enumerate(zip(one.rows, one.rendered, strict=True))]


@pytest.mark.parametrize("ids", [True, False])
def test_what_differs_is_told_with_its_first_token(ids: bool) -> None:
    ours = scored()

    def told(change: Any) -> list[tuple[str, str]]:
        rows = made(ours)
        change(rows)
        if not ids:
            rows = [{name: row[name] for name in ("input_ids", "labels")} for row in rows]
        return [(one.id, one.kind) for one in compare(ours, rows)]

    assert told(lambda rows: None) == []
    assert told(lambda rows: rows[1]["labels"].__setitem__(2, 22)) == [("r1", "mask")]
    assert told(lambda rows: rows[1]["labels"].__setitem__(4, -100)) == [("r1", "mask")]
    assert told(lambda rows: rows[2]["labels"].__setitem__(0, 30)) == []  # no token predicts the first
    assert told(lambda rows: rows[0]["input_ids"].__setitem__(1, 9)) == [("r0", "ids")]
    assert told(lambda rows: (rows[0]["input_ids"].append(5), rows[0]["labels"].append(5))) == [("r0", "ids")]
    assert told(lambda rows: rows[0].update(input_ids=[10], labels=[-100])) == [("r0", "ids")]
    assert told(lambda rows: rows.pop(1)) == [("r1", "missing")]
    assert told(lambda rows: rows.clear()) == [("r0", "missing"), ("r1", "missing"), ("r2", "missing")]
    wrong = made(ours)
    wrong[1]["input_ids"][3] = 12
    [one] = compare(ours, wrong)
    assert one.detail.startswith("token 3: ")
    assert repr(ours.tokenizer.decode([12])) in one.detail


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.booleans(), st.booleans()),
                max_size=8))
def test_rows_that_are_kept_as_they_are_are_found_and_order_is_kept(rows: list[tuple[list[int], bool, bool]]) -> None:
    ours = [([i, *ids], ids) for i, (ids, _, _) in enumerate(rows)]  # all different
    theirs = [([*ids, *([9] if changed else [])], labels) for (ids, labels), (_, kept, changed) in
              zip(ours, rows, strict=True) if kept]
    found = aligned(ours, theirs)
    places = [place for place in found if place is not None]
    assert places == sorted(set(places))
    assert len(places) == len(theirs)  # each of theirs is one of ours
    position = 0
    for (_, kept, changed), place in zip(rows, found, strict=True):
        if kept and not changed:
            assert place == position
        position += kept


def test_a_changed_row_is_taken_for_the_one_it_begins_like() -> None:
    ours = [([1, 1, 1], [0]), ([2, 2, 2], [0]), ([3, 3, 3], [0])]
    assert aligned(ours, [([2, 2, 9], [0])]) == [None, 0, None]
    assert aligned(ours, [([1, 1, 9], [0]), ([3, 9, 9], [0])]) == [0, None, 1]


def test_a_trainer_that_is_not_here_is_said_to_be_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", CHATS, make_model(tmp_path / "model"))
    with pytest.raises(ConfigError, match="llamafactory is not installed") as refused:
        export(run, "llamafactory", tmp_path / "out", check=True)
    assert "--python" in (refused.value.hint or "")
    assert len(lines(tmp_path / "out" / "selected.jsonl")) == len(CHATS)  # written all the same
    told = siftune("export", run, "--to", "axolotl", "--check", "--output", tmp_path / "b")
    told.refused("not installed", "--python")
    with pytest.raises(ConfigError, match="cannot be run"):
        export(run, "axolotl", tmp_path / "c", check=True, python=tmp_path / "no-python")


needs_trl = pytest.mark.skipif(find_spec("trl") is None, reason="needs trl, of the extra 'trl'")


def exported(folder: Path, records: Sequence[dict[str, Any]], template: str, form: str) -> tuple[Written, Scored]:
    """An export and what it is of, the model named by its template."""
    run = make_run(folder / "run", records, make_model(folder / "model", template))
    told = {"max_length": MAX_LENGTH}
    ours, _ = score(read_selected(run), told, str(folder / "model"), run / "manifest.json")
    file = folder / "out" / "selected.jsonl"
    return (write_tokens("trl", ours, file) if form == "tokens" else write_trl(ours.rows, file, ours)), ours


def rewritten(written: Written, change: Callable[[list[dict[str, Any]]], None]) -> None:
    records = lines(written.files[0])
    change(records)
    written.files[0].write_text("".join(json.dumps(one) + "\n" for one in records))


@needs_trl
def test_what_trl_makes_of_every_form_is_compared_row_by_row(tmp_path: Path) -> None:
    """One start of the trainer: forms that hold what was scored, then files that were changed after the export."""
    several = [*CHATS, UNTRAINED]
    jobs = [exported(tmp_path / "a", several, tiny.CHATML, "tokens"),
            exported(tmp_path / "b", CHATS, MARKED, "messages"),
            exported(tmp_path / "c", [CHATS[0], UNTRAINED], MARKED, "messages"),
            exported(tmp_path / "d", CHATS[:3], tiny.CHATML, "tokens"),
            exported(tmp_path / "e", CHATS[:3], tiny.CHATML, "tokens")]
    rewritten(jobs[3][0], lambda rows: rows[2]["labels"].__setitem__(2, rows[2]["input_ids"][2]))
    rewritten(jobs[4][0], lambda rows: rows[1]["labels"].__setitem__(0, "no number"))
    made = check_exports("trl", jobs, each=True)
    assert made[0].versions["trl"] == version("trl")
    assert [one.rows for one in made] == [7, 6, 2, 3, 3]
    assert [[(d.id, d.kind) for d in one.differences] for one in made] == [
        [], [], [], [("r2", "mask")], [("r1", "error")]]


@needs_trl
@pytest.mark.slow
def test_the_command_tells_rows_of_which_trl_makes_something_else(tmp_path: Path) -> None:
    """Prompt and completion under ChatML: the loss is on the line break after the answer too."""
    run = make_run(tmp_path / "run", [CHATS[0], CHATS[2]], make_model(tmp_path / "model"))
    told = siftune("export", run, "--to", "trl", "--form", "messages", "--check", "--output", tmp_path / "out")
    assert told.code == 1
    assert f"checked with trl {version('trl')}" in told.out
    assert "0 of 2 rows have the ids and the loss mask that were scored" in told.out
    assert "r1: token" in told.out
    assert "'\\n' was not scored, and the trainer has it in the loss" in told.out
    told = siftune("export", run, "--to", "trl", "--check", "--output", tmp_path / "tokens").ok()
    assert "2 of 2 rows" in told.out


@needs_trl
@pytest.mark.slow
def test_a_file_that_the_trainer_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    written, ours = exported(tmp_path, CHATS[:3], tiny.CHATML, "tokens")
    rewritten(written, lambda rows: rows[0].update(input_ids="no list"))
    with pytest.raises(SiftuneError, match="cannot load") as refused:
        check_export("trl", written, ours)
    assert refused.value.why
