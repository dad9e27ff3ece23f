"""What one fixed method gains over random rows, and over another, on published trainings of 3B to 7B models.

    python benchmarks/fixed_methods.py --published FOLDER          # a second

FOLDER is that of `choice_rules.py`: 2 pools x 5 models x 5 tasks x 5 budgets, of which the mean of the 3 trainings is
taken. Intervals (95%) are of means over the 50 cells of pool, model and task, each the mean over its budgets (or at one
budget), by Student's t: budgets of a cell are not independent, and cells that share a model or a task are not quite
either, so that the truth is somewhat less certain than they say. *Cost* is what `siftune.pipeline.auto` counts: passes
over the pool, in forward passes. This is the evidence of `--method auto`. Results:
`benchmarks/results/fixed-methods.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from published_cells import ARMS, BUDGETS, SOURCE, Published, read
from scipy.stats import t as student

from siftune._common.files import write_json
from siftune.pipeline.auto import Situation

RESULTS = Path(__file__).resolve().parent / "results" / "fixed-methods.json"
RANDOM, LESS = 0, ARMS.index("LESS (RR)")


def mean_of(cells: np.ndarray) -> dict[str, float]:
    """Of float64 [cells], with its interval."""
    mean, error = float(cells.mean()), float(cells.std(ddof=1) / np.sqrt(len(cells)))
    reach = float(student.ppf(0.975, len(cells) - 1)) * error
    return {"mean": round(mean, 3), "low": round(mean - reach, 3), "high": round(mean + reach, 3)}


def compared(data: Published) -> dict[str, Any]:
    """Every method beside random rows and beside LESS with round-robin."""
    metric = data.metric.mean(axis=1)  # [cell, arm, budget]
    found = {}
    for arm, name in enumerate(ARMS):
        if arm == RANDOM:
            continue
        gains = metric[:, arm] - metric[:, RANDOM]
        found[name] = {
            "over_random": mean_of(gains.mean(axis=1)), "better": round(float((gains > 0).mean()), 3),
            "worse": round(float((gains < 0).mean()), 3),
            "over_less": mean_of((metric[:, arm] - metric[:, LESS]).mean(axis=1)),
            "by_budget": {str(budget): {"over_random": mean_of(gains[:, b]),
                                        "over_less": mean_of(metric[:, arm, b] - metric[:, LESS, b])}
                          for b, budget in enumerate(BUDGETS)}}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, required=True)
    one = Situation(has_target=True, tokens=1, parameters=1)
    found = {"source": SOURCE, "cells": len(read(parser.parse_args().published).untuned),
             "cost": {"LESS": round(one.gradients / one.forward, 2), "RDS+": 1.0},
             "methods": compared(read(parser.parse_args().published))}
    write_json(RESULTS, found)
    for name, told in found["methods"].items():
        print(f"{name:18} {told['over_random']}  over LESS {told['over_less']}")


if __name__ == "__main__":
    main()
