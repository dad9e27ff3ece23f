"""Every method of `siftune methods` from the command line on the demo's pool with the embedded model, timed.

    python benchmarks/every_method.py [METHOD ...] [--runs runs/methods]

Each method runs in a process and a run folder of its own with one thread, so that nothing is reused, but for those that
only differ in what comes last (`REUSES`): they are run with `--from`. A method that is recorded already is not run
again unless it is named. For each: seconds by the wall and of the processor, which task
families its 6% came from, and whether the run folder and its report are whole.

Results: benchmarks/results/methods.json, written after every method; `write_tables.py` makes the table of
docs/representations.md from them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from siftune._common.files import read_json, write_json
from siftune.config.catalogue import RECIPES

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "examples" / "demo"
RESULTS = ROOT / "benchmarks" / "results" / "methods.json"
COMMON = ["--pool", str(DEMO / "pool.jsonl"), "--max-length", "256", "--batch-tokens", "512", "--budget", "6%",
          "--lora-dropout", "0"]
WARMUP = {"warmup_rows": 40, "warmup_epochs": 2, "warmup_learning_rate": 1e-3, "warmup_batch_size": 4}
#: Settings of methods, as blocks of a configuration.
SETTINGS = {"less": {**WARMUP, "projection": "sparse-jl"}, "gist": WARMUP,
            "learning-percentage": {"training_learning_rate": 1e-3, "training_batch_size": 4}}
TARGET = ["--target", str(DEMO / "target.jsonl")]
#: Four task families of the pool stand for what the model was trained on before.
KNOWN = ("letter_counting", "spell_backward", "coin_flip", "lcm")
#: What a name stands for beside the method itself: `NAME@variant` -> flags.
# About 6 pairs a row, a tenth of the default.
FEW = ["--set", "pairs=sparse", "--set", "nominees=3", "--set", "random_nominees=1"]
VARIANTS: dict[str, list[str]] = {
    "delift@instruction": FEW, "delift@task": TARGET, "delift@continual": [*FEW, "--existing", "{existing}"],
    "learning-percentage@app": ["--set", "learning_percentage=app"],
}
#: What is run on top of which run.
REUSES = {"less-round-robin": "less", "less-ot": "less", "delift@continual": "delift@instruction",
          "learning-percentage": "learning-percentage@app"}


def names() -> list[str]:
    plain = [name for name in RECIPES if name != "delift"]
    return sorted([*plain, *VARIANTS], key=lambda name: name in REUSES)


def flags(name: str, existing: Path) -> list[str]:
    method = name.partition("@")[0]
    more = VARIANTS.get(name, TARGET)
    if name == "learning-percentage":
        more = [*more, "--set", "learning_percentage=full"]
    return ["--method", method, *(flag.format(existing=existing) for flag in more)]


def known_rows(folder: Path) -> Path:
    """Rows that the model is said to know: every second row of four families."""
    path = folder / "existing.jsonl"
    rows = [json.loads(line) for line in (DEMO / "pool.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row.get("group") in KNOWN][::2]
    path.write_text("".join(json.dumps({**row, "id": f"known-{row['id']}"}) + "\n" for row in kept))
    return path


def run(name: str, runs: Path, existing: Path) -> dict[str, Any]:
    folder = runs / name
    shutil.rmtree(folder, ignore_errors=True)
    earlier = ["--from", str(runs / REUSES[name])] if name in REUSES else []
    settings = runs / "settings.yaml"
    settings.write_text(yaml.safe_dump(SETTINGS))
    command = [sys.executable, "-m", "siftune", "select", *COMMON, "--config", str(settings),
               *flags(name, existing), *earlier, "--output-dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    table = pq.read_table(folder / "selection.parquet").to_pydict()
    manifest = read_json(folder / "manifest.json")
    report = folder / "report.html"
    assert report.stat().st_size > 10_000, "the report is there"
    assert len((folder / "selected.jsonl").read_text().splitlines()) == len(table["id"])
    return {
        "representation": manifest["method"]["representation"], "selector": manifest["method"]["selector"],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "rows": len(table["id"]), "tokens": sum(table["tokens"]),
        "families": dict(Counter(table["group"]).most_common()),
        "steps": [{"step": s["step"], "seconds": s["seconds"]} for s in manifest["times"]],
        "after": REUSES.get(name), "store_bytes": manifest["store"]["bytes"], "dropped": manifest["data"]["dropped"],
    }


def recorded() -> dict[str, Any]:
    return read_json(RESULTS) if RESULTS.exists() else {"command": "python benchmarks/every_method.py", "methods": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="names, as METHOD or METHOD@variant; those not recorded by default")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "methods")
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    existing = known_rows(arguments.runs)
    for name in arguments.methods or [name for name in names() if name not in recorded()["methods"]]:
        found = run(name, arguments.runs, existing)
        told = recorded()  # another process may have added some meanwhile
        told["methods"][name] = found
        write_json(RESULTS, told)
        print(f"{name:26} {found['seconds']:7.1f} s  {found['cpu_seconds']:7.1f} CPU s  "
              f"{', '.join(f'{k} {v}' for k, v in list(found['families'].items())[:4])}", flush=True)


if __name__ == "__main__":
    main()
