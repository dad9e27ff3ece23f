"""What each arm of the study of the skills gains over random rows, and what choosing by measurement gains.

    python benchmarks/skills/judge.py runs/skills    # after `siftune study`, finished or not

*Arms.* The gain of an arm on a target is the mean score of its trainings less that of the trainings on random rows, in
points: hundredths of the task's metric (the likeliest option where rows offer answers, else exact match), or, of the
loss, hundredths of the mean loss after training on random rows. Its interval holds what one more random subset would
have done (as `siftune.evaluation.choosing.claim` has it; several trainings of an arm count as one, since they may stand
on the same rows) and what other test rows would: both variances are added.

*Choosing* is simulated with the trainings that there are. The test rows of a target are split at random, some to choose
by and the others to judge by; four of the random trainings are seen, the others are what the gain is measured against.
`siftune.evaluation.choosing.choose`, as shipped, sees one training of every arm and the untuned model. Nothing that it
sees is judged with, but for the trained model itself: that is the model which would be kept. Regret is the gain of the
best arm on the rows that judge, less that of what was taken: the best is picked on those rows, so that even an oracle
that knows the truth has some. Whether a choice is beyond chance better or worse than random rows on a target is asked
as it is of an arm, of what the splits took on average.

Writes `results/judged.json`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from siftune._common.files import write_json
from siftune.evaluation.choosing import Training, choose
from siftune.experiments.results import RANDOM, Results, read_results

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "judged.json"
UNTUNED, CHOSEN = "untuned", "what choose takes"
SEEN, SPLITS, VALIDATION = 4, 100, (12, 25, 50)
MOSTLY = 0.9  # of the rows: exact match is the metric where so many answers are short enough to be scored


@dataclass(frozen=True)
class Task:
    """Scores of all trainings on the test rows of a target.

    Attributes:
        metric: what ``scores`` are.
        point: what a point is in their units.
        scores: arm -> float64 [trainings, rows], higher is better.
        losses: likewise, in nats.
    """

    metric: str
    point: float
    scores: Mapping[str, np.ndarray]
    losses: Mapping[str, np.ndarray]

    @property
    def arms(self) -> list[str]:
        return [name for name in self.scores if name != RANDOM]


def tasks(study: Results, *, by_loss: bool) -> dict[str, Task]:
    """The targets of which random rows and the untuned model are there."""
    names = {subset.id: (subset.name, subset.target) for subset in study.subsets}
    found = {}
    for target in study.targets:
        kept: dict[str, list[Any]] = {}
        for training in study.cells:
            scores = training.results.get(target.name)
            name, of = names[training.subset] if training.subset else (UNTUNED, None)
            if scores is not None and training.status == "done" and of in (None, target.name):
                kept.setdefault(name, []).append(scores)
        if len(kept.get(RANDOM, ())) > SEEN + 1 and UNTUNED in kept:
            found[target.name] = _task(kept, by_loss)
    return found


def _task(kept: Mapping[str, Sequence[Any]], by_loss: bool) -> Task:
    def all_of(name: str) -> dict[str, np.ndarray]:
        values = {arm: [[np.nan if v is None else float(v) for v in getattr(one, name)] for one in told]
                  for arm, told in kept.items()}
        return {arm: np.array(rows, dtype=np.float64) for arm, rows in values.items() if all(rows)}

    losses = all_of("loss")
    for metric in () if by_loss else ("acc", "correct"):
        scores = all_of(metric)
        if set(scores) != set(losses):
            continue
        rows = ~np.isnan(np.concatenate(list(scores.values()))).any(axis=0)
        if rows.mean() >= MOSTLY and any((told[:, rows] != scores[UNTUNED][0, rows]).any() for told in scores.values()):
            # Right or wrong alike for every training, it would tell no arm from another, and `choose` takes the loss.
            return Task({"acc": "acc", "correct": "exact match"}[metric], 0.01,
                        {arm: told[:, rows] for arm, told in scores.items()},
                        {arm: told[:, rows] for arm, told in losses.items()})
    return Task("loss", float(losses[RANDOM].mean()) / 100, {arm: -told for arm, told in losses.items()}, losses)


def gain(task: Task, arm: str, level: float = 0.05) -> dict[str, Any]:
    """The gain of an arm over random rows, in points, with its interval."""
    ours, random = task.scores[arm] / task.point, task.scores[RANDOM] / task.point
    differences = ours.mean(axis=0) - random.mean(axis=0)
    means = random.mean(axis=1)
    luck = float(means.var(ddof=1)) * ((arm != UNTUNED) + 1 / len(means))
    # How good a training is on average is in `luck`; of the rows there is only how they differ from each other.
    rows = float(differences.var(ddof=1)) / len(differences)
    error = math.sqrt(luck + rows)
    spread = luck**2 / (len(means) - 1) + rows**2 / (len(differences) - 1)
    # Where all trainings have the same rows right there is nothing to tell of.
    reach = float(student.ppf(1 - level / 2, (luck + rows) ** 2 / spread)) * error if spread else 0.0
    value = float(differences.mean())
    return {"gain": value, "low": value - reach, "high": value + reach, "trainings": len(ours)}


def simulated(task: Task, validation: int, seed: int) -> dict[str, Any]:
    """What choosing gains on a target: means over splits into rows to choose by and rows to judge by."""
    bits = np.random.default_rng(seed)
    random, rows = task.scores[RANDOM], task.scores[RANDOM].shape[1]
    sums = {"gain": 0.0, "regret": 0.0, **{f"regret of {arm}": 0.0 for arm in task.arms}}
    taken: dict[str, int] = {}
    for _ in range(SPLITS):
        order, draws = bits.permutation(rows), bits.permutation(len(random))
        see, judge, seen, unseen = order[:validation], order[validation:], draws[:SEEN], draws[SEEN:]
        trainings = [Training(RANDOM, 1.0, random[d, see], float(task.losses[RANDOM][d, see].mean())) for d in seen]
        trainings += [Training(arm, None if arm == UNTUNED else 1.0, task.scores[arm][0, see],
                               float(task.losses[arm][0, see].mean())) for arm in task.arms]
        if task.metric == "loss":
            trainings = [Training(one.arm, one.budget, one.scores) for one in trainings]
        choice = choose(trainings, 1.0, point=task.point)
        level = random[np.ix_(unseen, judge)].mean()
        gains = {arm: float(task.scores[arm][0, judge].mean() - level) / task.point for arm in task.arms}
        best = max(0.0, *gains.values())
        got = gains.get(choice.take, 0.0)
        taken[choice.take] = taken.get(choice.take, 0) + 1
        sums["gain"] += got
        sums["regret"] += best - got
        for arm, value in gains.items():
            sums[f"regret of {arm}"] += best - value
    told = {name: value / SPLITS for name, value in sums.items()}
    mixed = sum(count / SPLITS * task.scores[arm].mean(axis=0) for arm, count in taken.items())
    interval = gain(replace(task, scores={**task.scores, CHOSEN: np.array([mixed])}), CHOSEN)
    return {**told, "interval": [interval["low"], interval["high"]],
            "taken": dict(sorted(taken.items(), key=lambda one: (-one[1], one[0])))}


def judged(found: Mapping[str, Task]) -> dict[str, Any]:
    """Arms and choosing, by target and on average over targets."""
    arms = sorted({arm for task in found.values() for arm in task.arms})
    by_arm = {}
    for arm in arms:
        gains = {target: gain(task, arm) for target, task in found.items() if arm in task.arms}
        values = [one["gain"] for one in gains.values()]
        by_arm[arm] = {**_mean(values), "targets": gains, "better": sum(one["low"] > 0 for one in gains.values()),
                       "worse": sum(one["high"] < 0 for one in gains.values())}
    choosing = {}
    for validation in VALIDATION:
        by_target = {target: simulated(task, validation, seed) for seed, (target, task) in enumerate(found.items())
                     if task.arms != [UNTUNED]}
        if not by_target:
            continue
        choosing[str(validation)] = {
            **_mean([one["gain"] for one in by_target.values()]),
            "regret": float(np.mean([one["regret"] for one in by_target.values()])),
            "better": sum(one["interval"][0] > 0 for one in by_target.values()),
            "worse": sum(one["interval"][1] < 0 for one in by_target.values()),
            "regret of": {arm: float(np.mean([one[f"regret of {arm}"] for one in by_target.values()]))
                          for arm in arms if all(f"regret of {arm}" in one for one in by_target.values())},
            "targets": by_target}
    levels = {target: {"metric": task.metric, "point": task.point, "untuned": float(task.scores[UNTUNED].mean()),
                       "random": task.scores[RANDOM].mean(axis=1).tolist()} for target, task in found.items()}
    return {"targets": levels, "arms": by_arm, "choosing": choosing}


def _mean(values: Sequence[float]) -> dict[str, Any]:
    """Over targets, with a 95% interval of Student's t."""
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return {"mean": mean, "low": -math.inf, "high": math.inf, "count": count}
    reach = float(student.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "count": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of the study")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    study = read_results(args.run / "study.json")
    made = {"trainings": sum(one.status == "done" for one in study.cells)}
    for name, by_loss in (("by the task's metric", False), ("by the loss", True)):
        made[name] = judged(tasks(study, by_loss=by_loss))
    write_json(args.results, made)
    for name in ("by the task's metric", "by the loss"):
        print(name)
        for target, told in made[name]["targets"].items():
            random = np.array(told["random"])
            print(f"  {target:24} {told['metric']:12} untuned {told['untuned']:.3f}, {len(random)} random "
                  f"{random.mean():.3f} (sd {random.std(ddof=1):.3f})")
        for arm, told in made[name]["arms"].items():
            print(f"  {arm:24} {told['mean']:+6.2f} [{told['low']:+.2f}, {told['high']:+.2f}]  better on "
                  f"{told['better']}, worse on {told['worse']} of {told['count']}")
        for rows, told in made[name]["choosing"].items():
            print(f"  choose by {rows:3} rows         {told['mean']:+6.2f} [{told['low']:+.2f}, {told['high']:+.2f}]  "
                  f"better on {told['better']}, worse on {told['worse']}, regret {told['regret']:.2f}")


if __name__ == "__main__":
    main()
