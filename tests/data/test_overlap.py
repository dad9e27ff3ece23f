from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune._common.errors import ConfigError, DataError
from siftune.data.overlap import (
    check_disjoint,
    find_overlaps,
    find_same_prompts,
    normalise,
    normalised_key,
    prompt_key,
)
from siftune.data.rows import Row
from tests.data.samples import row

# Few texts that differ in ways that matter and in ways that do not, so that random lists overlap often.
PROMPTS = st.sampled_from(["Add 1 + 2.", "add 1 + 2", "Add 1 - 2.", "Ａdd 1 +\t2!", "Sort: b, a", "sort b a", "?"])
RESPONSES = st.sampled_from(["3", "3.", "-1", "a, b", "!!"])
ROWS = st.lists(st.tuples(PROMPTS, RESPONSES), max_size=6)


def rows(pairs: list[tuple[str, str]], prefix: str) -> list[Row]:
    return [row(*pair, id=f"{prefix}{i}") for i, pair in enumerate(pairs)]


@pytest.mark.parametrize(("one", "other", "same"), [
    ("Hello,  World!", "hello world", True),
    ("ﬁne\u00a0print", "FINE PRINT", True),
    ("Straße", "STRASSE", True),
    ("1 + 2", "1 2", False),
    ("1 + 2", "1 + 2 = ", False),
    ("6 / 1", "6 * 1", False),
    ("6-1", "6 - 1", True),
    ("well-known", "well known", True),
    ("...", "???", False),
])
def test_normalising_levels_form_but_not_meaning(one: str, other: str, same: bool) -> None:
    assert (normalise(one) == normalise(other)) == same


@given(st.text(max_size=30))
def test_normalising_ignores_case_and_added_white_space(text: str) -> None:
    assert normalise(text + " \n") == normalise(text)
    assert normalise(unicodedata.normalize("NFKC", text)) == normalise(text)


def test_prompt_and_response_do_not_run_into_each_other_and_system_messages_do_not_count() -> None:
    assert normalised_key(row("a b", "c")) != normalised_key(row("a", "b c"))
    assert normalised_key(row("a", "b", system="S")) == normalised_key(row("a", "b"))
    assert prompt_key(row("A", "b", system="S")) == "a"


@given(ROWS, ROWS)
def test_overlaps_are_those_of_a_plain_loop(a_pairs: list, b_pairs: list) -> None:
    a, b = rows(a_pairs, "a"), rows(b_pairs, "b")
    expected, same_prompt = [], []
    for x in a:
        exact = [y for y in b if y.messages == x.messages]
        prompt = [y for y in b if normalise(y.messages[0].content) == normalise(x.messages[0].content)]
        near = [y for y in prompt if normalise(y.messages[1].content) == normalise(x.messages[1].content)]
        if exact or near:
            expected.append((x.id, (exact or near)[0].id, "exact" if exact else "normalised"))
        elif prompt:
            same_prompt.append((x.id, prompt[0].id, "prompt"))
    assert [(o.a_id, o.b_id, o.kind) for o in find_overlaps(a, b)] == expected
    assert [(o.a_id, o.b_id, o.kind) for o in find_same_prompts(a, b)] == same_prompt


POOL = rows([("p0", "A"), ("P1.", "A"), ("p2", "A"), ("p3", "B")], "p")
TARGET = rows([("p2", "A"), ("t", "A")], "t")


def test_a_test_row_in_the_pool_is_an_error_or_its_pool_rows_are_dropped() -> None:
    test = rows([("p1", "A"), ("p3", "other")], "x")
    with pytest.raises(DataError, match="--overlap drop") as caught:
        check_disjoint(POOL, TARGET, test)
    assert caught.value.where == "pool.jsonl:p1"
    assert "pool.jsonl:x0" in str(caught.value)
    left = check_disjoint(POOL, TARGET, test, "drop")
    assert [one.id for one in left.pool] == ["p0", "p3"]
    assert [(one.id, one.reason) for one in left.dropped] == [("p1", "in-test"), ("p2", "in-target")]
    assert [o.a_id for o in left.same_prompt] == ["p3"]


def test_a_target_row_in_the_pool_is_reported_and_kept() -> None:
    left = check_disjoint(POOL, TARGET, [])
    assert left.pool == POOL
    assert [(o.a_id, o.b_id) for o in left.in_target] == [("p2", "t0")]
    assert not left.dropped


@pytest.mark.parametrize("on_overlap", ["error", "drop"])
def test_a_test_row_in_the_target_is_always_an_error(on_overlap: str) -> None:
    with pytest.raises(DataError, match="test row is also in the target file"):
        check_disjoint(POOL, TARGET, rows([("T", "a")], "x"), on_overlap)  # type: ignore[arg-type]


def test_dropping_the_whole_pool_is_an_error_and_so_is_an_unknown_choice() -> None:
    with pytest.raises(DataError, match="every pool row"):
        check_disjoint(POOL, [], POOL, "drop")
    with pytest.raises(ConfigError, match="choose error or drop"):
        check_disjoint(POOL, [], [], "ignore")  # type: ignore[arg-type]
