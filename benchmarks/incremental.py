"""What 1% more rows cost beside the pool's first pass, and whether the selection is that of a fresh run.

    python benchmarks/incremental.py [--rows 500] [--threads 1] [--methods rds less]   # -> results/incremental.json

Rows of the demo's pool, each a second time with another beginning, and its targets, the embedded model (and the
embedding model that is shipped), one process. First a run of the pool; then one with 1% more rows, `--from` the first;
then one of all rows by itself, with the same checkpoints. CPU seconds of whole runs are compared, everything included
but reading the rows and loading the model, and, for LESS, the training of the warmup: passes over pool and targets,
looking into the earlier store, verifying and writing, similarities.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.files import read_json, write_json, write_lines
from siftune._common.progress import log
from siftune._common.seeds import permutation
from siftune.config.catalogue import METHODS
from siftune.config.settings import SelectConfig
from siftune.data.load import Inputs
from siftune.data.rows import Examples
from siftune.features.base import Clock, Context
from siftune.features.warmed_up import warmed_up
from siftune.models.loading import LoadedModel
from siftune.pipeline.select import load, read_inputs, to_problem
from siftune.selectors import Problem, select

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "examples" / "demo"
RESULTS = HERE / "results" / "incremental.json"
METHODS_MEASURED: dict[str, dict[str, Any]] = {"embed": {}, "rds": {}, "less": {"keep_features": True,
                                                                                "warmup_epochs": 1}}
BUDGET = "5%"


class CpuClock(Clock):
    """A clock that knows what loading an embedding model took, in CPU seconds."""

    loading = 0.0

    @contextmanager
    def measure(self, step: str) -> Iterator[dict[str, Any]]:
        before = time.process_time()
        with super().measure(step) as entry:
            yield entry
        if step == "embedding model":
            self.loading += time.process_time() - before


def measure(name: str, config: SelectConfig, inputs: Inputs, loaded: LoadedModel, rows: int, folder: Path,
            ) -> dict[str, Any]:
    """CPU seconds of the three runs of a method, and how the last two differ."""
    more = max(1, rows // 100)
    config = config.with_own({name: METHODS_MEASURED[name]})

    def run(at: Path, count: int, *earlier: Path) -> tuple[float, float, Context, Problem]:
        clock = CpuClock()
        pool = Examples(inputs.pool.rows[:count], inputs.pool.rendered[:count])
        context = Context(config, pool, inputs.target, inputs.render, at, lambda _: loaded, clock,
                          owner=name, earlier=tuple(earlier))
        _ = context.model
        method = METHODS.get(name)()
        training = time.process_time()
        if name == "less":
            with warmed_up(context):
                pass
        before = time.process_time()
        found = method.compute(context)
        problem = to_problem(Problem(ids=pool.ids, tokens=pool.tokens),
                             dataclasses.replace(inputs, pool=pool), found)
        best = problem.summary().best
        assert np.isfinite(best).all()
        spent = time.process_time() - before - clock.loading
        log(f"{name}, {count} rows{', from the run before' if earlier else ''}: {spent:.2f} CPU seconds")
        return spent, before - training, context, problem

    first, training, context, _ = run(folder / "first", rows)
    grown, _, context, problem = run(folder / "grown", rows + more, folder / "first")
    if name == "less":
        shutil.copytree(folder / "grown/warmup", folder / "fresh/warmup")
    whole, _, _, expected = run(folder / "fresh", rows + more)
    chosen, others = (select(one, BUDGET, "round-robin").indices.tolist() for one in (problem, expected))
    told = next(one for store, one in context.taken.items() if store.endswith("/pool"))
    mine, theirs = (np.concatenate([block for _, block in one.stream()], axis=1) for one in (problem, expected))
    return {"rows": rows, "more": more, "computed": told["computed"], "first_cpu_seconds": round(first, 2),
            "grown_cpu_seconds": round(grown, 3), "fresh_cpu_seconds": round(whole, 2),
            "warmup_cpu_seconds": round(training, 2), "share": round(grown / first, 4), "same_selection":
            chosen == others, "largest_difference": float(np.abs(mine - theirs).max())}


def written_pool(folder: Path) -> Path:
    """The demo's pool, and all of it once more with another beginning; in random order."""
    rows = [json.loads(line) for line in (DEMO / "pool.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in list(rows):
        first, *others = row["messages"]
        again = {**first, "content": f"Please answer. {first['content']}"}
        rows.append({"id": f"{row['id']}-again", "messages": [again, *others]})
    path = folder / "pool.jsonl"
    write_lines(path, (json.dumps(rows[i]) for i in permutation(len(rows), 0, "incremental benchmark").tolist()))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=list(METHODS_MEASURED), choices=list(METHODS_MEASURED))
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(asked.threads)
    results: dict[str, Any] = read_json(RESULTS) if RESULTS.is_file() else {}  # methods may be measured one by one
    results |= {"machine": platform.processor() or platform.machine(), "threads": asked.threads}
    with tempfile.TemporaryDirectory() as folder:
        config = SelectConfig(pool=(str(written_pool(Path(folder))),), target=(str(DEMO / "target.jsonl"),),
                              model="embedded", device="cpu", batch_tokens=4096)
        inputs, loaded = read_inputs(config), load(config)
    if len(inputs.pool) < 1.01 * asked.rows:
        raise SystemExit(f"--rows {asked.rows} and 1% more are above the {len(inputs.pool)} rows that there are")
    for name in asked.methods:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(name, config, inputs, loaded, asked.rows, Path(folder))
        write_json(RESULTS, results)


if __name__ == "__main__":
    main()
