"""What a selector is given: similarities of pool rows to targets (streamed) or one score per row, and constraints.

A similarity block is ``S[M, n]``: M targets by n consecutive pool rows. Nothing here ever holds all of ``S``; one
streaming pass keeps three numbers a row (:class:`Summary`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from siftune._common.errors import ConfigError, SiftuneError
from siftune.selectors.core import arrays, checks, ordering
from siftune.selectors.core.budget import Budget, ResolvedBudget
from siftune.selectors.core.ids import PackedIds, rows_of

Blocks = Callable[[], Iterator[tuple[int, np.ndarray]]]
"""Makes a fresh iterator of ``(first row, S[M, n])``, the blocks in pool order and covering it."""

_ELEMENTS = 1 << 18
"""Wider blocks are handed on in slices of about so many numbers: what a processor's cache holds."""


@dataclass(frozen=True, eq=False)
class Summary:
    """What one pass over the similarities leaves behind, per pool row.

    Attributes:
        best: float64 [N], the largest similarity to any target.
        nearest: int64 [N], the target that has it; the one with the smallest id among equals.
        mean: float64 [N], the mean similarity over the targets.
    """

    best: np.ndarray
    nearest: np.ndarray
    mean: np.ndarray


@dataclass(frozen=True, eq=False)
class Problem:
    """A pool to select from, built with :meth:`from_similarities`, :meth:`from_vectors`, :meth:`from_blocks` or
    :meth:`from_scores`.

    Attributes:
        ids: the N row ids, distinct; for millions of rows a :class:`~siftune.selectors.core.ids.PackedIds`.
        tokens: int64 [N], what a row costs in training; None where unknown (then no token budgets).
        blocks: streamed similarities, None for a score-only problem.
        targets: the M target ids, distinct; targets take turns in this order.
        subtasks: the subtask of each target (M names, any sizes, any order).
        subtask_blocks: streamed ``[K, n]`` scores per subtask in the order of ``subtask_names``; None means the mean
            of ``blocks`` over each subtask's targets.
        scores: float64 [N], one score per row, higher is better, for score-only methods.
        vectors: streamed ``(first row, float32 [n, D])``, the blocks in pool order; the inner product of two rows is
            their similarity, so normalised vectors make it a cosine. For selectors that compare pool rows.
        kernel: a directed kernel given as such, [R, N]: how well pool row j represents (helps) row i of R rows. A
            float array, or a ``scipy.sparse.csc_array`` whose missing entries are 0. R rows need not be the pool's.
        existing: streamed ``[E, n]`` similarities of pool rows to E rows that the model already knows.
        sets: ``scipy.sparse.csr_array`` [N, F] of 0/1, the features that each row covers.
        groups: the group (stratum, source) of each row.
        quotas: group -> (floor, ceiling), see :mod:`siftune.selectors.core.quotas`.
        exclude: bool [N], rows that must not be taken.
        include: int64, distinct rows that must be taken; they are taken first, in this order.
        duplicate_groups: lists of rows of which at most one is taken.
        lengths: int64 [N], response lengths in tokens.
        reference_lengths: int64 [any], response lengths to match (those of another selection).
    """

    ids: Sequence[str]
    tokens: np.ndarray | None = None
    blocks: Blocks | None = None
    targets: Sequence[str] = ()
    subtasks: Sequence[str] = ()
    subtask_blocks: Blocks | None = None
    scores: np.ndarray | None = None
    vectors: Blocks | None = None
    kernel: Any = None
    existing: Blocks | None = None
    sets: Any = None
    groups: Sequence[str] | None = None
    quotas: Mapping[str, tuple[int | str | None, int | str | None]] = field(default_factory=dict)
    exclude: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    include: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    duplicate_groups: Sequence[Sequence[int]] = ()
    lengths: np.ndarray | None = None
    reference_lengths: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)

        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        checks.distinct(self.ids, "row")
        checks.distinct(self.targets, "target")
        if self.blocks is not None and not self.targets:
            raise SiftuneError("similarities were given without targets")
        put("subtasks", list(self.subtasks) or ["all"] * len(self.targets))
        checks.same_length("subtasks", len(self.subtasks), len(self.targets), "targets")
        put("tokens", checks.counts("tokens", self.tokens, n))
        put("lengths", checks.counts("lengths", self.lengths, n))
        put("reference_lengths", checks.counts("reference_lengths", self.reference_lengths, None))
        if self.groups is not None:
            checks.same_length("groups", len(self.groups), n, "rows")
        elif self.quotas:
            raise ConfigError("there are quotas, but the rows have no groups to which they could apply", where="quotas",
                              hint="pass groups=... (the group or source of every row)")
        if self.scores is not None:
            put("scores", np.asarray(self.scores, dtype=np.float64))
            checks.same_length("scores", self.scores.size, n, "rows")
            checks.finite_row(self.scores[None, :], 0, self.ids, None)
        if self.kernel is not None:
            checks.kernel_shape(self.kernel, n)
        if self.sets is not None:
            checks.sets_shape(self.sets, n)
        put("exclude", np.asarray(self.exclude, dtype=bool) if len(self.exclude) else np.zeros(n, dtype=bool))
        checks.same_length("exclude", len(self.exclude), n, "rows")
        put("include", np.asarray(list(dict.fromkeys(np.asarray(self.include).tolist())), dtype=np.int64))
        checks.rows_exist("include", self.include, n)
        for group in self.duplicate_groups:
            checks.rows_exist("duplicate_groups", np.asarray(group, dtype=np.int64), n)
        both = self.include[self.exclude[self.include]]
        if len(both):
            raise ConfigError(f"row {self.ids[both[0]]!r} must be included and excluded at once",
                              where="--must-include", hint="take it off one of the two lists")

    @classmethod
    def from_similarities(cls, S: np.ndarray, *, ids: Sequence[str] | None = None,
                          targets: Sequence[str] | None = None, subtask_scores: np.ndarray | None = None,
                          block_rows: int = 4096, **rest: Any) -> Problem:
        """A problem from a whole matrix ``S[M, N]`` (targets by pool rows; float32 or float64).

        Args:
            S: similarities.
            ids: row ids; row numbers, padded with zeros, when not given.
            targets: target ids; likewise.
            subtask_scores: ``[K, N]``, in the order in which the subtasks first appear.
            block_rows: how many rows selectors see at a time; it does not change any result.
            rest: further fields of :class:`Problem`.
        """
        S = np.asarray(S)
        if S.ndim != 2:
            raise SiftuneError(f"similarities must be a matrix [targets, rows], not of shape {S.shape}")
        return cls.from_blocks(
            arrays.sliced(S, block_rows), ids=_numbered(S.shape[1]) if ids is None else ids,
            targets=_numbered(S.shape[0]) if targets is None else targets,
            subtask_blocks=None if subtask_scores is None else arrays.sliced(np.asarray(subtask_scores), block_rows),
            **rest)

    @classmethod
    def from_vectors(cls, pool_vectors: np.ndarray, target_vectors: np.ndarray | None = None, *,
                     ids: Sequence[str] | None = None, targets: Sequence[str] | None = None,
                     tokens: np.ndarray | None = None, existing_vectors: np.ndarray | None = None,
                     metric: arrays.Metric = "cosine", block_rows: int = 4096, **rest: Any) -> Problem:
        """A problem from vectors: of the pool, and where selectors compare with them, of targets and existing rows.

        Selectors that compare pool rows with each other (k-center, facility-location, ...) need only the pool's.
        Everything is formed a block at a time, so ``pool_vectors`` may be a memory map.

        Args:
            pool_vectors: [N, D] of any real type.
            target_vectors: [M, D]; S[q, j] is their similarity. Without it there are no targets.
            ids, targets: of rows and targets; numbers, padded with zeros, when not given.
            tokens: int64 [N], what a row costs in training, for budgets in tokens.
            existing_vectors: [E, D], of rows that the model already knows.
            metric: ``cosine`` (a vector of zeros has cosine 0 with everything), or ``inner``, the inner product of the
                vectors as they are. Either is formed in float64 and rounded to float32.
            block_rows: how many rows selectors see at a time; it does not change any result.
            rest: further fields of :class:`Problem`.

        Raises:
            ConfigError: an unknown metric.
            SiftuneError: arrays that do not fit each other.
        """
        pool = arrays.vectors_of(pool_vectors, "pool_vectors")
        vectors = arrays.vector_blocks(pool, metric, block_rows)

        def against(given: np.ndarray | None, name: str) -> Blocks | None:
            if given is None:
                return None
            return arrays.similarity_blocks(arrays.vectors_of(given, name, pool.shape[1]), vectors, metric)

        arrays.comparable(pool[:0], metric)  # an unknown metric is refused now
        if targets is not None and target_vectors is None:
            raise SiftuneError("targets were named, but there are no target_vectors")
        if ids is not None and len(ids) != len(pool):
            raise SiftuneError(f"{len(ids):,} ids were given for {len(pool):,} vectors",
                               hint="give an id for every vector, in the same order, or none")
        blocks = against(target_vectors, "target_vectors")
        if target_vectors is not None and targets is None:
            targets = _numbered(len(target_vectors))
        return cls(ids=_numbered(len(pool)) if ids is None else _kept(ids), tokens=tokens, blocks=blocks,
                   targets=list(targets or ()), vectors=vectors,
                   existing=against(existing_vectors, "existing_vectors"), **rest)

    @classmethod
    def from_blocks(cls, blocks: Blocks, *, ids: Sequence[str], targets: Sequence[str], **rest: Any) -> Problem:
        """A problem from streamed similarities: ``blocks()`` starts a new pass."""
        return cls(ids=_kept(ids), blocks=blocks, targets=list(targets), **rest)

    @classmethod
    def from_scores(cls, scores: np.ndarray, *, ids: Sequence[str] | None = None, **rest: Any) -> Problem:
        """A score-only problem: one number per row, higher is better."""
        scores = np.asarray(scores, dtype=np.float64)
        if scores.ndim != 1:
            raise SiftuneError(f"scores must be one number per row, not of shape {scores.shape}")
        return cls(ids=_numbered(len(scores)) if ids is None else _kept(ids), scores=scores, **rest)

    def constrained(self, *, must_exclude: Iterable[str] = (), must_include: Iterable[str] = (),
                    duplicate_groups: Iterable[Sequence[int]] = (),
                    quotas: Mapping[str, tuple[int | str | None, int | str | None]] | None = None) -> Problem:
        """The same problem with more rows excluded or included by id, more near-duplicate groups or more quotas.

        Raises:
            ConfigError: an id that the pool does not have, or one that is on both lists.
        """
        exclude = self.exclude.copy()
        exclude[rows_of(self.ids, must_exclude, flag="--must-exclude")] = True
        include = np.concatenate([self.include, rows_of(self.ids, must_include, flag="--must-include")])
        groups = [*self.duplicate_groups, *duplicate_groups]
        return replace(self, exclude=exclude, include=include, duplicate_groups=groups,
                       quotas={**self.quotas, **(quotas or {})})

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def subtask_names(self) -> list[str]:
        """The K subtasks in the order in which they first appear among the targets."""
        return list(dict.fromkeys(self.subtasks))

    def members(self, subtask: str) -> np.ndarray:
        """int64: the targets of a subtask."""
        return np.array([m for m, name in enumerate(self.subtasks) if name == subtask], dtype=np.int64)

    def resolve(self, budget: Budget | ResolvedBudget | str | int) -> ResolvedBudget:
        """The budget in rows or tokens of the rows that are not excluded."""
        if isinstance(budget, ResolvedBudget):
            return budget
        usable = ~self.exclude
        total = None if self.tokens is None else int(self.tokens[usable].sum())
        return Budget.parse(budget).resolve(int(usable.sum()), total)

    def stream(self) -> Iterator[tuple[int, np.ndarray]]:
        """The similarity blocks as float64, checked: right shape, in pool order, complete, finite.

        Raises:
            ConfigError: a score-only problem.
            SiftuneError: a malformed block; for NaN or infinity the row is named.
        """
        return self._checked(self.required_blocks(), self.targets, "similarity")

    def required_blocks(self) -> Blocks:
        """The similarities, for a selector that cannot do without.

        Raises:
            ConfigError: a score-only problem.
        """
        if self.blocks is None:
            raise ConfigError("this selector needs similarities to targets, but the rows only have scores",
                              where="--selector", hint='choose "top-k", or a representation that compares with targets')
        return self.blocks

    def vector_stream(self) -> Iterator[tuple[int, np.ndarray]]:
        """The vector blocks as float32 ``[n, D]``, checked: one width, in pool order, complete, finite.

        Raises:
            ConfigError: a problem without vectors.
            SiftuneError: a malformed block; for NaN or infinity the row is named.
        """
        return checks.vector_blocks(self.required_vectors(), self.ids)

    def required_vectors(self) -> Blocks:
        """The vectors, for a selector that compares pool rows with each other.

        Raises:
            ConfigError: the problem has none.
        """
        if self.vectors is None:
            raise ConfigError("this selector compares pool rows with each other, but the rows have no vectors",
                              where="--selector", hint="choose a representation that keeps a vector per row, or pass "
                              "vectors=...")
        return self.vectors

    def required_kernel(self) -> tuple[Any, float]:
        """The kernel as given, every entry finite, and its largest entry (at least 0); one pass over it.

        Raises:
            ConfigError: the problem has none.
            SiftuneError: an entry that is not finite; its row is named.
        """
        if self.kernel is None:
            raise ConfigError("this selector needs a kernel, but the problem has none", where="--selector",
                              hint="pass kernel=... [represented rows, pool rows]")
        return self.kernel, checks.largest_entry(self.kernel, self.ids)

    def required_sets(self) -> Any:
        """The feature sets as given, checked to be sets: entries 0 or 1, no feature twice in a row.

        Raises:
            ConfigError: the problem has none.
            SiftuneError: entries that do not make sets.
        """
        if self.sets is None:
            raise ConfigError("this selector needs the features that each row covers", where="--selector",
                              hint="choose a representation that makes feature sets, or pass sets=... [rows, features]")
        checks.binary_sets(self.sets, self.ids)
        return self.sets

    def existing_best(self) -> np.ndarray:
        """float64 [N]: the largest similarity of each pool row to any row that the model already knows.

        Raises:
            ConfigError: a problem without existing rows.
            SiftuneError: a malformed block; for NaN or infinity the row is named.
        """
        if self.existing is None:
            raise ConfigError("this selector needs similarities to the rows that the model already knows",
                              where="--selector", hint="name them with --existing, or pass existing=... (streamed "
                              "blocks [existing rows, n])")
        first = next(iter(self.existing()), None)
        lines = [] if first is None or np.ndim(first[1]) != 2 else [f"existing row {e}" for e in range(len(first[1]))]
        if not lines:
            raise SiftuneError("the similarities to existing rows are empty", why="Expected blocks [existing rows, n].")
        return np.concatenate([block.max(axis=0)
                               for _, block in self._checked(self.existing, lines, "existing-row similarity")])

    def subtask_stream(self) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks ``[K, n]`` of the score of each row for each subtask (LESS, section 4: mean over its targets)."""
        if self.subtask_blocks is not None:
            yield from self._checked(self.subtask_blocks, self.subtask_names, "subtask score")
            return
        members = [self.members(name) for name in self.subtask_names]
        for start, block in self.stream():
            yield start, np.stack([_mean(block, rows) for rows in members])

    def summary(self) -> Summary:
        """Largest similarity, nearest target and mean similarity of every row: one pass, then remembered."""
        return self._summary

    @cached_property
    def _summary(self) -> Summary:
        n = len(self)
        best, mean = np.empty(n), np.empty(n)
        nearest = np.empty(n, dtype=np.int64)
        by_id = np.argsort(ordering.id_rank(self.targets))
        for start, block in self.stream():
            rows = slice(start, start + block.shape[1])
            mean[rows] = _mean(block, np.arange(len(block)))
            block_best, block_nearest = block[by_id[0]].copy(), np.full(block.shape[1], by_id[0])
            for target in by_id[1:]:
                np.copyto(block_nearest, target, where=block[target] > block_best)
                np.maximum(block_best, block[target], out=block_best)
            best[rows], nearest[rows] = block_best, block_nearest
        return Summary(best, nearest, mean)

    @cached_property
    def tiebreak(self) -> np.ndarray:
        """int64 [N]: see :mod:`siftune.selectors.core.ordering`. Without similarities the id alone decides."""
        return ordering.tiebreak(self.ids, None if self.blocks is None else self.summary().mean)

    def _checked(self, blocks: Blocks, lines: Sequence[str], what: str) -> Iterator[tuple[int, np.ndarray]]:
        at = 0
        for start, raw in blocks():
            whole = np.asarray(raw)
            if whole.ndim != 2 or len(whole) != len(lines) or start != at or at + whole.shape[1] > len(self):
                raise SiftuneError(
                    f"{what} block of shape {whole.shape} at row {start} does not fit",
                    why=f"Expected [{len(lines)}, n] at row {at} of {len(self)}, the blocks in pool order.")
            width = max(256, _ELEMENTS // max(1, len(lines)))
            for first in range(0, whole.shape[1], width):
                block = np.ascontiguousarray(whole[:, first:first + width], dtype=np.float64)
                checks.finite_row(block, at, self.ids, lines)
                yield at, block
                at += block.shape[1]
        if at != len(self):
            raise SiftuneError(f"the {what} blocks end at row {at} of {len(self)}")


def _mean(block: np.ndarray, lines: np.ndarray) -> np.ndarray:
    # One target after the other: NumPy's own sum over the axis rounds differently for blocks of different widths.
    total = np.zeros(block.shape[1])
    for line in lines:
        total += block[line]
    return total / len(lines)


def _numbered(n: int) -> list[str]:
    width = len(str(max(n - 1, 0)))
    return [f"{i:0{width}d}" for i in range(n)]


def _kept(ids: Sequence[str]) -> Sequence[str]:
    return ids if isinstance(ids, PackedIds) else list(ids)
