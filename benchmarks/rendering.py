"""Rendering with a loss mask beside a plain `apply_chat_template`, in CPU time, for every template that TRL ships.

    python benchmarks/rendering.py [--rows 300] [--rounds 5]

The same conversations (of 2, 6 and 12 turns, made of words of the demo's pool, about 350 to 1,400 tokens) are rendered
and tokenised by `siftune.data.render.Renderer` and by the tokenizer's own `apply_chat_template`, in turns; the ratio is
the median over the rounds. One conversation of 800 turns is timed for each template as well. Results go into
`benchmarks/results/rendering.json`. Needs trl (the extra `trl`).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from siftune._common.errors import SiftuneError
from siftune._common.files import write_json
from siftune._common.progress import log
from siftune.data.problems import BadRow
from siftune.data.render import Renderer
from siftune.data.rows import Message
from siftune.models.loading import load_tokenizer

HERE = Path(__file__).resolve().parent
POOL = HERE.parent / "examples" / "demo" / "pool.jsonl"
TURNS = (2, 6, 12)
LONG = 800


def words() -> list[str]:
    return [word for line in POOL.read_text(encoding="utf-8").splitlines()
            for value in json.loads(line).values() if isinstance(value, str) for word in value.split()]


def conversations(count: int) -> list[list[Message]]:
    """Of 2, 6 and 12 turns in turn, user and assistant alternating, 5 to 60 words each."""
    rng, known = np.random.default_rng(7), words()
    return [[Message(("user", "assistant")[t % 2], " ".join(rng.choice(known, rng.integers(5, 60))))
             for t in range(TURNS[i % len(TURNS)])] for i in range(count)]


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(tokenizer: Any, rows: list[list[Message]], rounds: int) -> dict[str, Any]:
    """Seconds a row of both ways, their ratio, and those of a row of 800 turns."""
    renderer = Renderer(tokenizer, max_length=100_000)
    dicts = [[{"role": m.role, "content": m.content} for m in row] for row in rows]
    ours = lambda: [renderer.render(row) for row in rows]  # noqa: E731
    plain = lambda: [tokenizer.apply_chat_template(row, tokenize=True) for row in dicts]  # noqa: E731
    ours(), plain()
    pairs = [(seconds(ours), seconds(plain)) for _ in range(rounds)]
    long = [Message(("user", "assistant")[t % 2], f"turn {t} of many") for t in range(LONG)]
    long_dicts = [{"role": m.role, "content": m.content} for m in long]
    return {"ours_us": 1e6 * median(a for a, _ in pairs) / len(rows), "plain_us": 1e6 * median(b for _, b in pairs)
            / len(rows), "ratio": median(a / b for a, b in pairs),
            "turns_800": median(seconds(lambda: renderer.render(long)) for _ in range(3)),
            "turns_800_plain": median(seconds(lambda: tokenizer.apply_chat_template(long_dicts, tokenize=True))
                                      for _ in range(3))}


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads would count for whoever happens to start them
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    trl = find_spec("trl")
    if trl is None or trl.origin is None:
        raise SystemExit("trl is not installed: pip install 'siftune[trl]'")
    folder = Path(trl.origin).parent / "chat_templates"
    rows, found = conversations(args.rows), {}
    base = load_tokenizer("embedded")
    templates = {"smollm2 (embedded)": None} | {
        path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))
        if not path.stem.endswith("_training")}
    for name, template in templates.items():
        tokenizer = copy.deepcopy(base)
        if template is not None:
            tokenizer.chat_template = template
        try:
            found[name] = measure(tokenizer, rows, args.rounds)
        except (BadRow, SiftuneError) as error:  # templates of images, or that end rows otherwise than this vocabulary
            found[name] = {"refused": str(error).splitlines()[0]}
            continue
        except Exception as error:  # a template's own, in the plain call
            found[name] = {"refused": f"{type(error).__name__}: {error}".splitlines()[0][:160]}
            continue
        one = found[name]
        log(f"{name}: {one['ours_us']:.0f} us a row, plain {one['plain_us']:.0f}, {one['ratio']:.2f} times; 800 turns "
            f"{one['turns_800']:.2f} s, plain {one['turns_800_plain']:.2f} s")
    write_json(HERE / "results" / "rendering.json", {
        "rows": args.rows, "rounds": args.rounds, "templates": found,
        "versions": {name: version(name) for name in ("siftune", "transformers", "trl", "tokenizers")}})


if __name__ == "__main__":
    main()
