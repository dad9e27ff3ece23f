"""What readings of a forward pass cost beside the pass itself, and what coverage of a million rows takes.

    python benchmarks/forward.py [--rows 100] [--rounds 3] [--threads 1]   # -> results/forward.json, "readings"
    python benchmarks/forward.py --coverage [--coverage-rows 1000000]      # -> results/forward.json, "coverage"

Readings: the embedded model and rows of the demo's pool in one process; the arms take turns, so that whatever else the
machine does falls on all of them, and CPU seconds are what counts. "Plain" is the pass that evaluation does: batches of
like length, logits at supervised tokens, the loss of each row. Loading and rendering are not timed, every arm handles a
few other rows first. Reading includes what a store is given, not the writing of it.

Coverage: synthetic sets of the size that the embedded model makes (30 layers of 1,536 neurons, 20 of each on), with
neurons as unequally popular as they are in reality, chosen from by the selector `coverage` in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np

from siftune._common.files import read_json, write_json
from siftune._common.progress import log

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "forward.json"
BATCH_TOKENS = 1024
LAYERS, NEURONS, ACTIVE = 30, 1536, 20
WARM_UP_ROWS = 3


def readings(rows: int, rounds: int, threads: int) -> dict[str, Any]:
    """CPU seconds of every arm in every round, and the ratios of their medians to the plain pass."""
    import torch

    from siftune._common.seeds import permutation
    from siftune.config.settings import SelectConfig
    from siftune.pipeline.select import load, read_inputs

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        config = SelectConfig(pool=(str(HERE.parent / "examples/demo/pool.jsonl"),), model="embedded", device="cpu")
        pool = read_inputs(config).pool.rendered
        drawn = [pool[i] for i in permutation(len(pool), 0, "forward benchmark")]
        first, real = drawn[:WARM_UP_ROWS], drawn[WARM_UP_ROWS:WARM_UP_ROWS + rows]
        made = arms(load(config), Path(folder))
        tokens = sum(map(len, real))
        log(f"{len(real)} rows, {tokens:,} tokens")
        for run in made.values():
            run(first)
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(rounds):
            for name, run in made.items():
                before = time.process_time()
                run(real)
                seconds[name].append(time.process_time() - before)
                log(f"{name}: {seconds[name][-1]:.1f} s")
    plain = median(seconds["plain"])
    return {"rows": len(real), "tokens": tokens, "threads": threads, "batch_tokens": BATCH_TOKENS,
            "cpu_seconds": {name: [round(s, 2) for s in some] for name, some in seconds.items()},
            "tokens_per_cpu_second": {name: round(tokens / median(some), 1) for name, some in seconds.items()},
            "relative_to_plain": {name: round(median(some) / plain, 3) for name, some in seconds.items()}}


def arms(loaded: Any, folder: Path) -> dict[str, Callable[[Sequence[Any]], None]]:
    """What is compared, by name."""
    from siftune.evaluation.loss import row_losses
    from siftune.features.forward.active_sets import ActiveNeurons
    from siftune.features.forward.directions import Along
    from siftune.features.forward.engine import forward_features
    from siftune.features.forward.hidden import PositionWeightedMean
    from siftune.features.forward.loss import Loss

    directions = np.random.default_rng(0).standard_normal((2, LAYERS, NEURONS)).astype(np.float32)
    np.save(folder / "directions.npy", directions)
    along = Along(folder / "directions.npy", "made up", "made up", 2)

    def reading(*readers: Any) -> Callable[[Sequence[Any]], None]:
        return lambda rows: void(forward_features(loaded.model, rows, readers, pad_id=loaded.pad_id,
                                                  batch_tokens=BATCH_TOKENS))

    def void(_: Any) -> None:
        return None

    return {
        "plain": lambda rows: void(row_losses(loaded.model, rows, batch_tokens=BATCH_TOKENS, pad_id=loaded.pad_id)),
        "plain, no logits": reading(PositionWeightedMean()),  # the least that a pass can read
        "rds, mads, nait, loss": reading(PositionWeightedMean(), ActiveNeurons(), along, Loss()),
        "rds, mads, nag, nait, loss": reading(PositionWeightedMean(), ActiveNeurons(), ActiveNeurons("up", "all"),
                                              along, Loss()),
    }


def coverage(rows: int, budget: int) -> dict[str, Any]:
    """Memory and seconds of one selection, made in this process."""
    from siftune.features.activations import Sets
    from siftune.features.store import FeatureStore
    from siftune.selectors import Problem, select
    from siftune.selectors.core.ids import PackedIds

    with tempfile.TemporaryDirectory() as folder:
        shard_rows = min(rows, 16384)
        store = FeatureStore.open(folder, {}, rows=rows, shard_rows=shard_rows)
        rng = np.random.default_rng(0)
        order = np.stack([rng.permutation(NEURONS) for _ in range(LAYERS)])
        for shard in store.shards():
            store.write(shard, {"active": made_up_sets(len(shard), LAYERS, NEURONS, ACTIVE, order, shard.index)})
        log(f"{store.bytes / 2**30:.2f} GiB of stored sets, peak so far {peak():.2f} GiB")
        before = time.process_time()
        sets = Sets(store, LAYERS, NEURONS, bits=False).matrix(np.arange(rows))
        reading = time.process_time() - before
        held = sets.indices.nbytes + sets.indptr.nbytes + sets.data.nbytes
        log(f"{held / 2**30:.2f} GiB in memory, peak so far {peak():.2f} GiB")
        problem = Problem(ids=PackedIds.pack(f"{i:07d}" for i in range(rows)), sets=sets)
        select(Problem(ids=["a", "b"], sets=sets[:2]), 1, "coverage")  # compile
        before = time.process_time()
        chosen = select(problem, budget, "coverage")
        seconds = time.process_time() - before
        some = min(rows, 20_000)
        frequency = np.bincount(sets.indices[: some * LAYERS * ACTIVE], minlength=LAYERS * NEURONS) / some
        return {"rows": rows, "entries": int(sets.nnz), "features": LAYERS * NEURONS, "budget": budget,
                "store_gib": round(store.bytes / 2**30, 2), "sets_gib": round(held / 2**30, 2),
                "peak_gib": round(peak(), 2), "read_cpu_seconds": round(reading, 1),
                "select_cpu_seconds": round(seconds, 1), "rounds": len(chosen.diagnostics["rounds"]),
                "evaluations": chosen.diagnostics["evaluations"], "most_common_feature": round(frequency.max(), 3)}


@numba.njit
def made_up_sets(rows, layers, width, active, order, seed):  # pragma: no cover - compiled
    """uint16 [rows, layers x active], ascending in each layer: drawn without replacement, a neuron of popularity rank r
    with a probability in proportion to about 1 / r; ``order`` says which neuron has which rank."""
    np.random.seed(seed)
    out = np.empty((rows, layers * active), dtype=np.uint16)
    taken = np.full(width, -1)
    drawing = 0
    for row in range(rows):
        for layer in range(layers):
            drawing += 1
            found = 0
            while found < active:
                rank = int(np.exp(np.random.random() * np.log(width + 1.0))) - 1
                neuron = order[layer, min(rank, width - 1)]
                if taken[neuron] != drawing:
                    taken[neuron] = drawing
                    out[row, layer * active + found] = neuron
                    found += 1
            out[row, layer * active:(layer + 1) * active].sort()
    return out


def peak() -> float:
    """GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def record(part: str, values: dict[str, Any]) -> None:
    known = read_json(RESULTS) if RESULTS.exists() else {}
    known["environment"] = {"python": platform.python_version(), "machine": platform.machine(),
                            **{name: version(name) for name in ("torch", "transformers", "numpy", "scipy", "numba")}}
    write_json(RESULTS, {**known, part: values})
    print(json.dumps(values, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--coverage", action="store_true", help="the coverage of many rows, and nothing else")
    parser.add_argument("--coverage-rows", type=int, default=1_000_000)
    parser.add_argument("--coverage-budget", type=int, default=10_000)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        print(json.dumps(coverage(given.coverage_rows, given.coverage_budget)))
    elif given.coverage:
        own = subprocess.run([sys.executable, __file__, "--here", *sys.argv[1:]], stdout=subprocess.PIPE, text=True,
                             check=True)
        record("coverage", json.loads(own.stdout.splitlines()[-1]))
    else:
        record("readings", readings(given.rows, given.rounds, given.threads))


if __name__ == "__main__":
    main()
