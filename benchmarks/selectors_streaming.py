"""Time, memory and objective of the streaming selectors, beside POT, faiss and the published loops.

    python benchmarks/selectors_streaming.py                # everything that is not in the results yet
    python benchmarks/selectors_streaming.py --only stream  # what begins with this, again

Every measurement is a process of its own, so that peak memory is its own, on one thread; once done, it is an entry of
``benchmarks/results/selectors.json``. ``seconds`` is wall time and ``cpu_seconds`` processor time of the selection
alone; ``peak_mb`` is the largest resident size of the whole process, data included. The store of synthetic features
(1.3 GB) goes to a temporary folder and is removed. Where other work shared the processor, wall time is the larger one.
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
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from siftune.features.store import FeatureStore
from siftune.selectors import Problem, Selection, select
from siftune.selectors.core.ids import PackedIds

RESULTS = Path(__file__).parent / "results" / "selectors.json"
DIM, TIME_LIMIT = 64, 1800
Measured = dict[str, Any]


class Features:
    """Unit vectors in 200 clusters, made anew block by block, and targets among them."""

    def __init__(self, rows: int, targets: int, dim: int = DIM, block: int = 65536):
        rng = np.random.default_rng(0)
        self.rows, self.block = rows, block
        self.centres = rng.standard_normal((200, dim)).astype(np.float32)
        self.targets = _unit(self.centres[rng.integers(0, 200, targets)]
                             + rng.standard_normal((targets, dim), dtype=np.float32))

    def vectors(self) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, self.rows, self.block):
            rng = np.random.default_rng(start + 1)
            count = min(self.block, self.rows - start)
            noise = rng.standard_normal((count, self.centres.shape[1]), dtype=np.float32)
            yield start, _unit(self.centres[rng.integers(0, 200, count)] + 1.5 * noise)

    def held(self) -> np.ndarray:
        return np.concatenate([block for _, block in self.vectors()])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def problem_of(vectors: np.ndarray, targets: np.ndarray, **more: Any) -> Problem:
    """Similarities worked out block by block from features in memory."""
    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        return ((s, targets @ vectors[s:s + 65536].T) for s in range(0, len(vectors), 65536))

    def streamed() -> Iterator[tuple[int, np.ndarray]]:
        return ((s, vectors[s:s + 65536]) for s in range(0, len(vectors), 65536))

    return Problem.from_blocks(
        blocks, ids=PackedIds.pack(f"row-{i:08d}" for i in range(len(vectors))),
        targets=[f"t{q:04d}" for q in range(len(targets))], vectors=streamed, **more)


def timed(run: Callable[[], Any]) -> tuple[Any, Measured]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, {"seconds": round(time.perf_counter() - wall, 2), "cpu_seconds": round(time.process_time() - cpu, 2)}


def selection(problem: Problem, budget: str | int, name: str, keep: tuple[str, ...] = (), **options: Any) -> Measured:
    got, measured = timed(lambda: select(problem, budget, name, **options))
    assert isinstance(got, Selection)
    return {"rows": len(got), **measured, **{key: got.diagnostics[key] for key in keep}}


# Round-robin and top-k

def round_robin_full(correlated: bool) -> Measured:
    rng = np.random.default_rng(0)
    S = rng.standard_normal((100, 200_000), dtype=np.float32)
    if correlated:
        S = rng.standard_normal(200_000, dtype=np.float32) + np.float32(0.3) * S
    return selection(Problem.from_similarities(S, block_rows=65536), "100%", "round-robin")


def round_robin_published(rows: int) -> Measured:
    """As released: every target sorts the whole pool, and looks for its first free row from the top each turn."""
    S = np.random.default_rng(0).standard_normal((100, rows))  # float64: no ties, which the loop leaves to chance

    def run() -> list[int]:
        lists = [np.argsort(-line).tolist() for line in S]
        taken: list[int] = []
        gone: set[int] = set()
        while len(taken) < rows:
            for wishes in lists:
                if len(taken) < rows:
                    row = next(row for row in wishes if row not in gone)
                    gone.add(row)
                    taken.append(row)
        return taken

    got, measured = timed(run)
    same = select(Problem.from_similarities(S), "100%", "round-robin")
    return {"rows": len(got), **measured, "same_selection": same.indices.tolist() == got}


def streamed_store(folder: str, selector: str) -> Measured:
    store = FeatureStore.load(folder)
    targets = Features(0, 64).targets

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for start, features in store.blocks("feature"):
            yield start, targets @ features.astype(np.float32).T

    ids, packing = timed(lambda: PackedIds.pack(f"source/row-{i:08d}" for i in range(store.rows)))
    problem, checking = timed(lambda: Problem.from_blocks(blocks, ids=ids, targets=[f"t{q:02d}" for q in range(64)]))
    _, reading = timed(lambda: [None for _ in blocks()])
    return {"pool": store.rows, "targets": 64, "seconds_packing_ids": packing["seconds"],
            "seconds_checking_ids": checking["seconds"], "seconds_of_one_pass_alone": reading["seconds"],
            **selection(problem, 100_000, selector)}


def write_store(folder: str) -> Measured:
    features = Features(10_000_000, 0)
    store = FeatureStore.open(folder, {"synthetic": "benchmark"}, rows=features.rows, shard_rows=features.block)
    for shard, (_, block) in zip(store.shards(), features.vectors(), strict=True):
        store.write(shard, {"feature": block.astype(np.float16)})
    store.finish()
    return {"bytes": store.bytes}


# Transport

def transport(rows: int, name: str, budget: int) -> Measured:
    features = Features(rows, 100)
    problem = problem_of(features.held(), features.targets)
    keep = ("iterations", "residual", "converged", "transport_cost", "mass_selected")
    return selection(problem, budget, name, (*keep, *(("saturated", "passes") if name == "balanced-ot" else ())))


def transport_pot(rows: int, kind: str, budget: int) -> Measured:
    for backend in ("PYTORCH", "JAX", "TENSORFLOW", "CUPY"):
        os.environ[f"POT_BACKEND_DISABLE_{backend}"] = "1"
    import ot

    features = Features(rows, 100)
    S = features.targets.astype(np.float64) @ features.held().T.astype(np.float64)
    cost, a = (1 - S) / 2, np.full(100, 1 / 100)
    name = {"unbalanced": "unbalanced-ot"}.get(kind, "balanced-ot")
    if kind == "unbalanced":
        plan, measured = timed(lambda: ot.unbalanced.sinkhorn_unbalanced(
            a, np.full(rows, 1 / rows), cost, 0.01, (float("inf"), 1e-4), reg_type="entropy", numItermax=1000,
            stopThr=1e-10))
    else:  # the capacity that is not used goes to a further target, at no cost: an exact linear programme
        plan, measured = timed(lambda: ot.emd(
            np.append(a, rows / budget - 1), np.full(rows, 1 / budget), np.vstack([cost, np.zeros(rows)]),
            numItermax=10_000_000)[:100])
    mass = plan.sum(axis=0)
    ours = select(Problem.from_similarities(S), budget, name)
    chosen = set(np.argsort(-mass)[:budget].tolist())
    return {"rows": budget, **measured, "transport_cost": round(float((plan * cost).sum()), 9),
            "transport_cost_siftune": ours.diagnostics["transport_cost"],
            "shared_rows": round(len(chosen & set(ours.indices.tolist())) / budget, 4)}


# Nearest neighbours

def knn(rows: int, name: str) -> Measured:
    features = Features(rows, 100)
    problem = problem_of(features.held(), features.targets)
    more = {"max_neighbours": 500} if name == "knn-kde" else {"scale": 50.0}
    return selection(problem, rows // 100, name, ("neighbours", "cap_reached", "rows_with_mass"), **more)


def knn_faiss(rows: int, neighbours: int) -> Measured:
    import faiss

    features = Features(rows, 100)
    vectors = features.held()

    def run() -> np.ndarray:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return index.search(features.targets, neighbours)[1]

    found, measured = timed(run)
    return {"rows": int(np.unique(found).size), **measured, "neighbours": neighbours}


# Diversity

def diversity(rows: int, name: str, budget: int) -> Measured:
    features = Features(rows, 20)
    problem = problem_of(features.held(), features.targets)
    keep = {"k-center": ("radius", "passes"), "herding": ("distance_to_mean",), "deita": ("walks",),
            "k-means-balanced": ("clusters",)}[name]
    return selection(problem, budget, name, keep)


def k_center_published(rows: int, budget: int) -> Measured:
    """The plain algorithm: all distances to each new centre."""
    vectors = Features(rows, 20).held().astype(np.float64)
    first = select(problem_of(vectors.astype(np.float32), Features(rows, 20).targets), 1, "k-center").indices[0]

    def run() -> float:
        near = np.linalg.norm(vectors - vectors[first], axis=1)
        for _ in range(budget - 1):
            near = np.minimum(near, np.linalg.norm(vectors - vectors[near.argmax()], axis=1))
        return float(near.max())

    radius, measured = timed(run)
    return {"rows": budget, **measured, "radius": round(radius, 9)}


MEASUREMENTS: dict[str, Callable[..., Measured]] = {
    "round-robin 200k x 100, full order, independent targets": lambda: round_robin_full(False),
    "round-robin 200k x 100, full order, correlated targets": lambda: round_robin_full(True),
    "round-robin 200k x 100, full order, published loop": lambda: round_robin_published(200_000),
    "stream 10M x 64 from a store, round-robin 100k": lambda folder: streamed_store(folder, "round-robin"),
    "stream 10M x 64 from a store, top-k 100k": lambda folder: streamed_store(folder, "top-k"),
    "transport 1M x 100, unbalanced 10k": lambda: transport(1_000_000, "unbalanced-ot", 10_000),
    "transport 1M x 100, balanced 10k": lambda: transport(1_000_000, "balanced-ot", 10_000),
    "transport 1M x 100, balanced 100k": lambda: transport(1_000_000, "balanced-ot", 100_000),
    "transport 20k x 100, unbalanced 1k": lambda: transport(20_000, "unbalanced-ot", 1_000),
    "transport 20k x 100, balanced 1k": lambda: transport(20_000, "balanced-ot", 1_000),
    "transport 20k x 100, unbalanced 1k, POT": lambda: transport_pot(20_000, "unbalanced", 1_000),
    "transport 200k x 100, unbalanced 10k": lambda: transport(200_000, "unbalanced-ot", 10_000),
    "transport 200k x 100, unbalanced 10k, POT": lambda: transport_pot(200_000, "unbalanced", 10_000),
    "transport 20k x 100, exact capacity 1k, POT emd": lambda: transport_pot(20_000, "capacity", 1_000),
    "knn 1M x 100, uniform 10k": lambda: knn(1_000_000, "knn-uniform"),
    "knn 1M x 100, KDE 10k": lambda: knn(1_000_000, "knn-kde"),
    "knn 1M x 100, faiss search of 500 alone": lambda: knn_faiss(1_000_000, 500),
    "diversity 100k, k-center 1k": lambda: diversity(100_000, "k-center", 1_000),
    "diversity 100k, k-center 1k, plain loop": lambda: k_center_published(100_000, 1_000),
    "diversity 100k, herding 1k": lambda: diversity(100_000, "herding", 1_000),
    "diversity 100k, k-means-balanced 10k": lambda: diversity(100_000, "k-means-balanced", 10_000),
    "diversity 100k, deita 10k": lambda: diversity(100_000, "deita", 10_000),
    "diversity 1M, k-center 1k": lambda: diversity(1_000_000, "k-center", 1_000),
}


def measure(name: str, *arguments: str) -> Measured:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, *arguments]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads},
                              timeout=TIME_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {TIME_LIMIT} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr else f"exit code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def save(results: dict[str, Measured]) -> None:
    ordered = {name: results[name] for name in MEASUREMENTS if name in results}
    RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="measure again what begins with this")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        warnings.simplefilter("ignore")
        arguments = [given.folder] if given.folder else []
        found = write_store(*arguments) if given.measure == "store" else MEASUREMENTS[given.measure](*arguments)
        found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(found))
        return
    results: dict[str, Measured] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    wanted = [name for name in MEASUREMENTS
              if (name.startswith(given.only) if given.only else "seconds" not in results.get(name, {}))]
    with tempfile.TemporaryDirectory() as folder:
        if any(name.startswith("stream") for name in wanted):
            print("writing a store of 10M rows", measure("store", folder), flush=True)
        for name in wanted:
            results[name] = measure(name, *([folder] if name.startswith("stream") else []))
            print(name, results[name], flush=True)
            save(results)


if __name__ == "__main__":
    main()
