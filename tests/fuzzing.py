"""What is fuzzed: by name, a hypothesis strategy and what is done with each of its values.

Whatever comes, it ends with a result or with an error that a user can act on; anything else that is raised is a fault.
The tests go through a few hundred values of each kind, ``benchmarks/fuzz.py`` through thousands.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from siftune._common.artefacts.kept import fault
from siftune._common.artefacts.sealed import Unusable, read_sealed, read_self_sealed, self_sealed, write_sealed
from siftune._common.errors import ConfigError, SiftuneError
from siftune._common.text import visible
from siftune.config.owned import read_sets
from siftune.config.plain_yaml import load_yaml
from siftune.config.settings import CompareConfig, SelectConfig, from_mapping, load
from siftune.data.columns import named_columns
from siftune.data.formats import detect, read_conversation
from siftune.data.limits import Limits
from siftune.data.problems import REASONS, BadRow
from siftune.data.readers import read_sources
from siftune.data.render import Renderer
from siftune.data.rows import Message
from siftune.data.sources import find_sources
from siftune.data.write import write_dropped, write_rows
from siftune.experiments.config import load_study
from siftune.experiments.results import read_results
from siftune.export.selected import read_selected
from siftune.pipeline.run import load_run
from siftune.pipeline.select import read_quota_texts
from siftune.pipeline.strata import by_score
from siftune.report import build
from siftune.selectors.core.budget import Budget, ResolvedBudget
from siftune.selectors.core.quotas import read_quotas
from tests import tiny
from tests.report import runs
from tests.strategies import (
    BUDGET_TEXTS,
    COLUMN_TEXTS,
    LIMIT_TEXTS,
    LINES,
    QUOTA_TEXTS,
    SET_TEXTS,
    SETTINGS,
    STUDIES,
    TEMPLATES,
    TEXTS,
    YAML_TEXTS,
    good_records,
    json_files,
    records,
)

NAMES = ["p.jsonl", "p.json", "p.csv", "p.tsv", "p.jsonl.gz", "p.jsonl.bz2", "p.jsonl.xz", "p.jsonl.zst", "p.parquet"]


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        values: of it.
        check: is given a value and a folder to write to.
        weight: how many of a campaign's values are of it, beside the others; checks that write pages cost more.
    """

    values: st.SearchStrategy[Any]
    check: Callable[[Any, Path], None]
    weight: int = 10


def refused(call: Callable[[], Any]) -> SiftuneError | None:
    """The refusal of a call, which names no character that a terminal would obey; None where it went well."""
    found = None
    try:
        call()
    except SiftuneError as error:
        found = error
    assert visible(str(found)) == str(found)
    return found


def known_reason(call: Callable[[], Any]) -> Any:
    """What a call gives; None where the row cannot be used, for one of the reasons that are told."""
    try:
        return call()
    except BadRow as problem:
        reason = problem.reason
    assert reason in REASONS
    return None


def _read(value: tuple[list[bytes], str, str], folder: Path) -> None:
    found, name, form = value
    path = folder / name
    path.write_bytes(b"\n".join(found))

    def read() -> None:
        reading = read_sources([path], role="pool", bad_rows="drop", format=form)
        write_rows(folder / "rows", reading.rows)
        write_dropped(folder / "dropped", reading.dropped)
        assert {one.reason for one in reading.dropped} <= set(REASONS)

    refused(read)


def _format(record: dict[str, Any], folder: Path) -> None:
    form = detect(record)
    if form is not None:
        known_reason(lambda: read_conversation(record, form))


def _flags(value: tuple[list[str], list[str], str], folder: Path) -> None:
    columns, limits, source = value
    for call, given in ((named_columns, columns), (Limits.parse, limits), (find_sources, [source])):
        refusal = refused(lambda call=call, given=given: call(given))  # type: ignore[operator]
        assert refusal is None or refusal.hint


def _sets(entries: list[str], folder: Path) -> None:
    for among in (["less", "top-k"], ["fusion", "round-robin"]):
        refusal = refused(lambda among=among: read_sets(entries, among))
        assert refusal is None or refusal.hint


def _quotas(value: tuple[list[str], str, str], folder: Path) -> None:
    entries, budget, strata = value
    for kind in ("rows", "tokens"):
        refused(lambda kind=kind: read_quotas(read_quota_texts(entries), ResolvedBudget(kind, 50, "50")))
    refused(lambda: Budget.parse(budget).resolve(50, 5000))
    refused(lambda: by_score(strata))


def _yaml(text: str, folder: Path) -> None:
    refused(lambda: load_yaml(text, "file"))
    path = folder / "config.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(lambda: load(SelectConfig, path, {}))
    refused(lambda: load_study(path))


def _settings(values: dict[str, Any], folder: Path) -> None:
    refused(lambda: from_mapping(SelectConfig, values))
    refused(lambda: from_mapping(CompareConfig, values, where="file"))


def _study(values: dict[str, Any], folder: Path) -> None:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(values))), encoding="utf-8", errors="backslashreplace")
    refused(lambda: load_study(path))


@cache
def _renderers() -> list[Renderer]:
    marked = "{% for m in messages %}{{ m.role }}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    return [Renderer(tiny.tokenizer(template), max_length=128) for template in (tiny.CHATML, None, marked)]


def _render(record: dict[str, Any], folder: Path) -> None:
    try:
        found = read_conversation(record, "messages")
    except BadRow:
        return
    for renderer in _renderers():
        made = known_reason(lambda renderer=renderer: renderer.render(found.messages, found.tools))
        assert made is None or len(made.ids) == len(made.mask) <= 128


def _template(template: Any, folder: Path) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    turns = (Message("system", "s"), Message("user", "hello"), Message("assistant", "world"), Message("user", "again"),
             Message("assistant", "yes"))

    def render() -> None:
        renderer = Renderer(tokenizer, max_length=64)
        for messages in (turns, turns[1:3]):
            known_reason(lambda messages=messages: renderer.render(messages))

    refused(render)


@cache
def _run(folder: Path) -> Path:
    run = runs.write_run(folder / "run", n=12, selected=3)
    runs.write_json(run / "comparison.json", runs.comparison())
    return run


def _with_file(name: str, content: bytes, folder: Path) -> None:
    """A run with one of its files damaged: pages are made of it, or it is refused by name."""
    run = _run(folder)
    before = (run / name).read_bytes()
    (run / name).write_bytes(content)
    try:
        for call in (lambda: build(run), lambda: _asked(run), lambda: read_selected(run)):
            refusal = refused(call)
            assert refusal is None or name in str(refusal) or "selection" in str(refusal), str(refusal)
        if name == "comparison.json":
            refused(lambda: read_results(run / name))
    finally:
        (run / name).write_bytes(before)


def _asked(folder: Path) -> None:
    """All that can be asked of a run."""
    run = load_run(folder)
    run.head(2), run.rejected(2), run.to_frame(), run.nearest_target, run.scores  # pyright: ignore[reportUnusedExpression]
    refused(run.to_dataset)
    run.explain(run.ids[0])
    with contextlib.suppress(ConfigError):  # there is no such row, unless what was fuzzed says so
        run.explain("a")


def _with_column(value: tuple[str, int, list[Any]], folder: Path) -> None:
    """As :func:`_with_file`: one column of a table holds something else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name, place, values = value
    table = pq.read_table(_run(folder) / name)
    place %= table.num_columns
    try:
        column = pa.array((values * len(table))[:len(table)] if values else [None] * len(table))
    except (pa.ArrowException, OverflowError):
        return
    buffer = pa.BufferOutputStream()
    pq.write_table(table.set_column(place, table.column_names[place], column), buffer)
    _with_file(name, buffer.getvalue().to_pybytes(), folder)


def _artefact(content: bytes, folder: Path) -> None:
    for name in ("sealed.json", "own.json"):
        path = folder / name
        path.write_bytes(content)
        fault(path)
        with contextlib.suppress(Unusable):
            read_sealed(path, "scores", "key")
        read_self_sealed(path)


def _sealed_value() -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        write_sealed(path, "scores", "key", {"a": [1, 2.5, "x"], "b": {"c": None}})
        return json.loads(path.read_text())


_LINES: dict[str, Any] = {
    "targets.jsonl": {"id": "a", "subtask": "s", "messages": [{"role": "user", "content": "q"}], "best_similarity": 0.5,
                      "selected": 1},
    "rejected_sample.jsonl": {"rank": 4, "id": "a", "score": 0.25, "by": "score", "nearest_target": "s",
                              "row": {"prompt": "q", "completion": "a"}},
    "dropped.jsonl": {"id": "a", "source": "p", "where": "p:1", "reason": "empty", "detail": "x"},
}
_CELLS = st.one_of(
    st.lists(st.text(max_size=3), max_size=3), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    st.lists(st.one_of(st.none(), st.floats()), max_size=3), st.lists(st.one_of(st.none(), st.booleans()), max_size=3),
    st.lists(st.binary(max_size=3), max_size=3), st.lists(st.dates(), max_size=3),
    st.lists(st.lists(st.integers(0, 9), max_size=2), max_size=3))

KINDS: dict[str, Kind] = {
    "readers": Kind(st.tuples(st.lists(LINES, max_size=5), st.sampled_from(NAMES),
                              st.sampled_from(["auto", "mixed", "alpaca", "messages"])), _read, 20),
    "formats": Kind(records(), _format, 20),
    "columns, limits and sources": Kind(st.tuples(st.lists(COLUMN_TEXTS, max_size=2), st.lists(LIMIT_TEXTS, max_size=2),
                                                  COLUMN_TEXTS), _flags, 20),
    "settings on the command line": Kind(st.lists(SET_TEXTS, max_size=3), _sets, 15),
    "quotas, budgets and strata": Kind(st.tuples(st.lists(QUOTA_TEXTS, max_size=3), BUDGET_TEXTS, st.one_of(
        TEXTS, st.sampled_from(["group", "length:4", "score:0", "length:" + "9" * 40]))), _quotas, 20),
    "configuration files": Kind(YAML_TEXTS, _yaml, 20),
    "settings": Kind(SETTINGS, _settings, 15),
    "study files": Kind(STUDIES, _study, 15),
    "render": Kind(good_records(), _render, 10),
    "templates": Kind(TEMPLATES, _template, 10),
    "manifests": Kind(json_files(runs.manifest(12, 3, 100)), lambda v, f: _with_file("manifest.json", v, f), 5),
    "results": Kind(json_files(runs.comparison()), lambda v, f: _with_file("comparison.json", v, f), 5),
    "lines of a run": Kind(st.sampled_from(sorted(_LINES)).flatmap(
        lambda name: st.tuples(st.just(name), json_files(_LINES[name]))), lambda v, f: _with_file(*v, f), 5),
    "tables of a run": Kind(st.tuples(st.sampled_from(["scores.parquet", "selection.parquet"]), st.integers(0, 12),
                                      _CELLS), _with_column, 5),
    "artefacts": Kind(st.one_of(json_files(_sealed_value()), json_files(self_sealed({"a": 1, "b": [2]}))),
                      _artefact, 20),
}
