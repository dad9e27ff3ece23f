"""A choice scores by the task's metric where its rows have one, and says which it took and why."""

from __future__ import annotations

import numpy as np
import pytest

from siftune._common.errors import ModelError
from siftune.config.choosing import ChooseConfig
from siftune.data.rows import Examples
from siftune.experiments.choosing.metric import Measured, Metric, Scored, scored_rows, to_trainings
from siftune.pipeline.select import read_inputs
from tests import tiny
from tests.cli.pools import jsonl
from tests.experiments.choices import row


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("metric")
    tiny.save(made / "model")
    return made


def scored(folder, rows, **changes) -> tuple[Scored, Examples]:
    jsonl(folder / "target.jsonl", rows)
    jsonl(folder / "pool.jsonl", [row("p", "Something else?", "Yes.")])
    config = ChooseConfig(model=str(folder / "model"), pool=(str(folder / "pool.jsonl"),),
                          target=(str(folder / "target.jsonl"),), max_length=128, **changes)
    examples = read_inputs(config).target
    half = len(examples) // 2
    return scored_rows(config, tiny.tokenizer(), examples, {"fold-1": half, "fold-2": len(examples) - half}), examples


def test_options_come_before_short_answers_and_these_before_the_loss(folder):
    offered = [row(f"r{i}", f"Is {i} even? Say yes or no.", "yes" if i % 2 == 0 else "no") for i in range(6)]
    found, _ = scored(folder, offered)
    assert (found.metric.name, found.metric.why) == ("acc", "6 of 6 rows offer answers to choose from")
    short = [row(f"r{i}", f"Add {i} and 1.", str(i + 1)) for i in range(8)]
    found, _ = scored(folder, short)
    assert (found.metric.name, found.metric.why) == ("exact_match", "8 of 8 answers have at most 32 tokens")
    assert all(rows.prompts and not rows.choices for _, rows in found.tests.values())
    found, _ = scored(folder, short, exact_match_tokens=0)
    assert found.metric.name == "loss"
    long = [row(f"r{i}", f"Add {i}.", "a long answer that goes on and on, word by word " * 2) for i in range(4)]
    found, _ = scored(folder, long)
    assert found.metric.name == "loss"
    assert "0 of 4 answers have at most 32 tokens" in found.metric.why
    assert not any(rows.prompts for _, rows in found.tests.values()), "what is not scored is not generated"
    found, _ = scored(folder, offered, metric="loss")
    assert (found.metric.name, found.metric.why) == ("loss", "as asked")


def test_whether_rows_offer_answers_is_asked_of_all_folds_together(folder):
    """Each fold alone has one label only, and would offer nothing to choose from."""
    sorted_ = [row(f"r{i}", f"Is {i} large? Say yes or no.", "no" if i < 3 else "yes") for i in range(6)]
    found, examples = scored(folder, sorted_)
    assert found.metric.name == "acc"
    assert [len(rows.choices) for _, rows in found.tests.values()] == [3, 3]
    assert found.ids == examples.ids == [i for _, rows in found.tests.values() for i in rows.ids]
    assert [[one.answer for one in rows.choices] for _, rows in found.tests.values()] == [[0] * 3, [1] * 3]


def measured(arm, budget, losses, shares=None):
    return Measured(arm, budget, 0, (), np.array(losses, dtype=float),
                    None if shares is None else np.array(shares, dtype=float))


def test_scores_are_higher_where_better_and_points_are_hundredths():
    loss = to_trainings([measured("random", 4, [2.0, 4.0]), measured("random", 8, [1.0, 3.0]),
                         measured("a", 8, [1.0, 2.0])], Metric("loss", "as asked"))
    assert loss.point == pytest.approx(0.02), "of the loss after training on the most random rows"
    assert [one.scores.tolist() for one in loss.trainings] == [[-2, -4], [-1, -3], [-1, -2]]
    assert all(one.loss is None for one in loss.trainings)
    acc = to_trainings([measured("random", 4, [2.0, 4.0, 1.0], [0, 1, np.nan]),
                        measured("a", 4, [1.0, 1.0, 1.0], [1, 1, np.nan])], Metric("acc", "offered"))
    assert acc.point == 0.01
    assert acc.rows.tolist() == [0, 1], "a row that the metric does not apply to says nothing"
    assert [one.scores.tolist() for one in acc.trainings] == [[0, 1], [1, 1]]
    assert [one.loss for one in acc.trainings] == pytest.approx([7 / 3, 1.0])


def test_a_metric_that_is_the_same_for_every_training_gives_way_to_the_loss():
    found = to_trainings([measured("random", 4, [2.0, 4.0], [0, 0]), measured("a", 4, [1.0, 1.0], [0, 0])],
                         Metric("exact_match", "short"))
    assert found.metric.name == "loss"
    assert "the same for every training" in found.metric.why
    with pytest.raises(ModelError, match="no training on random rows"):
        to_trainings([measured("a", 4, [1.0, 1.0])], Metric("loss", ""))
