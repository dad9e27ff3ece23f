"""Shares, lengths and distributions against plain loops."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune.report import composition as comp

values = st.lists(st.floats(-1e6, 1e6, allow_nan=False) | st.sampled_from([0.0, 1.0, float("nan"), float("inf")]),
                  min_size=1, max_size=60)
lengths = st.lists(st.integers(1, 5000) | st.integers(1, 20), min_size=1, max_size=200)


def bin_of(value: float, edges: list[float], is_open: bool = False) -> int:
    for i in range(len(edges) - 1):
        last = i == len(edges) - 2
        if edges[i] <= value and (value < edges[i + 1] or (last and (is_open or value == edges[i + 1]))):
            return i
    raise AssertionError(f"{value} is in no bin")


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans(), st.integers(1, 9)), min_size=1, max_size=60))
def test_shares_count_rows_and_tokens_by_name(rows: list[tuple[str, bool, int]]) -> None:
    table = pa.table({"source": [name for name, _, _ in rows]})
    selected = np.array([taken for _, taken, _ in rows])
    found = comp.shares(table, "source", selected, np.array([float(t) for _, _, t in rows]))
    assert found is not None
    assert found["count"] == len({name for name, _, _ in rows})
    for entry in found["listed"]:
        mine = [(taken, tokens) for name, taken, tokens in rows if name == entry["name"]]
        assert entry["pool"] == len(mine)
        assert entry["selected"] == sum(taken for taken, _ in mine)
        assert entry["pool_tokens"] == sum(tokens for _, tokens in mine)
        assert entry["selected_tokens"] == sum(tokens for taken, tokens in mine if taken)
        assert entry["pool_share"] == pytest.approx(len(mine) / len(rows))
    order = [(-entry["selected"], -entry["pool"], entry["name"]) for entry in found["listed"]]
    assert order == sorted(order)


def test_many_sources_are_summed_up_as_others() -> None:
    names = [f"s{i:02d}" for i in range(30) for _ in range(i + 1)]
    found = comp.shares(pa.table({"source": names}), "source", np.ones(len(names), dtype=bool), None)
    assert found is not None
    assert [entry["name"] for entry in found["listed"][:2]] == ["s29", "s28"]
    assert found["listed"][-1] == {"name": "10 others", "others": 10, "pool": 55, "selected": 55,
                                   "pool_share": 55 / 465, "selected_share": 55 / 465, "pool_tokens": None,
                                   "selected_tokens": None}


def test_rows_without_a_name_are_one_group_of_their_own() -> None:
    found = comp.shares(pa.table({"group": ["a", None, None]}), "group", np.array([True, False, False]), None)
    assert found is not None
    assert [(entry["name"], entry["pool"]) for entry in found["listed"]] == [("a", 1), ("(none)", 2)]
    assert comp.shares(pa.table({"group": pa.nulls(3, pa.string())}), "group", np.ones(3, dtype=bool), None) is None


@given(lengths)
def test_length_bins_are_round_and_hold_every_row_once(tokens: list[int]) -> None:
    pool = np.array(tokens, dtype=np.float64)
    chosen = pool[::2]
    found = comp.length_histogram(pool, chosen)
    assert found is not None
    edges, is_open = found["edges"], found["open"]
    assert len(edges) == len(found["pool"]) + 1 <= 3 * comp.LENGTH_BINS
    for name, rows in (("pool", pool), ("selected", chosen)):
        wanted = [0] * (len(edges) - 1)
        for value in rows:
            wanted[bin_of(value, edges, is_open)] += 1
        assert found[name] == wanted
    assert is_open == (max(tokens) >= (edges[-2] if is_open else edges[-1]))


@given(values, st.integers(1, 7))
def test_score_bins_hold_every_finite_score_once_and_the_cut_is_the_lowest_selected(scores: list[float],
                                                                                  step: int) -> None:
    selected = np.array([i % step == 0 for i in range(len(scores))])
    found = comp.score_histogram(np.array(scores), selected)
    finite = [value for value in scores if np.isfinite(value)]
    if not finite:
        assert found is None
        return
    assert found is not None
    assert sum(found["pool"]) == len(finite)
    taken = [value for i, value in enumerate(scores) if i % step == 0 and np.isfinite(value)]
    assert sum(found["selected"]) == len(taken)
    if taken:
        assert found["cut"] == min(taken)
        assert found["passed_over"] == sum(value > min(taken) for i, value in enumerate(scores)
                                           if i % step and np.isfinite(value))
    else:
        assert found["cut"] is None


@given(values)
def test_a_summary_ignores_what_is_not_finite(numbers: list[float]) -> None:
    finite = sorted(value for value in numbers if np.isfinite(value))
    found = comp.summary(np.array(numbers))
    if not finite:
        assert found is None
        return
    assert found is not None
    assert found["count"] == len(finite)
    assert found["total"] == pytest.approx(sum(finite), abs=1e-6)
    quantiles = list(found["quantiles"].values())
    assert (quantiles[0], quantiles[-1]) == (finite[0], finite[-1])
    assert quantiles == sorted(quantiles)


@given(st.floats(1e-12, 1e12))
def test_a_nice_step_is_one_two_or_five_times_a_power_of_ten(step: float) -> None:
    found = comp.nice(step)
    assert step * (1 - 1e-6) <= found <= 2.5 * step * (1 + 1e-6)
    assert f"{found:.6e}".partition("e")[0] in ("1.000000", "2.000000", "5.000000")
