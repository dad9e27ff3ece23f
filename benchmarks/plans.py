"""What `siftune plan` says beside what `siftune select` then takes, on 1, 4 and 16 times as many rows.

    python benchmarks/plans.py [--rows 20] [--times 1 4 16] [--methods less rds+ embed]   # -> results/plans.json

Rows of the demo's pool, each again and again with another beginning, its targets, the embedded model. Each command is a
process of its own; seconds are of the whole process, from its start to its end, so plan and run both pay for imports,
reading and loading. Told are the seconds that the plan said and that the run took, likewise the memory, and the CPU
seconds of the plan as a share of the run's. `--known` adds plans with the speed that the plan before had measured given
(`--tokens-per-second`): these load no weights. Seconds mean little where the machine has other work: its load before
each command stands beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from commands import run  # pyright: ignore[reportMissingImports]

from siftune._common.files import read_json, write_json, write_lines
from siftune._common.processes import cores

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "examples" / "demo"
RESULTS = HERE / "results" / "plans.json"


def more_rows(count: int) -> list[str]:
    """Lines of a pool of that many rows."""
    records = [json.loads(line) for line in (DEMO / "pool.jsonl").read_text(encoding="utf-8").splitlines()]
    made = []
    for i in range(count):
        record = records[i % len(records)]
        first, *others = record["messages"]
        turn = {**first, "content": f"Task {i}. {first['content']}"}
        made.append(json.dumps({**record, "id": f"row-{i}", "messages": [turn, *others]}, ensure_ascii=False))
    return made


def ran(arguments: list[str]) -> tuple[dict[str, float], str]:
    """What a command took, and what it printed.

    Raises:
        SystemExit: it failed.
    """
    load = os.getloadavg()[0]
    found = run(arguments)
    return {"seconds": round(found.seconds, 1), "cpu_seconds": round(found.cpu_seconds, 1),
            "peak_mb": round(found.peak / 1e6), "load_before": round(load, 1)}, found.told


def compared(method: str, count: int, folder: Path, known: bool) -> dict[str, Any]:
    """A plan and its run."""
    pool, output = folder / "pool.jsonl", folder / "run"
    write_lines(pool, more_rows(count))
    flags = ["--pool", str(pool), "--target", str(DEMO / "target.jsonl"), "--method", method, "--budget", "5%"]
    planning, told = ran(["plan", *flags, "--json"])
    plan = json.loads(told)
    found: dict[str, Any] = {"method": method, "rows": count, "planned_seconds": round(plan["seconds"], 1),
                             "planned_mb": round(plan["memory"] / 1e6), "plan": planning}
    speed = re.match(r"([\d,.]+) tokens/s", plan["lines"].get("speed", ""))
    if known and speed:
        given, _ = ran(["plan", *flags, "--json", "--tokens-per-second", speed[1].replace(",", "")])
        found["plan_with_speed"] = given
    running, _ = ran(["select", *flags, "--output-dir", str(output)])
    shutil.rmtree(output)
    return {**found, "run": running, "seconds_ratio": round(running["seconds"] / plan["seconds"], 2),
            "memory_ratio": round(running["peak_mb"] * 1e6 / plan["memory"], 2) if plan["memory"] else None,
            "plan_share": round(planning["cpu_seconds"] / running["cpu_seconds"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20, help="rows of one time")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--methods", nargs="+", default=["less", "rds+", "embed"])
    parser.add_argument("--known", action="store_true", help="also plan with the speed given")
    options = parser.parse_args()
    result: dict[str, Any] = read_json(RESULTS) if RESULTS.exists() else {"runs": []}
    result |= {"model": "embedded", "cores": cores(),
               "versions": {name: version(name) for name in ("siftune", "torch", "transformers")}}
    for method in options.methods:
        for times in options.times:
            with tempfile.TemporaryDirectory() as folder:
                one = compared(method, options.rows * times, Path(folder), options.known)
            print(one, flush=True)
            others = [done for done in result["runs"] if (done["method"], done["rows"]) != (method, one["rows"])]
            result["runs"] = sorted([*others, one], key=lambda done: (done["method"], done["rows"]))
            write_json(RESULTS, result)


if __name__ == "__main__":
    main()
