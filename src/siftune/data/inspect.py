"""What is in a pool, and what a model is trained on in one row: the content of ``siftune inspect``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from siftune._common.terminal import encodable
from siftune._common.text import one_line
from siftune.data.collect import SourceSummary
from siftune.data.facts import distinct, facts_about
from siftune.data.rows import Dropped, Examples, Rendered, Row, column, groups_of

if TYPE_CHECKING:
    from rich.text import Text

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Shares of the rows at which lengths are given; 0.5 is the median."""


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Lengths in tokens of the rows that can be trained on, after truncation.

    Attributes:
        lengths: Tokens of a row at each of :data:`QUANTILES`.
        total: Tokens of all rows.
        supervised: Tokens of all rows that are supervised.
        truncated: Rows that were cut.
        cut_tokens: Tokens that were cut off.
        unmatched_turns: Assistant turns left unsupervised.
        special_tokens_in_content: Rows whose text spells a special token.
    """

    lengths: dict[float, int]
    total: int
    supervised: int
    truncated: int
    cut_tokens: int
    unmatched_turns: int
    special_tokens_in_content: int

    @property
    def supervised_share(self) -> float:
        return self.supervised / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Counts over a pool.

    Attributes:
        rows: Rows that can be used.
        dropped: Rows that were left out.
        by_source: Usable rows of each source, in reading order.
        by_format: Usable rows of each format.
        by_group: Usable rows of each group.
        by_subtask: Usable rows of each subtask, of those that name one.
        by_reason: Rows left out for each reason, most frequent first.
        turns: Rows with each number of assistant turns.
        characters: Characters of a row's messages at each of :data:`QUANTILES`.
        exact_duplicates: Rows whose messages an earlier row has exactly.
        normalised_duplicates: Rows whose normalised text an earlier row has, exact duplicates included.
        tokens: Lengths in tokens, where the rows were rendered.
    """

    rows: int
    dropped: int
    by_source: dict[str, int]
    by_format: dict[str, int]
    by_group: dict[str, int]
    by_subtask: dict[str, int]
    by_reason: dict[str, int]
    turns: dict[int, int]
    characters: dict[float, int]
    exact_duplicates: int
    normalised_duplicates: int
    tokens: TokenStats | None = None


def inspect_pool(rows: Sequence[Row], dropped: Sequence[Dropped], examples: Examples | None = None) -> PoolStats:
    """Count what is in a pool.

    Args:
        rows: The rows that were read.
        dropped: The rows left out while reading.
        examples: The same rows rendered, if there is a tokenizer; what rendering left out is counted as dropped.
    """
    usable = rows if examples is None else examples.rows
    facts = facts_about(usable)
    left_out = list(dropped) if examples is None else [*dropped, *examples.dropped]
    return PoolStats(
        rows=len(usable),
        dropped=len(left_out),
        by_source=dict(Counter(column(usable, "source"))),
        by_format=dict(Counter(column(usable, "format"))),
        by_group=dict(Counter(groups_of(usable))),
        by_subtask=dict(Counter(subtask for subtask in column(usable, "subtask") if subtask is not None)),
        by_reason=dict(Counter(row.reason for row in left_out).most_common()),
        turns=dict(sorted(Counter(facts.turns.tolist()).items())),
        characters=_quantiles(facts.characters),
        exact_duplicates=len(usable) - len(set(column(usable, "content_hash"))),
        normalised_duplicates=len(usable) - distinct(facts.normalised),
        tokens=None if examples is None else _token_stats(examples),
    )


def _token_stats(examples: Examples) -> TokenStats:
    return TokenStats(
        lengths=_quantiles(examples.tokens),
        total=int(examples.tokens.sum()),
        supervised=int(examples.supervised.sum()),
        truncated=examples.truncated,
        cut_tokens=int(examples.cut_tokens.sum()),
        unmatched_turns=examples.unmatched_turns,
        special_tokens_in_content=examples.special_tokens_in_content,
    )


def _quantiles(lengths: Sequence[int] | np.ndarray) -> dict[float, int]:
    """Lengths that occur, one for each share: no interpolation between rows."""
    if not len(lengths):
        return {}
    values = np.quantile(np.array(lengths), QUANTILES, method="inverted_cdf")
    return {share: int(value) for share, value in zip(QUANTILES, values, strict=True)}


def mask_preview(rendered: Rendered, tokenizer: Any, *, brackets: bool = False, encoding: str | None = None) -> Text:
    """The row as the model sees it: supervised tokens green (and in ``[[ ]]``, for where there are no colours), the
    rest dim, control characters made visible, and those that the output's encoding does not have as escapes."""
    from rich.text import Text

    preview = Text()
    ids, mask = rendered.ids.tolist(), rendered.mask.tolist()
    start = 0
    # Stretch by stretch: a character may be made of several tokens, which say nothing one by one.
    for t in range(1, len(ids) + 1):
        if t == len(ids) or mask[t] != mask[start]:
            text = encodable(visible(tokenizer.decode(ids[start:t])), encoding)
            preview.append(f"[[{text}]]" if brackets and mask[start] else text, style="green" if mask[start] else "dim")
            start = t
    if rendered.cut_tokens:
        preview.append(f" [{rendered.cut_tokens} tokens cut]", style="red")
    return preview


def describe_source(source: SourceSummary, most: int = 40) -> list[str]:
    """What was found in a source, in lines: its formats, the columns that are used, and those that are only kept."""
    formats = ", ".join(f"{name} {count:,}" for name, count in source.formats.items()) or "no usable row"
    found = [f"source {source.name}: {formats}", f"  columns used: {_listed(source.used, most)}",
             f"  kept, not used: {_listed(source.kept, most)}"]
    if source.note:
        found.append(f"  {source.note}")
    return [one_line(line) for line in found]


def _listed(counts: Mapping[str, int], most: int) -> str:
    named = [f"{name} ({count:,})" for name, count in counts.items()]
    return (", ".join(named[:most]) or "none") + (f", ... and {len(named) - most} more" if len(named) > most else "")


def visible(text: str) -> str:
    """Line breaks shown and kept; other control and invisible characters as pictures or code points."""
    shown = []
    for character in text:
        if character == "\n":
            shown.append("↵\n")
        elif character == "\x7f" or character < " ":
            shown.append("␡" if character == "\x7f" else chr(0x2400 + ord(character)))
        elif character.isprintable():
            shown.append(character)
        else:
            shown.append(f"<U+{ord(character):04X}>")
    return "".join(shown)
