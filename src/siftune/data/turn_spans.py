"""Where the assistant's turns stand in a rendered conversation, for chat templates that do not mark them.

The conversation is rendered again with a sentinel in place of every message's content, thought and arguments: what
stands between the sentinels is the template's own. With the contents put back between these constant pieces the text
must come out as it is, and the turns' places are known. Where a template alters contents (trims them, escapes them,
splits off thoughts, writes out tool calls), it is asked for the conversation once more for each colour of a colouring
in which neighbours differ (two nearly always), with the sentinels taken out for the messages of that colour. Between
the sentinels of its neighbours each message then stands alone, between constants that are known. That takes linear
time, nothing is searched for in the conversation itself, and the pieces must again make up the whole text. Where they
do not, for example because the template looks at contents far away, every turn is changed alone, and what the two
renderings have in common before and after it says where it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from siftune.data.problems import BadRow
from siftune.data.rows import Message, ToolCall, Tools
from siftune.data.sentinels import Item, Sentinels, items_of
from siftune.data.templates import ChatTemplate, Span, probe_tools, unspelled
from siftune.data.turn_ends import TurnEnds, common_prefix


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of the text that belongs to one message, and the template's own text around it.

    Attributes:
        message: Index of the message.
        start, end: Where its content stands, characters.
        before: Length of the constant text before it, back to the message before.
        after: Length of the constant text after it, up to the next message or the end of the text.
        calls: Where it ends in a tool call, the template's own text between names and values of arguments.
    """

    message: int
    start: int
    end: int
    before: int
    after: int
    calls: str | None


_OPENING = 4  # fewer characters of an opening are no sign of it
_SHAPES = 1000  # of so many the template's own text is kept


class _Changed(Exception):  # noqa: N818 - the pieces do not make up the text: another way is tried
    pass


class TurnSpans:
    """Finds the turns of conversations rendered with one template.

    Args:
        template: The template.
        ends: How its turns end.
    """

    def __init__(self, template: ChatTemplate, ends: TurnEnds):
        self._template, self._ends = template, ends
        self._forms: dict[Any, tuple[list[Item], list[str]]] = {}

    def find(self, messages: Sequence[Message], tools: Tools | None, text: str,
             turns: Sequence[int]) -> dict[int, list[Span]]:
        """The supervised characters of turns: each turn from the end of its opening through its end of turn.

        Args:
            messages, tools: The conversation.
            text: Its rendering.
            turns: Indices of assistant messages.

        Returns:
            Spans (characters, end exclusive, ascending) by turn. A turn that the text does not show is not in it.

        Raises:
            BadRow: ``template-mismatch``: where a turn stands cannot be told.
        """
        sentinels = Sentinels(messages, unspelled(messages, tools, text, self._template.text))
        try:
            places = self._places(sentinels, tools, text)
        except (_Changed, BadRow):
            return {turn: spans for turn in turns if (spans := self._alone(sentinels, tools, text, turn))}
        found: dict[int, list[Span]] = {}
        wanted = set(turns)
        for number, place in enumerate(places):
            if place.message in wanted:
                before = places[number - 1].message if number else None
                spans = found.setdefault(place.message, [])
                spans += self._supervised(sentinels, tools, text, place, before, first=not spans)
        return found

    def _supervised(self, sentinels: Sentinels, tools: Tools | None, text: str, place: Place, before: int | None, *,
                    first: bool) -> list[Span]:
        head = text[place.start - place.before : place.start]
        start = place.start
        if first:
            start -= len(head) - self._opened(sentinels, tools, head, place.message, before)
        tail = text[place.end : place.end + place.after]
        final = place.end + place.after == len(text)
        return self._ends.spans(start, place.end, tail, tools, calls=place.calls, final=final)

    def _opened(self, sentinels: Sentinels, tools: Tools | None, head: str, turn: int, before: int | None) -> int:
        """How much of the constant text before a turn a model is given when it is asked for that turn."""
        asked = None
        if before is not None and before == turn - 1:
            previous = sentinels.messages[before]
            asked = self._asked(previous.role, tools, calls=bool(previous.tool_calls), first=turn == 1)
        opening = self._after_opening(tools, head)
        if asked is None:
            return len(head) if opening is None else opening
        start = max(common_prefix(head, asked), opening or 0)
        if head[start:].strip() and not self._template.cached("asks", tools, lambda: self._asks(tools)):
            return len(head)  # words that open the turn, which such a template never gives to the model by themselves
        return start

    def _asks(self, tools: Tools | None) -> bool:
        """Whether the template knows how to ask for a turn, as most do."""
        turn = [Message("user", "x")]
        return self._rendered(turn, probe_tools(tools)) != self._rendered(turn, probe_tools(tools), prompt=True)

    def _after_opening(self, tools: Tools | None, head: str) -> int | None:
        """Where in the constant text before a turn an opening ends, by what a user's turn is answered with."""
        opening = self._asked("user", tools, calls=False, first=True) or ""
        for start in range(len(opening)):
            if len(opening[start:].strip()) < _OPENING:
                break
            if (at := head.rfind(opening[start:])) >= 0:
                return at + len(opening) - start
        return None

    def _asked(self, role: str, tools: Tools | None, *, calls: bool, first: bool) -> str | None:
        """What follows a message of that role when the template is asked for the next turn of the assistant.

        It is asked with a conversation of its own, so that no row decides about another.

        Args:
            role: Of the message before the turn.
            tools: Whether anything may be called.
            calls: Whether that message calls tools.
            first: Whether that message is the first.
        """
        def ask() -> str | None:
            called = (ToolCall("f", "{}", "000000000"),)
            last = Message(role, "x", called if calls else (), tool_call_id="000000000" if role == "tool" else None,
                           name="f" if role == "tool" else None)
            before = [] if first else [Message("user", "x")]
            if role == "tool":
                before.append(Message("assistant", "", called))
            elif role != "assistant" and before:
                before.append(Message("assistant", "x"))
            sentinels = Sentinels([*before, last], "zq7f3a1cx")
            asked = self._rendered(sentinels.all, probe_tools(tools), prompt=True)
            shown = sentinels.shown(asked or "")
            return asked[shown[-1][2] :] if asked and shown and shown[-1][0] == len(before) else None

        return self._template.cached(("asked", role, calls, first), tools, ask)

    def _places(self, sentinels: Sentinels, tools: Tools | None, text: str) -> list[Place]:
        """The places of all messages, in the order of the text.

        Raises:
            _Changed: the pieces do not make up the text.
            BadRow: the template refuses the sentinels.
        """
        items, constants = self._form(sentinels, tools)
        plain = sentinels.plain()
        if plain is not None:
            for contents in (plain, [content.strip() for content in plain]):  # many templates trim them
                pieces = [(len(constants[number]), contents[message], len(constants[number + 1]))
                          for number, (message, *_) in enumerate(items)]
                if (places := _joined(items, constants, pieces, text)) is not None:
                    return places
        colours = _colours([item[0] for item in items])
        found: dict[int, tuple[int, str, int]] = {}
        for colour in range(max(colours.values(), default=-1) + 1):
            kept = {message for message, its in colours.items() if its == colour}
            mixed = self._template.render(sentinels.without(kept), tools)
            found |= _between(sentinels, mixed, items, constants, kept)
        places = _joined(items, constants, [found[number] for number in range(len(items))], text)
        if places is None:
            raise _Changed
        return places

    def _form(self, sentinels: Sentinels, tools: Tools | None) -> tuple[list[Item], list[str]]:
        """Which messages the template shows in which order, and its own text around them.

        It is the same for all conversations of plain text with the same roles, and then rendered once.
        """
        shape = None if tools else sentinels.shape()
        if shape in self._forms:
            return self._forms[shape]
        form = self._template.render(sentinels.all, tools)
        shown = sentinels.shown(form)
        if sentinels.repeated(form, shown):
            raise _Changed
        made = items_of(shown, form)
        if shape is not None and len(self._forms) < _SHAPES:
            self._forms[shape] = made
        return made

    def _alone(self, sentinels: Sentinels, tools: Tools | None, text: str, turn: int) -> list[Span]:
        """The spans of one turn, from the conversation with only that turn changed; empty where it is not shown.

        Raises:
            BadRow: ``template-mismatch``.
        """
        messages = sentinels.messages
        try:
            changed = self._template.render(sentinels.without(set(range(len(messages))) - {turn}), tools)
        except BadRow as problem:
            raise BadRow("template-mismatch", f"turn {turn + 1} cannot be told from the rest: the template refuses "
                         f"other words in its place ({problem.detail})") from problem
        shown = sentinels.shown(changed)
        if not shown and changed == text:
            return []
        if sentinels.repeated(changed, shown):
            raise BadRow("template-mismatch", f"the template writes turn {turn + 1} more than once")
        if shown:
            first, last = shown[0][1], len(changed) - shown[-1][2]
            if first + last <= len(text) and text.startswith(changed[:first]) and (
                    not last or text.endswith(changed[-last:])):
                inside = "".join(changed[a[2] : b[1]] for a, b in pairwise(shown))
                if any(m.role == "tool" and m.content.strip() and m.content.strip() in inside for m in messages):
                    raise BadRow("template-mismatch", f"turn {turn + 1} cannot be told from what a tool says in it")
                calls = items_of(shown, changed)[0][-1][3]
                return self._around(messages, tools, text, turn, (first, len(text) - last), calls)
        raise BadRow("template-mismatch", f"turn {turn + 1} cannot be told from the rest: other words in its place "
                     "change the text elsewhere too")

    def _around(self, messages: Sequence[Message], tools: Tools | None, text: str, turn: int, own: Span,
                calls: str | None) -> list[Span]:
        """The spans of a turn that is known to write that stretch, from renderings that stop before and after it."""
        start, end = own
        before = self._rendered(messages[:turn], tools, prompt=True) if turn else None
        if before is not None and len(before) <= start and text.startswith(before):
            opened = len(before)
        else:
            opened = (self._after_opening(tools, text[:start]) if turn == 0 else None) or start
        final = turn == len(messages) - 1
        through = text if final else self._rendered(messages[: turn + 1], tools)
        if through is not None and len(through) >= end and text.startswith(through):
            tail = text[end : len(through)]
        else:
            tail = text[end : end + common_prefix(text[end:], self._ends.closing(tools))]
        return self._ends.spans(opened, end, tail, tools, calls=calls, final=final)

    def _rendered(self, messages: Sequence[Message], tools: Tools | None, *, prompt: bool = False) -> str | None:
        try:
            return self._template.render(messages, tools, prompt=prompt)
        except BadRow:
            return None


def _colours(order: Sequence[int]) -> dict[int, int]:
    """A colour for each message, so that no two that stand beside each other have the same."""
    beside: dict[int, set[int]] = {}
    for left, right in pairwise(order):
        beside.setdefault(left, set()).add(right)
        beside.setdefault(right, set()).add(left)
    colours: dict[int, int] = {}
    for message in order:
        if message not in colours:
            taken = {colours.get(other) for other in beside.get(message, ())}
            colours[message] = next(colour for colour in range(len(taken) + 1) if colour not in taken)
    return colours


def _between(sentinels: Sentinels, mixed: str, items: Sequence[Item], constants: Sequence[str],
             kept: set[int]) -> dict[int, tuple[int, str, int]]:
    """What stands in the place of the items whose messages were kept, and how far the constants around it hold.

    Returns:
        By number of the item: how much of the constant before it holds (characters from its start), the text in its
        place, how much of the constant after it holds (from its end).

    Raises:
        _Changed: the sentinels of the others are not where they were.
    """
    shown = sentinels.shown(mixed)
    made: dict[int, tuple[int, str, int]] = {}
    at = end = 0  # the next sentinel, and where the last one ended
    for number, (message, first, last, _) in enumerate(items):
        if message in kept:
            stop = shown[at][1] if at < len(shown) else len(mixed)
            piece, before, after = mixed[end:stop], constants[number], constants[number + 1]
            left = common_prefix(piece, before)
            right = common_prefix(piece[left:][::-1], after[::-1])
            made[number] = (left, piece[left : len(piece) - right], right)
            continue
        count = last - first + 1
        if [one[0] for one in shown[at : at + count]] != [message] * count or (
                (not number or items[number - 1][0] not in kept) and mixed[end : shown[at][1]] != constants[number]):
            raise _Changed
        end = shown[at + count - 1][2]
        at += count
    if at != len(shown) or (items and items[-1][0] not in kept and mixed[end:] != constants[-1]):
        raise _Changed
    return made


def _joined(items: Sequence[Item], constants: Sequence[str], pieces: Sequence[tuple[int, str, int]],
            text: str) -> list[Place] | None:
    """The places of the items if constants and pieces make up the text, else ``None``."""
    if not items:
        return None
    parts: list[str] = []
    kept: list[int] = []  # length of each constant as it stands in the text
    for number, constant in enumerate(constants):
        start = len(constant) - pieces[number - 1][2] if number else 0
        end = pieces[number][0] if number < len(pieces) else len(constant)
        if end < start:
            return None
        parts.append(constant[start:end])
        kept.append(end - start)
        if number < len(pieces):
            parts.append(pieces[number][1])
    if "".join(parts) != text:
        return None
    places, position = [], 0
    for number, (message, _, _, calls) in enumerate(items):
        position += kept[number]
        end = position + len(pieces[number][1])
        places.append(Place(message, position, end, kept[number], kept[number + 1], calls))
        position = end
    return places


