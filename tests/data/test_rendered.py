from __future__ import annotations

import pickle

import numpy as np
import pytest

from siftune._common.errors import DataError, ModelError
from siftune.data import rendering
from siftune.data.model_shape import ModelShape
from siftune.data.render import Renderer
from siftune.data.rendered import Rendered, RenderedRows
from siftune.data.rendering import render_rows
from siftune.data.rows import Examples, Message, Row
from tests import tiny
from tests.data.samples import row

LIMIT = 60


def some(lengths: list[int]) -> list[Rendered]:
    rng = np.random.default_rng(0)
    return [Rendered(rng.integers(0, 99, n, dtype=np.int32), rng.random(n) < 0.5, cut_tokens=i % 3)
            for i, n in enumerate(lengths)]


def same(a: Rendered, b: Rendered) -> bool:
    return (a.ids.tolist(), a.mask.tolist(), a.cut_tokens) == (b.ids.tolist(), b.mask.tolist(), b.cut_tokens)


@pytest.mark.parametrize("lengths", [[3, 0, 7, 1, 5], [4], []])
def test_flat_rows_are_the_rows_they_are_made_of_in_every_selection_of_them(lengths: list[int]) -> None:
    rows = some(lengths)
    flat = RenderedRows.of(rows)
    n = len(rows)
    order = np.array([i for i in (2, 0, 2, 4) if i < n], dtype=np.int64)
    for found, expected in (
            (flat, rows), (flat[1:4], rows[1:4]), (flat[::-1], rows[::-1]), (flat[::2][1:], rows[::2][1:]),
            (flat.take(order), [rows[i] for i in order]), (pickle.loads(pickle.dumps(flat[::-1])), rows[::-1])):
        assert len(found) == len(expected)
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))
        assert all(same(found[i], expected[i]) for i in range(-len(expected), len(expected)))
        made, listed = Examples([], found), Examples([], expected)
        for name in ("tokens", "supervised", "cut_tokens", "truncated"):
            assert np.array_equal(getattr(made, name), getattr(listed, name))
    with pytest.raises(IndexError):
        flat[n]


def test_what_is_taken_of_flat_rows_is_a_view_and_travels_without_the_rest() -> None:
    flat = RenderedRows.of(some([1000] * 50))
    assert all(np.shares_memory(flat[i].ids, flat[10:][i - 10].ids) for i in (10, 49))
    assert len(pickle.dumps(flat[7:8])) < 10_000


def pool(count: int) -> list[Row]:
    """Rows of which some cannot be used, some spell a special token, and some have turns that a template leaves out."""
    made = []
    for i in range(count):
        prompt = "word " * (1 + i % 7) if i % 5 else "long " * 200
        made.append(row(f"{prompt}{i}", f"answer {i}" + ("<|im_end|>" if i % 3 == 0 else ""), id=f"r{i}"))
    return made


@pytest.fixture
def in_parallel(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Several processes for few rows; what is told meanwhile."""
    monkeypatch.setattr(rendering, "MANY", 1)
    monkeypatch.setattr(rendering, "BLOCK", 7)
    monkeypatch.setattr(rendering, "cores", lambda: 2)
    told: list[str] = []
    monkeypatch.setattr(rendering, "log", told.append)
    return told


def test_several_processes_render_as_one_does(in_parallel: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pool(50)
    renderer = Renderer(tiny.tokenizer(), max_length=LIMIT)
    made = rendering.gathered(rendering.blocks(rows, renderer, role="pool"))
    found = made.examples(rows, role="pool", bad_rows="drop")
    with pytest.raises(DataError) as in_processes:
        made.examples(rows, role="pool", bad_rows="error")
    assert not in_parallel  # it was done in processes
    assert (renderer.special_tokens_in_content, renderer.unmatched_turns) == (17, 0)
    monkeypatch.setattr(rendering, "MANY", 1000)
    alone = render_rows(rows, Renderer(tiny.tokenizer(), max_length=LIMIT), role="pool", bad_rows="drop")
    with pytest.raises(DataError) as here:
        render_rows(rows, Renderer(tiny.tokenizer(), max_length=LIMIT), role="pool")
    assert str(in_processes.value) == str(here.value)
    assert [row.id for row in found.rows] == [row.id for row in alone.rows]
    assert all(same(a, b) for a, b in zip(found.rendered, alone.rendered, strict=True))
    assert found.dropped == alone.dropped
    assert len(found.dropped) == 10
    assert found.special_tokens_in_content == alone.special_tokens_in_content == 17
    assert found.unmatched_turns == alone.unmatched_turns


def test_a_model_without_an_embedding_is_refused_by_several_processes_too(in_parallel: list[str]) -> None:
    renderer = Renderer(tiny.tokenizer(), max_length=LIMIT, shape=ModelShape(vocabulary=9))
    with pytest.raises(ModelError, match="no embedding"):
        render_rows(pool(50)[1:5] * 5, renderer, role="pool")


def test_a_tokenizer_that_cannot_be_copied_renders_here_and_it_is_told(in_parallel: list[str]) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.kept_open = lambda: None  # type: ignore[attr-defined] - what pickle refuses
    rows = [row("a question", f"answer {i}", id=f"r{i}") for i in range(20)]
    found = render_rows(rows, Renderer(tokenizer, max_length=LIMIT), role="pool")
    assert len(found) == 20
    assert any("one process" in line for line in in_parallel)


def test_the_counts_of_some_rows_are_those_of_rendering_them_alone() -> None:
    rows = [*pool(20), Row("u", "s", "s:1", (Message("assistant", "hello"), Message("user", "q"),
                                             Message("assistant", "a")), "{}", "", "messages")]
    renderer = Renderer(tiny.tokenizer(), max_length=LIMIT)
    whole = rendering.gathered(rendering.blocks(rows, renderer, role="pool"))
    places = np.array([0, 1, 2, 5, 6, 20])
    part = whole.take(places).examples([rows[i] for i in places], role="pool", bad_rows="drop")
    alone = render_rows([rows[i] for i in places], Renderer(tiny.tokenizer(), max_length=LIMIT), role="pool",
                        bad_rows="drop")
    assert part.ids == alone.ids
    assert part.dropped == alone.dropped
    assert part.special_tokens_in_content == alone.special_tokens_in_content
    assert part.unmatched_turns == alone.unmatched_turns
