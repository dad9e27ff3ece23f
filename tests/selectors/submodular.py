"""Random problems for the submodular selectors, and plain greedy by the definition, in whole numbers of grid steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st
from scipy.sparse import csc_array, csr_array

from siftune.selectors import Problem
from tests.selectors.instances import Instance, Shelf

Numbers = list[list[float]]


@dataclass(frozen=True)
class Case:
    """An instance with everything that submodular selectors may ask for. ``kernel`` is [N, N] and directed."""

    instance: Instance
    kernel: Numbers
    existing: Numbers
    vectors: Numbers
    sets: list[list[int]]  # features of each row
    features: int

    def problem(self, block_rows: int = 4096, sparse: bool = False, without: tuple[str, ...] = (), **more) -> Problem:
        n = self.instance.n

        def streamed(matrix: np.ndarray) -> Callable:
            return lambda: ((s, matrix[s:s + block_rows]) for s in range(0, n, block_rows))

        existing, vectors = np.array(self.existing), np.array(self.vectors, dtype=np.float32)
        indptr = np.cumsum([0, *map(len, self.sets)])
        columns = np.array([f for features in self.sets for f in features], dtype=int)
        carried = dict(
            kernel=csc_array(np.array(self.kernel)) if sparse else np.array(self.kernel), vectors=streamed(vectors),
            existing=lambda: ((s, part.T) for s, part in streamed(existing.T)()),
            sets=csr_array((np.ones(len(columns)), columns, indptr), shape=(n, self.features)))
        return self.instance.problem(block_rows, **{k: v for k, v in carried.items() if k not in without}, **more)

    def permuted(self, order: list[int]) -> Case:
        def along(line: list) -> list:
            return [line[row] for row in order]

        kernel = [along(line) for line in along(self.kernel)]
        return replace(self, instance=self.instance.permuted(order), kernel=kernel,
                       existing=[along(line) for line in self.existing], vectors=along(self.vectors),
                       sets=along(self.sets))


@st.composite
def cases(draw: st.DrawFn, most: int = 14) -> Case:
    """Directed kernels; half of them quantised, so full of ties and zeros; negative entries; duplicated rows."""
    n, m = draw(st.integers(1, most)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tied, duplicated = draw(st.booleans()), draw(st.booleans())

    def numbers(*shape: int) -> np.ndarray:
        values = rng.standard_normal(shape)
        return np.round(values * 2) / 2 if tied else values * 10.0 ** rng.integers(-3, 4)

    same = rng.integers(0, n, n) if duplicated else np.arange(n)
    features = int(rng.integers(1, 12))
    sets = [sorted(rng.choice(features, rng.integers(0, features + 1), replace=False).tolist()) for _ in range(n)]
    rows = rng.permutation(n)
    excluded = int(rng.integers(0, n // 3 + 1))
    included = int(rng.integers(0, min(2, n - excluded) + 1))
    instance = Instance(
        S=numbers(m, n)[:, same].tolist(), ids=[f"r{i}" for i in rng.permutation(n)],
        targets=[f"t{i}" for i in rng.permutation(m)], subtasks=["all"] * m, tokens=rng.integers(0, 30, n).tolist(),
        exclude=rows[:excluded].tolist(), include=rows[excluded:excluded + included].tolist(),
        groups=[rng.integers(0, n, 3).tolist() for _ in range(int(rng.integers(0, 3)))])
    return Case(instance, kernel=numbers(n, n)[:, same].tolist(), existing=numbers(int(rng.integers(1, 3)), n).tolist(),
                vectors=numbers(n, int(rng.integers(1, 6)))[same].astype(np.float32).tolist(),
                sets=[sets[row] for row in same], features=features)


def step_of(entries: Numbers, bits: int = 24) -> float:
    """The grid: 2^-24 of the smallest power of two that is not below the largest entry."""
    largest = max((max(line) for line in entries), default=0.0)
    scale = 1.0
    while scale < largest:
        scale *= 2
    while largest > 0 and scale / 2 >= largest:
        scale /= 2
    return scale / 2**bits


def in_steps(entries: Numbers, step: float) -> list[list[int]]:
    """Entries as whole numbers of steps, negative ones 0."""
    return [[max(0, round(entry / step)) for entry in line] for line in entries]


def down(value: float, step: float) -> int:
    return min(max(0, math.floor(value / step)), 2**24)


def facility(s: list[list[int]], clip: list[int], cover: list[int], modular: list[int]) -> Callable[[list[int]], int]:
    """f(A) = sum_i max(0, min(max_{j in A} s_ij, clip_i) - cover_i) + sum_{j in A} modular_j, in steps."""

    def f(taken: list[int]) -> int:
        total = sum(modular[j] for j in taken)
        for i, line in enumerate(s):
            best = max((line[j] for j in taken), default=0)
            total += max(0, min(best, clip[i]) - cover[i])
        return total

    return f


@dataclass
class Plain:
    """What plain greedy took."""

    rows: list[int]
    gains: list[float]
    filled: int
    left: dict[int, float]
    ties: int

    @property
    def value(self) -> float:
        return sum(self.gains)


def plain_greedy(instance: Instance, f: Callable[[list[int]], float], limit: int, in_tokens: bool,
                 per_token: bool = False, floor: float = 0) -> Plain:
    """Look at every open row before every pick."""
    shelf = Shelf(instance, limit, in_tokens)
    shelf.taken = []
    gains: list[float] = []
    for row in instance.include:
        gains.append(f([*shelf.taken, row]) - f(shelf.taken))
        shelf.taken.append(row)
    too_long: set[int] = set()
    ties = 0
    cost = [max(1, tokens) if per_token else 1 for tokens in instance.tokens]

    def gain(row: int) -> float:
        return f([*shelf.taken, row]) - f(shelf.taken)

    while not shelf.done:
        open_rows = {row: gain(row) for row in range(instance.n) if shelf.free(row) and row not in too_long}
        worth = {row: g / cost[row] for row, g in open_rows.items() if g > floor}
        if not worth:
            break
        row = instance.ranked(worth)[0]
        if not shelf.fits(row):
            too_long.add(row)
            continue
        taken_before = list(shelf.taken)
        shelf.taken.append(row)
        gains.append(open_rows[row])
        contenders = [r for r in range(instance.n) if shelf.free(r)]
        ties = sum((f([*taken_before, r]) - f(taken_before)) / cost[r] == worth[row] for r in contenders)
        if len(taken_before) < len(instance.include):
            ties = 0
    if len(shelf.taken) == len(instance.include):
        ties = 0
    filled = 0
    saturated = [row for row in range(instance.n) if shelf.free(row) and row not in too_long]
    if not shelf.done:
        for row in instance.ranked(dict.fromkeys(saturated, 0.0)):
            if shelf.free(row) and shelf.fits(row):
                shelf.taken.append(row)
                gains.append(0)
                filled += 1
        if filled:
            ties = sum(shelf.free(row) for row in saturated)
    # Rows that filled up add nothing to the objective, so what others would still add can be asked at the end.
    left = {row: gain(row) for row in range(instance.n) if shelf.free(row)}
    return Plain(shelf.taken, gains, filled, left, ties)


def best_plain(instance: Instance, f: Callable[[list[int]], float], limit: int, in_tokens: bool,
               floor: float = 0, merit: Callable[[Plain], object] = lambda run: run.value) -> tuple[Plain, bool]:
    """Under a token budget the better of gain per token and gain; whether it was per token."""
    if not in_tokens:
        return plain_greedy(instance, f, limit, in_tokens, floor=floor), False
    by_cost, by_gain = (plain_greedy(instance, f, limit, in_tokens, per, floor) for per in (True, False))
    return (by_cost, True) if merit(by_cost) >= merit(by_gain) else (by_gain, False)
