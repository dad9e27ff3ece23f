"""Options are recognised where a rule says so, in the form of the completion, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from siftune.data.rows import Message, Row
from siftune.evaluation.choices import Choices, find_choices

LETTERED = "Who is tallest?\nOptions:\n(A) Ann\n(B) Bob \n(C) Cy"


def row(prompt: str, completion: str, **more: Any) -> Row:
    record = {"prompt": prompt, "completion": completion, **more}
    messages = (Message("user", prompt), Message("assistant", completion))
    return Row("1", "test", "test.jsonl:1", messages, json.dumps(record), "", "prompt-completion")


def found(prompt: str, completion: str, **more: Any) -> Choices | None:
    [one] = find_choices([row(prompt, completion, **more)])
    return one


@pytest.mark.parametrize(("completion", "options"), [
    ("(B) Bob", ("(A) Ann", "(B) Bob", "(C) Cy")),
    ("(B)", ("(A)", "(B)", "(C)")),
    ("B", ("A", "B", "C")),
    (" Bob\n", ("Ann", "Bob", "Cy")),
])
def test_lettered_options_have_the_form_of_the_completion(completion: str, options: tuple[str, ...]) -> None:
    assert found(LETTERED, completion) == Choices(options, 1)


@pytest.mark.parametrize("lines", ["A) x\nB) y", "A. x\nB. y", "A: x\nB: y"])
def test_other_marks_of_letters_count_too(lines: str) -> None:
    assert found(f"Which?\n{lines}", "y") == Choices(("x", "y"), 1)
    assert found(f"Which?\n{lines}", lines.splitlines()[0]) == Choices(tuple(lines.splitlines()), 0)


@pytest.mark.parametrize(("prompt", "completion"), [
    (LETTERED, "(B) Ann"),  # no option
    (LETTERED, "(b) Bob"),  # not exactly
    ("Who?\n(A) Ann", "(A) Ann"),  # one is no choice
    ("Who?\n(B) Bob\n(C) Cy", "(B) Bob"),  # not from A on
    ("Who?\n(A) Ann\n(C) Cy", "(C) Cy"),  # one is missing
    ("Who?\n(A) Ann\nB) Bob", "B) Bob"),  # two forms
    ("Who?\n(A) Ann\n(B) Ann", "Ann"),  # alike
    ("Letter?\n(A) B\n(B) A", "A"),  # the letter of one, the text of the other
    ("Who?\n(A) Ann\n(B) Bob\nThink first.", "(B) Bob"),  # not at the end
    ("Who?\n- Ann\n- Bob", "Bob"),  # a list that nothing calls options
])
def test_what_does_not_fit_the_rule_has_no_options(prompt: str, completion: str) -> None:
    assert found(prompt, completion) is None


def test_dashed_options_need_their_heading() -> None:
    assert found("Valid?\nOptions:\n- valid \n- invalid", "invalid") == Choices(("valid", "invalid"), 1)
    assert found("Valid?\nchoices:\n- valid\n- invalid", "valid") == Choices(("valid", "invalid"), 0)
    assert found("Valid?\nOptions:\n- valid\n- invalid", "neither") is None


def test_the_record_names_options_and_the_right_one() -> None:
    assert found("Sky?", "blue", choices=["red", "blue"]) == Choices(("red", "blue"), 1)
    assert found("Sky?", "It is blue.", choices=["red", "blue"], answer=1) == Choices(("red", "blue"), 1)
    assert found("Sky?", "red", choices=["red", "blue"], answer=1) is None  # they contradict each other
    assert found("Sky?", "blue", choices=["red", "blue"], answer=2) is None
    assert found("Sky?", "green", choices=["red", "blue"]) is None
    assert found("Sky?", "blue", choices=["blue"]) is None
    assert found("Sky?", "blue", choices=["blue", "blue"]) is None
    assert found("Sky?", "blue", choices=[{"text": "blue"}, {"text": "red"}]) is None


def test_what_the_record_says_wins_over_the_prompt() -> None:
    assert found(LETTERED, "(B) Bob", choices=["(B) Bob", "none"]) == Choices(("(B) Bob", "none"), 0)


def test_short_labels_count_where_the_prompt_names_them_all() -> None:
    rows = [row("Yes or no: is ice cold?", "yes"), row("Is fire cold? Answer Yes or NO.", "no"),
            row("Is a nose cold? Say yes.", "yes"), row("Is snow cold?", "yes")]
    assert find_choices(rows) == [Choices(("no", "yes"), 1), Choices(("no", "yes"), 0), None, None]
    assert find_choices(rows[:1]) == [None], "one label is no choice"
    many = [row("Count: 1 2 3 4 5 6", str(n)) for n in range(1, 7)]
    assert find_choices(many) == [None] * 6, "six labels are too many"
    long = [row("yes, or no of course not it is not", answer) for answer in ("yes", "no of course not")]
    assert find_choices(long) == [None, None], "four words are no label"


def test_a_conversation_is_asked_for_its_last_answer() -> None:
    messages = (Message("user", LETTERED), Message("assistant", "(A) Ann"), Message("user", "And?\n(A) x\n(B) y"),
                Message("assistant", "(B) y"))
    [one] = find_choices([Row("1", "t", "t:1", messages, json.dumps({"messages": []}), "", "messages")])
    assert one == Choices(("(A) x", "(B) y"), 1)
