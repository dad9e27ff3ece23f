"""How often `siftune choose` claims a winner where there is none: every arm is itself a random subset.

    python benchmarks/choice_null.py [--cases 300]

Each case draws rows that are hard or easy, and for every training on a subset its luck; arms and random rows alike. A
subset of a later round holds that of the earlier one, so that half of a training's luck is that of the round before,
and all trainings are scored on the same rows. The rounds, the arms that are stopped and the test are those of the
command: :func:`siftune.evaluation.choosing.choose` and :func:`siftune.experiments.choosing.summary.tested`. For
comparison, ``without those stopped`` corrects for the arms of the last round alone.

Writes ``benchmarks/results/choice_null.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from siftune._common.files import write_json
from siftune.evaluation.choosing import Training, choose, claim
from siftune.experiments.choosing.summary import tested

ROUNDS, LEVEL = (25, 50, 100), 0.05
SETTINGS = [  # rows that score, arms, trainings on random rows, luck in points, folds
    (8, 5, 4, 3.0, 2), (12, 5, 4, 3.0, 4), (100, 5, 4, 2.0, 1), (100, 5, 8, 2.0, 1), (100, 10, 4, 4.0, 1),
]


def case(rng: np.random.Generator, rows: int, arms: int, random: int, luck: float, folds: int) -> tuple[bool, ...]:
    """(claimed, claimed without those stopped, another arm than random rows was taken)."""
    ease = rng.beta(1.0, 1.0, rows)
    names = [f"arm {k}" for k in range(arms)]
    drift: dict[tuple[str, int, int], float] = {}

    def trained(name: str, number: int, k: int, parts: int) -> Training:
        scores = np.empty(rows)
        for part, places in enumerate(np.array_split(np.arange(rows), parts)):
            before = drift.get((name, number, part), 0.0)
            mine = before * np.sqrt(0.5) + luck / 100 * rng.normal() * np.sqrt(0.5 if k else 1.0)
            drift[name, number, part] = mine
            scores[places] = rng.random(len(places)) < np.clip(ease[places] + mine, 0, 1)
        return Training(name, ROUNDS[k], scores)

    trainings = [Training("untuned", None, (rng.random(rows) < np.clip(ease + luck / 100 * rng.normal(), 0, 1)) * 1.0)]
    going_on, taken = tuple(names), "random"
    for k in range(len(ROUNDS)):
        count = random if k == len(ROUNDS) - 1 else max(1, random // 2)
        trainings += [trained("random", number, k, 1) for number in range(count)]
        trainings += [trained(name, 0, k, folds) for name in going_on]
        found = choose(trainings, ROUNDS[-1])
        going_on, taken = tuple(name for name in going_on if name in found.going_on), found.take
    told = tested(trainings, ROUNDS[-1], 0.01, LEVEL, {*names, "untuned"})
    return bool(told.winners), bool(claim(trainings, ROUNDS[-1], level=LEVEL).winners), taken != "random"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=300)
    cases = parser.parse_args().cases
    results = []
    for place, (rows, arms, random, luck, folds) in enumerate(SETTINGS):
        rng = np.random.default_rng(place)
        found = np.array([case(rng, rows, arms, random, luck, folds) for _ in range(cases)])
        claimed, plain, taken = found.mean(axis=0)
        results.append({"rows": rows, "arms": arms, "random_trainings": random, "luck": luck, "folds": folds,
                        "claimed": claimed, "without_those_stopped": plain, "taken": taken})
        print(f"{rows:4} rows, {arms:2} arms, {random} random trainings, luck {luck:g}, {folds} folds: "
              f"claimed {claimed:.1%} (without those stopped {plain:.1%}), another arm taken {taken:.1%}", flush=True)
    write_json(Path(__file__).parent / "results" / "choice_null.json", {"cases": cases, "level": LEVEL,
                                                                       "settings": results})


if __name__ == "__main__":
    main()
