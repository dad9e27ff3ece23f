"""Facility location, ours and the peers': seconds, peak memory and objective on the same kernels.

    pip install submodlib-py apricot-select      # the peers, not needed by siftune
    python benchmarks/selectors_submodular.py [--section dense-10k] [--rounds 2] [--again]

Every measurement is a process of its own, so that its peak memory is its own, on one thread; those of a section take
turns, so that whatever else the machine does falls on all of them. Wall and processor seconds are both given: on a
machine that is shared, the latter is the fairer one. Compiling (numba) is not timed: each measurement first handles a
small kernel. The objective of every subset is computed by the same few lines here. Finished sections are written at
once, to `benchmarks/results/selectors-submodular.json`, and are not repeated unless `--again` is given.

* `dense-10k`: a given cosine kernel of 10,000 clustered vectors, 30% of the rows. The peers get the kernel with
  negative entries set to 0, which is how siftune counts them.
* `sparse-50k`: 32 nearest neighbours of 50,000 such rows, 10%; siftune finds them, their time is given apart. The
  peers want a symmetric kernel, so all get the symmetrised one.
* `sparse-1m`: a directed kernel of 1,000,000 rows by 32 synthetic neighbours, 10%: finding the neighbours of a million
  vectors exactly takes hours on two cores and is not what is measured. Clusters of about 200 rows; each row is
  represented by itself and 31 others of its cluster, with similarities between 0.2 and 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.sparse import csc_array, csc_matrix, csr_array, csr_matrix

from siftune._common.files import write_json
from siftune._common.progress import log
from siftune.selectors import Problem, select

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "selectors-submodular.json"
MOST_SECONDS = 300
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
SECTIONS: dict[str, tuple[str, ...]] = {
    "dense-10k": ("siftune", "submodlib LazyGreedy", "apricot lazy", "apricot two-stage"),
    "sparse-50k": ("siftune", "submodlib LazyGreedy", "apricot lazy", "apricot two-stage"),
    "sparse-1m": ("siftune", "apricot lazy"),
}
BUDGETS = {"dense-10k": 3_000, "sparse-50k": 5_000, "sparse-1m": 100_000}


# --- the kernels -----------------------------------------------------------------------------------------------------


def clustered(n: int, width: int, clusters: int) -> np.ndarray:
    """float32 [n, width], normalised."""
    rng = np.random.default_rng(0)
    centres = 3 * rng.standard_normal((clusters, width), dtype=np.float32)
    X = centres[rng.integers(0, clusters, n)] + rng.standard_normal((n, width), dtype=np.float32)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def make_dense(folder: Path) -> dict[str, Any]:
    X = clustered(10_000, 64, 100)
    np.save(folder / "dense.npy", X @ X.T)
    return {"rows": 10_000, "represented": 10_000, "budget": 3_000}


def make_neighbours(folder: Path) -> dict[str, Any]:
    from siftune.selectors.core.grid import Vectors
    from siftune.selectors.core.neighbors import nearest_neighbors

    n, k = 50_000, 32
    X = clustered(n, 128, 500)
    vectors = Vectors.of(Problem.from_scores(np.zeros(n), vectors=lambda: iter([(0, X)])))
    nearest_neighbors(Vectors(vectors.X[:100].copy(), vectors.largest), np.arange(100), k)
    started = time.perf_counter()
    found = nearest_neighbors(vectors, np.arange(n), k)
    seconds = time.perf_counter() - started
    kernel = csr_array((np.maximum(found.similarities.ravel(), 0).astype(np.float32), found.rows.ravel(),
                        np.arange(n + 1) * k), shape=(n, n))
    save(folder / "sparse.npz", kernel.maximum(kernel.T).tocsc())
    return {"rows": n, "represented": n, "budget": 5_000, "neighbours": k, "exact_neighbours_seconds": seconds,
            "neighbours_checked_against_all_rows": found.facts["compared_with_all"], "vector_width": 128}


def make_million(folder: Path) -> dict[str, Any]:
    n, k, size = 1_000_000, 32, 200
    rng = np.random.default_rng(0)
    cluster = rng.permutation(n) // size
    members = np.argsort(cluster, kind="stable").reshape(-1, size)
    others = members[cluster[:, None], rng.integers(0, size, (n, k - 1))].astype(np.int32)
    rows = np.concatenate([np.arange(n, dtype=np.int32)[:, None], others], axis=1)
    similar = rng.uniform(0.2, 1.0, (n, k)).astype(np.float32)
    similar[:, 0] = 1
    kernel = csr_array((similar.ravel(), rows.ravel(), np.arange(n + 1) * k), shape=(n, n)).tocsc()
    kernel.sum_duplicates()
    kernel.data = np.minimum(kernel.data, 1)  # a neighbour drawn twice was added up
    save(folder / "sparse.npz", kernel)
    return {"rows": n, "represented": n, "budget": 100_000, "entries": int(kernel.nnz),
            "neighbours": "synthetic: 32 a row, drawn from clusters of 200 (one drawn twice: added up, at most 1)"}


MAKE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "dense-10k": make_dense, "sparse-50k": make_neighbours, "sparse-1m": make_million}


def save(path: Path, kernel: Any) -> None:
    np.savez(path, data=kernel.data, indices=kernel.indices.astype(np.int32), indptr=kernel.indptr,
             shape=kernel.shape)


def load(folder: Path) -> Any:
    if (folder / "dense.npy").exists():
        return np.load(folder / "dense.npy")
    with np.load(folder / "sparse.npz") as parts:
        return csc_array((parts["data"], parts["indices"], parts["indptr"]), shape=tuple(parts["shape"]))


def objective(kernel: Any, rows: np.ndarray) -> float:
    """sum_i max(0, max_{j in rows} s_ij), in float64."""
    cover = np.zeros(kernel.shape[0])
    if isinstance(kernel, np.ndarray):
        for row in rows.tolist():
            np.maximum(cover, kernel[:, row], out=cover)
    else:
        for row in rows.tolist():
            inside = slice(kernel.indptr[row], kernel.indptr[row + 1])
            np.maximum.at(cover, kernel.indices[inside], kernel.data[inside])
    return float(cover.sum())


# --- the arms: kernel, budget -> a function that selects rows --------------------------------------------------------


def ours(kernel: Any, budget: int) -> Callable[[], np.ndarray]:
    X = clustered(300, 16, 20)
    for small in (X @ X.T, csc_array(X @ X.T)):
        select(Problem.from_scores(np.zeros(300), kernel=small), 200, "facility-location")
    problem = Problem.from_scores(np.zeros(kernel.shape[1]), kernel=kernel)
    return lambda: select(problem, budget, "facility-location").indices


def submodlib(kernel: Any, budget: int) -> Callable[[], np.ndarray]:
    import scipy.sparse

    # submodlib 0.0.3 compares with `scipy.sparse.csr.csr_matrix`; recent versions of SciPy may have dropped that name.
    if not hasattr(scipy.sparse, "csr"):
        scipy.sparse.csr = scipy.sparse  # pyright: ignore[reportAttributeAccessIssue]
    from submodlib import FacilityLocationFunction

    n = kernel.shape[1]
    if isinstance(kernel, np.ndarray):
        options: dict[str, Any] = dict(mode="dense", separate_rep=False, sijs=np.maximum(kernel, 0))
    else:
        options = dict(mode="sparse", sijs=csr_matrix(kernel), num_neighbors=32)

    def run() -> np.ndarray:
        chosen = FacilityLocationFunction(n=n, **options).maximize(
            budget=budget, optimizer="LazyGreedy", stopIfZeroGain=False, stopIfNegativeGain=False, verbose=False,
            show_progress=False)
        return np.array([row for row, _ in chosen])

    return run


def apricot(optimizer: str) -> Callable[[Any, int], Callable[[], np.ndarray]]:
    def arm(kernel: Any, budget: int) -> Callable[[], np.ndarray]:
        from apricot import FacilityLocationSelection

        dense = isinstance(kernel, np.ndarray)
        given: Any = np.maximum(kernel, 0).astype(np.float64) if dense else csr_matrix(csc_matrix(kernel).T)
        if not dense:
            given.data = given.data.astype(np.float64)

        def run(matrix: Any, count: int) -> np.ndarray:
            return FacilityLocationSelection(count, metric="precomputed", optimizer=optimizer).fit(matrix).ranking

        run(np.eye(8) if dense else csr_matrix(np.eye(8)), 3)
        return lambda: run(given, budget)

    return arm


ARMS: dict[str, Callable[[Any, int], Callable[[], np.ndarray]]] = {
    "siftune": ours, "submodlib LazyGreedy": submodlib, "apricot lazy": apricot("lazy"),
    "apricot two-stage": apricot("two-stage")}


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(folder: Path, arm: str, budget: int) -> dict[str, Any]:
    """One measurement, in this process."""
    kernel = load(folder)
    run = ARMS[arm](kernel, budget)
    wall, processor = time.perf_counter(), time.process_time()
    rows = run()
    seconds = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    peak = peak_bytes()
    assert len(set(rows.tolist())) == budget
    return {**seconds, "peak_bytes": peak, "objective": objective(kernel, rows)}


def peak_bytes() -> int:
    """Of this program alone: getrusage would count the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def measured(section: str, folder: Path, arm: str) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    command = [sys.executable, __file__, "--measure", arm, "--section", section, "--folder", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS, check=False,
                              env={**os.environ, **ONE_THREAD})
    except subprocess.TimeoutExpired:
        return {"failed": f"not finished after {MOST_SECONDS} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip() or f"exit {done.returncode}").splitlines()[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def run_section(section: str, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        facts = MAKE[section](Path(place))
        found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in SECTIONS[section]}
        for turn in range(rounds):
            for arm, results in found.items():
                if any("failed" in result for result in results):
                    continue
                results.append(measured(section, Path(place), arm))
                log(f"{section}, round {turn + 1}, {arm}: {results[-1]}")
    arms = {arm: summary(results) for arm, results in found.items()}
    base = arms["siftune"]
    for arm in arms.values():
        if "seconds" in arm:
            arm["times_siftune"] = {key: round(arm[key] / base[key], 2) for key in ("seconds", "processor_seconds")}
            arm["objective_of_siftune_over_this"] = base["objective"] / arm["objective"]
    return {"input": facts, "arms": arms}


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    failed = [result["failed"] for result in results if "failed" in result]
    if failed:
        return {"failed": failed[0]}
    times = {key: [round(result[key], 3) for result in results] for key in ("seconds", "processor_seconds")}
    return {**{key: median(values) for key, values in times.items()}, "rounds": times,
            "peak_bytes": max(result["peak_bytes"] for result in results), "objective": results[0]["objective"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", choices=SECTIONS, action="append")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--measure", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.folder, asked.measure, BUDGETS[asked.section[0]])))
        return
    written = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"sections": {}}
    names = ("numpy", "numba", "scipy", "faiss-cpu", "submodlib-py", "apricot-select")
    written["machine"] = {"cores": os.cpu_count(), "threads": 1, "platform": platform.platform(),
                          "python": platform.python_version(), **{name: version(name) for name in names}}
    for section in asked.section or SECTIONS:
        if section not in written["sections"] or asked.again:
            written["sections"][section] = run_section(section, asked.rounds)
            write_json(RESULTS, written)
        print(json.dumps({section: written["sections"][section]}, indent=2))


if __name__ == "__main__":
    main()
