"""Choice rules on published trainings of 3B to 7B models: what each gains over random rows, and how often it loses.

    python benchmarks/choice_rules.py --published FOLDER          # 70 seconds of one core

FOLDER holds the plot data of arXiv 2602.14696, CSV files `POOL-MODEL-{true_metric,ce_loss}_{budget,zero_shot}.csv`,
from github.com/dcml-lab/targeted-instruction-selection (Apache-2.0, commit c1dc028): 2 pools x 5 models x 5 tasks x 5
budgets, 3 training seeds. Nothing of it is copied into the results but summaries.

Every rule sees the metric of one training seed (two for `twice`) and is judged on the mean of the seeds that it did
not see, against random rows. A validation set of n rows is simulated: binomial noise of the metric, a part of it
common to all models that answer the same rows (correlation 0.6). What is fitted is fitted on some models (or tasks) and
judged on the one left out: the constants of the prior always, `caution` and the weight of the loss in the rules that
say so, else they are those of the package. The latter two are chosen at 100 rows: they maximise the mean gain less 10
times the share of cases that end worse than random rows by more than a point.
Results: `benchmarks/results/choice-rules.json`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from choice_prior import fit
from published_cells import (
    BUDGETS,
    CELLS,
    CORRELATION,
    MODELS,
    OTHERS,
    SOURCE,
    TASKS,
    Cases,
    Published,
    noise_of,
    part,
    read,
)

from siftune._common.files import write_json
from siftune._common.progress import log
from siftune.evaluation import choosing
from siftune.evaluation.choosing import CAUTION, DROP, LOSS_WEIGHT
from siftune.evaluation.gains import UNTUNED, Posterior, Prior, posterior

RESULTS = Path(__file__).resolve().parent / "results" / "choice-rules.json"
ROWS = (25, 50, 100, 200, 500, None)  # None: the metric as published
SOME_ROWS = (25, 100, None)  # for the rules that are there to compare with
IN_FULL = ("shipped", "shipped, caution 1", "halving, loss", "halving, loss, caution 1")
CAUTIONS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
LOSS_WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2)


# --- rules ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """A way to choose.

    Attributes:
        rounds: `last`: one training at the budget itself; `first`: at 500 rows only; `all`: at every budget up to it;
            `halving`: the same, arms with no prospect stopping; `twice`: two trainings at the budget.
        untuned: Whether the untuned model may be taken, and is looked at.
        arms: How many methods, random rows among them.
        drawn: Take the largest of one draw from the posterior (Thompson 1933), not the largest utility.
        by_loss: Points that each percent less of the query loss lets expect before the metric is seen.
    """

    rounds: str
    untuned: bool
    arms: int = 4
    drawn: bool = False
    by_loss: float = 0.0


SHIPPED = Rule("halving", untuned=True, by_loss=LOSS_WEIGHT)


def plain(cases: Cases, scores: np.ndarray, rows: int | None, untuned: bool, errors: float, points: float = 0.0) -> \
        np.ndarray:
    """Take the best measured arm if it leads random rows by so many standard errors and points.

    int [..., cell, seed, budget].
    """
    own = np.moveaxis(scores[..., :cases.untuned].reshape(*scores.shape[:-1], cases.arms, -1), -2, -1)
    if untuned:
        alone = np.broadcast_to(scores[..., -1, None, None], (*own.shape[:-1], 1))
        own = np.concatenate([own, alone], axis=-1)
    lead = own.max(axis=-1) - own[..., 0]
    error = np.zeros_like(lead) if rows is None else np.sqrt(2 * noise_of(own[..., :1], rows))
    return np.where(lead > errors * error + points, own.argmax(axis=-1), 0)


def bayes(rule: Rule, cases: Cases, scores: np.ndarray, noise: Callable[[np.ndarray], np.ndarray], prior: Prior,
          budget: int, cautions: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each caution: arms taken, int [..., cell, seed], and rows trained over those of one training of each arm."""
    if rule.rounds == "halving":
        return [_halving(rule, cases, scores, noise, prior, budget, caution) for caution in cautions]
    rounds = {"last": [budget], "first": [0], "all": list(range(budget + 1)), "twice": [budget]}[rule.rounds]
    seen = _seen(rule, cases, [range(cases.arms)] * len(rounds), rounds)
    data, arm, size = scores[..., seen], cases.arm[seen], cases.budget[seen]
    if rule.rounds == "twice":  # judged on seed s, seen on the two others
        again = seen[seen != cases.untuned]
        data = np.concatenate([scores[..., OTHERS[:, 0], :][..., seen], scores[..., OTHERS[:, 1], :][..., again]], -1)
        arm, size = np.append(arm, cases.arm[again]), np.append(size, cases.budget[again])
    expected, gains = (0.0, 0.0) if not rule.by_loss else _expected(rule, cases, cases.losses, seen, rounds[-1])
    found = posterior(data, noise(data), arm, size, wanted=_wanted(cases), at=BUDGETS[budget], prior=prior,
                      expected=expected, expected_gains=gains)
    cost = sum(BUDGETS[b] for b in rounds) / BUDGETS[budget] * (2 if rule.rounds == "twice" else 1)
    return [(_take(_utility(rule, found, caution, budget)), np.array(cost)) for caution in cautions]


def _wanted(cases: Cases) -> np.ndarray:
    return np.append(np.arange(1, cases.arms), UNTUNED)


def _expected(rule: Rule, cases: Cases, losses: np.ndarray, seen: np.ndarray, last: int) -> \
        tuple[np.ndarray, np.ndarray]:
    """Points that losses [..., training] let expect of the trainings seen, and of the gains, by those of round `last`.
    """
    points = -100 * rule.by_loss * np.log(losses)
    arms = np.append(np.arange(1, cases.arms) * len(BUDGETS) + last, cases.untuned)
    return points[..., seen], points[..., arms] - points[..., [last]]


def _seen(rule: Rule, cases: Cases, arms: Sequence[Sequence[int]], rounds: Sequence[int]) -> np.ndarray:
    seen = [arm * len(BUDGETS) + b for some, b in zip(arms, rounds, strict=True) for arm in some]
    return np.array([*seen, cases.untuned] if rule.untuned else seen)


def _utility(rule: Rule, found: Posterior, caution: float, budget: int) -> np.ndarray:
    if rule.drawn:
        draw = np.random.default_rng(budget)
        part = (draw.random((*found.weights.shape[:-1], 1)) > found.weights.cumsum(axis=-1)).sum(axis=-1)
        part = np.minimum(part, found.weights.shape[-1] - 1)[..., None, None]
        mean, deviation = (np.take_along_axis(v, part, axis=-2)[..., 0, :] for v in (found.means, found.deviations))
        utility = mean + deviation * draw.standard_normal(mean.shape)
    else:
        utility = found.expected - caution * found.expected_loss
    return utility if rule.untuned else utility[..., :-1]


def _take(utility: np.ndarray) -> np.ndarray:
    return np.where(utility.max(axis=-1) > 0, utility.argmax(axis=-1) + 1, 0)


def _halving(rule: Rule, cases: Cases, scores: np.ndarray, noise: Callable[[np.ndarray], np.ndarray], prior: Prior,
             budget: int, caution: float) -> tuple[np.ndarray, np.ndarray]:
    """Rounds at growing budgets; an arm whose chance to beat the one in front is below DROP is trained no more."""
    flat = scores.reshape(-1, scores.shape[-1])
    losses = np.broadcast_to(cases.losses, scores.shape).reshape(flat.shape)
    take, cost = np.zeros(len(flat), dtype=int), np.zeros(len(flat))
    everything: tuple[int, ...] = tuple(range(1, cases.arms))
    groups: dict[tuple[tuple[int, ...], ...], np.ndarray] = {(everything,): np.arange(len(flat))}
    for b in range(budget + 1):
        after: dict[tuple[tuple[int, ...], ...], np.ndarray] = {}
        for history, members in groups.items():  # which arms were trained in each round
            seen = _seen(rule, cases, [(0, *some) for some in history], range(b + 1))
            data = flat[members][:, seen]
            expected, gains = _expected(rule, cases, losses[members], seen, b)
            found = posterior(data, noise(data), cases.arm[seen], cases.budget[seen], wanted=_wanted(cases),
                              at=BUDGETS[budget], prior=prior, expected=expected, expected_gains=gains)
            alive = np.isin(np.arange(1, cases.arms), history[-1])
            utility = _utility(rule, found, caution, budget)
            utility[..., :cases.arms - 1] = np.where(alive, utility[..., :cases.arms - 1], -np.inf)
            take[members] = _take(utility)
            cost[members] += BUDGETS[b] * (1 + len(history[-1]))
            going = alive & (found.probability_above_arm(take[members])[..., :cases.arms - 1] >= DROP)
            patterns, which = np.unique(going, axis=0, return_inverse=True)
            for i, pattern in enumerate(patterns):
                after[(*history, tuple(int(arm) + 1 for arm in np.flatnonzero(pattern)))] = members[which.ravel() == i]
        groups = after
    return take.reshape(scores.shape[:-1]), cost.reshape(scores.shape[:-1]) / (cases.arms * BUDGETS[budget])


# --- judging -------------------------------------------------------------------------------------------------------


def judged(gain: np.ndarray, take: np.ndarray) -> np.ndarray:
    """float [..., cell, seed, budget]: what was gained over random rows by taking int [..., cell, seed, budget]."""
    return np.take_along_axis(np.broadcast_to(gain, (*take.shape, gain.shape[-1])), take[..., None], axis=-1)[..., 0]


def summary(gains: np.ndarray, cost: np.ndarray | float | None = None) -> dict[str, float]:
    found = {"mean": round(float(gains.mean()), 3), "better": round(float((gains > 0).mean()), 4),
             "worse": round(float((gains < 0).mean()), 4), "worse_by_a_point": round(float((gains < -1).mean()), 4)}
    return found if cost is None else found | {"cost": round(float(np.mean(cost)), 3)}


def line(name: str, found: dict[str, Any]) -> None:
    log(f"{name:62s} {found['mean']:+.2f}  better {found['better']:4.0%}  worse {found['worse']:4.0%}  "
        f"by a point {found['worse_by_a_point']:5.1%}" + (f"  cost {found['cost']:.2f}" if "cost" in found else ""))


def as_published(data: Published) -> dict[str, Any]:
    """The plain rules on the metric as published."""
    cases, all_arms = Cases(data, 4), np.moveaxis(data.metric[:, :, :4], 3, 2)
    flat = np.zeros((CELLS, 3, len(BUDGETS)), dtype=int)
    at_500 = np.broadcast_to(all_arms[:, :, :1].argmax(axis=-1), flat.shape)
    mean_at_500 = np.broadcast_to(all_arms[:, :, 0].mean(axis=1).argmax(axis=-1)[:, None, None], flat.shape)
    by_loss = np.moveaxis(data.loss[:, :, :4], 3, 2).mean(axis=1, keepdims=True).argmin(axis=-1)
    takes = {
        "always LESS, round-robin": flat + 1, "always RDS+": flat + 2, "always sentence embeddings": flat + 3,
        "lowest query loss on the selection targets": np.broadcast_to(by_loss, flat.shape),
        "best of four": plain(cases, cases.scores, None, False, 0),
        "best of four where it leads by a point": plain(cases, cases.scores, None, False, 0, 1.0),
        "best of five": plain(cases, cases.scores, None, True, 0),
        "best of five where it leads by a point": plain(cases, cases.scores, None, True, 0, 1.0),
        "chosen at 500 rows, used at every budget": at_500,
        "chosen at 500 rows by the mean of all seeds, used at every budget": mean_at_500,
        "oracle of the four": cases.gain[..., :4].argmax(axis=-1),
    }
    found = {}
    for name, take in takes.items():
        # Rules that see no metric are judged on every seed, as nothing has to be held back.
        found[name] = summary(judged(cases.gain_of_one if name.startswith(("always", "lowest")) else cases.gain, take))
        line(name, found[name])
    return found


class Judge:
    """Rules with fitted constants, each cell judged by constants that were fitted without its model (or task)."""

    def __init__(self, cases: dict[int, Cases], seed: int, repetitions: int):
        self.cases, self.seed, self.repetitions = cases, seed, repetitions
        cell = np.arange(CELLS)
        groups = {"model": cell // len(TASKS) % len(MODELS), "task": cell % len(TASKS)}
        self.folds: dict[str, list[tuple[np.ndarray, np.ndarray, Prior]]] = {
            left_out: [(cell[of != fold], cell[of == fold], fit(cases[4], cell[of != fold])) for fold in np.unique(of)]
            for left_out, of in groups.items()}

    def gains(self, rule: Rule, rows: int | None, prior: Prior, cells: np.ndarray, cautions: Sequence[float],
              repetitions: int | None = None, by_rows: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each caution: gains [repetition, cell, seed, budget] and costs."""
        cases = self.cases[rule.arms]
        of_cells = part(cases, cells)
        if by_rows:
            assert rows is not None
            assert rule.rounds == "all", "the noise is estimated from all trainings at once"
            scores, own = of_cells.measured_by_rows(rows, repetitions or self.repetitions, self.seed)
        else:
            scores = cases.measured(rows, repetitions or self.repetitions, self.seed)[:, cells]
            own = None
        found: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []) for _ in cautions]
        truth = of_cells.gain_of_one if rule.rounds == "twice" else of_cells.gain
        for budget in range(len(BUDGETS)):
            noise = (lambda data: noise_of(data, rows)) if own is None else (lambda data, own=own: own)
            for (gains, costs), (take, cost) in zip(found, bayes(rule, of_cells, scores, noise, prior, budget,
                                                                 cautions), strict=True):
                gains.append(judged(truth[:, :, budget], take))
                costs.append(np.broadcast_to(cost, take.shape))
        return [(np.stack(gains, axis=-1), np.stack(costs, axis=-1)) for gains, costs in found]

    def held_out(self, rule: Rule, left_out: str, rows: int | None, caution: float, by_rows: bool = False,
                 repetitions: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Gains and costs of every cell, each with the prior of the fold that it was left out of."""
        return self._together(left_out, [self.gains(rule, rows, prior, test, [caution], repetitions, by_rows)[0]
                                         for _, test, prior in self.folds[left_out]])

    def nested(self, untuned: bool, left_out: str, rows: int | None, constants: Sequence[tuple[float, float]]) -> \
            tuple[np.ndarray, np.ndarray]:
        """The same with a caution and a weight of the loss for each fold."""
        return self._together(left_out, [
            self.gains(Rule("halving", untuned, by_loss=by_loss), rows, prior, test, [caution])[0]
            for (_, test, prior), (caution, by_loss) in zip(self.folds[left_out], constants, strict=True)])

    def worth(self, untuned: bool, prior: Prior, cells: np.ndarray) -> dict[tuple[float, float], float]:
        """What each caution and weight of the loss is worth on these cells at 100 rows, with all rounds."""
        worth = {}
        for by_loss in LOSS_WEIGHTS:
            found = self.gains(Rule("all", untuned, by_loss=by_loss), 100, prior, cells, CAUTIONS)
            for caution, (gains, _) in zip(CAUTIONS, found, strict=True):
                worth[caution, by_loss] = float(gains.mean() - 10 * (gains < -1).mean())
        return worth

    def best_constants(self, untuned: bool, prior: Prior, cells: np.ndarray) -> tuple[float, float]:
        worth = self.worth(untuned, prior, cells)
        return max(worth, key=lambda constants: worth[constants])

    def _together(self, left_out: str, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(np.concatenate([test for _, test, _ in self.folds[left_out]]))
        gains, costs = (np.concatenate(one, axis=1)[:, order] for one in zip(*parts, strict=True))
        return gains, costs


def interval(values: np.ndarray, seed: int) -> list[float]:
    """95%, by resampling cells of pool, model and task from [cell, ...]; budgets and seeds of a cell stay together."""
    means = values.reshape(len(values), -1).mean(axis=1)
    draws = np.random.default_rng(seed).integers(len(means), size=(4000, len(means)))
    return [round(float(end), 3) for end in np.quantile(means[draws].mean(axis=1), [0.025, 0.975])]


# --- the whole run -------------------------------------------------------------------------------------------------


PLAIN = {"best of four": (False, 0.0), "best of four where it leads by a standard error": (False, 1.0),
         "best of five": (True, 0.0), "best of five where it leads by a standard error": (True, 1.0)}
RULES = {
    "one training each": (Rule("last", untuned=False), CAUTION),
    "one training each, untuned": (Rule("last", untuned=True), CAUTION),
    "one training each, untuned, loss": (Rule("last", untuned=True, by_loss=LOSS_WEIGHT), CAUTION),
    "one training each, untuned, Thompson's draw": (Rule("last", untuned=True, drawn=True), 0.0),
    "two trainings each, untuned": (Rule("twice", untuned=True), CAUTION),
    "a training at 500 rows only, untuned, loss": (Rule("first", untuned=True, by_loss=LOSS_WEIGHT), CAUTION),
    "all rounds": (Rule("all", untuned=False), CAUTION),
    "all rounds, loss": (Rule("all", untuned=False, by_loss=LOSS_WEIGHT), CAUTION),
    "all rounds, untuned": (Rule("all", untuned=True), CAUTION),
    "all rounds, untuned, loss": (Rule("all", untuned=True, by_loss=LOSS_WEIGHT), CAUTION),
    "all rounds, untuned, loss, eight arms": (Rule("all", untuned=True, by_loss=LOSS_WEIGHT, arms=8), CAUTION),
    "halving, loss": (Rule("halving", untuned=False, by_loss=LOSS_WEIGHT), CAUTION),
    "halving, loss, caution 1": (Rule("halving", untuned=False, by_loss=LOSS_WEIGHT), 1.0),
    "halving, untuned": (Rule("halving", untuned=True), CAUTION),
    "shipped": (SHIPPED, CAUTION),
    "shipped, no caution": (SHIPPED, 0.0),
    "shipped, caution 1": (SHIPPED, 1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--published", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--repetitions", type=int, default=8, help="draws of the validation noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    began = time.process_time()
    data = read(arguments.published)
    cases = {arms: Cases(data, arms) for arms in (4, 8)}
    log("the metric as published:")
    published = as_published(data)

    log("\nplain rules with validation noise:")
    noisy: dict[str, dict[str, Any]] = {}
    draws = {rows: cases[4].measured(rows, 4 * arguments.repetitions, arguments.seed) for rows in ROWS}
    for name, (untuned, errors) in PLAIN.items():
        for rows in ROWS:
            gains = judged(cases[4].gain, plain(cases[4], draws[rows], rows, untuned, errors))
            noisy.setdefault(name, {})[_rows_name(rows)] = summary(gains, 1.0)
            line(f"{name}, {_rows_name(rows)}", noisy[name][_rows_name(rows)])

    prior = fit(cases[4], np.arange(CELLS))
    log(f"\nthe prior, on all cells, {'is' if prior == choosing.PRIOR else 'is not'} that of the package: {prior}")
    judge = Judge(cases, arguments.seed, arguments.repetitions)
    fitted: dict[str, Any] = {}
    for left_out in judge.folds:
        log(f"\nfitted without the {left_out} that it is judged on:")
        found: dict[str, Any] = {}
        for name, (rule, caution) in RULES.items():
            for rows in ROWS if name in IN_FULL else SOME_ROWS:
                gains, costs = judge.held_out(rule, left_out, rows, caution)
                one: dict[str, Any] = {**summary(gains, costs)}
                if rule == SHIPPED and caution == CAUTION:
                    one["interval"] = interval(np.moveaxis(gains, 0, -1), arguments.seed)
                    best = judged(cases[4].gain, plain(cases[4], draws[rows], rows, True, 0.0))
                    margin = gains.mean(axis=0) - best.mean(axis=0)
                    by_cell = gains.mean(axis=(0, 2, 3)).reshape(-1, len(MODELS), len(TASKS))
                    one["by_model"] = dict(zip(MODELS, by_cell.mean(axis=(0, 2)).round(2).tolist(), strict=True))
                    one["by_task"] = dict(zip(TASKS, by_cell.mean(axis=(0, 1)).round(2).tolist(), strict=True))
                    one["over_best_of_five"] = [round(float(margin.mean()), 3), *interval(margin, arguments.seed)]
                found.setdefault(name, {})[_rows_name(rows)] = one
                line(f"{name}, {_rows_name(rows)}", one)
        for name, untuned in (("halving", False), ("shipped", True)):
            nested = [judge.best_constants(untuned, prior, train) for train, _, prior in judge.folds[left_out]]
            for rows in SOME_ROWS:
                one = {**summary(*judge.nested(untuned, left_out, rows, nested)), "constants": nested}
                found.setdefault(f"{name}, constants chosen on the training folds", {})[_rows_name(rows)] = one
                line(f"{name}, caution and loss {nested}, {_rows_name(rows)}", one)
        for rows in (25, 100):
            rule = Rule("all", untuned=True, by_loss=LOSS_WEIGHT)
            one = summary(*judge.held_out(rule, left_out, rows, CAUTION, by_rows=True, repetitions=4))
            found.setdefault("all rounds, untuned, loss, every row drawn", {})[_rows_name(rows)] = one
            line(f"all rounds, untuned, loss, every row drawn, {_rows_name(rows)}", one)
        fitted[left_out] = found
    worth = judge.worth(True, prior, np.arange(CELLS))
    seconds = time.process_time() - began
    log("\nworth of (caution, weight of the loss) on all cells: "
        + ", ".join(f"{constants}: {value:.3f}" for constants, value in worth.items()))
    log(f"{seconds:.0f} CPU seconds")
    write_json(arguments.out, {
        "command": f"python benchmarks/choice_rules.py --published FOLDER --repetitions {arguments.repetitions} "
                   f"--seed {arguments.seed}",
        "source": SOURCE, "correlation": CORRELATION, "cpu_seconds": round(seconds, 1),
        "caution": CAUTION, "drop": DROP, "loss_weight": LOSS_WEIGHT,
        "worth": [{"caution": caution, "loss_weight": by_loss, "worth": round(value, 3)}
                  for (caution, by_loss), value in worth.items()],
        "prior": {name: list(value) if isinstance(value, tuple) else value for name, value in vars(prior).items()},
        "as_published": published, "plain": noisy, "held_out": fitted})


def _rows_name(rows: int | None) -> str:
    return "all" if rows is None else str(rows)


if __name__ == "__main__":
    main()
