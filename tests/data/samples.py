"""Records and rows for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from siftune.data.columns import PLACEHOLDERS
from siftune.data.rows import Message, Row, content_hash

# Text as data holds it: any character but halves of surrogate pairs, and no response of white space alone.
# Hypothesis also draws what stands in the source between quotes; a prompt that is a place for an image is refused.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(
    lambda text: not any(place in text for place in PLACEHOLDERS))
ANSWERS = TEXTS.filter(lambda text: text.strip() != "")


def record(format: str, prompt: str, answer: str) -> dict[str, Any]:
    return {
        "messages": {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]},
        "prompt-completion": {"prompt": prompt, "completion": answer},
        "alpaca": {"instruction": prompt, "input": "", "output": answer},
        "sharegpt": {"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]},
        "question-answer": {"question": prompt, "answer": answer},
        "query-response": {"query": prompt, "response": answer},
        "input-output": {"input": prompt, "output": answer},
    }[format]


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
    return path


def row(prompt: str, answer: str, id: str = "x", system: str | None = None) -> Row:
    messages = (*([Message("system", system)] if system else []), Message("user", prompt), Message("assistant", answer))
    return Row(id, "pool", f"pool.jsonl:{id}", messages, json.dumps(record("messages", prompt, answer)),
               content_hash(messages), "messages")
