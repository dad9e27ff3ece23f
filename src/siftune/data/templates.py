"""Conversations as text: the tokenizer's chat template, or a fixed plain one for base models.

Chat templates differ in what they accept. What they refuse becomes a
:class:`~siftune.data.problems.BadRow`, except a refused system message, which moves into the first user turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from siftune.data.chat import as_turn
from siftune.data.problems import BadRow
from siftune.data.rows import Message, Tools

PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' }}{{ message['content'] }}{{ eos_token }}{{ '\n' }}{% else %}"
    "{{ '<|' + message['role'] + '|>\n' }}{{ message['content'] }}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""The plain template of Tulu (arXiv 2306.04751, section 3.2), used where the tokenizer has no chat template."""

_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Templates may print today's date (Llama 3.2, SmolLM3), but a run that is continued tomorrow must see the same
# tokens: this takes the place of their clock. (transformers passes no functions into templates, hence Jinja.)
_DATE = {"%Y": "2024", "%y": "24", "%m": "07", "%d": "26", "%B": "July", "%b": "Jul", "%A": "Friday", "%a": "Fri",
         "%H": "12", "%I": "12", "%M": "00", "%S": "00", "%p": "PM"}
_CLOCK = "{% macro strftime_now(format) %}{{ format" + "".join(
    f" | replace('{code}', '{value}')" for code, value in _DATE.items()) + " }}{% endmacro %}{{ '' }}"


class ChatTemplate:
    """Renders messages to text with one tokenizer's template.

    Args:
        tokenizer: A transformers tokenizer.

    Attributes:
        text: The Jinja source that is rendered, for fingerprints.
        has_markers: Whether it marks the assistant's text with ``{% generation %}``.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        if tokenizer.chat_template:
            self.text: str = tokenizer.get_chat_template()
        else:
            self.text = ("{{ bos_token }}" if _adds_bos(tokenizer) else "") + PLAIN_TEMPLATE
        if "strftime_now" in self.text:
            self.text = _CLOCK + self.text
        self.has_markers = _MARKERS.search(self.text) is not None

    def render(self, messages: Sequence[Message], tools: Tools | None = None, *, prompt: bool = False) -> str:
        """The conversation as text; with ``prompt`` followed by the opening of an assistant turn.

        Raises:
            BadRow: ``template-error``: the template refuses the conversation.
        """
        return self._apply(messages, tools, tokenize=False, add_generation_prompt=prompt)

    def opening(self) -> str:
        """What stands before an assistant's turn, such as ``<|im_start|>assistant``; empty where nothing does."""
        turn = [Message("user", "x")]
        try:
            before, asked = self.render(turn), self.render(turn, prompt=True)
        except BadRow:  # a template that takes no single turn
            return ""
        return asked.removeprefix(before) if asked.startswith(before) else ""

    def render_marked(self, messages: Sequence[Message], tools: Tools | None = None) -> tuple[list[int], list[int]]:
        """Token ids of the conversation and a 0/1 mask of what stands inside the template's own markers.

        Raises:
            BadRow: ``template-error``: the template refuses the conversation.
        """
        made = self._apply(messages, tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        return made["input_ids"], made["assistant_masks"]

    def accepted(self, messages: Sequence[Message], tools: Tools | None = None) -> tuple[Sequence[Message], str]:
        """The messages as the template takes them, and their text.

        They come back unchanged, or with a refused system message in the first user turn.

        Raises:
            BadRow: ``template-error``: the template refuses them either way.
        """
        try:
            return messages, self.render(messages, tools)
        except BadRow:
            merged = merge_system(messages)
            if merged is None:
                raise
        return merged, self.render(merged, tools)

    def _apply(self, messages: Sequence[Message], tools: Tools | None, **options: Any) -> Any:
        try:
            return self._applied(messages, tools, False, options)
        except BadRow:
            if not any(message.tool_calls for message in messages):
                raise
            try:
                return self._applied(messages, tools, True, options)  # some print arguments as the text they get
            except BadRow:
                pass
            raise

    def _applied(self, messages: Sequence[Message], tools: Tools | None, as_text: bool, options: Any) -> Any:
        from jinja2 import TemplateError

        turns = [as_turn(message, arguments_as_text=as_text) for message in messages]
        try:
            return self._tokenizer.apply_chat_template(turns, tools=tools, chat_template=self.text, **options)
        except (TemplateError, TypeError, ValueError) as error:
            # Type and value errors come from expressions inside the template: the messages are plain text by now.
            raise BadRow("template-error", str(error)) from error


def merge_system(messages: Sequence[Message]) -> list[Message] | None:
    """The system message put before the first user turn's text, or ``None`` where that cannot be done."""
    if len(messages) < 2 or messages[0].role != "system" or messages[1].role != "user":
        return None
    user = replace(messages[1], content=f"{messages[0].content}\n\n{messages[1].content}")
    return [user, *messages[2:]]


def _adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its BOS token before plain text by default."""
    if tokenizer.bos_token_id is None:
        return False
    return tokenizer("a", add_special_tokens=True)["input_ids"][:1] == [tokenizer.bos_token_id]
