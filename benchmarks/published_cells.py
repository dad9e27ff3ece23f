"""The published trainings that choice rules are judged on, and what a validation set would have measured of them.

CSV files `POOL-MODEL-{true_metric,ce_loss}_{budget,zero_shot}.csv` of arXiv 2602.14696; see choice_rules.py.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siftune._common.errors import DataError
from siftune.evaluation.choosing import row_noise
from siftune.evaluation.gains import UNTUNED

SOURCE = {"repository": "https://github.com/dcml-lab/targeted-instruction-selection", "commit": "c1dc028",
          "licence": "Apache-2.0", "paper": "arXiv 2602.14696"}
POOLS = ("plot_data", "dolci_plot_data")
MODELS = ("llama2-7b", "llama3.2-3b", "olmo3-7b", "qwen3-4b-base", "smollm3-3b-base")
TASKS = ("bbh", "codex", "gsm8k", "mmlu_pro", "tydiqa")
BUDGETS = (500, 1000, 2500, 5000, 10000)
ARMS = ("Random", "LESS (RR)", "RDS+ (RR)", "EMBED (RR)", "LESS (DG)", "LESS (UOT)", "LESS (KNN-Unif.)",
        "LESS (KNN-KDE)")
CORRELATION = 0.6
CELLS = len(POOLS) * len(MODELS) * len(TASKS)
OTHERS = np.array([[1, 2], [0, 2], [0, 1]])  # the seeds that a choice made on seed 0, 1, 2 does not see


@dataclass(frozen=True)
class Published:
    """Metric float [cell, seed, arm, budget] in points, of the untuned model [cell], and query losses alike."""

    metric: np.ndarray
    untuned: np.ndarray
    loss: np.ndarray
    untuned_loss: np.ndarray


def read(folder: Path) -> Published:
    """Cells in the order pool, model, task."""
    metric, loss = (np.full((CELLS, 3, len(ARMS), len(BUDGETS)), np.nan) for _ in range(2))
    untuned, untuned_loss = (np.full(CELLS, np.nan) for _ in range(2))
    for p, pool in enumerate(POOLS):
        for m, model in enumerate(MODELS):
            for kind, column, into, alone in (("true_metric", "true_metric", metric, untuned),
                                              ("ce_loss", "dev", loss, untuned_loss)):
                stem, first = f"{pool}-{model}-{kind}", (p * len(MODELS) + m) * len(TASKS)
                for row in _rows(folder / f"{stem}_budget.csv"):
                    into[first + TASKS.index(row["dataset"]), int(row["seed"]), ARMS.index(row["method"]),
                         BUDGETS.index(int(row["num_samples"]))] = float(row[column])
                for row in _rows(folder / f"{stem}_zero_shot.csv"):
                    alone[first + TASKS.index(row["dataset"])] = float(row[column])
    if any(np.isnan(values).any() for values in (metric, loss, untuned, untuned_loss)):
        raise DataError("some published cells are missing", where=str(folder), hint="fetch all 40 CSV files")
    return Published(metric, untuned, loss, untuned_loss)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise DataError("a file of the published results is missing", where=str(path),
                        hint=f"the plot data of {SOURCE['repository']}, commit {SOURCE['commit']}")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Cases:
    """Trainings of `arms` methods and the untuned model as [..., cell, seed, training] with noise, and the truth."""

    def __init__(self, data: Published, arms: int):
        self.arms, self.untuned = arms, arms * len(BUDGETS)  # position of the untuned model's score
        self.scores = self._flat(data.metric, data.untuned)
        self.losses = self._flat(data.loss, data.untuned_loss)
        self.arm = np.append(np.repeat(np.arange(arms), len(BUDGETS)), UNTUNED)
        self.budget = np.append(np.tile(np.array(BUDGETS, float), arms), 1.0)
        self.gain = self._gain(self.scores[:, OTHERS].mean(axis=2))
        self.gain_of_one = self._gain(self.scores)

    def _flat(self, values: np.ndarray, untuned: np.ndarray) -> np.ndarray:
        trained = values[:, :, :self.arms].reshape(CELLS, 3, -1)
        return np.concatenate([trained, np.broadcast_to(untuned[:, None, None], (CELLS, 3, 1))], axis=2)

    def _gain(self, scores: np.ndarray) -> np.ndarray:
        """[cell, seed, budget, arm]: over random rows; the untuned model is the last arm."""
        trained = scores[..., :self.untuned].reshape(CELLS, 3, self.arms, -1)
        trained = np.moveaxis(trained, 3, 2)
        untuned = np.broadcast_to(scores[..., None, -1:], (*trained.shape[:3], 1))
        return np.concatenate([trained, untuned], axis=3) - trained[..., :1]

    def measured(self, rows: int | None, repetitions: int, seed: int) -> np.ndarray:
        """[repetition, cell, seed, training]: scores on ``rows`` validation rows, the same for all seeds."""
        if rows is None:
            return self.scores[None]
        draw = np.random.default_rng([seed, rows])
        shape = (repetitions, *self.scores.shape)
        common = draw.standard_normal((*shape[:2], 1, 1))
        noise = np.sqrt(CORRELATION) * common + np.sqrt(1 - CORRELATION) * draw.standard_normal(shape)
        return self.scores + np.sqrt(_binomial(self.scores, rows)) * noise

    def measured_by_rows(self, rows: int, repetitions: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The same with every validation row drawn, right or wrong, and the noise estimated from those rows."""
        draw = np.random.default_rng([seed, rows, 1])
        shape = (repetitions, *self.scores.shape)
        means, noise = np.empty(shape), np.empty(shape[:3])
        for case in np.ndindex(*shape[:3]):
            right = self.scores[case[1:]][:, None] / 100
            size = (len(right), rows)
            shared = draw.random(size) < np.sqrt(CORRELATION)  # two models share a row's draw: correlation 0.6
            answers = 100.0 * (np.where(shared, draw.random(rows), draw.random(size)) < right)
            means[case], noise[case] = answers.mean(axis=1), row_noise(answers)
        return means, noise


def _binomial(scores: np.ndarray, rows: int) -> np.ndarray:
    return scores * (100 - scores) / rows


def noise_of(scores: np.ndarray, rows: int | None) -> np.ndarray:
    """[...]: own part of the variance of a training's mean, from the measured scores [..., training] alone."""
    if rows is None:
        return np.full(scores.shape[:-1], 1e-6)
    smoothed = (np.clip(scores, 0, 100) * rows + 100) / (rows + 2)
    return (1 - CORRELATION) * _binomial(smoothed, rows).mean(axis=-1)


def part(cases: Cases, cells: np.ndarray) -> Cases:
    """The same of some cells only."""
    found = object.__new__(Cases)
    found.__dict__.update(cases.__dict__, scores=cases.scores[cells], losses=cases.losses[cells],
                          gain=cases.gain[cells], gain_of_one=cases.gain_of_one[cells])
    return found
