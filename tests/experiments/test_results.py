"""One schema of results: what is written is read back, earlier files too, and what is broken is named."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siftune._common.errors import DataError
from siftune._common.files import read_json
from siftune.experiments.finished import Experiment
from siftune.experiments.results import (
    SCHEMA,
    Results,
    SubtaskTest,
    discard_unreadable,
    read_results,
    write_results,
)
from siftune.experiments.results.base import Part
from siftune.report.comparison import comparison_section
from siftune.report.manifest import Manifest
from siftune.report.study import build
from siftune.report.verdict import verdict
from tests.report import runs

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STUDIES = ("study", "ablations", "delift30", "mads15", "transfer")
COMPARISONS = ("real-reasoning", "real-programming", "real-programming-lengths", "real-learning-rate-1e-3")

NUMBERS = st.floats(width=32) | st.integers(-1000, 1000).map(float)
JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | NUMBERS | st.text(max_size=4),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
                    max_leaves=4)


def strategy(kind: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation of the schema; floats that are none are among them."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(strategy, arguments))
    if origin is list:
        return st.lists(strategy(arguments[0]), max_size=2)
    if origin is dict:
        return st.dictionaries(st.text(max_size=3), strategy(arguments[1]), max_size=2)
    if isinstance(kind, type) and issubclass(kind, Part):
        return parts(kind)
    simple = {str: st.text(max_size=4), int: st.integers(-9, 10**9), bool: st.booleans(), float: NUMBERS, Any: JSON,
              type(None): st.none()}
    return simple[kind]


def parts(kind: type[Part]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind)
    chosen = {name: strategy(hints[name]) for name in kind.model_fields if name not in ("version", "confidence")}
    return st.builds(lambda **values: kind(**values), **chosen)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, *(
    [HealthCheck.too_slow, HealthCheck.data_too_large])])
@given(made=parts(Results))
def test_what_is_written_is_read_back(made: Results, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    write_results(path, made)
    assert read_results(path) == made
    json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert read_json(path)["schema"] == SCHEMA


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_in_the_file_it_is_read_or_named(data: st.DataObject, tmp_path: Path) -> None:
    """A value anywhere is replaced by another."""
    value: Any = data.draw(st.sampled_from([runs.comparison, runs.earlier_comparison]))()
    inside: Any = {"": value}
    key: Any = ""
    while isinstance(inside[key], (dict, list)) and inside[key] and data.draw(st.booleans()):
        inside = inside[key]
        key = data.draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
    inside[key] = data.draw(JSON)
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(value if key != "" else inside[""]), encoding="utf-8")
    refused = refusal(path)
    if refused:
        assert str(path) in (refused.where or "")
        assert refused.hint


def refusal(path: Path) -> DataError | None:
    """Why a file is not read; anything but a DataError comes through."""
    try:
        read_results(path)
    except DataError as error:
        return error
    return None


@pytest.mark.parametrize("name", STUDIES)
def test_recorded_studies_are_read_and_have_a_page(name: str, tmp_path: Path) -> None:
    told = read_json(BENCHMARKS / "study" / "results" / f"{name}.json")
    assert "schema" not in told
    (tmp_path / "study.json").write_text(json.dumps(told), encoding="utf-8")
    results = read_results(tmp_path / "study.json")
    assert results.kind == "study"
    assert [a.loss.mean for a in results.arms] == [a["loss"]["mean"] for a in told["arms"]]
    assert [c.results[t].loss for c in results.cells for t in c.results] == [
        c["results"][t]["loss"] for c in told["cells"] for t in c["results"]]
    assert results.settings.model_dump(exclude_unset=True) == told["settings"]
    page = build(tmp_path).read_text(encoding="utf-8")
    for target in told["targets"]:
        assert target["name"] in page
    frame = Experiment(tmp_path / "study.json", results).to_frame()
    losses = frame[frame["metric"] == "loss"]
    assert losses["mean"].tolist() == [a["loss"]["mean"] for a in told["arms"]]
    assert losses["seeds"].tolist() == [a["trainings"] for a in told["arms"]]
    assert losses["budget"].fillna("").tolist() == [a["budget"] or "" for a in told["arms"]]


@pytest.mark.parametrize("name", COMPARISONS)
def test_recorded_comparisons_are_read_as_studies_of_one_target_and_budget(name: str, tmp_path: Path) -> None:
    told = read_json(BENCHMARKS / "results" / f"{name}.json")
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(told), encoding="utf-8")
    results = read_results(path)
    assert (results.kind, len(results.targets), len(results.budgets)) == ("comparison", 1, 1)
    for arm, old in zip(results.arms, told["arms"], strict=True):
        assert (arm.name, arm.rows, arm.tokens) == (old["name"], old["rows"], old["tokens"])
        assert arm.loss.model_dump() == old["results"]["all"]["loss"]
        assert {part: found.loss.model_dump() for part, found in arm.subtasks.items()} == {
            part: found["loss"] for part, found in old["results"].items() if part != "all"}
    tests: list[Any] = [*results.tests, *results.analyses.subtasks]
    assert sorted((t.difference, t.p_value) for t in tests) == sorted(
        (t["difference"], t["p_value"]) for t in told["tests"])
    shown = comparison_section(results)
    assert {r["subtask"]: r["n"] for r in shown["results"]} == {
        part: found["n"] for part, found in told["arms"][0]["results"].items()}
    assert len(shown["tests"]) == len(told["tests"])
    assert verdict(results, Manifest())["status"] in ("better", "worse", "no different", "not compared")
    write_results(path, results)
    assert read_results(path) == results


def test_a_comparison_of_version_1_is_what_it_would_be_today() -> None:
    from siftune.experiments.results.earlier import Comparison, upgraded

    old, new = upgraded(Comparison.model_validate(runs.earlier_comparison())), Results.model_validate(runs.comparison())
    assert [t.difference for t in old.tests] == [t.difference for t in new.tests]

    def brief(test: SubtaskTest) -> tuple[Any, ...]:
        return test.subtask, test.difference, test.low, test.high, test.loss, test.random_loss, test.verdict

    assert list(map(brief, old.analyses.subtasks)) == [
        (*brief(test)[:4], pytest.approx(test.loss), pytest.approx(test.random_loss), test.verdict)
        for test in new.analyses.subtasks]


@pytest.mark.parametrize(("content", "where", "why"), [
    ("", "study.json:1", "Expecting value"),
    ('{"targets": [\n', "study.json:2", "Expecting value"),
    ("\xff\xfe", "study.json", ""),
    ("[" * 100_000, "study.json", ""),
    ("7", "study.json", "dictionary"),
    ('{"schema": 0, "targets": []}', "study.json", "schema"),
    ('{"schema": 2}', "study.json", "targets"),
    ('{"schema": 2, "targets": [], "settings": {"confidence": 2}}', "study.json", "settings.confidence"),
    ('{"schema": 2, "targets": [], "arms": [{"loss": {"mean": "low"}}]}', "study.json", "arms.0"),
])
def test_a_file_that_is_broken_is_named_with_its_place(tmp_path: Path, content: str, where: str, why: str) -> None:
    path = tmp_path / "study.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError) as refused:
        read_results(path)
    assert (refused.value.where or "").endswith(where)
    assert why in (refused.value.why or "")
    assert "siftune study" in (refused.value.hint or "")
    assert discard_unreadable(path)
    assert not path.exists()
    assert not discard_unreadable(path)


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    path.write_text(json.dumps({"schema": SCHEMA + 1, "targets": "no more"}))
    for read in (read_results, discard_unreadable):
        with pytest.raises(DataError, match="newer siftune") as refused:
            read(path)
        assert f"reads up to {SCHEMA}" in (refused.value.why or "")
        assert "upgrade" in (refused.value.hint or "")
    assert path.exists()
