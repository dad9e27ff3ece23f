"""Greedy round-robin: the targets take turns, and each takes its best row that is not yet taken (arXiv 2602.14696).

Every target owns a ranking of the pool and walks down it. With ``on_taken="advance"`` (the paper) a target whose next
row is gone goes on to the first free one. With ``"forfeit"`` (the released code of RDS+, arXiv 2503.01807) it loses
its turn, so that targets which want the same rows get fewer.

Only the top of each ranking is ever needed, so each target keeps a list of its best rows, merged from the streamed
blocks. Should a list run out before the budget is met, another pass fetches longer ones: the result is that of the
whole rankings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from siftune._common.registry import unknown_name
from siftune.config.options import OwnSettings, option
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.constraints import EXCLUDED, OPEN, Ledger
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude
from siftune.selectors.core.top_lists import Stream, TopLists, top_lists

OnTaken = Literal["advance", "forfeit"]
_SHORTEST_LIST = 256
_LIST_BYTES = 1 << 28  # lists of all players together do not grow beyond; walked down, they are renewed


@dataclass(frozen=True)
class RoundRobinSettings(OwnSettings):
    on_taken: OnTaken = option("advance", "What a target does when its next row is taken: go on to the next free one "
                               "(the paper), or lose its turn (the code of RDS+).", decides="selection")


def round_robin(problem: Problem, budget: Budget | str | int, *, on_taken: OnTaken = "advance") -> Selection:
    """Targets take turns, in the order in which they are given.

    ``nearest_target`` is the target whose turn it was; score and gain are the similarity to it. Must-includes use no
    turn: they count for the target nearest to them. Diagnostics add ``turns`` and ``forfeited_turns``.

    Raises:
        ConfigError: a score-only problem, or an unknown ``on_taken``.
    """
    game = _Game(problem, budget, problem.stream, len(problem.targets), on_taken)
    return game.conclude(game.players)


def subtask_round_robin(problem: Problem, budget: Budget | str | int, *,
                        on_taken: OnTaken = "advance") -> Selection:
    """Subtasks take turns; the similarity of a row to a subtask is its largest to any of the subtask's targets.

    This is RDS+'s multi-task selection (arXiv 2503.01807). Subtasks may have any sizes; they take turns in the order
    in which they first appear. ``nearest_target`` is the target inside the subtask that the row is most similar to.
    Diagnostics add ``per_subtask_coverage``: rows taken in the turns of each subtask.

    Raises:
        ConfigError: a score-only problem, or an unknown ``on_taken``.
    """
    names = problem.subtask_names
    members = [problem.members(name) for name in names]

    def stream() -> Iterator[tuple[int, np.ndarray]]:
        for start, block in problem.stream():
            yield start, np.stack([block[rows].max(axis=0) for rows in members])

    game = _Game(problem, budget, stream, len(names), on_taken)
    turns = np.bincount(np.array(game.players, dtype=np.int64), minlength=len(names))
    nearest = _nearest_inside(problem, game.picks, [members[player] for player in game.players])
    return game.conclude(nearest, per_subtask_coverage={n: int(t) for n, t in zip(names, turns, strict=True)})


class _Game:
    """One round-robin, played to the end: players are targets or subtasks.

    Attributes:
        players: whose turn it was, for each row taken in a turn.
        scores: the player's similarity to that row.
        turns: turns that came up, taken or forfeited.
    """

    def __init__(self, problem: Problem, budget: Budget | str | int, stream: Stream, count: int, on_taken: str):
        problem.required_blocks()
        self.problem, self.stream, self.count = problem, stream, count
        self.ledger = Ledger(problem, problem.resolve(budget))
        self.players: list[int] = []
        self.scores: list[float] = []
        self.turns = 0
        self.lists: TopLists | None = None  # the latest ones
        share = -(-self.ledger.remaining // count) if self.ledger.budget.kind == "rows" else 0
        self._length = max(_SHORTEST_LIST, 4 * share)
        self._longest = max(self._length, _LIST_BYTES // (16 * count))
        if on_taken == "advance":
            self._advance()
        elif on_taken == "forfeit":
            self._forfeit()
        else:
            raise unknown_name("value of on_taken", on_taken, ("advance", "forfeit"), flag="on_taken")

    @property
    def picks(self) -> list[int]:
        """The rows taken in turns, without the must-includes."""
        return self.ledger.taken[self.ledger.included:]

    def _advance(self) -> None:
        player = 0
        while not self.ledger.full:
            # Rows closed by now are behind every player for good, so the new lists leave them out and start afresh.
            player = self._walk(self._lists(self.ledger.open), player)
            self._length = min(self._length, self._longest)
        self.turns = len(self.players)

    def _walk(self, lists: TopLists, player: int) -> int:
        """Play until nothing fits or a list has run out; the player whose turn it is then."""
        ledger, first = self.ledger, len(self.players)
        wishes = [_open_places(rows, ledger) for rows in lists.rows]
        places: list[int] = []
        while not ledger.full:
            wish = next(wishes[player], None)
            if wish is None:
                break
            if ledger.offer(wish[1]):
                self.players.append(player)
                places.append(wish[0])
                player = (player + 1) % self.count
        self.scores.extend(lists.scores[self.players[first:], places].tolist())
        return player

    def _forfeit(self) -> None:
        usable = self.ledger.state != EXCLUDED
        done, complete = 0, False
        while not self.ledger.full and not complete:
            lists = self._lists(usable)
            self._rounds(lists, done)
            done, complete = lists.rows.shape[1], lists.complete

    def _rounds(self, lists: TopLists, first: int) -> None:
        """Play the rounds ``first, first + 1, ...`` of the lists: in round r every player looks at its r-th row."""
        ledger, length = self.ledger, lists.rows.shape[1]
        width = max(1, 4096 // self.count)  # rounds looked at together, to pass over rows long gone at once
        for start in range(first, length, width):
            stop = min(start + width, length)
            wanted = lists.rows[:, start:stop].T.ravel()  # in the order of turns
            turns = np.flatnonzero(ledger.state[wanted] == OPEN)
            # Offered once a row is taken or found too long: only the first turn that wants it can matter.
            _, first_wish = np.unique(wanted[turns], return_index=True)
            for turn in turns[np.sort(first_wish)].tolist():
                if ledger.offer(int(wanted[turn])):
                    self._record(lists, turn % self.count, start + turn // self.count)
                    if ledger.full:
                        self.turns += turn + 1
                        return
            self.turns += len(wanted)

    def _lists(self, usable: np.ndarray) -> TopLists:
        lists = top_lists(self.stream, self.count, self.problem.tiebreak, usable, self._length)
        self._length *= 4
        self.lists = lists
        return lists

    def _record(self, lists: TopLists, player: int, place: int) -> None:
        self.players.append(player)
        self.scores.append(float(lists.scores[player, place]))

    def _ties_at_cut(self) -> int:
        lists, contenders = self.lists, self.ledger.contenders
        if lists is None or not self.players:
            return 0
        player, score = self.players[-1], self.scores[-1]
        # Under a token budget or quotas, rows refused earlier may be missing from renewed lists.
        exact = self.ledger.budget.kind == "rows" and not self.problem.quotas
        if exact and (lists.complete or lists.scores[player, -1] < score):
            tied = lists.rows[player, lists.scores[player] == score]
            return int(contenders[tied].sum())
        return sum(int((contenders[start:start + block.shape[1]] & (block[player] == score)).sum())
                   for start, block in self.stream())

    def conclude(self, nearest: list[int] | np.ndarray, **more: Any) -> Selection:
        """The selection, with ``nearest`` target per pick."""
        summary, included = self.problem.summary(), self.ledger.taken[:self.ledger.included]
        score = np.concatenate([summary.best[included], np.array(self.scores, dtype=np.float64)])
        return conclude(
            self.problem, self.ledger, score=score, gain=score.copy(),
            nearest=np.concatenate([summary.nearest[included], np.asarray(nearest, dtype=np.int64)]),
            ties_at_cut=self._ties_at_cut(), turns=self.turns, forfeited_turns=self.turns - len(self.players), **more)


def _open_places(rows: np.ndarray, ledger: Ledger) -> Iterator[tuple[int, int]]:
    """``(place, row)`` of every row of a list that is still open when its turn comes."""
    width = 32
    start = 0
    while start < len(rows):
        window = rows[start:start + width]
        places = np.flatnonzero(ledger.state[window] == OPEN)  # most rows passed over are gone by now
        for place, row in zip((start + places).tolist(), window[places].tolist(), strict=True):
            if ledger.is_open(row):
                yield place, row
        start += width
        width = min(4096, 2 * width)


def _nearest_inside(problem: Problem, rows: list[int], allowed: list[np.ndarray]) -> np.ndarray:
    """int64 [B]: for each row the most similar of its allowed targets, the smallest id among equals."""
    nearest = np.full(len(rows), -1, dtype=np.int64)
    order = np.argsort(rows)
    ordered = np.asarray(rows, dtype=np.int64)[order]
    for start, block in problem.stream():
        first, end = np.searchsorted(ordered, [start, start + block.shape[1]])
        for at in order[first:end].tolist():
            similar = block[allowed[at], rows[at] - start]
            tied = allowed[at][similar == similar.max()]
            nearest[at] = min(tied.tolist(), key=problem.targets.__getitem__)
    return nearest


ROUND_ROBIN = Selector(SelectorInfo(
    name="round-robin", summary="Targets take turns, each taking its best row that is not yet taken.",
    paper="greedy round-robin: arXiv 2602.14696", needs="similarities", complexity="O(MN + B log B)",
    suits="small and medium budgets; any pool that can be streamed",
), round_robin, Settings=RoundRobinSettings)

ROUND_ROBIN_SUBTASK = Selector(SelectorInfo(
    name="round-robin-subtask", summary="Subtasks take turns, each taking its best row that is not yet taken.",
    paper="RDS+, arXiv 2503.01807 (multi-task selection)", needs="similarities", complexity="O(MN + B log B)",
    suits="targets of several subtasks; any pool that can be streamed",
), subtask_round_robin, Settings=RoundRobinSettings)
