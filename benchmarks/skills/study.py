"""Writes the study of the 20 skills for `siftune study`, from a folder with the data.

    python benchmarks/skills/study.py --data FOLDER --output runs/skills/study.yaml [--targets NAME ...] [--smaller]
    siftune study runs/skills/study.yaml --dry-run      # how many trainings, and how long
    siftune study runs/skills/study.yaml

FOLDER holds `pool_2k.jsonl`, `targets/NAME.jsonl` and `tests/NAME.jsonl` (see README.md for where the rows come from).
Rows are read where they lie. `siftune study` writes ids, losses and scores into `study.json`; the `rows.json` beside it
holds rows, for the page, and stays out of the repository as all of `runs` does.

`--smaller` takes 64 rows instead of 100, 10 targets, the eight hard ones among them, and the first 100 test rows of
each, written beside the study file: what to cut first where the whole does not fit. The 16 random subsets stay in any
case: they are the baseline, the null test and the datamodelling score.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from siftune._common.files import write_text

HARD = ("bbh_disambiguation_qa", "bbh_hyperbaton", "bbh_temporal_sequences", "bbh_tracking_three", "mmlu_society",
        "xcopa_it", "xquad_de", "xquad_es")
"""The targets of which words find next to nothing."""
OTHERS = ("bbh_date_understanding", "bbh_formal_fallacies", "bbh_navigate", "bbh_object_counting",
          "bbh_penguins_in_a_table", "bbh_snarks", "bbh_sports_understanding", "mbpp", "mgsm_de", "mmlu_health",
          "open_user", "svamp")
SMALLER = (*HARD, "mmlu_health", "svamp")
SMALLER_TESTS = 100
METHODS = ("bm25", "embed", "rds+", "fusion", "loss-drop", "less-round-robin", "two-stage")
HEADLINE = ("rds+", "fusion", "less-paper")
OWN: dict[str, dict[str, Any]] = {
    "embed": {"center": True}, "rds": {"center": True},
    # Centred, so that one pass gives the means too, and what is not centred is read from its scores.
    "less": {"warmup_rows": 100, "warmup_epochs": 2, "warmup_learning_rate": 1e-3, "warmup_batch_size": 4,
             "center": True},
}
ABLATIONS = (
    {"name": "embed-as-it-is", "method": "embed", "settings": {"center": False}},
    {"name": "rds+as-it-is", "method": "rds+", "settings": {"center": False}},
    {"name": "less-paper", "method": "less-round-robin", "settings": {"center": False}},
    {"name": "less-without-momentum", "method": "less-round-robin", "settings": {"adam": "no-momentum"}},
)
TRAINED: dict[str, Any] = {
    "dtype": "float32", "epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "lora_dropout": 0.0, "max_length": 512,
    "exact_match_tokens": 16, "batch_tokens": 4096,
}
"""Settings of all trainings. With fewer batch_tokens answers are generated for two or three rows at a time, which takes
as long as for thirty; they decide no result. The learning rate is that of docs/real-run.md, where it was chosen on
random rows only."""


def study(data: Path, output_dir: Path, targets: Sequence[str], rows: int, tests: Path) -> dict[str, Any]:
    """The values of the study file; test rows lie in the folder ``tests``."""
    return {
        "pool": [str(data / "pool_2k.jsonl")], "group_field": "family", "model": "embedded",
        "output_dir": str(output_dir), **TRAINED, **{name: dict(block) for name, block in OWN.items()},
        "targets": [{"name": name, "target": [str(data / "targets" / f"{name}.jsonl")],
                     "test": [str(tests / f"{name}.jsonl")]} for name in targets],
        "methods": list(METHODS), "ablations": [dict(one) for one in ABLATIONS], "headline": list(HEADLINE),
        "budgets": [str(rows)], "seeds": 1, "headline_seeds": 3,
        "baselines": {"random": 16, "length-matched-random": 3},
    }


def shortened(tests: Path, into: Path, targets: Sequence[str]) -> Path:
    """The first rows of each test file, in a folder that is no part of the repository."""
    into.mkdir(parents=True, exist_ok=True)
    for name in targets:
        lines = (tests / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(into / f"{name}.jsonl", "".join(lines[:SMALLER_TESTS]))
    return into


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pool_2k.jsonl, targets and tests")
    parser.add_argument("--output", type=Path, required=True, help="the study file to write; results lie beside it")
    parser.add_argument("--targets", nargs="*", choices=[*HARD, *OTHERS], metavar="NAME", help="only these")
    parser.add_argument("--smaller", action="store_true", help="64 rows, 10 targets, 100 test rows of each")
    args = parser.parse_args()
    targets = args.targets or (SMALLER if args.smaller else (*HARD, *OTHERS))
    tests = args.data / "tests"
    if args.smaller:
        tests = shortened(tests, args.output.parent / "tests", targets)
    made = study(args.data, args.output.parent, targets, 64 if args.smaller else 100, tests)
    missing = [path for one in made["targets"] for path in (*one["target"], *one["test"]) if not Path(path).is_file()]
    if missing:
        raise SystemExit(f"{missing[0]} is missing; see benchmarks/skills/README.md for the files of --data")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.output, yaml.safe_dump(made, sort_keys=False))


if __name__ == "__main__":
    main()
