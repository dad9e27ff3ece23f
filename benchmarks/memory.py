"""Peak memory of `select` against the number of rows, and against what `plan` said before.

    python benchmarks/build_real_pool.py
    python benchmarks/memory.py [--rows 48] [--batch-tokens 512]

Runs `siftune plan` and `siftune select` as processes of their own on 1x, 4x and 16x so many rows of the real pool and
reads the peak resident size of each from the operating system. Results: `benchmarks/results/memory.json`.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

from commands import run  # pyright: ignore[reportMissingImports]

from siftune._common.files import read_json, write_json
from siftune._common.seeds import permutation

HERE = Path(__file__).resolve().parent
DATA = Path("runs/real-data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=48, help="of the smallest pool")
    parser.add_argument("--batch-tokens", type=int, default=512)
    options = parser.parse_args()
    lines = [line for name in ("sharegpt", "reasoning") for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    lines = [lines[i] for i in permutation(len(lines), 0, "memory")]
    output = HERE / "results" / "memory.json"
    result: dict[str, Any] = {"model": "SmolLM2-135M-Instruct, float32", "batch_tokens": options.batch_tokens,
                              "runs": read_json(output)["runs"] if output.exists() else []}
    for times in (1, 4, 16):
        count = times * options.rows
        if any(one["rows"] == count for one in result["runs"]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            pool = Path(folder) / "pool.jsonl"
            pool.write_text("\n".join(lines[:count]) + "\n")
            flags = ["--pool", str(pool), "--target", str(DATA / "reasoning" / "target.jsonl"), "--max-length", "200",
                     "--format", "mixed", "--batch-tokens", str(options.batch_tokens),
                     "--micro-batch-tokens", str(options.batch_tokens),
                     "--method", "less-round-robin", "--set", "warmup_rows=16", "--set", "warmup_epochs=1",
                     "--set", "projection=sparse-jl",
                     "--bad-rows", "drop", "--overlap", "drop",
                     "--output-dir", f"{folder}/run"]
            planned = float(re.search(r"memory +([\d.]+) GiB", run(["plan", *flags]).told)[1])  # type: ignore[index]
            selected = run(["select", *flags])
            peak, seconds = selected.peak, selected.seconds
        result["runs"].append({"rows": count, "planned_gib": planned, "peak_gib": round(peak / 2**30, 3),
                               "planned_of_peak": round(planned / (peak / 2**30), 3), "seconds": round(seconds)})
        write_json(output, result)
        print(result["runs"][-1], flush=True)


if __name__ == "__main__":
    main()
