"""A small choice on a tiny model: a pool with a few rows of the targets' kind among others; runs in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from siftune.config.choosing import ChooseConfig
from siftune.config.settings import load
from tests import tiny
from tests.cli.pools import Record, jsonl

SMALL = {"lora_rank": 4, "batch_size": 4, "max_length": 64, "epochs": 4, "learning_rate": 1e-2, "shard_rows": 16,
         "folds": 2, "metric": "loss"}


def kind(i: int, name: str, **more: Any) -> Record:
    """A row of the targets' kind."""
    return row(f"{name}{i}", f"zebra herd {100 + i}?", "zz zz zz", **more)


def other(i: int, name: str = "other") -> Record:
    return row(f"{name}{i}", f"Count the letters in word{i}.", f"There are {i} letters.")


def row(name: str, prompt: str, answer: str, **more: Any) -> Record:
    return {"id": name, "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
            **more}


def write_files(folder: Path) -> dict[str, Any]:
    """Model, pool, targets, validation and test rows, and scores that put the targets' kind last; returns settings."""
    tiny.save(folder / "model")
    near = [row(f"pool{i}", f"zebra herd {100 + i} now?", "zz zz zz") for i in range(8)]
    jsonl(folder / "pool.jsonl", [*near, *(other(i) for i in range(48))])
    jsonl(folder / "others.jsonl", [other(i) for i in range(48)])
    jsonl(folder / "target.jsonl", [kind(i, "target", subtask="ab"[i % 2]) for i in range(8)])
    offered = {"choices": ["zz zz zz", "There are 3 letters."]}
    jsonl(folder / "validation.jsonl", [kind(i, "validation", **offered) for i in range(30, 40)])
    jsonl(folder / "test.jsonl", [kind(i, "test") for i in range(50, 56)])
    np.save(folder / "last.npy", np.r_[np.zeros(8), np.arange(1.0, 49.0)])
    return {"model": str(folder / "model"), "pool": (str(folder / "pool.jsonl"),),
            "target": (str(folder / "target.jsonl"),), **SMALL}


def config(folder: Path, values: dict[str, Any], name: str, **changes: Any) -> ChooseConfig:
    told = {**values, "output_dir": str(folder / name), **changes}
    return load(ChooseConfig, None, {k: v for k, v in told.items() if v is not None})


def timeless(result: Any) -> Any:
    """A result without what differs from run to run."""
    if isinstance(result, dict):
        return {k: timeless(v) for k, v in result.items() if k not in ("costs", "seconds")}
    return [timeless(v) for v in result] if isinstance(result, list) else result


def taught_model(folder: Path) -> str:
    """A tiny model that knows the targets' kind already: training on anything else makes it forget."""
    import torch

    tokenizer, model = tiny.tokenizer(), tiny.model("llama")
    texts = [tokenizer.apply_chat_template(kind(i, "lesson")["messages"], tokenize=False) for i in range(60, 68)]
    ids = tokenizer(texts, padding=True, return_tensors="pt")
    labels = ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        model(**ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
