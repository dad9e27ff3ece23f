"""The benchmark of choice rules, on made-up cells in the format of the published ones."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from siftune._common.errors import DataError
from siftune.evaluation.choosing import CAUTION, LOSS_WEIGHT, PRIOR, Training, choose, row_noise

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> tuple[ModuleType, ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("choice_rules"), importlib.import_module("published_cells")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def folder(modules: tuple[ModuleType, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, cells = modules
    into, draw = tmp_path_factory.mktemp("published"), np.random.default_rng(0)
    for pool in cells.POOLS:
        for model in cells.MODELS:
            for kind, column in (("true_metric", "true_metric"), ("ce_loss", "dev")):
                with (into / f"{pool}-{model}-{kind}_budget.csv").open("w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    writer.writerow(["dataset", "method", "num_samples", "seed", column])
                    for task in cells.TASKS:
                        level = draw.uniform(20, 80)
                        for arm in cells.ARMS:
                            effect = draw.normal(0, 4)
                            writer.writerows([task, arm, budget, seed, level + effect + draw.normal(0, 1)]
                                             for budget in cells.BUDGETS for seed in range(3))
                with (into / f"{pool}-{model}-{kind}_zero_shot.csv").open("w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    writer.writerow(["dataset", column])
                    writer.writerows([task, draw.uniform(20, 80)] for task in cells.TASKS)
    return into


def test_a_rule_of_the_benchmark_takes_what_choose_takes(modules: tuple[ModuleType, ModuleType], folder: Path) -> None:
    rules, cells = modules
    cases = cells.Cases(cells.read(folder), 4)
    rule, names = rules.Rule("all", untuned=True, by_loss=LOSS_WEIGHT), ("random", "a", "b", "c", "untuned")
    draw, taken = np.random.default_rng(1), set()
    for cell in range(0, cells.CELLS, 4):
        seed, budget = int(draw.integers(3)), int(draw.integers(5))
        answers = 100.0 * (draw.random((cases.untuned + 1, 80)) < cases.scores[cell, seed][:, None] / 100)
        seen = [arm * 5 + b for b in range(budget + 1) for arm in range(4)] + [cases.untuned]
        trainings = [Training(names[i // 5], None if i == cases.untuned else cells.BUDGETS[i % 5], answers[i] / 100,
                              float(cases.losses[cell, seed, i])) for i in seen]
        one = cells.part(cases, np.array([cell]))
        one.losses = one.losses[:, [seed]]
        [(take, _)] = rules.bayes(rule, one, answers.mean(axis=1)[None, None], lambda _, rows=answers[seen]:
                                  np.full((1, 1), row_noise(rows)), PRIOR, budget, [CAUTION])
        assert choose(trainings, cells.BUDGETS[budget]).take == names[take.item()]
        taken.add(take.item())
    assert len(taken) > 2


def test_a_rule_is_judged_on_the_seeds_that_it_did_not_see(modules: tuple[ModuleType, ModuleType],
                                                           folder: Path) -> None:
    rules, cells = modules
    data = cells.read(folder)
    cases = cells.Cases(data, 4)
    gains = rules.judged(cases.gain, rules.plain(cases, cases.scores, None, False, 0))
    cell, seed, budget = 7, 1, 2
    own = data.metric[cell, :, :4, budget]
    best = own[seed].argmax()
    others = own[[0, 2]].mean(axis=0)
    assert gains[cell, seed, budget] == pytest.approx(others[best] - others[0])


def test_measured_scores_have_the_noise_of_a_validation_set(modules: tuple[ModuleType, ModuleType],
                                                            folder: Path) -> None:
    _, cells = modules
    cases = cells.Cases(cells.read(folder), 4)
    error = cases.measured(100, 200, 0) - cases.scores
    expected = np.sqrt(cases.scores * (100 - cases.scores) / 100)
    standard = error / expected
    assert standard.var() == pytest.approx(1, abs=0.02)
    assert (standard[..., 0] * standard[..., -1]).mean() == pytest.approx(0.6, abs=0.02)
    means, noise = cases.measured_by_rows(100, 2, 0)
    error = means - cases.scores
    assert (error / expected).var() == pytest.approx(1, abs=0.05)
    assert noise.mean() == pytest.approx(error.var(axis=-1, ddof=1).mean(), rel=0.1)


def test_a_folder_without_the_files_is_refused(modules: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        modules[1].read(tmp_path)
