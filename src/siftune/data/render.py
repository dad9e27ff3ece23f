"""Rows become token ids and a loss mask, once: features, training and evaluation all read these.

Which tokens are supervised (policy ``assistant-turns``, version 2): the text of every assistant turn with its
end-of-turn token, and nothing else. Three ways lead there:

* A chat template with ``{% generation %}`` markers says it itself, and is followed exactly.
* Any other chat template is asked for the conversation up to a turn, with and without the turn. The turn is what
  the second text has more than the first. Where a template alters a turn once others follow (Qwen3 removes the
  thoughts of earlier turns), the texts do not continue each other, and that turn is not supervised.
* A tokenizer without a template gets the plain one of :mod:`siftune.data.templates`.

Contents are never searched for in the text, so nothing in them can move the mask. Turns of which the data says that
they are not trained on (``Message.train``) are left out of it. A row of which the template leaves out a tool call, a
thought or the tools is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from siftune._common.progress import bar
from siftune.data.chat import check_rendered
from siftune.data.model_shape import ModelShape
from siftune.data.problems import BadRow, bad_rows_error
from siftune.data.rows import Dropped, Examples, Message, Rendered, Row, Tools
from siftune.data.spans import encode_with_mask, special_ids
from siftune.data.templates import ChatTemplate

MASK_POLICY = "assistant-turns"
MASK_VERSION = 2

_CHARACTERS_PER_TOKEN = 64  # of the longest rows only so many are tokenised: several times what real text has


class Renderer:
    """Turns messages into what the model sees.

    Args:
        tokenizer: A transformers tokenizer, fast or slow.
        max_length: The number of tokens kept of a row, counted from its start.
        system: System message for rows that have none.
        shape: What the model can take: rows are cut at its window where that is shorter than ``max_length``.

    Attributes:
        max_length: The length at which rows are cut.
        unmatched_turns: Assistant turns so far that could not be supervised.
        special_tokens_in_content: Rows so far whose text spells a special token of the tokenizer.
    """

    def __init__(self, tokenizer: Any, *, max_length: int, system: str | None = None,
                 shape: ModelShape | None = None):
        self.tokenizer, self.system, self._shape = tokenizer, system, shape or ModelShape()
        self.max_length = self._shape.length(max_length)
        self.template = ChatTemplate(tokenizer)
        self.unmatched_turns = 0
        self.special_tokens_in_content = 0
        self._special_ids = special_ids(tokenizer)
        self._special = _special_pattern(tokenizer)

    def render(self, messages: Sequence[Message], tools: Tools | None = None) -> Rendered:
        """Token ids (int32 [T], T <= ``max_length``) and loss mask (bool [T]) of a conversation.

        Raises:
            BadRow: it cannot be trained on: ``template-error``, ``template-mismatch``, ``template-drops``,
                ``prompt-longer-than-limit`` or ``nothing-to-supervise``.
            ModelError: it has a token that the model has no embedding for.
        """
        messages, text = self.template.accepted(self._with_system(messages), tools)
        check_rendered(messages, tools, text, self.template.render)
        if self._special and any(self._special.search(message.text) for message in messages):
            self.special_tokens_in_content += 1
        ids, mask, unseen = self._encode(messages, tools, text)
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
        messages, _ = self.template.accepted(self._with_system(messages), tools)
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

    def _with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        if self.system is None or any(message.role == "system" for message in messages):
            return messages
        return [Message("system", self.system), *messages]

    def _encode(self, messages: Sequence[Message], tools: Tools | None,
                text: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Ids, mask, and about how many tokens of a far too long row were never looked at."""
        if not (self.template.has_markers and self.tokenizer.is_fast):
            spans = self._supervised_spans(messages, tools, text)
            return self._encode_start(text, spans)
        found, marked = self.template.render_marked(messages, tools)
        ids, mask = np.array(found, dtype=np.int32), np.array(marked, dtype=bool)
        untrained = [i for i, message in enumerate(messages) if message.role == "assistant" and not message.train]
        if untrained:
            spans = [self._span(messages, tools, i, text) for i in untrained]
            if None in spans:
                raise BadRow("template-mismatch", f"turn {untrained[spans.index(None)] + 1} is not to be supervised, "
                             "and cannot be told from the rest")
            _, excluded = encode_with_mask(self.tokenizer, text, [span for span in spans if span], self._special_ids)
            mask &= ~excluded
        return ids, mask, 0

    def _encode_start(self, text: str, spans: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, int]:
        """Only the beginning of a row is tokenised where that surely is all that is kept of it."""
        end = _CHARACTERS_PER_TOKEN * self.max_length
        if len(text) > end and spans[0][0] < end:
            start = [(a, min(b, end)) for a, b in spans if a < end]
            ids, mask = encode_with_mask(self.tokenizer, text[:end], start, self._special_ids)
            # The last tokens of a text that stops in the middle of a word may be others than in the whole.
            if len(ids) >= 2 * self.max_length and mask[: self.max_length].any():
                return ids, mask, round((len(text) - end) * len(ids) / end)
        return *encode_with_mask(self.tokenizer, text, spans, self._special_ids), 0

    def _supervised_spans(self, messages: Sequence[Message], tools: Tools | None, whole: str) -> list[tuple[int, int]]:
        """Where in the rendered text (characters, end exclusive) the supervised turns are.

        Raises:
            BadRow: ``template-mismatch``: not even the last turn continues its own prompt.
        """
        turns = [i for i, message in enumerate(messages) if message.role == "assistant" and message.train]
        if turns in ([], [0]):
            raise BadRow("nothing-to-supervise", "the only supervised turn has no prompt before it" if turns else
                         "no assistant turn is to be supervised")
        spans = []
        matched_last = False
        for i in turns:
            span = self._span(messages, tools, i, whole)
            matched_last = span is not None
            if span is None:
                self.unmatched_turns += 1
            else:
                spans.append(span)
        if not matched_last:
            raise BadRow("template-mismatch", "the rendered conversation does not start with the prompt of its last "
                         "assistant turn")
        return spans

    def _span(self, messages: Sequence[Message], tools: Tools | None, turn: int, whole: str) -> tuple[int, int] | None:
        if turn == 0:
            return None  # no prompt comes before it
        try:
            prefix = self.template.render(messages[:turn], tools, prompt=True)
            through = whole if turn == len(messages) - 1 else self.template.render(messages[: turn + 1], tools)
        except BadRow:
            return None  # the template takes the whole, but not this part of it
        continues = through.startswith(prefix) and whole.startswith(through)
        return (len(prefix), len(through)) if continues else None


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
    """
    examples = Examples([], [])
    turns_before, special_before = renderer.unmatched_turns, renderer.special_tokens_in_content
    with bar(f"rendering the {role}", len(rows)) as progress:
        for row in rows:
            try:
                examples.rendered.append(renderer.render(row.messages, row.tools))
                examples.rows.append(row)
            except BadRow as problem:
                examples.dropped.append(Dropped(row.id, row.source, row.where, problem.reason, problem.detail))
            progress.advance()
    examples.unmatched_turns = renderer.unmatched_turns - turns_before
    examples.special_tokens_in_content = renderer.special_tokens_in_content - special_before
    if examples.dropped and (bad_rows == "error" or not examples.rows):
        raise bad_rows_error(examples.dropped, len(rows), role, _hint(examples.dropped, limit_hint))
    return examples


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
