"""Masks of every chat template that TRL knows and of common others, over all shapes of conversations.

Where TRL has a training template, its ids and mask are the truth; where the template marks its own turns, what
transformers makes of the marks; else an oracle that changes one turn at a time and looks at what changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from siftune.data.chat import as_turn
from siftune.data.problems import BadRow
from siftune.data.render import Renderer
from siftune.data.rows import Message, ToolCall, Tools
from siftune.data.templates import CLOCK, PLAIN_TEMPLATE, merge_system
from tests import tiny

trl = find_spec("trl")
if trl is None or trl.origin is None:
    pytest.skip("needs trl, of the extra 'trl'", allow_module_level=True)
FOLDER = Path(trl.origin).parent / "chat_templates"
ORIGINALS = sorted(path.stem for path in FOLDER.glob("*.jinja") if not path.stem.endswith("_training"))

ALTERNATE = ("{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
             "{% endif %}")
OTHERS = {
    "chatml": tiny.CHATML,
    "tulu": PLAIN_TEMPLATE,
    "zephyr": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}" + ALTERNATE + "{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}"
        "{% endfor %}"),
    "vicuna": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + ' ' }}"
        "{% elif m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
        "{% else %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set first = '<<SYS>>\n' + "
        "messages[0]['content'] + '\n<</SYS>>\n\n' %}{% else %}{% set rest = messages %}{% set first = '' %}{% endif %}"
        "{% for m in rest %}" + ALTERNATE + "{% set content = (first if loop.first else '') + m['content'] %}"
        "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}"
        "{% else %}{{ ' ' + content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"),
    "alpaca": (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + '\n\n' }}"
        "{% elif m['role'] == 'user' %}{{ '### Instruction:\n' + m['content'] + '\n\n' }}"
        "{% else %}{{ '### Response:\n' + m['content'] + '\n\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"),
    "thinker": (  # asks with an open thought, keeps the last thought only, has eos at the end of all
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
        "{% if loop.last %}{{ '<think>\n' + (m['reasoning_content'] or '') + '\n</think>\n\n' }}{% endif %}"
        "{{ m['content'].split('</think>')[-1] | trim }}{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% else %}{{ eos_token }}"
        "{% endif %}"),
}
CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "Where"}}, "required": ["city"]}
TOOLS: Tools = [{"type": "function", "function": {"name": "weather", "description": "Weather.", "parameters": CITY}}]
OLD = int(transformers.__version__.split(".")[0]) < 5
PARTS = {"idefics3", "smolvlm", "llava_next"}  # these take contents as lists of parts only
ENDS = {"<turn|>", "<|eot_id|>", "<|im_end|>", "<|END_OF_TURN_TOKEN|>", "<|observation|>"}
# Not those in which the oracle does not know where a turn begins: they open it otherwise than they ask for it.
KNOWN = [name for name in ORIGINALS if (FOLDER / f"{name}_training.jinja").exists() and
         not name.startswith(("nemotron", "diffusion", "qwen3_", "gemma3", "phi3_"))]


def call(arguments: Any, name: str = "weather", id: str = "abcdefghi") -> ToolCall:
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False), id)


def talk(*contents: str, system: str | None = None) -> list[Message]:
    turns = [Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    return [Message("system", system), *turns] if system is not None else turns


def called(content: str, *calls: ToolCall, after: str = "It is warm.") -> list[Message]:
    turns = [Message("user", "Weather?"), Message("assistant", content, tool_calls=calls)]
    turns += [Message("tool", '{"t": 21}', name=one.name, tool_call_id=one.id) for one in calls]
    return [*turns, Message("assistant", after)] if after else turns


SHAPES: dict[str, tuple[list[Message], Tools | None]] = {
    "single": (talk("Add 2 and 3.", "It is 5."), None),
    "multi": (talk("Q", "A", "q", "a", "Q again", "Another A"), None),
    "system": (talk("Q", "A", system="Be brief."), None),
    "system, multi": (talk("Q", "A", "q", "a", system="Be brief."), None),
    "empty system": (talk("Q", "A", system=""), None),
    "tools, no call": (talk("Q", "A"), TOOLS),
    "tool call": (called("", call({"city": "Paris"})), TOOLS),
    "tool call last": (called("", call({"city": "Paris"}), after="")[:2], TOOLS),
    "tool call with words": (called("Let me look.", call({"city": "Oslo"})), TOOLS),
    "two tool calls": (called("", call({"city": "Paris"}), call({"city": "Rome", "days": 2}, id="bcdefghij")), TOOLS),
    "arguments of all kinds": (called("", call({"a": 1, "b": None, "c": [1, "x"], "d": {"e": "}"}})), TOOLS),
    "no arguments": (called("", call({})), TOOLS),
    "tool call, then more": ([*called("", call({"city": "Paris"})), *talk("And now?", "Cold.")], TOOLS),
    "thought": ([Message("user", "Q"), Message("assistant", "A", reasoning="Hm, so.")], None),
    "two thoughts": ([Message("user", "Q"), Message("assistant", "A", reasoning="First."), Message("user", "q"),
                      Message("assistant", "a", reasoning="Second.")], None),
    "thought in the content": (talk("Q", "<think>\nHm.\n</think>\n\nA", "q", "<think>\nWell.\n</think>\n\na"), None),
    "ends with user": (talk("Q", "A", "q"), None),
    "opens with assistant": ([Message("assistant", "Hello!"), *talk("Q", "A")], None),
    "only the assistant": ([Message("assistant", "Hello!")], None),
    "two assistants in a row": ([*talk("Q", "A"), Message("assistant", "More.")], None),
    "unicode": (talk("日本語? 🎌", "はい 😀", "é\u0301?", "👩‍👩‍👧 ok 😀", system="Ж"), None),
    "white space": (talk("  Q\n", "\n\n A \n", " q", "\ta  "), None),
    "special tokens in the text": (talk("<|im_end|>\n<|im_start|>assistant\nno<|im_end|>", "<|eot_id|>x</s>y<eos>", "q",
                                        "[/INST] <|im_end|>\n<|im_start|>user\nz <|im_start|>assistant\n"), None),
    "the same twice": (talk("Q", "Q", "Q", "Q"), None),
    "empty answer": (talk("Q", "", "q", "a"), None),
    "looks like a sentinel": (talk("zq7f3a1c", "zq9x1c zq10x1c zq11x3c", "zq7f3a1c0c", "zq7f3a1c"), None),
    "looks like the template": (talk("USER: x ASSISTANT: y", "### Response:\nA\n\n### Instruction:\nB", "{{ x }}",
                                     "{% generation %}<think></think>"), None),
    "long": (talk(*[f"Turn {i}: " + "word " * (i * 7 % 13) + "end" for i in range(24)], system="Long."), None),
}


def tokenizer(template: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the special tokens that the template writes."""
    spelled = re.findall(r"<\|[^<>|\s'\"]+\|?>|<[^<>|\s'\"]+\|>|<｜[^<>'\"]+｜>|<(?:start|end)_of_\w+>|\[gMASK\]|<sop>"
                         r"|<\|\"\|>|</?tool_\w+>|\[/?INST\]", template)
    made = tiny.tokenizer(template)
    made.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens":
                             sorted({t for t in spelled if not re.fullmatch(r"<\|(user|system|assistant)\|>", t)})})
    return made


def outcome(renderer: Renderer, messages: Sequence[Message], tools: Tools | None) -> tuple[list[int], list[int]] | str:
    try:
        made = renderer.render(messages, tools)
    except BadRow as problem:
        return problem.reason if problem.detail else "refused without a word"
    assert made.mask.any()
    return made.ids.tolist(), [int(x) for x in made.mask]


class Refused(Exception):  # noqa: N818
    pass


class Unclear(Exception):  # noqa: N818 - the oracle needs a template that changes nothing else
    pass


class Truth:
    """What the template makes of conversations, straight from ``apply_chat_template``."""

    def __init__(self, tokenizer: Any, text: str, parts: bool = False):
        self.tokenizer, self.parts = tokenizer, parts
        self.text = CLOCK + text if "strftime_now" in text else text

    def apply(self, messages: Sequence[Message], tools: Tools | None, **options: Any) -> Any:
        for as_text in (False, True):
            turns = [as_turn(message, arguments_as_text=as_text) for message in messages]
            if self.parts:
                turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
            try:
                return self.tokenizer.apply_chat_template(turns, tools=tools, chat_template=self.text, **options)
            except (TemplateError, TypeError, ValueError):
                if as_text or not any(message.tool_calls for message in messages):
                    raise Refused from None
        raise AssertionError

    def marked(self, messages: Sequence[Message], tools: Tools | None) -> tuple[list[int], list[int]]:
        made = self.apply(messages, tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        if OLD and messages[0].role == "assistant" and not any(made["assistant_masks"][:3]):
            raise Unclear  # transformers 4 loses a mark that begins with the text
        return made["input_ids"], [0, *made["assistant_masks"][1:]]

    def changed_turns(self, messages: Sequence[Message], tools: Tools | None) -> tuple[list[int], list[int]]:
        """Ids and mask by the rule in words, each turn by itself, from renderings of the whole."""
        text = self.apply(messages, tools, tokenize=False)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = [span for i, message in enumerate(messages) if message.role == "assistant"
                 for span in self._turn(messages, tools, i, text)]
        return encoded["input_ids"], [int(t > 0 and any(a <= start < b for a, b in spans))
                                      for t, (start, _) in enumerate(encoded["offset_mapping"])]

    def _turn(self, messages: Sequence[Message], tools: Tools | None, i: int, text: str) -> Iterator[tuple[int, int]]:
        special = re.compile("|".join(re.escape(t.content) for t in self.tokenizer.added_tokens_decoder.values()))
        parts = ["content"] if messages[i].content.strip() or not messages[i].tool_calls else []
        parts += ["tool_calls"] * bool(messages[i].tool_calls) + ["reasoning"] * bool(messages[i].reasoning)
        regions = [(region, part) for part in parts if (region := self._region(messages, tools, i, text, part))]
        # Other messages can stand between a turn's calls and its words: then they are two stretches.
        foreign = [a for j, m in enumerate(messages) if m.role == "tool" and
                   (region := self._region(messages, tools, j, text, "content")) for a in region]
        stretches: list[tuple[int, int, bool]] = []
        for (start, end), part in sorted(regions):
            calls = part == "tool_calls"
            if stretches and not any(stretches[-1][1] <= at <= start for at in foreign):
                stretches[-1] = (stretches[-1][0], end, calls or stretches[-1][2])
            else:
                stretches.append((start, end, calls))
        for number, (start, end, calls) in enumerate(stretches):
            if number == 0:
                start = self._asked(messages, tools, i, text, start)
            closing = [found for found in special.finditer(text, end) if not calls or found.group() != '<|"|>'][:2]
            stop = closing[0].end() if closing and (calls or not text[end : closing[0].start()].strip()) else end
            if stop > end and len(closing) > 1 and closing[1].start() == stop and closing[1].group() in ENDS:
                stop = closing[1].end()
            yield start, stop
            if i == len(messages) - 1 and text[stop:].strip() == "</s>":
                yield text.rindex("</s>"), len(text)

    def _asked(self, messages: Sequence[Message], tools: Tools | None, i: int, text: str, start: int) -> int:
        try:
            asked = self.apply(messages[:i], tools, tokenize=False, add_generation_prompt=True) if i else ""
        except Refused:
            return start
        if i and text.startswith(asked):
            return min(start, len(asked))
        one, two = (self.apply([Message("user", "x")], None, tokenize=False, add_generation_prompt=asks)
                    for asks in (False, True))
        opening = two[shared(one, two) :]
        before = [region[1] for j, message in enumerate(messages[:i]) if
                  (region := self._region(messages, tools, j, text, "content"))]
        at = text.rfind(opening, max(before, default=0), start) if opening else -1
        return at + len(opening) if at >= 0 else start

    def _region(self, messages: Sequence[Message], tools: Tools | None, i: int, text: str,
                part: str) -> tuple[int, int] | None:
        """Where in the text a part of a message stands: outside is what two other words in its place leave alike."""
        one, two = (self.apply([replace(m, **{part: self._other(m, part, word)}) if j == i else m
                                for j, m in enumerate(messages)], tools, tokenize=False) for word in ("XyX", "YxY"))
        if one == two:
            return None
        start, end = shared(one, two), shared(one[::-1], two[::-1])
        if part == "tool_calls":  # arguments of other types begin and end otherwise
            start = shared(one[:start], text)
            end = shared(one[::-1][:end], text[::-1])
        if not text.startswith(one[:start]) or (end and not text.endswith(one[-end:])):
            raise Unclear
        return start, len(text) - end

    def _other(self, message: Message, part: str, word: str) -> Any:
        if part != "tool_calls":
            return word
        return tuple(replace(one, arguments=json.dumps({word: word})) for one in message.tool_calls)


def test_the_shapes_are_at_least_twenty() -> None:
    assert len(SHAPES) >= 20
    assert len(ORIGINALS) >= 40


@pytest.mark.parametrize("name", ORIGINALS)
def test_masks_are_those_of_the_trainer(name: str) -> None:
    original = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    made = tokenizer(original)
    training = FOLDER / f"{name}_training.jinja"
    truth = Truth(made, training.read_text(encoding="utf-8") if training.exists() else original,
                  parts=name in PARTS)
    marks = training.exists() or re.search(r"\{%-?\s*generation", original) is not None
    check(name, made, truth, marks=marks)


@pytest.mark.parametrize("name", OTHERS)
def test_masks_of_other_templates_are_those_of_the_oracle(name: str) -> None:
    made = tokenizer(OTHERS[name])
    check(name, made, Truth(made, OTHERS[name]), marks=False)


@pytest.mark.parametrize("name", KNOWN)
def test_a_template_that_differs_from_a_known_one_by_a_comment_has_the_masks_of_the_oracle(name: str) -> None:
    changed = "{# mine #}" + (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    made = tokenizer(changed)
    check(name, made, Truth(made, changed, parts=name in PARTS), marks=False)


@pytest.mark.parametrize("name", ["gemma4_v5", "llama3_2"])
def test_no_row_decides_about_another(name: str) -> None:
    made = tokenizer((FOLDER / f"{name}.jinja").read_text(encoding="utf-8"))
    there, back = Renderer(made, max_length=10**9), Renderer(made, max_length=10**9)
    first = {shape: outcome(there, *SHAPES[shape]) for shape in SHAPES}
    assert {shape: outcome(back, *SHAPES[shape]) for shape in reversed(SHAPES)} == first


# Those whose marks begin where a turn is asked for and end with its end (others mark the opening or the last line too).
MARKED = ["cohere", "cohere2", "diffusion_gemma", "gemma", "gemma3", "glm4moe", "idefics3", "lfm2", "lfm2_v2", "llama3",
          "llava_next", "qwen2_5_vl", "qwen3", "qwen3_instruct_2507", "qwen3_vl", "smolvlm"]
MARK = re.compile(r"(\{%[-+]?)\s*(end)?generation\s*([-+]?%\})")


@pytest.mark.parametrize("name", MARKED)
def test_without_its_marks_a_template_has_the_turns_that_the_marks_say(name: str) -> None:
    marked = (FOLDER / f"{name}_training.jinja").read_text(encoding="utf-8")
    made = tokenizer(MARK.sub(lambda m: f"{m[1]} {'endif' if m[2] else 'if true'} {m[3]}", marked))
    renderer, truth = Renderer(made, max_length=10**9), Truth(made, marked, parts=name in PARTS)
    assert not renderer.template.has_markers()
    compared = 0
    for shape, (messages, tools) in SHAPES.items():
        ours = outcome(renderer, messages, tools)
        # Of a character of several tokens at the end of a mark, transformers marks the first only.
        if ours not in ("template-drops", "template-error") and (name, shape) != ("diffusion_gemma", "unicode"):
            try:
                theirs = truth.marked(messages, tools)
            except (Refused, Unclear):  # refused: ours has the system message in the user's turn
                continue
            assert ours == without_layout(made, *theirs), (name, shape, shown(made, ours), shown(made, theirs))
            compared += 1
    assert compared >= 10


def without_layout(tokenizer: Any, ids: list[int], mask: list[int]) -> tuple[list[int], list[int]]:
    """The mask without white space at the ends of its stretches."""
    mask = list(mask)
    for t in reversed(range(len(ids))):
        if mask[t] and not any(mask[t + 1 : t + 2]) and not tokenizer.decode([ids[t]]).strip():
            mask[t] = 0
    return ids, mask


PIECES = ["", " ", "\n", "A", "é😀", "</s>", "<|im_end|>", "<|im_start|>assistant\n", "[/INST]", "USER: ", "</think>",
          "<think>", "zq7f3a1c", "zq30x1c", "\n\n", "### Response:\n"]
WORDS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join).filter(str.strip)


@pytest.fixture(scope="module", params=["vicuna", "llama2", "alpaca", "gemma4_v5", "llama3_1"])
def pair(request: pytest.FixtureRequest) -> tuple[Renderer, Truth]:
    template = OTHERS.get(request.param) or (FOLDER / f"{request.param}.jinja").read_text(encoding="utf-8")
    made = tokenizer(template)
    return Renderer(made, max_length=10**9), Truth(made, template)


@settings(max_examples=25, deadline=None)
@given(contents=st.lists(WORDS, min_size=2, max_size=5))
def test_nothing_in_the_contents_moves_the_mask(pair: tuple[Renderer, Truth], contents: list[str]) -> None:
    renderer, truth = pair
    try:
        theirs = truth.changed_turns(talk(*contents), None)
    except Unclear:
        assume(False)
        raise
    assert outcome(renderer, talk(*contents), None) == theirs


def check(name: str, tokenizer: Any, truth: Truth, *, marks: bool) -> None:
    renderer = Renderer(tokenizer, max_length=10**9)
    used = 0
    for shape, (messages, tools) in SHAPES.items():
        ours = outcome(renderer, messages, tools)
        if ours == "template-drops":  # no trainer says it; what is left out is tested with the rows
            continue
        try:
            try:
                truth.apply(messages, tools, tokenize=False)
            except Refused:
                merged = merge_system(messages)
                if merged is None:
                    raise
                messages = merged
            theirs = (truth.marked if marks else truth.changed_turns)(messages, tools)
        except Unclear:
            continue
        except Refused:
            assert ours == "template-error", (name, shape)
            continue
        if not any(theirs[1]):
            assert ours in ("nothing-to-supervise", "template-mismatch"), (name, shape)
            continue
        assert ours == theirs, (name, shape, shown(tokenizer, ours), shown(tokenizer, theirs))
        used += 1
    assert used >= 10, name


def shared(one: str, two: str) -> int:
    """How many of their first characters two strings share."""
    return next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def shown(tokenizer: Any, made: Any) -> Any:
    """The text with the supervised parts in double brackets."""
    if isinstance(made, str):
        return made
    ids, mask = made
    text = ""
    for run, numbers in groupby(range(len(ids)), key=lambda t: mask[t]):
        piece = tokenizer.decode([ids[t] for t in numbers])
        text += f"«{piece}»" if run else piece
    return text
