"""A chat template that loops or fills the memory is refused by name, and others notice nothing of the limits."""

from __future__ import annotations

import pytest

from siftune._common.errors import ModelError
from siftune.data import template_limits
from siftune.data.problems import BadRow
from siftune.data.render import Renderer
from siftune.data.rows import Message
from siftune.data.template_limits import checked
from tests import tiny

TURNS = (Message("user", "hello"), Message("assistant", "world"))
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "SECONDS", 0.5)
    monkeypatch.setattr(template_limits, "BYTES", 100_000_000)


@pytest.mark.parametrize("endless", [
    LOOP, "{% macro f(n) %}{% if n > 0 %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(100) }}",
])
def test_a_template_that_loops_is_refused(endless: str) -> None:
    with pytest.raises(ModelError, match="the chat template takes more than 0 seconds"):
        Renderer(tiny.tokenizer(endless + tiny.CHATML), max_length=50)


@pytest.mark.skipif(not template_limits.sys.platform.startswith("linux"), reason="no limit on memory can be set there")
@pytest.mark.parametrize("growing", [
    "{{ 'a' * 10000000000 }}", "{{ 'x'|center(9999999999) }}", "{{ range(99999)|list * 99999 }}",
    "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{{ '%9999999999d' % 1 }}", "{{ 'a'.replace('', 'b' * 1000000).replace('b', 'c' * 100000) }}",
])
def test_a_template_that_fills_the_memory_is_refused(growing: str) -> None:
    with pytest.raises(ModelError, match="the chat template takes more than 0 GB"):
        Renderer(tiny.tokenizer(growing + tiny.CHATML), max_length=50)


def test_a_power_is_refused_before_it_is_worked_out() -> None:
    for power in ("{{ 9**9**9 }}", "{{ 2**x }}", "{% set a = 99999**99999 %}"):
        with pytest.raises(ModelError, match="takes a power"):
            checked(power + tiny.CHATML)
    assert not checked("{{ 2**3 }}")


@pytest.mark.parametrize("value", [5, {"a": 1}, ["x"], [{"name": 1}], "{{ '\ud800' }}", "x" * 1_000_001])
def test_a_template_that_is_none_is_refused(value: object) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = value
    with pytest.raises(ModelError):
        Renderer(tokenizer, max_length=50)


def test_rows_for_which_it_takes_too_long_are_named_and_many_of_them_refuse_it() -> None:
    renderer = Renderer(tiny.tokenizer("{% if 'bad' in messages[0]['content'] %}" + LOOP + "{% endif %}" + tiny.CHATML),
                        max_length=100)
    assert renderer.render(TURNS).supervised
    bad = (Message("user", "bad"), TURNS[1])
    for _ in range(3):
        with pytest.raises(BadRow, match="template-error: the chat template takes more than"):
            renderer.render(bad)
    with pytest.raises(ModelError, match="more than 3 rows"):
        renderer.render(bad)
    assert renderer.render(TURNS).supervised, "nothing is left behind of what was ended"


def test_ordinary_templates_are_watched_and_their_memory_is_not_limited() -> None:
    assert not checked(tiny.CHATML)
    assert checked("{% for m in messages %}{% set x = m.content + m.content %}{{ x }}{% endfor %}")
