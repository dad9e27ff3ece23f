"""What a row looks like after an example: one conversation in which the example was an earlier exchange.

A chat template writes ``[messages of j] + [messages of i]`` as the text of j, then i without what only stands at the
very beginning (a BOS token, a default system message). So row i continues every example with the same tokens: its own
rendering without its first few. How many those are is found by asking the template, with two short exchanges in front:
what both texts end with is what does not depend on the example. It is believed only where it is the row's own rendering
to the last token, with every supervised token in it.

Everything else follows the example as it is, with all its tokens but a BOS: rows with a system message of their own
that the template does not repeat in the middle of a conversation, templates that refuse to go on or that alter earlier
turns.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from siftune.data.problems import BadRow
from siftune.data.render import Renderer
from siftune.data.rows import Message, Rendered, Row, Tools

_EXCHANGES = tuple((Message("user", question), Message("assistant", answer))
                   for question, answer in (("Ready?", "Yes"), ("Who wrote it?", "Nobody knows")))


class Conversation:
    """Rows as continuations of a conversation.

    Args:
        tokenizer: of the model, with its chat template.

    Attributes:
        turns: rows so far that the template itself continues a conversation with.
        joined: rows so far that were put behind the example as they are.
    """

    def __init__(self, tokenizer: Any):
        self._renderer = Renderer(tokenizer, max_length=sys.maxsize)
        self._bos = tokenizer.bos_token_id
        self.turns = self.joined = 0
        try:
            exchanges = [self._ids(exchange) for exchange in _EXCHANGES]
            self._closing = common_end(*exchanges)  # how the template ends a turn
        except BadRow:
            self._closing = -1

    def continuation(self, row: Row, rendered: Rendered) -> Rendered:
        """The row as it follows any example: its last T' tokens with their mask; the first is never supervised."""
        skip = self._repeated_not(row, rendered)
        if skip is None:
            self.joined += 1
            skip = int(rendered.ids[0] == self._bos and not rendered.mask[1])
        else:
            self.turns += 1
        return Rendered(rendered.ids[skip:], rendered.mask[skip:], rendered.cut_tokens)

    def _repeated_not(self, row: Row, rendered: Rendered) -> int | None:
        """How many of the row's first tokens the template writes at the beginning of a conversation only."""
        if self._closing < 0:
            return None
        try:
            first, second = (self._ids([*exchange, *row.messages], row.tools) for exchange in _EXCHANGES)
        except BadRow:
            return None
        length = common_end(first, second) - self._closing
        skip = len(rendered) + rendered.cut_tokens - length
        if not 0 <= skip < len(rendered) or rendered.mask[: skip + 1].any():
            return None
        continued = first[len(first) - length :][: len(rendered) - skip]
        if not np.array_equal(continued, rendered.ids[skip:]):
            return None
        if any(message.role == "system" for message in row.messages) and skip > (rendered.ids[0] == self._bos):
            return None  # the template keeps a system message at the beginning only: here it would be lost
        return skip

    def _ids(self, messages: Sequence[Message], tools: Tools | None = None) -> np.ndarray:
        return self._renderer.render(messages, tools).ids


def common_end(first: np.ndarray, second: np.ndarray) -> int:
    """How many of their last tokens two sequences share."""
    shorter = min(len(first), len(second))
    if not shorter:
        return 0
    differ = np.flatnonzero(first[len(first) - shorter :] != second[len(second) - shorter :])
    return shorter - 1 - int(differ[-1]) if len(differ) else shorter
