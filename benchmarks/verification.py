"""What it costs to verify every byte of a store before a selection, beside the selection.

    python benchmarks/verification.py              # 10,000,000 rows; needs 1.4 GB in the temporary folder
    python benchmarks/verification.py --rows 100000

A store of unit vectors (64 numbers each, float16) is written, and then in a process of its own, on one thread: opened
and verified (every note and every file, nothing remembered), and 100,000 rows are chosen from it, twice, by round-robin
over 64 targets. ``share`` is the processor time of verifying over that of the whole selection without it: packing and
checking ids, streaming similarities, choosing. Done for shards of 65,536 rows (8 MB each, as 256 rows of 8,192 numbers
in float32 are), and, ``many_files``, of 2,048 rows. Written to ``benchmarks/results/verification.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from selectors_streaming import Features

from siftune.features.store import FeatureStore, RowKeys
from siftune.selectors import Problem, select
from siftune.selectors.core.ids import PackedIds

RESULTS = Path(__file__).parent / "results" / "verification.json"
SHARDS = {"few_files": 65536, "many_files": 2048}
MADE_FROM = {"synthetic": "benchmark"}


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, wall seconds, processor seconds)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def write(folder: str, rows: int, shard_rows: int) -> None:
    features = Features(rows, 0, block=shard_rows)
    store = FeatureStore.open(folder, MADE_FROM, rows=rows, shard_rows=shard_rows)
    for shard, (_, block) in zip(store.shards(), features.vectors(), strict=True):
        store.write(shard, {"feature": block.astype(np.float16)})


def measure(folder: str, rows: int) -> dict[str, Any]:
    keys = RowKeys.counted(rows)  # of the rows, not of the store: a run has them anyway
    store, _, opened_cpu = timed(lambda: FeatureStore.open(folder, MADE_FROM, rows=keys))
    missing, wall, cpu = timed(store.missing)
    assert not missing
    _, _, again_cpu = timed(store.missing)
    targets = Features(0, 64).targets

    def choose() -> Any:
        ids = PackedIds.pack(f"source/row-{i:08d}" for i in range(rows))
        problem = Problem.from_blocks(
            lambda: ((s, targets @ x.astype(np.float32).T) for s, x in store.blocks("feature")), ids=ids,
            targets=[f"t{q:02d}" for q in range(64)])
        return select(problem, rows // 100, "round-robin")

    chosen, selecting, selecting_cpu = timed(choose)
    # Later reads look at the times of both files of each shard: they are in the selection, and taken out of it here.
    _, _, looking_cpu = timed(lambda: [store.fault(shard) for shard in store.shards()])
    extra = opened_cpu + cpu + again_cpu + 2 * looking_cpu
    return {"rows": rows, "shards": len(store.shards()), "bytes": store.bytes, "selected": len(chosen),
            "verify_seconds": round(wall, 3), "verify_cpu_seconds": round(cpu, 3),
            "open_cpu_seconds": round(opened_cpu, 3), "again_cpu_seconds": round(again_cpu, 3),
            "looking_cpu_seconds": round(looking_cpu, 3),
            "select_seconds": round(selecting, 2), "select_cpu_seconds": round(selecting_cpu, 2),
            "verified_gb_per_second": round(store.bytes / 1e9 / cpu, 2),
            "share": round(extra / (selecting_cpu - 2 * looking_cpu), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.folder:
        print(json.dumps(measure(told.folder, told.rows)))
        return
    results: dict[str, Any] = {"machine": f"{platform.processor() or platform.machine()}, one thread", "dim": 64,
                               "dtype": "float16"}
    for name, shard_rows in SHARDS.items():
        with tempfile.TemporaryDirectory() as folder:
            write(folder, told.rows, shard_rows)
            done = subprocess.run([sys.executable, __file__, "--rows", str(told.rows), "--folder", folder], check=True,
                                  capture_output=True, text=True)
            results[name] = json.loads(done.stdout.splitlines()[-1])
            print(name, results[name], flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
