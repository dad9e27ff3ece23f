"""How an assistant turn ends in a chat template without markers.

The special token that closes a turn is supervised with it, once, as the training templates of known families have it;
white space after it is layout and is not. A template without such tokens ends a turn with the words that it writes
after the last turn of a conversation.
"""

from __future__ import annotations

import re
from typing import Any

from siftune.data.problems import BadRow
from siftune.data.rows import Message, Tools
from siftune.data.templates import ChatTemplate, Span, probe_tools

_WORD = "zq7f3a1c"


class TurnEnds:
    """Reads ends of turns off one template and its tokenizer.

    Args:
        template: The template.
        tokenizer: A transformers tokenizer.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Any):
        self._template = template
        spelled = sorted({token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()},
                         key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, spelled))) if spelled else None
        self._eos: str = tokenizer.eos_token or ""

    def spans(self, start: int, end: int, tail: str, tools: Tools | None, *, calls: str | None,
              final: bool) -> list[Span]:
        """The supervised characters of a turn, its end included.

        Args:
            start, end: Where the turn's own text stands.
            tail: The template's text after it, up to the next message.
            tools: What may be called in the conversation.
            calls: Where it ends in a tool call, so that the tail begins with the end of the call: what the template
                writes inside of calls, between names and values.
            final: Whether the tail is the end of the conversation.
        """
        length = self._length(tail, tools, calls=calls, final=final)
        spans = [(start, end + length)] if end + length > start else []
        if final and self._eos and tail[length:].strip() == self._eos:  # written once, at the end of the conversation
            at = end + length + tail[length:].index(self._eos)
            spans.append((at, at + len(self._eos)))
        return spans

    def closing(self, tools: Tools | None) -> str:
        """What the template writes after the content of a turn that is the last."""
        return self._after(tools, followed=False)

    def _length(self, tail: str, tools: Tools | None, *, calls: str | None, final: bool) -> int:
        closing = self.closing(tools)
        ends = self._tokens(closing)
        if calls is not None and ends and (at := tail.find(ends[0].group())) >= 0:
            return at + self._run(tail[at:], closing[ends[0].start() :])
        # What also stands between a key and its value, such as a quotation mark of its own, ends neither call nor turn.
        found = next((token for token in self._tokens(tail) if not calls or token.group() not in calls), None)
        if found and calls is not None:
            return found.end() if ends else found.start() + self._run(tail[found.start() :], None)
        if found and closing.startswith(tail[: found.end()]):
            return found.start() + self._run(tail[found.start() :], closing[found.start() :])
        if found and not tail[: found.start()].strip() and (not ends or found.group() == self._ends_others(tools)):
            return found.end()  # without tokens of their own, turns end with the one that opens the next
        if calls is None:
            return len(closing.rstrip()) if not ends and tail.startswith(closing.rstrip()) else 0
        if (end := closing.rstrip()) and (at := tail.find(end)) >= 0:
            return at + len(end)
        after = closing if final else self._after(tools, followed=True)
        shared = common_prefix(tail[::-1], after[::-1])
        return len(tail[: len(tail) - shared].rstrip())

    def _ends_others(self, tools: Tools | None) -> str | None:
        """The first special token between a turn and the next, which may be another than after the last turn."""
        return next((token.group() for token in self._tokens(self._after(tools, followed=True))), None)

    def _tokens(self, text: str) -> list[re.Match[str]]:
        return list(self._special.finditer(text)) if self._special else []

    def _run(self, text: str, like: str | None) -> int:
        """Length of the special tokens that a text begins with, as far as it is like another text."""
        end = 0
        for token in self._tokens(text if like is None else text[: common_prefix(text, like)]):
            if token.start() != end:
                break
            end = token.end()
        return end

    def _after(self, tools: Tools | None, *, followed: bool) -> str:
        def probe() -> str:
            turns = [Message("user", "x"), Message("assistant", _WORD), *([Message("user", _WORD)] if followed else [])]
            try:
                _, found, after = self._template.render(turns, probe_tools(tools)).partition(_WORD)
            except BadRow:
                return ""
            return after.partition(_WORD)[0] if found and followed else after
        return self._template.cached(("after", followed), tools, probe)


def common_prefix(text: str, start: str) -> int:
    """How many of their first characters two strings share."""
    if text.startswith(start):
        return len(start)
    return next((i for i, (a, b) in enumerate(zip(text, start, strict=False)) if a != b), min(len(text), len(start)))
