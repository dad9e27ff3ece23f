"""Facility location from features to subset on a million rows: time, memory, recall of the neighbours, ratio to exact.

    python benchmarks/facility_location_large.py [--rows 1000000] [--budget 10000] [--seeds-from POOL.jsonl]

The vectors are made of real ones: the embeddings of POOL's rows (`--seeds-from`, MiniLM, 384 numbers), pairs of which
are mixed in random parts, with noise of a third of their length; normalised. They lie in a file as float16 and are read
from there in blocks, as features are from a store. The selection runs in a process of its own, whose time and peak
memory (resident, the mapped file included) are told.

*Recall*: of 2,000 rows, the share of their 32 exact nearest neighbours that were found. *Ratio*: the objective of the
subset chosen with approximate neighbours over that with exact ones, both valued by the exact kernel, on a sample of
20,000 rows and a budget in proportion. Results: `benchmarks/results/facility-location-large.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.files import write_json
from siftune._common.progress import log
from siftune.selectors import Problem, select
from siftune.selectors.core.grid import Vectors
from siftune.selectors.core.ids import PackedIds
from siftune.selectors.core.neighbors import nearest_neighbors

RESULTS = Path(__file__).resolve().parent / "results" / "facility-location-large.json"
NEIGHBORS, BLOCK, ASKED, SAMPLE = 32, 65_536, 2_000, 20_000


def real_vectors(pool: Path) -> np.ndarray:
    """float32 [n, 384]: the embeddings of a file's rows."""
    from siftune import api

    with tempfile.TemporaryDirectory() as folder:
        return np.asarray(api.encode(pool=str(pool), representation="embed", output_dir=folder), dtype=np.float32)


def mixed(real: np.ndarray, rows: int, path: Path, seed: int = 0) -> None:
    """Write float16 [rows, D]."""
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, real.shape[1]))
    for start in range(0, rows, BLOCK):
        rng = np.random.default_rng((seed, start))
        n = min(BLOCK, rows - start)
        one, other = rng.integers(0, len(real), (2, n))
        part = rng.uniform(0.5, 1, (n, 1)).astype(np.float32)
        noise = rng.standard_normal((n, real.shape[1]), dtype=np.float32) / (3 * np.sqrt(real.shape[1]))
        made = part * real[one] + (1 - part) * real[other] + noise
        out[start:start + n] = made / np.linalg.norm(made, axis=1, keepdims=True)
    out.flush()


def problem_of(vectors: np.ndarray) -> Problem:
    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(vectors), BLOCK):
            yield start, np.asarray(vectors[start:start + BLOCK], dtype=np.float32)

    return Problem(PackedIds.pack(f"row-{i:08d}" for i in range(len(vectors))), vectors=blocks)


def run(path: Path, budget: int, chosen: Path) -> None:
    """The measured process: features to subset."""
    warm = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    select(problem_of(warm), 5, "facility-location", kernel="sparse", index="ivf")  # compiles
    start, used = time.monotonic(), time.process_time()
    found = select(problem_of(np.load(path, mmap_mode="r")), budget, "facility-location",
                   kernel="sparse", index="ivf")
    kernel = found.diagnostics["kernel"]
    np.save(chosen, found.indices)
    print(json.dumps({"seconds": round(time.monotonic() - start, 1),
                      "processor_seconds": round(time.process_time() - used, 1),
                      "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                      "selected": len(found.indices),
                      "kernel": {name: kernel[name] for name in ("form", "index", "neighbors", "entries")}}))


def recall(vectors: np.ndarray, seed: int = 1) -> dict[str, Any]:
    """Of the neighbours that the lists find, against comparing with all rows."""
    pool = Vectors.of(problem_of(vectors))
    n = len(pool)
    asked = np.sort(np.random.default_rng(seed).choice(n, min(ASKED, n), replace=False))
    found = nearest_neighbors(pool, np.arange(n), NEIGHBORS, "ivf").rows[asked]
    exact = np.empty_like(found)
    for at in range(0, len(asked), 100):
        exact[at:at + 100] = np.argpartition(-(pool.X[asked[at:at + 100]] @ pool.X.T), NEIGHBORS, axis=1)[:, :NEIGHBORS]
    shares = np.array([len(np.intersect1d(a, b)) / NEIGHBORS for a, b in zip(found, exact, strict=True)])
    return {"rows_asked": len(asked), "mean": round(float(shares.mean()), 4),
            "standard_error": round(float(shares.std(ddof=1) / np.sqrt(len(shares))), 5),
            "worst_tenth": round(float(np.sort(shares)[:max(1, len(shares) // 10)].mean()), 4)}


def ratio(vectors: np.ndarray, budget: int) -> dict[str, Any]:
    """Of the objective, approximate over exact, on a sample; both under the exact kernel."""
    rows = np.sort(np.random.default_rng(2).choice(len(vectors), min(SAMPLE, len(vectors)), replace=False))
    sample = np.asarray(vectors[rows], dtype=np.float32)
    values = {}
    dense = np.maximum(sample @ sample.T, 0)
    for name, how in (("approximate", {"kernel": "sparse", "index": "ivf"}),
                      ("exact neighbours", {"kernel": "sparse", "index": "flat"}), ("dense", {"kernel": "dense"})):
        taken = select(problem_of(sample), budget, "facility-location", **how).indices
        values[name] = float(dense[:, taken].max(axis=1).sum(dtype=np.float64))
    return {"rows": len(rows), "budget": budget, "objectives": {k: round(v, 2) for k, v in values.items()},
            "to_exact_neighbours": round(values["approximate"] / values["exact neighbours"], 5),
            "to_dense": round(values["approximate"] / values["dense"], 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--budget", type=int, default=10_000)
    parser.add_argument("--seeds-from", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for the vectors, to make them once")
    parser.add_argument("--run", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run[0], arguments.budget, arguments.run[1])
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        seeds, path = folder / "real.npy", folder / f"mixed-{arguments.rows}.npy"
        if not seeds.is_file():
            if arguments.seeds_from is None:
                parser.error("give a pool to make vectors of: --seeds-from POOL.jsonl")
            np.save(seeds, real_vectors(arguments.seeds_from))
        if not path.is_file():
            mixed(np.load(seeds), arguments.rows, path)
        command = [sys.executable, __file__, "--budget", str(arguments.budget), "--run", str(path),
                   str(Path(temporary) / "chosen.npy")]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = {"rows": arguments.rows, "width": int(np.load(path, mmap_mode="r").shape[1]),
                 "budget": arguments.budget, "cores": os.cpu_count(), **json.loads(out.splitlines()[-1])}
        log(json.dumps(found))
        vectors = np.load(path, mmap_mode="r")
        found["recall"] = recall(vectors)
        found["ratio"] = ratio(vectors, max(1, arguments.budget * min(SAMPLE, arguments.rows) // arguments.rows))
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    kept[str(arguments.rows)] = found
    write_json(RESULTS, kept)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
