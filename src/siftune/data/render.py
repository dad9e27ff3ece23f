"""Rows become token ids and a loss mask, once: features, training and evaluation all read these.

Which tokens are supervised (policy ``assistant-turns``, version 3): every assistant turn with its end-of-turn token,
and nothing else. Four ways lead there:

* A chat template of a family that TRL has a training template for is that training template, as when TRL trains.
* A template with ``{% generation %}`` markers, those included, says it itself, and is followed exactly.
* Of any other template the turns are found by :mod:`siftune.data.turn_spans`: from the end of the opening that a model
  is given to the special token that closes the turn.
* A tokenizer without a template gets the plain one of :mod:`siftune.data.templates`.

Contents are never searched for in the text, so nothing in them can move the mask. Turns of which the data says that
they are not trained on (``Message.train``) are left out of it. A row of which the template leaves out a tool call, a
thought or the tools is refused, and so is one in which a turn's place cannot be told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from siftune.data.chat import check_rendered
from siftune.data.model_shape import ModelShape
from siftune.data.problems import BadRow
from siftune.data.rendered import Rendered
from siftune.data.rows import Message, Tools
from siftune.data.spans import encode_marked, encode_with_mask, special_ids
from siftune.data.templates import ChatTemplate, unspelled
from siftune.data.token_starts import Encoder, Span
from siftune.data.turn_ends import TurnEnds
from siftune.data.turn_spans import TurnSpans

MASK_POLICY = "assistant-turns"
MASK_VERSION = 3

_CHARACTERS_PER_TOKEN = 64  # of the longest rows only so many are tokenised: several times what real text has


@dataclass(frozen=True, slots=True)
class RenderedText:
    """A conversation as text.

    Attributes:
        text: what the template makes of it.
        spans: what is supervised of it (characters, end exclusive).
        marked: whether the template's own markers say so.
    """

    text: str
    spans: list[Span]
    marked: bool


class Renderer:
    """Turns messages into what the model sees.

    Args:
        tokenizer: A transformers tokenizer, fast or slow.
        max_length: The number of tokens kept of a row, counted from its start.
        system: System message for rows that have none.
        shape: What the model can take: rows are cut at its window where that is shorter than ``max_length``.

    Attributes:
        max_length: The length at which rows are cut.
        unmatched_turns: Assistant turns so far that the template leaves out, so that they are not supervised.
        special_tokens_in_content: Rows so far whose text spells a special token of the tokenizer.
    """

    def __init__(self, tokenizer: Any, *, max_length: int, system: str | None = None,
                 shape: ModelShape | None = None):
        self.tokenizer, self.system, self._shape = tokenizer, system, shape or ModelShape()
        self.max_length = self._shape.length(max_length)
        self.template = ChatTemplate(tokenizer)
        self._turns = TurnSpans(self.template, TurnEnds(self.template, tokenizer))
        self.unmatched_turns = 0
        self.special_tokens_in_content = 0
        self._encoder = Encoder(tokenizer)
        self._special_ids = special_ids(tokenizer)
        self._special = _special_pattern(tokenizer)

    def render(self, messages: Sequence[Message], tools: Tools | None = None) -> Rendered:
        """Token ids (int32 [T], T <= ``max_length``) and loss mask (bool [T]) of a conversation.

        Raises:
            BadRow: it cannot be trained on: ``template-error``, ``template-mismatch``, ``template-drops``,
                ``prompt-longer-than-limit`` or ``nothing-to-supervise``.
            ModelError: it has a token that the model has no embedding for.
        """
        return self.encoded(self.as_text(messages, tools))

    def as_text(self, messages: Sequence[Message], tools: Tools | None = None) -> RenderedText:
        """The first half of :meth:`render`. For many rows it is faster to do it for some of them, and then the second
        for all of these: each half then finds in the processor's caches what it needs.

        Raises:
            BadRow: ``template-error``, ``template-mismatch``, ``template-drops`` or ``nothing-to-supervise``.
        """
        messages, text, blocks = self.template.accepted(self._with_system(messages), tools)
        check_rendered(messages, tools, text, self.template.render)
        if self._special and any(self._special.search(message.text) for message in messages):
            self.special_tokens_in_content += 1
        if self.template.has_markers(tools):
            return RenderedText(text, self._trained(messages, tools, text, blocks), marked=True)
        return RenderedText(text, self._supervised_spans(messages, tools, text), marked=False)

    def encoded(self, row: RenderedText) -> Rendered:
        """The second half of :meth:`render`.

        Raises:
            BadRow: ``prompt-longer-than-limit`` or ``nothing-to-supervise``.
            ModelError: it has a token that the model has no embedding for.
        """
        ids, mask, unseen = self._encode_start(row.text, row.spans, marked=row.marked)
        if len(mask):
            mask[0] = False  # nothing comes before it to predict it from
        whole, first = len(ids), int(mask.argmax()) if mask.any() else -1
        if first < 0:
            raise BadRow("nothing-to-supervise", "the template marks no token of it")
        if first >= self.max_length:
            raise BadRow("prompt-longer-than-limit", f"the first supervised token is number {first + 1} of {whole}, "
                         f"the limit is {self.max_length}")
        kept = min(whole, self.max_length)
        self._shape.check(ids[:kept], self.tokenizer)
        return Rendered(ids[:kept], mask[:kept], cut_tokens=whole - kept + unseen)

    def generation_prompt(self, messages: Sequence[Message], tools: Tools | None = None) -> tuple[np.ndarray, str]:
        """What a model is given to answer the last assistant turn itself, and that turn's text as the reference.

        Returns:
            int32 [T] token ids, ending with the opening of an assistant turn and not cut to ``max_length``; the
            reference answer.

        Raises:
            BadRow: there is no assistant turn after something else, or the template refuses the conversation.
        """
        messages, _, _ = self.template.accepted(self._with_system(messages), tools)
        last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=0)
        if last == 0:
            raise BadRow("no-assistant-turn", "no assistant turn follows a prompt")
        prompt = self.template.render(messages[:last], tools, prompt=True)
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return np.array(ids, dtype=np.int32), messages[last].content

    def fingerprint(self) -> dict[str, str | int]:
        """What determines ids and masks, as short hashes: equal fingerprints render every row alike."""
        return {
            "tokenizer": _tokenizer_hash(self.tokenizer),
            "chat_template": _short_hash(self.template.text),
            "system": "" if self.system is None else _short_hash(self.system),
            "mask_policy": MASK_POLICY,
            "mask_version": MASK_VERSION,
            "max_length": self.max_length,
        }

    @property
    def vocabulary(self) -> int | None:
        """Rows of the model's embedding, which every token must have one of; None where it is not known."""
        return self._shape.vocabulary

    @property
    def parts(self) -> tuple[Any, ...]:
        """What an equal renderer is made of elsewhere, and its fingerprint."""
        return self.tokenizer, self.max_length, self.system, self._shape, self.fingerprint()

    def _with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        if self.system is None or any(message.role == "system" for message in messages):
            return messages
        return [Message("system", self.system), *messages]

    def _encode_start(self, text: str, spans: list[Span], *, marked: bool) -> tuple[np.ndarray, np.ndarray, int]:
        """Ids, mask, and about how many tokens of a far too long row were never looked at: only the beginning of a row
        is tokenised where that surely is all that is kept of it."""
        end = _CHARACTERS_PER_TOKEN * self.max_length
        if len(text) > end and spans and spans[0][0] < end:
            start = [(a, min(b, end)) for a, b in spans if a < end]
            ids, mask = self._tokenised(text[:end], start, marked=marked)
            # The last tokens of a text that stops in the middle of a word may be others than in the whole.
            if len(ids) >= 2 * self.max_length and mask[: self.max_length].any():
                return ids, mask, round((len(text) - end) * len(ids) / end)
        return *self._tokenised(text, spans, marked=marked), 0

    def _tokenised(self, text: str, spans: list[Span], *, marked: bool) -> tuple[np.ndarray, np.ndarray]:
        if marked:
            return encode_marked(self._encoder, text, spans)
        return encode_with_mask(self._encoder, text, spans, self._special_ids)

    def _trained(self, messages: Sequence[Message], tools: Tools | None, text: str, blocks: list[Span]) -> list[Span]:
        """What stands inside the template's markers, without the turns that are not to be trained on.

        Raises:
            BadRow: ``template-mismatch``: what such a turn wrote cannot be told from the rest.
        """
        untrained = {i for i, message in enumerate(messages) if message.role == "assistant" and not message.train}
        if not untrained:
            return blocks
        word = unspelled(messages, tools, text, self.template.text)
        others = [replace(message, content=word) if i in untrained else message for i, message in enumerate(messages)]
        other, changed = self.template.render_marked(others, tools)
        blocks, changed = _merged(blocks), _merged(changed)
        if len(blocks) != len(changed) or _outside(text, blocks) != _outside(other, changed):
            raise BadRow("template-mismatch", "turns that are not to be supervised cannot be told from the rest")
        trained = [span for span, new in zip(blocks, changed, strict=True)
                   if text[slice(*span)] == other[slice(*new)]]
        if len(blocks) - len(trained) < len(untrained):
            raise BadRow("template-mismatch", "a turn that is not to be supervised is not marked by itself")
        return trained

    def _supervised_spans(self, messages: Sequence[Message], tools: Tools | None, text: str) -> list[Span]:
        """Where in the rendered text (characters, end exclusive) the supervised turns are.

        Raises:
            BadRow: ``template-mismatch``: it cannot be told, or the last turn is not there.
        """
        turns = [i for i, message in enumerate(messages) if message.role == "assistant" and message.train]
        if not turns:
            raise BadRow("nothing-to-supervise", "no assistant turn is to be supervised")
        found = self._turns.find(messages, tools, text, turns)
        if turns[-1] not in found:
            raise BadRow("template-mismatch", f"the template leaves out turn {turns[-1] + 1}, the assistant's last")
        self.unmatched_turns += len(turns) - len(found)
        return sorted(span for spans in found.values() for span in spans)


def _merged(blocks: Sequence[Span]) -> list[Span]:
    """Blocks that follow each other without anything between them as one."""
    merged: list[Span] = []
    for start, end in blocks:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def _outside(text: str, blocks: Sequence[Span]) -> list[str]:
    ends = [0, *(end for _, end in blocks)]
    return [text[end:start] for end, start in zip(ends, [*(start for start, _ in blocks), len(text)], strict=True)]


def _special_pattern(tokenizer: Any) -> re.Pattern[str] | None:
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    spelled = sorted({token for token in tokens if token.strip()}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spelled))) if spelled else None


def _short_hash(text: str) -> str:
    return blake2b(text.encode("utf-8"), digest_size=12).hexdigest()


def _tokenizer_hash(tokenizer: Any) -> str:
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        # Not what the tokenizer is but how it was called last.
        backend.pop("truncation", None)
        backend.pop("padding", None)
    else:
        backend = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    named = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return _short_hash(json.dumps([backend, named], sort_keys=True))
