"""Run folders made by hand: a selection, its configuration and a tiny model's tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from pyarrow import parquet

from tests import tiny

MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
"""ChatML with marks: the answer and its end of turn, without the line break after it."""


def talk(*contents: str, **options: Any) -> dict[str, Any]:
    """A record of turns of user and assistant."""
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": content}
                         for i, content in enumerate(contents)], **options}


CHATS = [talk("Add 2 and 3.", "It is 5."), talk("Q", "A", "q", "a", "Q again", "Another A"),
         {"messages": [{"role": "system", "content": "Be brief."}, *talk("日本語? 🎌", "はい 😀\n")["messages"]]},
         talk("Q", "A", "q"), {"messages": [{"role": "assistant", "content": "Hello!"}, *talk("Q", "A")["messages"]]},
         talk("word " * 8, "answer " * 60)]
"""Conversations of several shapes; the last is longer than the limit of :func:`make_run`."""
UNTRAINED = {"messages": [{**turn, "weight": int(i != 1)} if turn["role"] == "assistant" else turn
                          for i, turn in enumerate(CHATS[1]["messages"])]}
"""A conversation whose first answer is not to be trained on."""
CALL = {"messages": [{"role": "user", "content": "Weather?"},
                     {"role": "assistant", "content": "I look.", "reasoning_content": "Hm."},
                     {"role": "user", "content": "And?"}, {"role": "assistant", "content": "It is warm."}]}
MAX_LENGTH = 96


def make_model(folder: Path, template: str | None = tiny.CHATML) -> Path:
    """A folder with a tokenizer and the configuration of a tiny model, without weights."""
    tiny.tokenizer(template).save_pretrained(folder)
    config = {"model_type": "llama", "vocab_size": 384, "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def make_run(folder: Path, records: Sequence[dict[str, Any]], model: Path | None = None, **settings: Any) -> Path:
    """A run folder as `select` leaves it, as far as an export reads it; the rows are named r0, r1, ..."""
    folder.mkdir(parents=True)
    (folder / "selected.jsonl").write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records),
                                           encoding="utf-8")
    count = len(records)
    parquet.write_table(pa.table({
        "id": [f"r{i}" for i in range(count)], "rank": list(range(1, count + 1)), "score": [1.0 / (i + 1) for i in
        range(count)], "source": ["pool"] * count, "group": ["pool"] * count, "nearest_target": [None] * count}),
        folder / "selection.parquet")
    told = {"max_length": MAX_LENGTH, **({"model": str(model)} if model else {}), **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(told))
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
