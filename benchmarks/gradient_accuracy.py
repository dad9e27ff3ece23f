"""What projections and storage types cost in accuracy: against exact, unprojected scores of the same gradients.

    python benchmarks/build_real_pool.py
    python benchmarks/gradient_accuracy.py [--rank 8] [--rank 64] [--full]

For a LoRA adapter of each rank: the embedded model is warmed up on 64 rows of the real pool (2 epochs), and at the
last checkpoint every row's Adam direction is compared with every target's gradient: exactly, and through every
projection to 8,192 numbers (three seeds) and every storage type. With `--full`: plain gradients of the linear weights
of the last ten blocks, exactly and through the factored projections. Told are the error of the cosines and how much of
the exact top 5% each way finds. One result file a setting, `benchmarks/results/gradients-accuracy-*.json`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from siftune._common.files import write_json
from siftune._common.progress import bar
from siftune._common.seeds import derive, permutation
from siftune.config.settings import SelectConfig
from siftune.data.load import load_inputs
from siftune.data.rows import Examples, Rendered
from siftune.features.gradient_settings import lora_settings, warmup_settings
from siftune.features.gradients.adam import AdamDirection
from siftune.features.gradients.engine import GradientEngine, LayerGradient, train_linear_weights
from siftune.features.gradients.projections import projection
from siftune.features.gradients.warmup import run_warmup
from siftune.features.store.codec import DTYPES, bytes_per_row, decode, encode
from siftune.methods.less import LessSettings
from siftune.models.batching import collate, plan_batches
from siftune.models.loading import load_model
from siftune.models.lora import attach_lora, block_modules, load_adapter_state

HERE = Path(__file__).resolve().parent
DATA = Path("runs/real-data")
DIM, SHARE = 8192, 0.05
SEEDS = {"sparse-jl": 3, "logra": 2, "factgrass": 2}  # of each kind; one for the others
LORA_KINDS = ("sparse-jl", "countsketch", "grass", "srht")
FULL_KINDS = ("logra", "factgrass", "sparse-jl")


@dataclass
class Scores:
    """Cosines of the targets with the pool: float64 [M, N] exactly, and by (kind, seed)."""

    exact: np.ndarray
    made: dict[tuple[str, int], np.ndarray]
    seconds: dict[str, float]


def parts(engine: GradientEngine, rows: Sequence[Rendered], pad_id: int, keep: Sequence[int],
          precondition: Callable[[str, torch.Tensor], torch.Tensor] | None) -> list[LayerGradient]:
    """The directions of some rows, whole, parameter by parameter, beside the factors that they are made of."""
    found: list[LayerGradient] = []

    def consume(gradient: LayerGradient) -> None:
        if precondition:
            gradient = LayerGradient.of(gradient.name, precondition(gradient.name, gradient.full()))
        found.append(gradient)

    with engine.capture():
        engine.backward(collate([rows[i] for i in keep], pad_id), consume)
    return found


def compare(engine: GradientEngine, pool: Examples, targets: Examples, pad_id: int, kinds: Sequence[str],
            precondition: AdamDirection | None, batch_tokens: int) -> Scores:
    """Every pool row against every target, through every kind, in one pass."""
    sketches = {(kind, seed): projection(kind, DIM, derive(seed, "accuracy"))
                for kind in kinds for seed in range(SEEDS.get(kind, 1))}
    seconds = dict.fromkeys(kinds, 0.0)

    def projected(found: list[LayerGradient], rows: int) -> dict[tuple[str, int], np.ndarray]:
        made = {}
        for (kind, seed), sketch in sketches.items():
            start = time.perf_counter()
            sums = sketch.new(rows, "cpu")
            for gradient in found:
                sketch.add(sums, gradient)
            values = sketch.read(sums).numpy()
            seconds[kind] += (time.perf_counter() - start) / SEEDS.get(kind, 1)
            made[kind, seed] = values / np.linalg.norm(values, axis=1, keepdims=True)
        return made

    whole: dict[str, list[torch.Tensor]] = {}
    squares, small = [], {key: [] for key in sketches}
    for i in range(len(targets)):
        found = parts(engine, targets.rendered, pad_id, [i], None)
        for gradient in found:
            whole.setdefault(gradient.name, []).append(gradient.full())
        squares.append(sum(float(g.full().double().square().sum()) for g in found))
        for key, value in projected(found, 1).items():
            small[key].append(value)
    wanted = {name: torch.cat(rows) for name, rows in whole.items()}
    queries = {key: np.concatenate(value) for key, value in small.items()}
    seconds = dict.fromkeys(kinds, 0.0)  # of the pool alone

    exact = np.zeros((len(targets), len(pool)))
    features = {key: np.zeros((len(pool), DIM), np.float32) for key in sketches if key[1] == 0}
    made = {key: np.zeros((len(targets), len(pool))) for key in sketches}
    with bar("rows", int(pool.tokens.sum()), "tokens") as progress:
        for keep in plan_batches([len(r) for r in pool.rendered], batch_tokens):
            found = parts(engine, pool.rendered, pad_id, keep, precondition)
            dots, norm = torch.zeros(len(targets), len(keep)).double(), torch.zeros(len(keep)).double()
            for gradient in found:
                values = gradient.full()
                dots += (wanted[gradient.name] @ values.T).double()
                norm += values.double().square().sum(dim=1)
            exact[:, keep] = (dots / norm.sqrt()).numpy() / np.sqrt(np.array(squares))[:, None]
            for key, value in projected(found, len(keep)).items():
                made[key][:, keep] = queries[key] @ value.T
                if key in features:
                    features[key][keep] = value
            progress.advance(sum(len(pool.rendered[i]) for i in keep))
    for dtype in DTYPES[1:]:
        key = (kinds[0], 0)
        arrays = encode("x", features[key], dtype)
        made[f"{kinds[0]}, {dtype}", 0] = queries[key] @ decode("x", arrays, arrays.__getitem__).T
    return Scores(exact, made, seconds)


def figures(scores: Scores, subtasks: Sequence[str]) -> dict[str, Any]:
    """Error of the cosines and overlap of the top 5%, for each way, over its seeds."""
    def best(similarities: np.ndarray) -> Iterator[set[int]]:
        members = [[i for i, s in enumerate(subtasks) if s == name] for name in dict.fromkeys(subtasks)]
        lines = [similarities[rows].mean(axis=0) for rows in members]
        for line in [np.max(lines, axis=0), *lines, *similarities]:
            yield set(np.argsort(-line, kind="stable")[: round(SHARE * len(line))].tolist())

    told: dict[str, Any] = {}
    right = list(best(scores.exact))
    for kind in dict.fromkeys(kind for kind, _ in scores.made):
        rows = []
        for (other, _), made in scores.made.items():
            if other != kind:
                continue
            overlap = [len(a & b) / len(a) for a, b in zip(best(made), right, strict=True)]
            error = made - scores.exact
            rows.append({
                "rms_error": float(np.sqrt((error**2).mean())), "largest_error": float(np.abs(error).max()),
                "overlap_of_selection": overlap[0],
                "overlap_by_subtask": float(np.mean(overlap[1 : 1 + len(set(subtasks))])),
                "overlap_by_target": float(np.mean(overlap[1 + len(set(subtasks)) :])),
                "spearman": float(np.mean([spearmanr(*pair).statistic
                                           for pair in zip(made, scores.exact, strict=True)])),
            })
        told[kind] = {name: round(float(np.mean([r[name] for r in rows])), 5) for name in rows[0]}
        told[kind]["overlap_of_selection_by_seed"] = [round(r["overlap_of_selection"], 3) for r in rows]
        if kind in scores.seconds:
            told[kind]["projection_seconds_per_row"] = round(scores.seconds[kind] / scores.exact.shape[1], 5)
        dtype = kind.partition(", ")[2] or "float32"
        told[kind]["bytes_per_row"] = bytes_per_row(DIM, dtype)
    return told


def keep(scores: Scores, name: str) -> None:
    """The cosines themselves, for other figures than those that are told."""
    arrays = {f"{kind} {seed}": made.astype(np.float32) for (kind, seed), made in scores.made.items()}
    np.savez(f"runs/gradients-accuracy/{name}.npz", exact=scores.exact, **arrays)  # pyright: ignore[reportArgumentType]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, action="append", default=[])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rows", type=int, default=640, help="rows drawn from those of the pool up to --longest")
    parser.add_argument("--longest", type=int, default=128, help="in tokens")
    options = parser.parse_args()
    config = SelectConfig(pool=(str(DATA / "sharegpt.jsonl"), str(DATA / "reasoning.jsonl")),
                          target=(str(DATA / "reasoning" / "target.jsonl"), str(DATA / "programming" / "target.jsonl")),
                          lora_alpha=16, bad_rows="drop", overlap="drop")
    warmup = LessSettings(warmup_epochs=2, warmup_rows=64, warmup_learning_rate=1e-3)
    loaded = load_model("embedded", device="cpu", dtype="float32")
    inputs = load_inputs(config, loaded.tokenizer)
    pool, target = inputs.pool, inputs.target
    short = [i for i in permutation(len(pool), 0, "accuracy") if len(pool.rendered[i]) <= options.longest]
    drawn = sorted(short[: options.rows])
    pool = Examples([pool.rows[i] for i in drawn], [pool.rendered[i] for i in drawn])
    about = {"model": "SmolLM2-135M-Instruct, float32", "rows": len(pool), "targets": len(target),
             "tokens": int(pool.tokens.sum()), "longest": options.longest,
             "dim": DIM, "share": SHARE, "seeds": SEEDS}
    subtasks = [row.subtask or row.group or "all" for row in target.rows]
    results = HERE / "results"

    for rank in options.rank or ([] if options.full else [8]):
        settings = replace(config, lora_rank=rank, lora_alpha=2.0 * rank)
        model = attach_lora(loaded.model, lora_settings(settings), derive(0, "adapter"))
        checkpoint = run_warmup(model, pool.rendered, pool.ids, warmup_settings(warmup, settings),
                                Path(f"runs/gradients-accuracy/warmup-{rank}"), derive(0, "warmup"),
                                pad_id=loaded.pad_id, device="cpu", base_key=loaded.weights)[-1]
        load_adapter_state(model, checkpoint.load_weights())
        direction = AdamDirection(*checkpoint.load_moments(), checkpoint.step, checkpoint.betas, checkpoint.eps)
        kinds = LORA_KINDS if rank <= 8 else LORA_KINDS[:3]  # the Hadamard transform takes most of a second a row
        scores = compare(GradientEngine(model), pool, target, loaded.pad_id, kinds, direction, 512)
        keep(scores, f"lora-{rank}")
        write_json(results / f"gradients-accuracy-lora-{rank}.json",
                   {**about, "gradients": f"LoRA r={rank} on q, k, v, o; Adam", "kinds": figures(scores, subtasks)})
        from siftune.models.lora import detach_lora

        detach_lora(model)
    if options.full:
        train_linear_weights(loaded.model, block_modules(loaded.model, 10))
        some = Examples(target.rows[::3], target.rendered[::3])
        scores = compare(GradientEngine(loaded.model), pool, some, loaded.pad_id, FULL_KINDS, None, 512)
        keep(scores, "full")
        write_json(results / "gradients-accuracy-full.json",
                   {**about, "targets": len(some), "gradients": "linear weights of the last 10 blocks; plain",
                    "kinds": figures(scores, subtasks[::3])})


if __name__ == "__main__":
    main()
