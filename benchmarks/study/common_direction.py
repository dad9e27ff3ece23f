"""What do gradients of conversations have in common, and does it hide what they are about?

    python benchmarks/study/common_direction.py    # after: siftune study benchmarks/study/study.yaml

Whole gradients, without any projection, of conversations that are in no file of the study (longer ones, 131 to 200
tokens), at the checkpoints of its warmup run. Forty times eight rows of a topic are drawn; how often is another row of
the topic nearer to them (largest cosine with any of the eight) than one of none: the area under the ROC curve, 0.5 is
chance. Queries are plain gradients, as LESS's targets are; the others are plain, Adam's directions (LESS, section 3.1)
or those without their momentum, as they are or with means taken out (``center``). Writes
results/common_direction.json.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siftune._common.files import read_json, write_json
from siftune._common.progress import bar
from siftune.data.render import Renderer
from siftune.experiments.config import load_study
from siftune.features.centring import SHARED
from siftune.features.gradient_settings import lora_settings
from siftune.features.gradients.adam import AdamDirection
from siftune.features.gradients.engine import GradientEngine, parameter_sizes
from siftune.features.gradients.warmup import Checkpoint
from siftune.models.batching import collate, run_batches
from siftune.models.loading import load_model
from siftune.models.lora import attach_lora, load_adapter_state

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import build_real_pool  # noqa: E402  # pyright: ignore[reportMissingImports]
from separation import area  # noqa: E402  # pyright: ignore[reportMissingImports]

LIMITS = {"programming": 42, "writing": 55, "other": 150}
SHORTEST, LONGEST, DRAWS, QUERIES = 131, 200, 40, 8


def conversations(renderer: Renderer) -> tuple[np.ndarray, list[Any]]:
    """(topic of each row, the rendered rows)."""
    left, topics, rows = dict(LIMITS), [], []
    for exchange in build_real_pool.usable_exchanges(renderer, LONGEST):
        row = build_real_pool.rendered(renderer, exchange.record())
        topic = build_real_pool.slice_of(exchange) or "other"
        if len(row) >= SHORTEST and left[topic]:
            left[topic] -= 1
            topics.append(topic)
            rows.append(row)
    return np.array(topics), rows


def gradients(model: Any, rows: list[Any], pad_id: int) -> tuple[dict[str, slice], torch.Tensor]:
    """(where each parameter is, float32 [N, D])."""
    places, width = {}, 0
    for name, size in parameter_sizes(model).items():
        places[name] = slice(width, width := width + size)
    out, engine = torch.empty(len(rows), width), GradientEngine(model)
    with bar("gradients", sum(map(len, rows)), "tokens") as progress:
        def run(positions: list[int]) -> None:
            engine.backward(collate([rows[i] for i in positions], pad_id, "cpu"),
                            lambda g: out[:, places[g.name]].index_copy_(0, torch.tensor(positions), g.full()))
            progress.advance(sum(len(rows[i]) for i in positions))

        with engine.capture():
            run_batches([len(row) for row in rows], 512, "cpu", run)
    return places, out


def auc(similarities: np.ndarray, topics: np.ndarray, topic: str) -> float:
    """The mean over draws of queries of that topic; ``similarities[q, j]`` of all rows as queries and as others."""
    rng, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        queries = rng.choice(np.flatnonzero(topics == topic), QUERIES, replace=False)
        others = np.setdiff1d(np.arange(len(topics)), queries)
        found.append(area(similarities[np.ix_(queries, others)].max(axis=0), topics[others] == topic))
    return round(float(np.mean(found)), 4)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def told(plain: torch.Tensor, others: torch.Tensor, topics: np.ndarray) -> dict[str, Any]:
    """Of queries and what they are compared with, both [N, D]; ``others`` is written over."""
    others /= others.norm(dim=1, keepdim=True)
    shared = others.mean(dim=0)
    queries = unit(plain)
    as_is = (queries @ others.T).numpy()
    others -= shared
    centred = ((queries - queries.mean(dim=0)) @ others.T / others.norm(dim=1)).numpy()
    return {SHARED: round(float(shared.norm()), 4),
            **{name: {t: auc(s, topics, t) for t in LIMITS if t != "other"}
               for name, s in (("as they are", as_is), ("centred", centred))}}


def at_checkpoint(model: Any, rows: list[Any], topics: np.ndarray, pad_id: int, checkpoint: Checkpoint,
                  ) -> dict[str, Any]:
    load_adapter_state(model, checkpoint.load_weights())
    places, plain = gradients(model, rows, pad_id)
    first, second = checkpoint.load_moments()
    still = {name: torch.zeros_like(m) for name, m in first.items()}
    found = {"plain": told(plain, plain.clone(), topics)}
    for name, momentum in (("Adam", first), ("Adam without momentum", still)):
        direction = AdamDirection(momentum, second, checkpoint.step, checkpoint.betas, checkpoint.eps)
        others = plain.clone()
        for parameter, place in places.items():
            others[:, place] = direction(parameter, plain[:, place])
        found[name] = told(plain, others, topics)
        print(f"epoch {checkpoint.epoch}, {name}: {found[name]}", flush=True)
    return found


def main() -> None:
    config = load_study(HERE / "study.yaml").common
    loaded = load_model(config.model, dtype=config.dtype)
    topics, rows = conversations(Renderer(loaded.tokenizer, max_length=100_000))
    model = attach_lora(loaded.model, lora_settings(config), 0)
    results = {}
    for folder in sorted(Path(config.output_dir, "warmup").glob("epoch-*")):
        note = read_json(folder / "checkpoint.json")
        checkpoint = Checkpoint(folder, note["epoch"], note["step"], tuple(note["betas"]), note["eps"],
                                note["mean_learning_rate"], note["blake2"])
        results[f"epoch {note['epoch']}"] = at_checkpoint(model, rows, topics, loaded.pad_id, checkpoint)
        write_json(HERE / "results" / "common_direction.json", {
            "command": "python benchmarks/study/common_direction.py",
            "rows": {t: int((topics == t).sum()) for t in LIMITS}, "draws": DRAWS, "queries": QUERIES,
            "checkpoints": results})


if __name__ == "__main__":
    main()
