"""Keeps what a study of the skills has measured so far, so that it can go on elsewhere without training anew.

    python benchmarks/skills/keep.py --save runs/skills       # what is done there, into results/cells.jsonl
    python benchmarks/skills/keep.py --restore runs/skills    # and back, before `siftune study` goes on

A line of `results/cells.jsonl` is one subset (ids) or the scores of one training on the test rows of one target (losses
and right or wrong). Neither rows nor what a model answered is kept. A training that is restored has scores, but no
weights: scored on other rows, it is trained again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from siftune._common.artefacts import write_sealed
from siftune._common.artefacts.sealed import read_self_sealed, self_sealed
from siftune._common.files import read_json, write_json, write_text

KEPT = Path(__file__).resolve().parent / "results" / "cells.jsonl"


def save(run: Path, into: Path = KEPT) -> dict[str, int]:
    """Add what a folder of a study holds; what was kept of others stays. Returns how many there are of each kind."""
    kept: dict[str, dict[str, Any]] = {}
    if into.is_file():
        kept = {one["path"]: one for one in map(json.loads, into.read_text(encoding="utf-8").splitlines())}
    for path in sorted((run / "selections").glob("*.json")):
        content = read_self_sealed(path)
        if content is not None:
            name = path.relative_to(run).as_posix()
            kept[name] = {"path": name, "kind": "selection", "content": content}
    for path in sorted((run / "training").glob("*/scores-*.json")):
        file = read_json(path)
        name = path.relative_to(run).as_posix()
        scores = {**file["content"], "answers": [None] * len(file["content"]["ids"])}
        kept[name] = {"path": name, "kind": file["artefact"]["kind"], "made_from": file["artefact"]["made_from"],
                      "content": scores}
    write_text(into, "".join(json.dumps(kept[name]) + "\n" for name in sorted(kept)))
    return {kind: sum(one["kind"] == kind for one in kept.values()) for kind in {o["kind"] for o in kept.values()}}


def restore(run: Path, kept: Path = KEPT) -> int:
    """Write what is kept into a study's folder, but for what is there. Returns how many files were written."""
    written = 0
    for one in map(json.loads, kept.read_text(encoding="utf-8").splitlines()):
        path = run / one["path"]
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if one["kind"] == "selection":
            write_json(path, self_sealed(one["content"]))
        else:
            write_sealed(path, one["kind"], one["made_from"], one["content"])
        written += 1
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--save", type=Path, metavar="FOLDER")
    which.add_argument("--restore", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    print(save(args.save) if args.save else f"{restore(args.restore)} files restored")


if __name__ == "__main__":
    main()
