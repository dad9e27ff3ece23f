"""Floors and ceilings per group: against exhaustive search on small pools, and over every selector."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from siftune._common.errors import ConfigError
from siftune.selectors import SELECTORS, Problem, select
from siftune.selectors.core.constraints import Ledger
from tests.selectors.instances import Instance, Shelf, instances, play

Quotas = dict[str, tuple[object, object]]


class Exhaustive:
    """A row may be taken if some completion of the rows taken meets every floor, ceiling and the budget."""

    def __init__(self, groups: list[str], cost: list[int], limit: int, quotas: dict[str, tuple[int, int | None]],
                 duplicates: list[list[int]], exclude: list[int]):
        self.groups, self.cost, self.limit, self.quotas, self.duplicates = groups, cost, limit, quotas, duplicates
        self.usable = [row for row in range(len(groups)) if row not in exclude]

    def allowed(self, rows: list[int], floors: bool) -> bool:
        if sum(self.cost[row] for row in rows) > self.limit:
            return False
        if any(len(set(rows) & set(group)) > 1 for group in self.duplicates):
            return False
        counts = {name: sum(self.groups[row] == name for row in rows) for name in self.quotas}
        return all((not floors or floor <= counts[name]) and (ceiling is None or counts[name] <= ceiling)
                   for name, (floor, ceiling) in self.quotas.items())

    def completes(self, rows: list[int]) -> bool:
        rest = [row for row in self.usable if row not in rows]
        return any(self.allowed([*rows, *more], True) for size in range(len(rest) + 1)
                   for more in combinations(rest, size))

    def walk(self, order: list[int]) -> list[int]:
        taken: list[int] = []
        for row in order:
            if row in self.usable and self.allowed([*taken, row], False) and self.completes([*taken, row]):
                taken.append(row)
        return taken


@settings(max_examples=300)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.booleans(), st.booleans())
def test_a_row_is_taken_exactly_where_the_floors_can_still_be_met(seed, n, in_tokens, with_duplicates):
    rng = np.random.default_rng(seed)
    groups = rng.choice(["a", "b", "c"], n).tolist()
    tokens = rng.integers(1, 6, n).tolist()
    cost = tokens if in_tokens else [1] * n
    duplicates: list[list[int]] = []
    if with_duplicates:  # disjoint lists inside groups, as near duplicates mostly are
        for name in "abc":
            members = rng.permutation([row for row in range(n) if groups[row] == name]).tolist()
            duplicates += [members[:2], members[2:4]]
        duplicates = [group for group in duplicates if len(group) > 1]
    quotas: dict[str, tuple[int, int | None]] = {}
    for name in sorted(set(groups)):
        floor, more = int(rng.integers(0, 3)), int(rng.integers(0, 4))
        quotas[name] = (floor, None if rng.random() < 0.4 else floor + more)
    exclude = [row for row in range(n) if rng.random() < 0.1]
    usable = [row for row in range(n) if row not in exclude]
    if not usable:
        return
    limit = int(rng.integers(min(cost[r] for r in usable), sum(cost[r] for r in usable) + 1))
    oracle = Exhaustive(groups, cost, limit, quotas, duplicates, exclude)
    problem = Problem(ids=[f"r{i}" for i in rng.permutation(n)], tokens=np.array(tokens), groups=groups,
                      exclude=np.isin(np.arange(n), exclude), duplicate_groups=duplicates, quotas=quotas)
    budget = problem.resolve(f"{limit} tokens" if in_tokens else limit)
    order = rng.permutation(n).tolist()
    expected = oracle.walk(order)
    if not oracle.completes([]) or not expected:
        with pytest.raises(ConfigError):
            Ledger(problem, budget)
        return
    ledger = Ledger(problem, budget)
    closed: set[int] = set()
    for row in order:
        assert ledger.full == (not any(ledger.is_open(r) and oracle.completes([*ledger.taken, r])
                                       for r in range(n) if r not in ledger.taken))
        assert ledger.is_open(row) or row in [*ledger.taken, *exclude] or not oracle.completes([*ledger.taken, row])
        ledger.offer(row)
        assert all(not ledger.is_open(r) for r in closed)
        closed = {r for r in range(n) if not ledger.is_open(r)}
    assert ledger.taken == expected


def everything(instance: Instance, rng: np.random.Generator, **changes: object) -> Problem:
    """A problem that any selector can do something with."""
    n, dim = instance.n, 5
    by_id = np.argsort(instance.ids)
    vectors = np.empty((n, dim), dtype=np.float32)
    vectors[by_id] = rng.standard_normal((n, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sets = np.empty((n, 7))
    sets[by_id] = rng.random((n, 7)) < 0.4
    lengths = np.array(instance.tokens)
    return instance.problem(
        vectors=lambda: ((s, vectors[s:s + 7]) for s in range(0, n, 7)), sets=csr_array(sets.astype(np.float32)),
        existing=lambda: iter([(0, np.zeros((1, n), dtype=np.float32))]), lengths=lengths, reference_lengths=lengths,
        **changes)


def _kind(value: object) -> str:
    return "tokens" if str(value).endswith("tok") else "share" if str(value).endswith("%") else "rows"


REFUSED_THEN_CLOSED = Instance(
    S=[[-1.1, 1.4, 0.1, 0.5, -1.6, -0.1, -0.1, 1.6]], ids=[f"r{i}" for i in (6, 3, 2, 5, 7, 0, 1, 4)], targets=["t0"],
    subtasks=["task0"], tokens=[1, 19, 28, 14, 10, 12, 13, 9], exclude=[2, 7], include=[4],
    groups=[[4, 2, 3], [3, 5, 1]])
"""A row refused for the sake of a floor, whose group reaches its ceiling later on: that is why nothing is left."""


@settings(max_examples=300)
@given(instances(constrained=True), st.sampled_from(SELECTORS.names()), st.integers(0, 2**32 - 1), st.booleans())
@example(REFUSED_THEN_CLOSED, "top-k", 50688, False)
def test_every_selector_holds_floors_ceilings_and_the_budget(instance, selector, seed, in_tokens):
    rng = np.random.default_rng(seed)
    instance = replace(instance, S=np.tanh(instance.S).tolist())  # cosines, for the selectors that take them for such
    names = ["a", "b", "c"][: int(rng.integers(1, 4))]
    groups = rng.choice(names, instance.n).tolist()
    cost = instance.tokens if in_tokens else [1] * instance.n
    usable = [row for row in range(instance.n) if row not in instance.exclude]
    limit = int(rng.integers(min(cost[r] for r in usable), sum(cost[r] for r in usable) + 1))
    quotas: Quotas = {}
    for name in sorted(set(groups)):
        floor, ceiling = sorted(rng.integers(0, max(2, limit // (8 if in_tokens else 2)), 2).tolist())
        form = rng.choice(["rows", "share", *(["tokens"] if in_tokens else [])])
        if form == "share":
            floor, ceiling = sorted(rng.integers(0, 101, 2).tolist())
            quotas[name] = f"{floor // 2}%", f"{ceiling}%"
        else:
            quotas[name] = (f"{floor}tok", f"{ceiling + 5}tok") if form == "tokens" else (floor // 2, ceiling + 1)
    problem = everything(instance, rng, groups=groups, quotas=quotas)
    got = error = None
    try:
        got = select(problem, f"{limit} tokens" if in_tokens else limit, selector)
    except ConfigError as refusal:
        error = refusal
    if got is None or error is not None:
        assert error is not None
        assert error.where in ("quotas", "--must-include", "--budget")
        assert error.hint
        if error.where == "quotas" and not instance.groups and not in_tokens:
            assert infeasible(instance, groups, quotas, limit)
        return
    rows = got.indices.tolist()
    assert len(set(rows)) == len(rows)
    assert not set(rows) & set(instance.exclude)
    assert sum(cost[row] for row in rows) <= limit
    assert not got.is_nested
    below: set[str] = set()
    for name, (floor, ceiling) in quotas.items():
        mine = [row for row in rows if groups[row] == name]
        said = got.diagnostics["quotas"][name]
        assert (said["rows"], said["cost"]) == (len(mine), sum(cost[row] for row in mine))
        for value, which in [(floor, "floor"), (ceiling, "ceiling")]:
            tokens = _kind(value) == "tokens" or (_kind(value) == "share" and in_tokens)
            amount = float(str(value).strip("tok%")) * (limit / 100 if _kind(value) == "share" else 1)
            had = sum(cost[row] for row in mine) if tokens else len(mine)
            if which == "floor":
                assert had >= int(amount + 1e-9)
            else:
                assert had <= int(np.ceil(amount - 1e-9))
                if had + (min((cost[r] for r in usable if groups[r] == name and r not in rows), default=0)
                          if tokens else 1) <= int(np.ceil(amount - 1e-9)):
                    below.add(name)
    if not in_tokens:
        # Nothing is left over while a row could still be taken.
        suppressed = {mate for group in instance.groups if set(group) & set(rows) for mate in group}
        free = [row for row in usable if row not in rows and row not in suppressed and groups[row] in below]
        assert len(rows) == limit or not free
        assert got.diagnostics["exhausted"] == (len(rows) < limit)


def infeasible(instance: Instance, groups: list[str], quotas: Quotas, limit: int) -> bool:
    """Whether row quotas without near duplicates contradict each other, by counting."""
    if len(instance.include) > limit:
        return True
    needed = len(instance.include)
    room = 0
    for name, (floor, ceiling) in quotas.items():
        scale = limit / 100 if _kind(floor) == "share" else 1
        least, most = (float(str(value).strip("%")) * scale for value in (floor, ceiling))
        least, most = int(least + 1e-9), int(np.ceil(most - 1e-9))
        usable = sum(groups[r] == name and r not in instance.exclude for r in range(instance.n))
        included = sum(groups[r] == name for r in instance.include)
        if included > most or least > usable or least > most:
            return True
        needed += max(0, least - included)
        room += min(most, usable)
    return needed > limit or room == 0


@pytest.mark.parametrize(("quotas", "says"), [
    ({"a": (3, 2)}, "floor of group 'a' is above its ceiling"),
    ({"a": (5, None)}, "is 5 rows, but only 4 can be taken"),
    ({"a": (3, None), "b": (3, None)}, "floors do not fit the budget '5'"),
    ({"c": (1, None)}, "unknown group 'c'"),
    ({"a": ("2ktok", None)}, "counts tokens, but the budget counts rows"),
    ({"a": (0.2, None)}, "cannot read the floor of group 'a': 0.2"),
    ({"a": (True, None)}, "cannot read the floor of group 'a': True"),
    ({"a": ("120%", None)}, "cannot read the floor of group 'a': '120%'"),
    ({"a": (None, "much")}, "cannot read the ceiling of group 'a'"),
    ({"a": (0, 0), "b": (0, 0)}, "no row may be taken"),
])
def test_quotas_that_cannot_be_met_name_the_conflict(quotas, says):
    problem = Problem.from_scores(np.arange(8.0), groups=list("aaaabbbb"), quotas=quotas)
    with pytest.raises(ConfigError, match=says) as caught:
        select(problem, 5, "top-k")
    assert caught.value.where == "quotas"
    assert caught.value.hint


def test_must_includes_above_a_ceiling_are_refused():
    problem = Problem.from_scores(np.arange(8.0), groups=list("aaaabbbb"), quotas={"a": (None, 1)}, ids="pqrstuvw")
    with pytest.raises(ConfigError, match="exceed the ceiling of group 'a'"):
        select(problem.constrained(must_include=["p", "q"]), 5, "top-k")


def test_must_includes_that_leave_no_room_for_a_floor_are_refused():
    problem = Problem.from_scores(np.arange(8.0), groups=list("aaaabbbb"), quotas={"b": (2, None)}, ids="pqrstuvw")
    with pytest.raises(ConfigError, match="floors do not fit"):
        select(problem.constrained(must_include=["p", "q"]), 3, "top-k")


def test_quotas_without_groups_are_refused():
    with pytest.raises(ConfigError, match="no groups"):
        Problem.from_scores(np.arange(3.0), quotas={"a": (1, None)})


def test_a_floor_is_held_by_the_groups_best_rows():
    problem = Problem.from_scores(np.array([9.0, 8, 7, 6, 3, 2, 1]), groups=list("aaaabbb"), quotas={"b": (2, None)})
    got = select(problem, 4, "top-k")
    assert got.indices.tolist() == [0, 1, 4, 5]
    assert got.diagnostics["refused_for_floors"] == 2


def test_shares_that_add_up_to_all_of_an_odd_budget_fill_it():
    half = ("50%", "50%")
    problem = Problem.from_scores(np.arange(20.0), groups=["a", "b"] * 10, quotas={"a": half, "b": half})
    got = select(problem, 7, "top-k")
    assert len(got) == 7
    assert sorted(entry["rows"] for entry in got.diagnostics["quotas"].values()) == [3, 4]


def test_ceilings_that_cannot_fill_the_budget_are_noted():
    problem = Problem.from_scores(np.arange(8.0), groups=list("aaaabbbb"), quotas={"a": (None, 1), "b": (None, 2)})
    got = select(problem, 5, "top-k")
    assert len(got) == 3
    assert got.diagnostics["exhausted"]
    assert got.diagnostics["closed_by_ceilings"] == 5


def test_a_floor_reserves_the_tokens_of_the_shortest_rows_that_fill_it():
    problem = Problem.from_scores(np.array([5.0, 4, 3, 2, 1]), tokens=np.array([60, 40, 30, 30, 10]),
                                  groups=list("aabbb"), quotas={"b": (2, None)})
    # 40 tokens are kept for b: the row of 60 fits beside them, the row of 40 does not, and b's 30 + 10 follow.
    got = select(problem, "100 tokens", "top-k")
    assert got.indices.tolist() == [0, 2, 4]


def test_a_near_duplicate_in_another_group_does_not_break_a_floor():
    # Taking the best row would close one of only two rows that can fill b's floor.
    problem = Problem.from_scores(np.array([9.0, 8, 7, 6]), groups=list("aabb"), duplicate_groups=[[0, 2]],
                                  quotas={"b": (2, None)})
    assert select(problem, 3, "top-k").indices.tolist() == [1, 2, 3]


def test_quotas_over_a_large_pool_take_time_in_proportion_to_it():
    rng = np.random.default_rng(0)
    n = 200_000
    groups = rng.choice(list("abcd"), n, p=[0.7, 0.2, 0.09, 0.01])
    problem = Problem.from_scores(rng.standard_normal(n), groups=groups, tokens=rng.integers(10, 500, n),
                                  quotas={"c": ("30%", None), "d": (1500, None), "a": (None, "40%")})
    got = select(problem, 50_000, "top-k")
    assert {name: quota["rows"] for name, quota in got.diagnostics["quotas"].items()} == {
        "c": 15_000, "d": 1_500, "a": 20_000}
    assert len(got) == 50_000
    tokens = select(problem, "1Mtok", "top-k").diagnostics
    assert tokens["quotas"]["c"]["cost"] >= 300_000
    assert 999_900 <= tokens["budget"]["tokens"] <= 1_000_000


class QuotaShelf(Shelf):
    """What may still be taken under row quotas, every question asked anew."""

    groups: list[str]
    quotas: dict[str, tuple[int, int]]

    def fits(self, row: int) -> bool:
        rows = [*self.taken, row]
        counts = {name: sum(self.groups[r] == name for r in rows) for name in self.quotas}
        lacking = sum(max(0, floor - counts[name]) for name, (floor, _) in self.quotas.items())
        return len(rows) + lacking <= self.limit and all(
            counts[name] <= ceiling for name, (_, ceiling) in self.quotas.items())


@settings(max_examples=150)
@given(instances(), st.sampled_from(["advance", "forfeit"]), st.integers(0, 2**32 - 1))
def test_round_robin_under_quotas_is_targets_walking_down_their_whole_rankings(instance, on_taken, seed):
    rng = np.random.default_rng(seed)
    groups = rng.choice(["a", "b", "c"], instance.n).tolist()
    limit = int(rng.integers(1, instance.n + 1))
    quotas: dict[str, tuple[int, int]] = {}
    for name in sorted(set(groups)):
        floor = int(rng.integers(0, min(limit // 3, groups.count(name)) + 1))
        quotas[name] = floor, floor + int(rng.integers(1, limit + 1))
    shelf = type("Bound", (QuotaShelf,), {"groups": groups, "quotas": quotas})
    wishes = [instance.ranked(dict(enumerate(line))) for line in instance.S]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.selectors.instances.Shelf", shelf)
        expected, turns = play(instance, wishes, limit, False, on_taken)
    got = select(instance.problem(7, groups=groups, quotas=quotas), limit, "round-robin", on_taken=on_taken)
    assert got.indices.tolist() == expected
    assert got.nearest_target.tolist() == turns
