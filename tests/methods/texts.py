"""Rows of given texts, and a run over them, for the tests of representations that read text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from siftune.config.settings import SelectConfig
from siftune.data.rows import Examples, Message, Rendered, Row, content_hash
from siftune.features.base import Context
from tests.methods.contexts import configured

ROOT = Path(__file__).parents[2]

ODD = ["", " \n ", "?!", "Ünïcödé ﬁne — naïve café", "数学を勉強する", "🙂🙂 🙃", "a", "The the and of", "x " * 700]
"""Texts without words, in other scripts, far longer than an encoder reads."""


def examples(conversations: Sequence[tuple[str, str]], prefix: str = "row") -> Examples:
    """Rows of a prompt and an answer each; what a language model would see of them does not matter here."""
    rows, rendered = [], []
    for i, (prompt, answer) in enumerate(conversations):
        messages = (Message("user", prompt), Message("assistant", answer))
        rows.append(Row(f"{prefix}-{i:03d}", "made", f"made:{i}", messages, json.dumps({"i": i}),
                        content_hash(messages), "messages"))
        rendered.append(Rendered(np.array([1, i + 2]), np.array([False, True])))
    return Examples(rows, rendered)


def demo(name: str, stop: int | None = None) -> list[tuple[str, str]]:
    """Prompts and answers of the shipped demo data."""
    lines = (ROOT / "examples/demo" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:stop]
    turns = [json.loads(line)["messages"] for line in lines]
    return [(row[0]["content"], row[1]["content"]) for row in turns]


def for_method(owner: str) -> Callable[..., Context]:
    """:func:`context` of a method."""
    return partial(context, owner=owner)


def context(folder: Path, pool: Examples, target: Examples | None = None, *, owner: str, **changes: Any) -> Context:
    def no_model(config: SelectConfig) -> None:
        raise AssertionError("no language model is to be loaded")

    config = configured(SelectConfig(shard_rows=7), owner, **changes)
    return Context(config, pool, target or Examples([], []), {}, folder, no_model, owner=owner)  # type: ignore[arg-type]


def permuted(pool: Examples, order: Sequence[int]) -> Examples:
    return Examples([pool.rows[i] for i in order], [pool.rendered[i] for i in order])
