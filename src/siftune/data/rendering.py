"""Many rows rendered: block by block, in several processes where there are many, into flat arrays.

Each row is rendered by itself, so that neither the processes nor the blocks decide what comes out; what a row does to
the counts is kept with it, so that any part of the rows can be counted later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from siftune._common.processes import NotElsewhere, cores, map_in_order
from siftune._common.progress import bar, log
from siftune.data.facts import Facts, facts_of
from siftune.data.model_shape import ModelShape
from siftune.data.problems import BadRow, bad_rows_error
from siftune.data.render import RenderedText, Renderer
from siftune.data.rendered import Rendered, RenderedRows, joined, starts_of, supervised_in
from siftune.data.rows import Dropped, Examples, Message, Row, Tools
from siftune.data.stored import StoredRows

MANY = 20_000
"""Rows from which on several processes pay for the seconds that each takes to start."""

BLOCK = 512
"""Rows at a time."""

_MOST_PROCESSES = 8  # more of them would wait for the one that hands out the rows

Conversation = tuple[Sequence[Message], Tools | None]


@dataclass(frozen=True, slots=True)
class Block:
    """What rendering made of some consecutive rows.

    Attributes:
        ids: int32 [tokens], mask: bool [tokens], of the rows that can be used one after the other.
        lengths: int32 [n]; 0 of a row that cannot be used.
        cut_tokens: int32 [n].
        unmatched: int32 [n]: assistant turns left unsupervised, also of rows that cannot be used.
        special: bool [n]: whether a row's text spells a special token, likewise.
        bad: (place in the block, reason, detail) of each row that cannot be used.
        overruns: renderings that took too long.
        facts: of all rows, where they were asked for.
    """

    ids: np.ndarray
    mask: np.ndarray
    lengths: np.ndarray
    cut_tokens: np.ndarray
    unmatched: np.ndarray
    special: np.ndarray
    bad: list[tuple[int, str, str]]
    overruns: int
    facts: Facts | None = None


@dataclass(frozen=True)
class Rendering:
    """What rendering made of all rows of a sequence.

    Attributes:
        rendered: of every row; without tokens where it cannot be used.
        unmatched: int32 [N], special: bool [N], see :class:`Block`.
        bad: (place, reason, detail) of each row that cannot be used, ascending.
    """

    rendered: RenderedRows
    unmatched: np.ndarray
    special: np.ndarray
    bad: list[tuple[int, str, str]] = field(default_factory=list)

    def take(self, places: np.ndarray) -> Rendering:
        """That of some rows, in the order of ``places``, which ascend."""
        number = {int(place): i for i, place in enumerate(places)} if self.bad else {}
        bad = [(number[place], reason, detail) for place, reason, detail in self.bad if place in number]
        return Rendering(self.rendered.take(places), self.unmatched[places], self.special[places], bad)

    def examples(self, rows: Sequence[Row], *, role: str, bad_rows: str, limit_hint: str = "--max-length") -> Examples:
        """The rows that can be used, and those that cannot as dropped; see :func:`render_rows`.

        Args:
            rows: those that were rendered.
            role, bad_rows, limit_hint: see :func:`render_rows`.
        """
        whole = Examples(rows, self.rendered)
        if self.bad:
            usable = np.ones(len(rows), dtype=bool)
            usable[[place for place, *_ in self.bad]] = False
            whole = whole.take(np.flatnonzero(usable))
        for place, reason, detail in self.bad:
            row = rows[place]
            whole.dropped.append(Dropped(row.id, row.source, row.where, reason, detail))
        whole.unmatched_turns = int(self.unmatched.sum())
        whole.special_tokens_in_content = int(self.special.sum())
        if whole.dropped and (bad_rows == "error" or not len(whole)):
            raise bad_rows_error(whole.dropped, len(rows), role, _hint(whole.dropped, limit_hint))
        return whole


def render_rows(
    rows: Sequence[Row],
    renderer: Renderer,
    *,
    role: str,
    bad_rows: str = "error",
    limit_hint: str = "--max-length",
) -> Examples:
    """Render rows of a pool, target or test set, in order.

    Args:
        rows: The rows.
        renderer: What renders them.
        role: What the rows are for; named in messages to the user.
        bad_rows: ``error`` refuses rows that cannot be trained on, ``drop`` leaves them out and lists them.
        limit_hint: The flag that raises the length limit.

    Raises:
        DataError: rows cannot be used (with ``"error"``) or none is left (with ``"drop"``).
        ModelError: a row has a token that the model has no embedding for, or the template takes too long.
    """
    return gathered(blocks(rows, renderer, role=role)).examples(rows, role=role, bad_rows=bad_rows,
                                                                limit_hint=limit_hint)


def gathered(parts: Iterator[Block]) -> Rendering:
    """Blocks as one."""
    made = list(parts)
    ids, mask = joined([one.ids for one in made], np.int32), joined([one.mask for one in made], np.bool_)
    lengths = joined([one.lengths for one in made], np.int32)
    starts = starts_of(lengths)
    rendered = RenderedRows(ids, mask, starts, lengths, joined([one.cut_tokens for one in made], np.int32),
                            supervised_in(mask, starts, lengths))
    return Rendering(rendered, joined([one.unmatched for one in made], np.int32),
                     joined([one.special for one in made], np.bool_), list(bad_places(made)))


def bad_places(parts: Sequence[Block]) -> Iterator[tuple[int, str, str]]:
    """The rows of consecutive blocks that cannot be used, by their places among all rows."""
    first = 0
    for one in parts:
        for place, reason, detail in one.bad:
            yield first + place, reason, detail
        first += len(one.lengths)


def blocks(rows: Sequence[Row], renderer: Renderer, *, role: str, facts: bool = False) -> Iterator[Block]:
    """All rows rendered, :data:`BLOCK` at a time, in order.

    Args:
        rows, renderer, role: see :func:`render_rows`.
        facts: whether the rows' facts are made as well.

    Raises:
        ModelError: see :func:`render_rows`.
    """
    before = renderer.unmatched_turns, renderer.special_tokens_in_content
    with bar(f"rendering the {role}", len(rows)) as progress:
        for one in _rendered(rows, renderer, facts):
            yield one
            progress.advance(len(one.lengths))
            before = before[0] + int(one.unmatched.sum()), before[1] + int(one.special.sum())
            renderer.unmatched_turns, renderer.special_tokens_in_content = before  # wherever they were counted


def _rendered(rows: Sequence[Row], renderer: Renderer, facts: bool) -> Iterator[Block]:
    done = 0
    processes = min(cores(), _MOST_PROCESSES, len(rows) // BLOCK)
    if len(rows) >= MANY and processes > 1:
        jobs = (_conversations(rows, start) for start in range(0, len(rows), BLOCK))
        try:
            for one in map_in_order(processes, (_task, (facts, *renderer.parts)), jobs):
                renderer.template.count_overruns(one.overruns)
                yield one
                done += len(one.lengths)
        except NotElsewhere as why:
            log(f"rendering goes on in one process: it cannot be done in several ({why})")
    for start in range(done, len(rows), BLOCK):
        yield render_block(renderer, _conversations(rows, start), facts=facts)


def _conversations(rows: Sequence[Row], start: int) -> list[Conversation] | StoredRows:
    some = rows[start : start + BLOCK]
    # What stands in a file is read by whoever renders it.
    return some if isinstance(some, StoredRows) else [(row.messages, row.tools) for row in some]


def _task(facts: bool, tokenizer: Any, max_length: int, system: str | None, shape: ModelShape,
          fingerprint: dict[str, Any]) -> Callable[[list[Conversation] | StoredRows], Block]:
    """What a process renders with.

    Raises:
        NotElsewhere: what was made of the tokenizer here is not what it is there.
    """
    renderer = Renderer(tokenizer, max_length=max_length, system=system, shape=shape)
    if renderer.fingerprint() != fingerprint:
        raise NotElsewhere("the tokenizer becomes another one when it is copied")
    return lambda conversations: render_block(renderer, conversations, facts=facts)


def render_block(renderer: Renderer, some: Sequence[Conversation] | StoredRows, *, facts: bool = False) -> Block:
    """Some rows rendered.

    Raises:
        ModelError: see :func:`render_rows`.
    """
    conversations: list[Conversation] = list(some.conversations() if isinstance(some, StoredRows) else some)
    n = len(conversations)
    unmatched, special = np.zeros(n, dtype=np.int32), np.zeros(n, dtype=bool)
    rendered: list[Rendered] = [_NOTHING] * n
    bad: list[tuple[int, str, str]] = []
    texts: list[tuple[int, RenderedText]] = []
    characters = 0
    overruns = renderer.template.overruns
    for place, (messages, tools) in enumerate(conversations):
        turns, spelled = renderer.unmatched_turns, renderer.special_tokens_in_content
        try:
            texts.append((place, renderer.as_text(messages, tools)))
            characters += len(texts[-1][1].text)
        except BadRow as problem:
            bad.append((place, problem.reason, problem.detail))
        unmatched[place] = renderer.unmatched_turns - turns
        special[place] = renderer.special_tokens_in_content > spelled
        if characters > _CHARACTERS or place == n - 1:
            for which, text in texts:
                try:
                    rendered[which] = renderer.encoded(text)
                except BadRow as problem:
                    bad.append((which, problem.reason, problem.detail))
            texts, characters = [], 0
    bad.sort()
    lengths = np.fromiter(map(len, rendered), dtype=np.int32, count=n)
    return Block(joined([one.ids for one in rendered], np.int32), joined([one.mask for one in rendered], np.bool_),
                 lengths, np.array([one.cut_tokens for one in rendered], dtype=np.int32), unmatched, special, bad,
                 renderer.template.overruns - overruns,
                 facts_of(messages for messages, _ in conversations) if facts else None)


_CHARACTERS = 200_000  # of text before it is tokenised
_NOTHING = Rendered(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=bool))


def _hint(bad: Sequence[Dropped], limit_hint: str) -> str | None:
    reasons = {row.reason for row in bad}
    if "prompt-longer-than-limit" in reasons:
        needed = [re.search(r"token is number (\d+)", row.detail) for row in bad]
        longest = max(int(found.group(1)) for found in needed if found)
        return f"raise {limit_hint} to at least {longest}"
    if "template-mismatch" in reasons:
        return "give the tokenizer a chat template with {% generation %} markers"
    if "template-drops" in reasons:
        return "use a model whose chat template renders them, or take these parts out of the rows"
    return None
