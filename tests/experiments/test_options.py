"""Where test rows offer answers, a comparison scores these by likelihood, row by row, and tells of how many rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siftune import api
from siftune._common.files import read_json
from siftune.config.settings import CompareConfig
from siftune.data.render import Renderer
from siftune.evaluation.choices import find_choices
from siftune.evaluation.likelihood import choice_scores, render_choices
from siftune.experiments.finished import Experiment
from siftune.experiments.results import read_results
from siftune.experiments.text import short_table
from siftune.models.loading import load_model
from siftune.pipeline.select import read_inputs
from tests import tiny

COLOURS = ("red", "blue", "green")


def rows(path: Path, numbers: range, plain: int = 0) -> str:
    """Rows that offer colours; the first ``plain`` ones offer nothing."""
    made = []
    for i in numbers:
        lines = "".join(f"\n({letter}) {colour}" for letter, colour in zip("ABC", COLOURS, strict=True))
        offers = i - numbers.start >= plain
        made.append({"id": f"{path.stem}-{i}", "subtask": "xy"[i % 2],
                     "prompt": f"Colour of thing {i}?{lines * offers}",
                     "completion": f"({'ABC'[i % 3]}) {COLOURS[i % 3]}"})
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("options")
    return dict(model=tiny.save(folder / "model"), pool=(rows(folder / "pool.jsonl", range(20)),),
                target=(rows(folder / "target.jsonl", range(100, 104)),),
                test=(rows(folder / "test.jsonl", range(200, 210), plain=1),), methods=("bm25",), budget="4", seeds=2,
                epochs=1, lora_rank=2, batch_size=4, max_length=128, exact_match_tokens=0)


def config(values: dict[str, Any], folder: Path, **changes: Any) -> CompareConfig:
    return CompareConfig(**{**values, "output_dir": str(folder / "run"), **changes})


@pytest.fixture(scope="module")
def done(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return api.compare(config(values, tmp_path_factory.mktemp("run")))


def test_every_training_has_the_scores_of_every_row(values: dict[str, Any], done: Experiment, tmp_path: Path) -> None:
    for cell in done.results.cells:
        scores = cell.results["target"]
        assert [one is None for one in scores.acc] == [one is None for one in scores.acc_norm] == [True] + [False] * 9
    loaded, inputs = load_model(values["model"]), read_inputs(config(values, tmp_path))
    renderer = Renderer(loaded.tokenizer, max_length=128)
    asked = [found and render_choices(row, found, renderer)
             for row, found in zip(inputs.test.rows, find_choices(inputs.test.rows), strict=True)]
    expected = choice_scores(loaded.model, asked)
    [untrained] = [cell.results["target"] for cell in done.results.cells if cell.subset is None]
    for told, right in ((untrained.acc, expected.acc), (untrained.acc_norm, expected.acc_norm)):
        assert told == [None, *right[1:].tolist()]


def test_arms_have_means_over_the_rows_that_offer_answers(done: Experiment) -> None:
    for arm in done.results.arms:
        mine = [s.id for s in done.results.subsets if s.name == arm.name]
        cells = [c.results["target"] for c in done.results.cells
                 if c.subset in mine or (c.subset is None and arm.name == "zero-shot")]
        for found, told in ((arm.acc, [c.acc for c in cells]), (arm.acc_norm, [c.acc_norm for c in cells])):
            assert found is not None
            assert found.mean == pytest.approx(np.mean([[float(one or 0) for one in row[1:]] for row in told]))
            assert 0 <= (found.low or 0) <= (found.mean or 0) <= (found.high or 1) <= 1
    tests = {(t.metric, t.n_examples) for t in done.results.tests}
    assert tests == {("loss", 10), ("acc", 9), ("acc_norm", 9)}


def test_table_notes_frame_and_page_tell_of_them(done: Experiment) -> None:
    [target] = done.results.targets
    assert (target.offering, target.choices_scored, target.tested) == (9, True, 10)
    head = [cell.strip() for cell in short_table(done.results).splitlines()[0].split("|")]
    assert {"acc all (n=9)", "acc x", "acc_norm all (n=9)", "acc_norm y"} <= set(head)
    assert "exact match all" not in head
    assert any("9 of 10 of target" in note for note in done.results.notes)
    frame = done.to_frame()
    assert set(frame.metric) == {"loss", "acc", "acc_norm"}
    page = (done.folder / "report.html").read_text()
    assert ">acc_norm</th>" in page
    assert "Likeliest option" in page
    assert read_results(done.file) == done.results


def test_a_second_run_has_the_same_scores_without_training(values: dict[str, Any], done: Experiment) -> None:
    kept = {p: p.read_bytes() for p in (done.folder / "training").rglob("scores-*.json")}
    again = api.compare(config(values, done.folder.parent))
    assert [(a.acc, a.acc_norm) for a in again.results.arms] == [(a.acc, a.acc_norm) for a in done.results.arms]
    assert {p: p.read_bytes() for p in (done.folder / "training").rglob("scores-*.json")} == kept


@pytest.mark.parametrize(("plain", "changes", "note"), [
    (2, {}, "Too few test rows offer answers for acc, which needs 90%: 8 of 10 of target."),
    (0, {"choices": "off"}, None),
])
def test_too_few_rows_and_off_leave_the_metric_out(values: dict[str, Any], tmp_path: Path, plain: int,
                                                   changes: dict[str, str], note: str | None) -> None:
    test = rows(tmp_path / "test.jsonl", range(200, 210), plain=plain)
    done = api.compare(config(values, tmp_path, test=(test,), seeds=1, **changes))
    assert all(arm.acc is None and arm.acc_norm is None for arm in done.results.arms)
    assert {t.metric for t in done.results.tests} == {"loss"}
    assert [n for n in done.results.notes if "answers" in n] == ([note] if note else [])
    assert "acc" not in short_table(done.results)
    for path in (done.folder / "training").rglob("scores-*.json"):
        assert "acc" not in read_json(path)["content"]
