"""The rows of the gradient benchmark: real conversations and tasks, up to 512 tokens, as siftune renders them.

Rows of ShareGPT are never distributed (see `build_real_pool.py`): the file they are drawn into stays in a work folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import build_real_pool  # pyright: ignore[reportMissingImports]
import numpy as np

from siftune._common.files import write_json
from siftune._common.seeds import permutation
from siftune.data.problems import BadRow
from siftune.data.render import Renderer
from siftune.data.rows import Message, Rendered
from siftune.models.loading import load_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import build_demo  # pyright: ignore[reportMissingImports]

SEED = 22
MAX_LENGTH = 512
WARM_UP_ROWS = 3


def conversations() -> Iterator[tuple[Message, ...]]:
    """First exchanges of ShareGPT in random order, English and whole, of any length."""
    found = list(filter(None, map(build_real_pool.first_exchange,
                                  build_real_pool.complete_objects(build_real_pool.sharegpt_text()))))
    for i in permutation(len(found), SEED, "sharegpt"):
        question, answer = found[i].question, found[i].answer
        both = f"{question}\n{answer}"
        if not build_real_pool.ARTEFACTS.search(both) and build_real_pool.looks_english(both):
            yield Message("user", question), Message("assistant", answer)


def tasks() -> Iterator[tuple[Message, ...]]:
    """Tasks of the demo's families in random order, from a seed of their own."""
    taken: set[str] = set()
    families = {**build_demo.TARGETS, **build_demo.OTHERS}
    found = [task for name, family in families.items() for task in build_demo.draw(name, family, 3, SEED, taken)]
    for i in permutation(len(found), SEED, "reasoning"):
        yield Message("user", found[i].question), Message("assistant", found[i].answer)


def draw_rows(renderer: Renderer, count: int) -> list[Rendered]:
    """Half conversations, half tasks, cut at ``MAX_LENGTH`` tokens; too long prompts are passed over."""
    def usable(source: Iterator[tuple[Message, ...]], wanted: int) -> Iterator[Rendered]:
        for messages in source:
            if wanted == 0:
                return
            try:
                made = renderer.render(messages)
            except BadRow:
                continue
            wanted -= 1
            yield made

    rows = [*usable(conversations(), count - count // 2), *usable(tasks(), count // 2)]
    return [rows[i] for i in permutation(len(rows), SEED, "rows")]


def prepare(folder: Path, count: int) -> Path:
    """The file of rows, drawn if it is not there yet: {"warm_up": [...], "rows": [...]} of {"ids", "mask"}."""
    file = folder / f"rows-{count}-seed-{SEED}.json"
    if not file.exists():
        drawn = draw_rows(Renderer(load_tokenizer("embedded"), max_length=MAX_LENGTH), count + WARM_UP_ROWS)
        plain_rows = [{"ids": row.ids.tolist(), "mask": row.mask.astype(int).tolist()} for row in drawn]
        write_json(file, {"warm_up": plain_rows[:WARM_UP_ROWS], "rows": plain_rows[WARM_UP_ROWS:]})
    return file


def rendered(records: Sequence[dict[str, Any]]) -> list[Rendered]:
    return [Rendered(np.array(r["ids"], np.int32), np.array(r["mask"], bool)) for r in records]
