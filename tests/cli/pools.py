"""Small pools, in every format and container, of conversations that a tiny tokenizer spells out in a few tokens."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FORMATS = ("messages", "prompt-completion", "alpaca", "sharegpt")
WORDS = ["apple", "banana", "cherry", "date", "elder", "fig", "grape"]

Record = dict[str, Any]


def conversation(i: int) -> tuple[str, str]:
    """Question and answer number ``i``, no two alike, of three kinds."""
    first, second = WORDS[i % 7], WORDS[(3 * i + 1) % 7]
    return (
        (f"Add {i} and {i + 2}.", f"The answer is {2 * i + 2}."),
        (f"Sort: {first}{i}, {second}", ", ".join(sorted([f"{first}{i}", second]))),
        (f"Count the letters in {first}{i}.", f"There are {len(first)} letters, and {i}."),
    )[i % 3]


def record(format: str, i: int, **more: Any) -> Record:
    """Conversation ``i`` in one of the formats, with more fields."""
    prompt, answer = conversation(i)
    return {**more, **{
        "messages": {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]},
        "prompt-completion": {"prompt": prompt, "completion": answer},
        "alpaca": {"instruction": prompt, "input": "", "output": answer},
        "sharegpt": {"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]},
    }[format]}


def records(format: str, numbers: range, prefix: str = "row") -> list[Record]:
    """Records with ids, groups and subtasks."""
    return [record(format, i, id=f"{prefix}{i:03}", group="xyz"[i % 3], subtask="ab"[i % 2]) for i in numbers]


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    """One line each; a row that is text already is written as it is."""
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    return path


def _gzip(path: Path, rows: Sequence[Record]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def _csv(path: Path, rows: Sequence[Record]) -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _parquet(path: Path, rows: Sequence[Record]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(list(rows)), path)


def _saved(path: Path, rows: Sequence[Record]) -> None:
    import datasets

    datasets.Dataset.from_list(list(rows)).save_to_disk(str(path))


def _folder(path: Path, rows: Sequence[Record]) -> None:
    path.mkdir()
    half = len(rows) // 2
    jsonl(path / "a.jsonl", rows[:half])
    _parquet(path / "b.parquet", rows[half:])


CONTAINERS: dict[str, tuple[str, Callable[[Path, Sequence[Record]], object]]] = {
    "JSON lines": ("pool.jsonl", jsonl),
    "JSON lines, compressed": ("pool.jsonl.gz", _gzip),
    "JSON array": ("pool.json", lambda path, rows: path.write_text(json.dumps(list(rows), indent=2))),
    "JSON object": ("pool.json", lambda path, rows: path.write_text(json.dumps({"data": list(rows)}))),
    "Parquet": ("pool.parquet", _parquet),
    "CSV": ("pool.csv", _csv),
    "datasets folder": ("saved", _saved),
    "folder of files": ("folder", _folder),
}
"""Name of a container: name of its file, and what writes it."""


def write(container: str, folder: Path, rows: Sequence[Record]) -> Path:
    """The rows in a container of that name; returns what ``--pool`` is given."""
    name, writer = CONTAINERS[container]
    writer(folder / name, rows)
    return folder / name
