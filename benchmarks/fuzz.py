"""A campaign of fuzzed inputs: every kind of file, flag and template that siftune reads, thousands of each.

    python benchmarks/fuzz.py --inputs 20000       # continues where an earlier call was stopped
    python benchmarks/fuzz.py --inputs 200 --results /tmp/short.json

The kinds, what is done with a value and what counts as a fault stand in ``tests/fuzzing.py``, whose strategies the
tests use too. A campaign goes in pieces of one kind each, of a seed made of kind and number, each in a process of its
own, so that its memory can be told. Written after each piece to ``benchmarks/results/fuzz.json``: inputs and faults by
kind, the longest processor time of one input, and the most memory that a piece took beyond what it had before its first
input.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
PIECE = 1500
SLOW, LARGE = 5.0, 1_000_000_000  # seconds of one input; bytes


def piece(kind: str, number: int, inputs: int) -> dict[str, Any]:
    """Go through the inputs of one piece; every fault is kept, none stops it."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st
    from tests.fuzzing import KINDS

    chosen = KINDS[kind]
    told: dict[str, Any] = {"inputs": 0, "faults": [], "seconds": 0.0, "slow": []}
    before: list[int] = []

    with tempfile.TemporaryDirectory() as folder:
        @seed(zlib.crc32(f"{kind} {number}".encode()))
        @settings(max_examples=inputs, deadline=None, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))
        @given(st.data())
        def run(data: st.DataObject) -> None:
            value = data.draw(chosen.values)
            if told["inputs"] == 1:  # what is made once has been made
                before.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            began = time.process_time()
            try:
                chosen.check(value, Path(folder))
            except Exception as error:  # the faults that are looked for
                where = traceback.extract_tb(error.__traceback__)[-1]
                told["faults"].append({"fault": f"{type(error).__name__}: {error}"[:200],
                                       "at": f"{Path(where.filename).name}:{where.name}", "input": ascii(value)[:400]})
            spent = time.process_time() - began
            told["inputs"] += 1
            told["seconds"] = max(told["seconds"], spent)
            if spent > SLOW:
                told["slow"].append({"seconds": round(spent, 1), "input": ascii(value)[:400]})

        run()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - (before or [0])[0]
    return {**told, "bytes": 1024 * max(0, grown) if before else 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="of all kinds together, at least")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--kinds", nargs="*", default=[], help="these alone")
    parser.add_argument("--piece", nargs=3, metavar=("KIND", "NUMBER", "INPUTS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.piece:
        print(json.dumps(piece(given.piece[0], int(given.piece[1]), int(given.piece[2]))))
        return
    from tests.fuzzing import KINDS

    weights = sum(kind.weight for kind in KINDS.values())
    done = json.loads(given.results.read_text()) if given.results.is_file() else {"kinds": {}}
    for name, kind in KINDS.items():
        if given.kinds and name not in given.kinds:
            continue
        wanted = -(-given.inputs * kind.weight // weights)
        told = done["kinds"].setdefault(name, {"inputs": 0, "pieces": 0, "faults": [], "slow": [],
                                               "longest_seconds": 0.0, "most_bytes": 0})
        while told["inputs"] < wanted:
            count = min(PIECE, wanted - told["inputs"])
            ran = subprocess.run([sys.executable, __file__, "--piece", name, str(told["pieces"]), str(count)],
                                 capture_output=True, text=True, check=False, cwd=ROOT)
            if ran.returncode:
                raise SystemExit(f"{name}, piece {told['pieces']}: {ran.stderr[-2000:]}")
            found = json.loads(ran.stdout.splitlines()[-1])
            told["inputs"] += found["inputs"]
            told["pieces"] += 1
            told["faults"] = (told["faults"] + found["faults"])[:50]
            told["slow"] = (told["slow"] + found["slow"])[:20]
            told["longest_seconds"] = round(max(told["longest_seconds"], found["seconds"]), 3)
            told["most_bytes"] = max(told["most_bytes"], found["bytes"])
            kinds = done["kinds"].values()
            done = {"inputs": sum(one["inputs"] for one in kinds), "faults": sum(len(one["faults"]) for one in kinds),
                    "above_5_seconds": sum(len(one["slow"]) for one in kinds),
                    "kinds_above_1_GB": [n for n, one in done["kinds"].items() if one["most_bytes"] > LARGE],
                    "kinds": done["kinds"]}
            given.results.write_text(json.dumps(done, indent=1) + "\n")
            print(f"{name}: {told['inputs']:,} inputs, {len(told['faults'])} faults", flush=True)


if __name__ == "__main__":
    main()
