"""Every selector against its definition, written out as plain loops in ``instances.py``."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune.selectors import Budget, Problem, Selection, select
from siftune.selectors.round_robin import round_robin, subtask_round_robin
from siftune.selectors.topk import top_k
from tests.selectors.instances import Instance, assert_kept, instances, play, some_budget, suppressed, walk

BLOCKS = st.integers(1, 45)


def scores_by_hand(instance: Instance, aggregate: str) -> list[float]:
    columns = [[line[row] for line in instance.S] for row in range(instance.n)]
    if aggregate == "max":
        return [max(column) for column in columns]
    if aggregate == "mean":
        return [sum(column) / instance.m for column in columns]
    tasks = {task: [q for q in range(instance.m) if instance.subtasks[q] == task] for task in instance.subtasks}
    return [max(sum(column[q] for q in members) / len(members) for members in tasks.values()) for column in columns]


@settings(max_examples=200)
@given(instances(constrained=True), BLOCKS, st.sampled_from(["max", "mean", "subtask-max"]), st.data())
def test_top_k_takes_the_highest_scores_in_the_total_order(instance, block_rows, aggregate, data):
    budget, limit, in_tokens = some_budget(instance, data)
    score = scores_by_hand(instance, aggregate)
    expected = walk(instance, instance.ranked(dict(enumerate(score))), limit, in_tokens)
    got = top_k(instance.problem(block_rows), budget, aggregate=aggregate)
    assert got.indices.tolist() == expected
    assert got.score.tolist() == [score[row] for row in expected]
    assert got.nearest_target.tolist() == [instance.nearest(row) for row in expected]
    last = expected[-1]
    tied = [row for row in range(instance.n) if score[row] == score[last] and row not in expected
            and row not in instance.exclude and not suppressed(instance, row, expected)]
    assert got.diagnostics["ties_at_cut"] == (len(tied) if len(expected) > len(instance.include) else 0)


@settings(max_examples=300)
@given(instances(constrained=True), BLOCKS, st.sampled_from(["advance", "forfeit"]), st.data())
def test_round_robin_is_targets_walking_down_their_whole_rankings(instance, block_rows, on_taken, data):
    budget, limit, in_tokens = some_budget(instance, data)
    wishes = [instance.ranked(dict(enumerate(line))) for line in instance.S]
    expected, turns = play(instance, wishes, limit, in_tokens, on_taken)
    got = round_robin(instance.problem(block_rows), budget, on_taken=on_taken)
    included = len(instance.include)
    assert got.indices.tolist() == expected
    assert got.nearest_target[included:].tolist() == turns
    assert got.nearest_target[:included].tolist() == [instance.nearest(row) for row in instance.include]
    assert got.score[included:].tolist() == [instance.S[q][r] for q, r in zip(turns, expected[included:], strict=True)]
    if turns:
        line, last = instance.S[turns[-1]], expected[-1]
        tied = [row for row in range(instance.n) if line[row] == line[last] and row not in expected
                and row not in instance.exclude and not suppressed(instance, row, expected)]
        assert got.diagnostics["ties_at_cut"] == len(tied)


@settings(max_examples=200)
@given(instances(constrained=True), BLOCKS, st.sampled_from(["advance", "forfeit"]), st.data())
def test_subtask_round_robin_plays_with_the_best_target_of_each_subtask(instance, block_rows, on_taken, data):
    budget, limit, in_tokens = some_budget(instance, data)
    names = list(dict.fromkeys(instance.subtasks))
    members = [[q for q in range(instance.m) if instance.subtasks[q] == name] for name in names]
    wishes = [instance.ranked({row: max(instance.S[q][row] for q in inside) for row in range(instance.n)})
              for inside in members]
    expected, turns = play(instance, wishes, limit, in_tokens, on_taken)
    got = subtask_round_robin(instance.problem(block_rows), budget, on_taken=on_taken)
    included = len(instance.include)
    nearest = [instance.nearest(r, among=members[k]) for k, r in zip(turns, expected[included:], strict=True)]
    assert got.indices.tolist() == expected
    assert got.nearest_target[included:].tolist() == nearest
    assert got.diagnostics["per_subtask_coverage"] == {name: turns.count(k) for k, name in enumerate(names)}


@pytest.mark.parametrize(("on_taken", "expected", "turns", "forfeited"), [
    # Rankings: a: p q r s, b: p r q s. a takes p. "advance": b goes on to r, a to q, b to s.
    ("advance", ["p", "r", "q", "s"], [0, 1, 0, 1], 0),
    # "forfeit": b finds p gone and loses its turn; a takes q, b takes r; a finds r gone, b finds q gone; a takes s.
    ("forfeit", ["p", "q", "r", "s"], [0, 0, 1, 0], 3),
])
def test_a_taken_row_is_passed_over_or_costs_the_turn(on_taken, expected, turns, forfeited):
    S = np.array([[0.9, 0.8, 0.7, 0.1], [0.9, 0.6, 0.8, 0.1]])
    problem = Problem.from_similarities(S, ids=list("pqrs"), targets=["a", "b"])
    got = select(problem, 4, on_taken=on_taken)
    assert got.ids(problem) == expected
    assert got.nearest_target.tolist() == turns
    assert got.diagnostics["forfeited_turns"] == forfeited


ALL = ["top-k", "top-k-mean", "top-k-subtask", "round-robin", "round-robin-subtask", "random", "longest",
       "length-matched-random"]


def run(instance: Instance, selector: str, budget: Budget, block_rows: int = 4096, **options: object) -> Selection:
    lengths = np.array(instance.tokens) // 2
    problem = instance.problem(block_rows, lengths=lengths, reference_lengths=lengths[: instance.n // 2 + 1])
    return select(problem, budget, selector, **options)


@settings(max_examples=100)
@given(instances(constrained=True), st.sampled_from(ALL), st.randoms(use_true_random=False), st.data())
def test_the_order_of_the_pool_never_matters(instance, selector, random, data):
    budget, _, _ = some_budget(instance, data)
    order = list(range(instance.n))
    random.shuffle(order)
    shuffled = instance.permuted(order)
    reference = np.array(instance.tokens)[: instance.n // 2 + 1]
    one, two = (
        select(p, budget, selector, seed=3).ids(p)
        for p in (i.problem(7, lengths=np.array(i.tokens), reference_lengths=reference) for i in (instance, shuffled)))
    assert one == two


@settings(max_examples=100)
@given(instances(constrained=True), st.sampled_from(ALL), st.data())
def test_every_selector_keeps_budget_and_constraints_and_its_diagnostics_add_up(instance, selector, data):
    budget, limit, in_tokens = some_budget(instance, data)
    got = run(instance, selector, budget)
    rows, free = assert_kept(instance, got, budget, limit, in_tokens)
    said = got.diagnostics
    assert said["candidates"] + said["excluded"] == instance.n
    assert said["included"] == len(instance.include)
    assert said["skipped_too_long"] <= len(free)
    assert said["near_duplicates_suppressed"] == instance.n - len(rows) - len(instance.exclude) - len(free)
    if said["per_target_coverage"] is not None:
        assert sum(said["per_target_coverage"].values()) == len(rows)
        assert said["zero_gain_share"] == np.mean(got.gain <= 0)


@settings(max_examples=100)
@given(instances(constrained=True), st.sampled_from(ALL), st.data())
def test_a_nested_selection_is_a_prefix_of_every_larger_one(instance, selector, data):
    usable = instance.n - len(instance.exclude)
    small = data.draw(st.integers(max(1, len(instance.include)), usable))
    large = data.draw(st.integers(small, usable))
    one, two = run(instance, selector, Budget.parse(small)), run(instance, selector, Budget.parse(large))
    assert one.is_nested == (selector != "length-matched-random")
    if one.is_nested:
        assert two.indices[: len(one)].tolist() == one.indices.tolist()


def test_a_target_whose_row_has_a_taken_near_duplicate_goes_on_to_the_next():
    S = np.array([[0.9, 0.1, 0.5, 0.2], [0.1, 0.9, 0.5, 0.6]])
    problem = Problem.from_similarities(S, ids=list("abcd"), duplicate_groups=[[0, 1]])
    got = select(problem, 3)
    assert got.ids(problem) == ["a", "d", "c"]
    assert got.diagnostics["near_duplicates_suppressed"] == 1


def test_a_token_budget_skips_what_does_not_fit_and_fills_up_with_what_does():
    problem = Problem.from_scores(np.array([5.0, 4, 3, 2, 1]), tokens=np.array([50, 60, 30, 25, 10]))
    got = select(problem, "100 tokens", "top-k")
    assert got.indices.tolist() == [0, 2, 4]
    assert got.diagnostics["budget"]["tokens"] == 90
    assert got.diagnostics["skipped_too_long"] == 2
    assert not got.is_nested


def test_subtask_scores_that_are_given_replace_the_mean_of_the_similarities():
    S = np.array([[0.9, 0.0, 0.1], [0.0, 0.8, 0.1]])
    given_scores = np.array([[0.0, 0.0, 0.7], [0.1, 0.2, 0.3]], dtype=np.float32)
    problem = Problem.from_similarities(S, subtasks=["x", "y"], subtask_scores=given_scores, ids=list("abc"))
    assert select(problem, 2, "top-k-subtask").ids(problem) == ["c", "b"]


def test_lists_that_run_out_are_renewed_without_changing_the_result():
    """Targets that agree exhaust their short lists: 700 rows from lists of 256 at first."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal(900)
    S = common + rng.standard_normal((30, 900)) * 0.01
    problem = Problem.from_similarities(S, block_rows=128)
    for on_taken in ("advance", "forfeit"):
        taken: list[int] = []
        wishes = [list(np.argsort(-line)) for line in S]
        while len(taken) < 700:
            for wish in wishes:
                while wish and len(taken) < 700:
                    row = int(wish.pop(0))
                    if row not in taken:
                        taken.append(row)
                        break
                    if on_taken == "forfeit":
                        break
        assert select(problem, 700, on_taken=on_taken).indices.tolist() == taken


def test_a_large_pool_streams_through_in_blocks_that_are_made_and_forgotten():
    """100,000 rows by 20 targets in float32 blocks of 5,000 that exist only while they are looked at."""
    n, m, width = 100_000, 20, 5_000
    alive: list[int] = []

    def blocks():
        for start in range(0, n, width):
            alive.append(start)
            yield start, np.random.default_rng(start).standard_normal((m, width), dtype=np.float32)

    whole = np.concatenate([block for _, block in blocks()], axis=1)
    ids = [f"{i:06d}" for i in range(n)]
    streamed = Problem.from_blocks(blocks, ids=ids, targets=[f"t{i}" for i in range(m)])
    in_memory = Problem.from_similarities(whole, ids=ids, block_rows=n)
    for selector in ("round-robin", "top-k-mean"):
        one, two = select(streamed, "5%", selector), select(in_memory, "5%", selector)
        assert len(one) == 5_000
        assert one.indices.tolist() == two.indices.tolist()
        assert one.score.tolist() == two.score.tolist()


@pytest.mark.parametrize("count", [2, 30])
def test_lists_that_may_not_grow_are_renewed_as_often_as_it_takes(count, monkeypatch):
    """Room for 300 places in all lists together: at most 256 rows a list for two targets, and as many for thirty."""
    monkeypatch.setattr("siftune.selectors.round_robin._LIST_BYTES", 16 * 300)
    rng = np.random.default_rng(0)
    S = rng.standard_normal(1500) + rng.standard_normal((count, 1500)) * 0.01
    problem = Problem.from_similarities(S, block_rows=128)
    got = select(problem, "20% ", "round-robin").indices.tolist()
    monkeypatch.undo()
    assert got == select(problem, "20%", "round-robin").indices.tolist()
    tokens = Problem.from_similarities(S, tokens=np.full(1500, 2))
    monkeypatch.setattr("siftune.selectors.round_robin._LIST_BYTES", 16 * 300)
    capped = select(tokens, "2500 tokens", "round-robin").indices.tolist()
    monkeypatch.undo()
    assert capped == select(tokens, "2500 tokens", "round-robin").indices.tolist() == select(
        problem, 1250, "round-robin").indices.tolist()
