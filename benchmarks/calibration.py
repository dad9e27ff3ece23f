"""How often a comparison calls nothing a difference, and how often it finds one: level and power, by simulation.

    python benchmarks/calibration.py                    # about ten minutes; writes benchmarks/results/calibration.json
    python benchmarks/calibration.py --table            # the tables of docs/statistics.md, from that file

Two sides with the same mean are simulated as losses [trainings, test rows]: what a training does to all rows, what a
row does to a side, what a training does to a row. Random's trainings vary more than the method's by a given ratio of
variances, since each of them draws its rows anew. The rules, of which the first is the product's:

* ``parts``: :mod:`siftune.evaluation.statistics`; Student's quantile for each part of the variance by itself.
* ``parts and sign flips``: also p < 5% of the sign-flip permutation test over rows.
* ``satterthwaite``: the same three parts with one number of degrees of freedom (Welch, Satterthwaite).
* ``welch``: Welch's t on the trainings' means; knows nothing of rows.
* ``sign flips``: the permutation test alone.
* ``pooled``: what siftune had before: a bootstrap of trainings and rows, expanded with S1 + S2 - 2 degrees of freedom,
  together with the permutation test.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm, t

from siftune._common.files import read_json, write_json
from siftune._common.seeds import derive
from siftune.evaluation.statistics import variance_parts

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from write_tables import fill, markdown  # noqa: E402  # pyright: ignore[reportMissingImports]

RESULT = ROOT / "benchmarks" / "results" / "calibration.json"
LEVEL = 0.05
PATTERNS, DRAWS = 400, 1000
RULES = ("parts", "parts and sign flips", "satterthwaite", "welch", "sign flips")
COUNTS = tuple(itertools.product((2, 3, 4, 5), repeat=2))


@dataclass(frozen=True)
class Setting:
    """Where a comparison is simulated.

    Attributes:
        kind: ``normal``; ``interaction``, where a training also does something of its own to each row, as large as
            what it does to all; ``heavy``, whose rows have Student's distribution with 3 degrees of freedom;
            ``binary``, right or wrong with a probability of training and row.
        method, random: trainings of each side.
        ratio: variance between random's trainings over that between the method's.
        rows: test rows.
        spread: variance of the mean difference that comes from rows over that from trainings (of a binary metric:
            rows are as hard for both sides where it is below 1, else hard for each by itself).
        effect: by how many standard deviations of random's trainings the method is better.
    """

    kind: str
    method: int
    random: int
    ratio: float
    rows: int
    spread: float
    effect: float = 0.0


def draw(setting: Setting, count: int, bits: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """float64 [count, trainings, rows] of both sides; lower is better."""
    own, theirs = (setting.method, 1.0), (setting.random, math.sqrt(setting.ratio))
    if setting.kind == "binary":
        hard = bits.uniform(-0.9, 0.9, (2, count, 1, setting.rows))
        sides = []
        for side, (trainings, sd) in enumerate((own, theirs)):
            luck = (0.25 * sd / theirs[1] * bits.standard_normal((count, trainings, 1))).clip(-0.7, 0.7)
            right = 0.3 * (1 + luck) * (1 + hard[side if setting.spread >= 1 else 0])
            sides.append((bits.random((count, trainings, setting.rows)) >= right).astype(np.float64))
        return sides[0], sides[1]
    of_rows = math.sqrt(setting.spread * setting.rows * (1 / setting.method + setting.ratio / setting.random) / 2)
    sides = []
    for trainings, sd in (own, theirs):
        shape = (count, 1, setting.rows)
        rows = bits.standard_t(3, shape) / math.sqrt(3) if setting.kind == "heavy" else bits.standard_normal(shape)
        side = sd * bits.standard_normal((count, trainings, 1)) + of_rows * rows
        if setting.kind == "interaction":
            side = side + sd * math.sqrt(setting.rows) * bits.standard_normal((count, trainings, setting.rows))
        sides.append(side)
    return sides[0] - setting.effect * theirs[1], sides[1]


def decisions(ours: np.ndarray, theirs: np.ndarray, bits: np.random.Generator) -> dict[str, np.ndarray]:
    """bool [count] of each rule: does it call the sides different?"""
    rows = ours.shape[-1]
    differences = ours.mean(axis=1) - theirs.mean(axis=1)
    D = differences.mean(axis=1)
    parts = variance_parts(ours, theirs)
    found = {"parts": (np.abs(D) > parts.half_width(1 - LEVEL)) & (2.0 ** (1 - rows) < LEVEL)}
    signs = np.where(bits.random((rows, PATTERNS)) < 0.5, 1.0, -1.0)
    sums = np.abs(differences @ signs)
    extreme = (sums >= np.abs(differences.sum(axis=1))[:, None] - 1e-9).sum(axis=1)
    found["sign flips"] = (extreme + 1) / (PATTERNS + 1) < LEVEL
    found["parts and sign flips"] = found["parts"] & found["sign flips"]
    for name, V, degrees in (("satterthwaite", parts.variances, parts.degrees),
                             ("welch", parts.variances[:, :2], parts.degrees[:2])):
        total = V.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            df = np.nan_to_num(total**2 / (V**2 / np.array(degrees)).sum(axis=1), nan=1.0)
        found[name] = np.abs(D) > t.ppf(1 - LEVEL / 2, df) * np.sqrt(total)
    return found


def pooled(ours: np.ndarray, theirs: np.ndarray, bits: np.random.Generator) -> np.ndarray:
    """bool [count]: does the expanded percentile interval of the two-level bootstrap leave out zero?"""
    degrees = ours.shape[1] + theirs.shape[1] - 2
    by_row = bits.multinomial(ours.shape[2], np.full(ours.shape[2], 1 / ours.shape[2]), DRAWS).T.astype(np.float64)
    draws = 0.0
    for side, sign in ((ours, 1.0), (theirs, -1.0)):
        trainings = side.shape[1]
        expansion = math.sqrt(trainings / (trainings - 1)) * t.ppf(0.975, degrees) / norm.ppf(0.975)
        counts = bits.multinomial(trainings, np.full(trainings, 1 / trainings), DRAWS)
        weights = 1 + expansion * (counts - 1)
        for k in range(trainings):
            draws = draws + sign * (side[:, k] @ by_row) * weights[:, k] / (trainings * side.shape[2])
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2], axis=1)
    return (low > 0) | (high < 0)


def measured(setting: Setting, count: int, *, old: bool = False) -> dict[str, Any]:
    """Shares of ``better or worse`` and ``better`` of each rule in ``count`` simulations."""
    bits = np.random.default_rng(derive(0, *map(str, asdict(setting).values())))
    different: dict[str, list[np.ndarray]] = {}
    lower = []
    for start in range(0, count, 2000):
        ours, theirs = draw(setting, min(2000, count - start), bits)
        found = decisions(ours, theirs, bits)
        if old:
            found["pooled"] = pooled(ours, theirs, bits) & found["sign flips"]
        for name, value in found.items():
            different.setdefault(name, []).append(value)
        lower.append(ours.mean(axis=(1, 2)) < theirs.mean(axis=(1, 2)))
    better = np.concatenate(lower)
    shares = {name: np.concatenate(value) for name, value in different.items()}
    return {**asdict(setting), "simulations": count,
            "different": {n: round(float(v.mean()), 4) for n, v in shares.items()},
            "better": {n: round(float((v & better).mean()), 4) for n, v in shares.items()}}


def null_settings() -> Iterator[Setting]:
    for kind, (method, random), ratio, rows, spread in itertools.product(
            ("normal", "interaction", "heavy", "binary"), COUNTS, (1, 6, 50), (8, 32, 200), (0.1, 3)):
        yield Setting(kind, method, random, ratio, rows, spread)


OLD = tuple(Setting("normal", m, r, ratio, 32, 0.1) for m, r in ((2, 2), (3, 3), (5, 2), (3, 5), (5, 5))
            for ratio in (1, 6, 50))
POWER = tuple(Setting("normal", m, r, 6, 32, 0.3, effect) for m, r in ((2, 2), (2, 5), (3, 3), (3, 5), (5, 5))
              for effect in (0, 1, 2, 4, 8))


def run(count: int) -> None:
    start, told = time.time(), []
    for setting in null_settings():
        one = measured(setting, count)
        error = math.sqrt(LEVEL * (1 - LEVEL) / count)
        if one["different"]["parts"] > LEVEL or one["better"]["parts"] > LEVEL / 2 + error:
            one = measured(setting, 10 * count)  # luck, or too often indeed
        told.append(one)
        if len(told) % 100 == 0:
            print(f"{len(told)} settings, {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    write_json(RESULT, {"command": "python benchmarks/calibration.py", "level": LEVEL, "simulations": count,
                        "null": told, "old": [measured(s, count, old=True) for s in OLD],
                        "power": [measured(s, count, old=True) for s in POWER]})


# --------------------------------------------------------------------------------------------------------- the tables

def largest() -> str:
    told = read_json(RESULT)["null"]
    rows = []
    for kind in dict.fromkeys(one["kind"] for one in told):
        here = [one for one in told if one["kind"] == kind]
        cells = []
        for rule in RULES:
            worst = max(here, key=lambda one: one["different"][rule])
            cells.append(f"{100 * worst['different'][rule]:.1f}")
        better = max(one["better"]["parts"] for one in here)
        rows.append([kind, str(len(here)), cells[0], f"{100 * better:.1f}", *cells[1:]])
    return markdown(["rows and metric", "settings", "siftune: different", "siftune: better",
                     *(f"{name}: different" for name in RULES[1:])], rows)


def before() -> str:
    shown = ("pooled", "satterthwaite", "welch", "parts")
    return markdown(["trainings, method / random", "variance ratio", *shown],
                    [[f"{one['method']} / {one['random']}", f"{one['ratio']:g}",
                      *(f"{100 * one['different'][rule]:.1f}" for rule in shown)] for one in read_json(RESULT)["old"]])


def power() -> str:
    told = read_json(RESULT)["power"]
    effects = list(dict.fromkeys(one["effect"] for one in told))
    rows = []
    for counts in dict.fromkeys((one["method"], one["random"]) for one in told):
        for rule in ("parts", "satterthwaite", "welch", "pooled"):
            found = {one["effect"]: one["better"][rule] + (one["different"][rule] - one["better"][rule]) * (
                one["effect"] == 0) for one in told if (one["method"], one["random"]) == counts}
            rows.append([f"{counts[0]} / {counts[1]}", rule, *(f"{100 * found[e]:.0f}" for e in effects)])
    return markdown(["trainings, method / random", "rule", *(f"{e:g}" for e in effects)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2500)
    parser.add_argument("--table", action="store_true", help="only write the tables of docs/statistics.md")
    options = parser.parse_args()
    if not options.table:
        run(options.simulations)
    fill("statistics.md", {"largest": largest, "before": before, "power": power})


if __name__ == "__main__":
    main()
