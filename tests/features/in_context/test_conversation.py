"""Rows after an example, for templates of every kind: what follows is the template's own text of the conversation."""

from __future__ import annotations

import numpy as np
import pytest

from siftune.data.render import Renderer
from siftune.data.rows import Message, Row
from siftune.features.in_context.conversation import Conversation, common_end
from tests import tiny

DEFAULT_SYSTEM = ("{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
                  "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
                  "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
                  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
BEGINS = "{{ '<|endoftext|>' }}" + tiny.CHATML
FIRST_SYSTEM_ONLY = ("{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n' }}{% endif %}"
                     "{% for m in messages %}{% if m['role'] != 'system' %}"
                     "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
                     "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
NO_SYSTEM = ("{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
             "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
             "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
NUMBERED = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' + loop.index|string + '\n' + m['content'] + "
            "'<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant ' + (messages|length + 1)|string + '\n' }}"
            "{% endif %}")
ONE_EXCHANGE = ("{% if messages|length > 3 %}{{ raise_exception('one exchange') }}{% endif %}" + tiny.CHATML)

QUESTION = (Message("user", "Add 12 and 30."), Message("assistant", "The answer is 42."))
SYSTEM = (Message("system", "Count letters."), Message("user", "banana"), Message("assistant", "6"))
LONG = (*QUESTION, Message("user", "And 2 more?"), Message("assistant", "44"))


def row(messages: tuple[Message, ...]) -> Row:
    return Row("r", "made", "made:1", messages, "{}", "", "messages")


def text_of(tokenizer, messages) -> list[int]:
    return Renderer(tokenizer, max_length=10**9).render(messages).ids.tolist()


@pytest.mark.parametrize("template", [tiny.CHATML, None, DEFAULT_SYSTEM, BEGINS])
@pytest.mark.parametrize("helped", [QUESTION, LONG])
@pytest.mark.parametrize("example", [QUESTION, SYSTEM, LONG])
def test_example_and_continuation_are_the_text_of_the_whole_conversation(template, helped, example):
    tokenizer = tiny.tokenizer(template)
    rendered = Renderer(tokenizer, max_length=512).render(helped)
    conversation = Conversation(tokenizer)
    after = conversation.continuation(row(helped), rendered)
    assert (conversation.turns, conversation.joined) == (1, 0)
    assert text_of(tokenizer, example) + after.ids.tolist() == text_of(tokenizer, [*example, *helped])
    assert after.ids[after.mask].tolist() == rendered.ids[rendered.mask].tolist(), "the same tokens are supervised"


def test_what_stands_at_the_beginning_only_is_left_out():
    tokenizer = tiny.tokenizer(DEFAULT_SYSTEM)
    rendered = Renderer(tokenizer, max_length=512).render(QUESTION)
    after = Conversation(tokenizer).continuation(row(QUESTION), rendered)
    assert "You are helpful." in tokenizer.decode(rendered.ids)
    assert tokenizer.decode(after.ids).startswith("<|im_start|>user\nAdd 12")


@pytest.mark.parametrize("template", [tiny.CHATML, DEFAULT_SYSTEM])
def test_a_system_message_of_its_own_stays_with_its_row(template):
    tokenizer = tiny.tokenizer(template)
    conversation = Conversation(tokenizer)
    rendered = Renderer(tokenizer, max_length=512).render(SYSTEM)
    after = conversation.continuation(row(SYSTEM), rendered)
    assert conversation.turns == 1
    assert tokenizer.decode(after.ids).startswith("<|im_start|>system\nCount letters.")


@pytest.mark.parametrize(("template", "messages"), [
    (FIRST_SYSTEM_ONLY, SYSTEM),  # in the middle the template would drop it silently
    (NO_SYSTEM, SYSTEM),  # and here refuse it: alone it stands in the user's turn
    (NUMBERED, QUESTION),  # what follows depends on the example's length
    (ONE_EXCHANGE, QUESTION),
])
def test_what_the_template_does_not_continue_with_is_put_behind_as_it_is(template, messages):
    tokenizer = tiny.tokenizer(template)
    conversation = Conversation(tokenizer)
    rendered = Renderer(tokenizer, max_length=512).render(messages)
    after = conversation.continuation(row(messages), rendered)
    assert (conversation.turns, conversation.joined) == (0, 1)
    np.testing.assert_array_equal(after.ids, rendered.ids)
    np.testing.assert_array_equal(after.mask, rendered.mask)


def test_rows_that_are_cut_stay_cut_where_they_were():
    tokenizer = tiny.tokenizer(DEFAULT_SYSTEM)
    whole = Renderer(tokenizer, max_length=512).render(QUESTION)
    for lost in (1, 2, 5):
        rendered = Renderer(tokenizer, max_length=len(whole) - lost).render(QUESTION)
        conversation = Conversation(tokenizer)
        after = conversation.continuation(row(QUESTION), rendered)
        assert conversation.turns == 1
        assert after.ids[after.mask].tolist() == rendered.ids[rendered.mask].tolist()
        assert after.ids.tolist() == rendered.ids[-len(after):].tolist()


def test_a_begin_token_is_not_repeated_in_rows_put_behind():
    tokenizer = tiny.tokenizer("{{ '<|endoftext|>' }}" + ONE_EXCHANGE)
    tokenizer.bos_token = "<|endoftext|>"
    rendered = Renderer(tokenizer, max_length=512).render(QUESTION)
    after = Conversation(tokenizer).continuation(row(QUESTION), rendered)
    assert rendered.ids[0] == tokenizer.bos_token_id
    assert after.ids.tolist() == rendered.ids[1:].tolist()


@pytest.mark.parametrize(("a", "b", "shared"), [("xyz", "ayz", 2), ("yz", "xyz", 2), ("x", "y", 0), ("", "y", 0),
                                               ("xay", "xby", 1)])
def test_common_end(a, b, shared):
    assert common_end(np.array(list(a)), np.array(list(b))) == shared
