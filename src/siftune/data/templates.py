"""Conversations as text: the tokenizer's chat template, or a fixed plain one for base models.

A template of a family that :mod:`siftune.data.training_templates` knows gives way to that family's training template.
Chat templates differ in what they accept. What they refuse becomes a :class:`~siftune.data.problems.BadRow`, except a
refused system message, which moves into the first user turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from siftune._common.errors import ModelError
from siftune.data.chat import as_turn
from siftune.data.problems import BadRow
from siftune.data.rows import Message, Tools
from siftune.data.template_limits import Overrun, checked, within_limits
from siftune.data.training_templates import training_template

PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' }}{{ message['content'] }}{{ eos_token }}{{ '\n' }}{% else %}"
    "{{ '<|' + message['role'] + '|>\n' }}{{ message['content'] }}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""The plain template of Tulu (arXiv 2306.04751, section 3.2), used where the tokenizer has no chat template."""

Span = tuple[int, int]

_OVERRUNS = 3  # rows that a template may take too long for, before it is refused for all

_MARKERS = re.compile(r"(\{%[-+]?)\s*(end)?generation\s*([-+]?%\})")
# Templates may print today's date (Llama 3.2, SmolLM3), but a run that is continued tomorrow must see the same
# tokens: this takes the place of their clock. (transformers passes no functions into templates, hence Jinja.)
_DATE = {"%Y": "2024", "%y": "24", "%m": "07", "%d": "26", "%B": "July", "%b": "Jul", "%A": "Friday", "%a": "Fri",
         "%H": "12", "%I": "12", "%M": "00", "%S": "00", "%p": "PM"}
CLOCK = "{% macro strftime_now(format) %}{{ format" + "".join(
    f" | replace('{code}', '{value}')" for code, value in _DATE.items()) + " }}{% endmacro %}{{ '' }}"
# The marked blocks as calls of a macro that writes a border before and after: where they stand in the text can then be
# read off with every version of transformers, and before anything is tokenised.
_BLOCK = "{% macro siftune_block() %}{{ siftune_border }}{{ caller() }}{{ siftune_border }}{% endmacro %}{{ '' }}"
_PROBE = "0c5d1e8b7a"


@dataclass(frozen=True, slots=True)
class Variant:
    """One template of a tokenizer; some have another one for conversations with tools.

    Attributes:
        text: The Jinja source.
        bordered: The source with its ``{% generation %}`` markers made visible, ``None`` where it has none.
        in_parts: Whether it reads contents as lists of parts only, as those of some vision models do.
        grows: Whether it can make more text than it is given, see :mod:`siftune.data.template_limits`.
    """

    text: str
    bordered: str | None
    in_parts: bool = False
    grows: bool = False


class ChatTemplate:
    """Renders messages to text with one tokenizer's template.

    Args:
        tokenizer: A transformers tokenizer.

    Attributes:
        text: The Jinja source that is rendered (all variants), for fingerprints.
        overruns: Renderings so far that took too much time or memory.

    Raises:
        ModelError: the tokenizer has named templates and none of them is the default, or one is no template.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self.overruns, self._probing = 0, True
        sources = _sources(tokenizer)
        self._variants = {name: self._variant(source) for name, source in sources.items()}
        self.text: str = "\0".join(variant.text for variant in self._variants.values())
        self._cache: dict[Any, Any] = {}
        self._probing = False

    def has_markers(self, tools: Tools | None = None) -> bool:
        """Whether it marks the assistant's text with ``{% generation %}``."""
        return self._chosen(tools).bordered is not None

    def render(self, messages: Sequence[Message], tools: Tools | None = None, *, prompt: bool = False) -> str:
        """The conversation as text; with ``prompt`` followed by the opening of an assistant turn.

        Raises:
            BadRow: ``template-error``: the template refuses the conversation.
        """
        variant = self._chosen(tools)
        return self._apply(variant, variant.text, messages, tools, add_generation_prompt=prompt)

    def render_marked(self, messages: Sequence[Message], tools: Tools | None = None) -> tuple[str, list[Span]]:
        """The conversation as text, and where in it the template's own markers stand (characters, end exclusive).

        Raises:
            BadRow: ``template-error``: the template refuses the conversation; ``template-mismatch``: it works on what
                it has marked, so that the places are lost.
        """
        variant = self._chosen(tools)
        border = unspelled(messages, tools, variant.text)
        made = self._apply(variant, variant.bordered or variant.text, messages, tools, siftune_border=border)
        pieces = made.split(border)
        spans, position = [], 0
        for number, piece in enumerate(pieces):
            if number % 2:
                spans.append((position, position + len(piece)))
            position += len(piece)
        text = "".join(pieces)
        if (tools or any(m.tool_calls or m.reasoning for m in messages)) and text != self.render(messages, tools):
            raise BadRow("template-mismatch", "the template changes what it has marked")
        return text, spans

    def count_overruns(self, count: int, what: str = "the chat template takes too long") -> None:
        """Count renderings that took too much, here or in another process.

        Raises:
            ModelError: they are too many to go on with other rows.
        """
        self.overruns += count
        if count and (self._probing or self.overruns > _OVERRUNS):
            rows = "a conversation of two words" if self._probing else f"more than {_OVERRUNS} rows"
            raise ModelError(what, where="--model", why=f"It comes with the tokenizer, and does so for {rows}.",
                             hint="use another model's tokenizer, or mend its chat template")

    def opening(self, tools: Tools | None = None) -> str:
        """What stands before an assistant's turn, such as ``<|im_start|>assistant``; empty where nothing does."""
        return self.cached("opening", tools, lambda: self._opening(tools))

    def cached(self, key: Any, tools: Tools | None, make: Callable[[], Any]) -> Any:
        """What is the same for all rows, made once for each variant of the template."""
        at = (key, bool(tools))
        if at not in self._cache:
            self._cache[at] = make()
        return self._cache[at]

    def accepted(self, messages: Sequence[Message],
                 tools: Tools | None = None) -> tuple[Sequence[Message], str, list[Span]]:
        """The messages as the template takes them, their text, and where its own markers stand if it has any.

        The messages come back unchanged, or with a refused system message in the first user turn.

        Raises:
            BadRow: ``template-error``: the template refuses them either way.
        """
        shown = self.render_marked if self.has_markers(tools) else self._unmarked
        try:
            return messages, *shown(messages, tools)
        except BadRow as problem:
            merged = merge_system(messages) if problem.reason == "template-error" else None
            if merged is None:
                raise
        return merged, *shown(merged, tools)

    def _unmarked(self, messages: Sequence[Message], tools: Tools | None) -> tuple[str, list[Span]]:
        return self.render(messages, tools), []

    def _chosen(self, tools: Tools | None) -> Variant:
        return self._variants.get("tool_use" if tools else "default") or self._variants["default"]

    def _variant(self, source: str) -> Variant:
        text = training_template(source) or source
        clock = CLOCK if "strftime_now" in text else ""
        bordered = None
        if any(not found.group(2) for found in _MARKERS.finditer(text)):
            bordered = clock + _BLOCK + _MARKERS.sub(_as_call, text)
        variant = Variant(clock + text, bordered, grows=checked(text))
        variant = replace(variant, in_parts=self._reads_parts(variant))
        return variant if self._borders_hold(variant) else replace(variant, bordered=None)

    def _borders_hold(self, variant: Variant) -> bool:
        """Whether borders change nothing but themselves; they would where a template trims what it has marked."""
        turns = [Message("user", "x"), Message("assistant", "\n y \n ")]
        if variant.bordered is None:
            return True
        try:
            made = self._apply(variant, variant.bordered, turns, None, siftune_border=_PROBE)
            return made.replace(_PROBE, "") == self._apply(variant, variant.text, turns, None)
        except BadRow:
            return True

    def _reads_parts(self, variant: Variant) -> bool:
        """Whether a content shows as a list of parts, and not as text."""
        turn = [Message("user", _PROBE)]
        try:
            if _PROBE in self._apply(variant, variant.text, turn, None):
                return False
        except BadRow:
            pass
        try:
            return _PROBE in self._apply(replace(variant, in_parts=True), variant.text, turn, None)
        except BadRow:
            return False

    def _opening(self, tools: Tools | None) -> str:
        turn = [Message("user", "x")]
        try:
            before, asked = (self.render(turn, probe_tools(tools), prompt=prompt) for prompt in (False, True))
        except BadRow:  # a template that takes no single turn
            return ""
        return asked.removeprefix(before) if asked.startswith(before) else ""

    def _apply(self, variant: Variant, text: str, messages: Sequence[Message], tools: Tools | None,
               **options: Any) -> str:
        try:
            return self._applied(variant, text, messages, tools, False, options)
        except BadRow:
            if not any(message.tool_calls for message in messages):
                raise
            try:  # some print arguments as the text they get
                return self._applied(variant, text, messages, tools, True, options)
            except BadRow:
                pass
            raise

    def _applied(self, variant: Variant, text: str, messages: Sequence[Message], tools: Tools | None, as_text: bool,
                 options: Any) -> str:
        from jinja2 import TemplateError

        turns = [as_turn(message, arguments_as_text=as_text) for message in messages]
        if variant.in_parts:
            turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
        try:
            return within_limits(lambda: self._tokenizer.apply_chat_template(
                turns, tools=tools, chat_template=text, tokenize=False, **options), grows=variant.grows)
        except Overrun as error:
            self.count_overruns(1, str(error))
            raise BadRow("template-error", str(error)) from error
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError,
                RecursionError) as error:
            # Most come from expressions inside the template: the messages are plain text by now.
            raise BadRow("template-error", str(error) or type(error).__name__) from error


def probe_tools(tools: Tools | None) -> Tools | None:
    """Tools to try a template with, where a row has some: what is learnt must not depend on which row came first."""
    parameters = {"type": "object", "properties": {"x": {"type": "string", "description": "x"}}, "required": ["x"]}
    made = {"type": "function", "function": {"name": "f", "description": "x", "parameters": parameters}}
    return [made] if tools else None


def unspelled(messages: Sequence[Message], tools: Tools | None, *more: str) -> str:
    """A short string of letters and digits that occurs in none of these texts."""
    whole = "\n".join([*(text for m in messages for text in (m.role, m.text, m.name or "", m.tool_call_id or "")),
                       str(tools) if tools else "", *more])
    number = len(whole)
    while (made := f"zq{number}x") in whole:
        number += 1
    return made


def merge_system(messages: Sequence[Message]) -> list[Message] | None:
    """The system message put before the first user turn's text, or ``None`` where that cannot be done."""
    if len(messages) < 2 or messages[0].role != "system" or messages[1].role != "user":
        return None
    user = replace(messages[1], content=f"{messages[0].content}\n\n{messages[1].content}")
    return [user, *messages[2:]]


def _as_call(marker: re.Match[str]) -> str:
    opened, end, closed = marker.groups()
    return f"{opened} {'endcall' if end else 'call siftune_block()'} {closed}"


def _sources(tokenizer: Any) -> dict[str, str]:
    """Template sources by name: ``default``, and ``tool_use`` where there is another one for tools."""
    given = tokenizer.chat_template
    if not given:
        return {"default": ("{{ bos_token }}" if _adds_bos(tokenizer) else "") + PLAIN_TEMPLATE}
    if isinstance(given, str):
        return {"default": given}
    try:
        named = dict(given) if isinstance(given, dict) else {one["name"]: one["template"] for one in given}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the tokenizer's chat template is a {type(given).__name__}", where="--model",
                         hint="it should be a text, or texts by name, in tokenizer_config.json") from error
    if "default" not in named:
        names = ", ".join(sorted(map(str, named)))
        raise ModelError(f"the tokenizer's chat templates have names ({names}), and none is the default",
                         where="--model", hint="call one of them 'default' in the tokenizer's files")
    return {name: named[name] for name in ("default", "tool_use") if name in named}


def _adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its BOS token before plain text by default."""
    if tokenizer.bos_token_id is None:
        return False
    return tokenizer("a", add_special_tokens=True)["input_ids"][:1] == [tokenizer.bos_token_id]
