"""What arms are scored by: the task's metric where there is one, else the loss; and the scores as a choice reads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftune._common.errors import ConfigError, ModelError
from siftune.config.choosing import ChooseConfig
from siftune.data.rows import Examples
from siftune.evaluation.choosing import Training
from siftune.experiments.cells import TestRows, test_rows
from siftune.experiments.results import RANDOM
from siftune.experiments.trainings import Cells, StudyCell

UNTUNED = "untuned"
SHORT = 0.9
"""Of the rows: where fewer answers are short, exact match would be that of another kind of rows than the loss."""

_KEYS = {"acc": "acc", "acc_norm": "acc_norm", "exact_match": "correct"}
_WORDS = {"acc": "acc (the likeliest of the answers that a row offers)", "acc_norm": "acc_norm (the likeliest of the "
          "answers that a row offers, by length)", "exact_match": "exact match of the answers", "loss": "loss"}


@dataclass(frozen=True)
class Metric:
    """What is scored.

    Attributes:
        name: ``acc``, ``acc_norm``, ``exact_match`` or ``loss``.
        why: it is this one.
    """

    name: str
    why: str

    @property
    def words(self) -> str:
        return _WORDS[self.name]


@dataclass(frozen=True)
class Scored:
    """The rows that score, as every training is scored on them.

    Attributes:
        metric: as decided before any training.
        tests: fold -> (key, its rows).
        ids: of all of them, fold after fold.
    """

    metric: Metric
    tests: Mapping[str, tuple[str, TestRows]]
    ids: list[str]

    @property
    def tokens(self) -> int:
        """What scoring a training on all of them reads, about."""
        return sum(rows.tokens for _, rows in self.tests.values())


def scored_rows(config: ChooseConfig, tokenizer: Any, measured: Examples, folds: Mapping[str, int]) -> Scored:
    """Decide what is scored, and prepare the rows for it.

    Args:
        config: of the choice.
        tokenizer: of the model.
        measured: all rows that score, fold after fold: whether they offer answers is asked of all of them together.
        folds: fold -> how many of them are its.

    Raises:
        ConfigError: the metric that was asked for applies to no row.
    """
    whole = test_rows(measured, tokenizer, config)
    metric = _decided(config, tokenizer, whole)
    # What is not scored need not be computed.
    whole = dataclasses.replace(
        whole, choices=whole.choices if metric.name.startswith("acc") else (),
        prompts=whole.prompts if metric.name == "exact_match" else [],
        references=whole.references if metric.name == "exact_match" else [])
    tests, start = {}, 0
    for name, count in folds.items():
        part = slice(start, start + count)
        rows = dataclasses.replace(whole, ids=whole.ids[part], rendered=whole.rendered[part],
                                   prompts=whole.prompts[part], references=whole.references[part],
                                   choices=whole.choices[part], offering=0)
        tests[name] = rows.key(config.exact_match_tokens), rows
        start += count
    return Scored(metric, tests, whole.ids)


def _decided(config: ChooseConfig, tokenizer: Any, rows: TestRows) -> Metric:
    count, asked = len(rows.ids), config.metric
    limit = config.exact_match_tokens
    short = sum(0 < len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= limit for text in rows.references)
    if asked in ("acc", "acc_norm"):
        if not rows.choices:
            raise ConfigError(f"{asked} cannot be scored", where="--metric",
                              why=f"{rows.offering} of {count} rows offer answers to choose from.",
                              hint="give rows `choices`, see docs/study.md, or take --metric auto")
        return Metric(asked, "as asked")
    if asked == "exact_match" and not short:
        raise ConfigError("exact match cannot be scored", where="--metric",
                          why=f"No answer has at most {limit} tokens (--exact-match-tokens).",
                          hint="raise --exact-match-tokens, or take --metric loss")
    if asked != "auto":
        return Metric(asked, "as asked")
    if rows.choices:
        return Metric("acc", f"{rows.offering} of {count} rows offer answers to choose from")
    if short >= max(1, SHORT * count):
        return Metric("exact_match", f"{short} of {count} answers have at most {limit} tokens")
    return Metric("loss", f"no answers are offered to choose from, and {short} of {count} answers have at most "
                  f"{limit} tokens")


@dataclass(frozen=True, eq=False)
class Measured:
    """A training that is scored on all rows, fold after fold.

    Attributes:
        arm: its name; ``untuned`` for the model as it is.
        budget: of the round, in rows or tokens; None for the untuned model.
        number: of the draw or seed.
        cells: the trainings that it is made of: one, or one for each fold.
        losses: float64 [E].
        shares: float64 [E] of the metric where that is not the loss; NaN where it does not apply.
        cell_seconds: what each of them took to train.
    """

    arm: str
    budget: int | None
    number: int
    cells: tuple[StudyCell, ...]
    losses: np.ndarray
    shares: np.ndarray | None
    cell_seconds: tuple[float, ...] = ()

    @property
    def seconds(self) -> float:
        return sum(self.cell_seconds)


def measured(cells: Cells, budget: int, scored: Scored) -> tuple[list[Measured], dict[str, str]]:
    """The trainings of a round that are whole, and the arms that are not, with the reason.

    Args:
        cells: of the round.
        budget: of the round.
        scored: what they are scored on.
    """
    grouped: dict[tuple[str, int], dict[str, StudyCell]] = {}
    for one in cells.all:
        name = one.subset.wanted.name if one.subset else UNTUNED
        for fold in one.targets:
            grouped.setdefault((name, one.seed), {})[fold] = one
    found, failed = [], {}
    for (arm, number), by_fold in grouped.items():
        told = {fold: cells.scores(one, fold) for fold, one in by_fold.items()}
        lacking = [fold for fold in scored.tests if told.get(fold) is None]
        if lacking:
            broken = by_fold.get(lacking[0])
            failure = broken and cells.failures.get(broken.name)
            failed[arm] = failure.message.splitlines()[0] if failure else f"there is no training for {lacking[0]}"
            continue
        whole = [scores for fold in scored.tests if (scores := told[fold]) is not None]
        seconds: dict[str, float] = {}
        distinct: dict[str, StudyCell] = {}
        for fold, scores in zip(scored.tests, whole, strict=True):
            one = by_fold[fold]
            distinct[one.name], seconds[one.name] = one, float(scores["seconds"])
        losses = np.concatenate([np.array(scores["loss"], dtype=np.float64) for scores in whole])
        found.append(Measured(arm, None if arm == UNTUNED else budget, number, tuple(distinct.values()), losses,
                              _shares(whole, scored.metric.name), tuple(seconds.values())))
    return found, failed


def _shares(told: Sequence[Mapping[str, Any]], metric: str) -> np.ndarray | None:
    if metric == "loss":
        return None
    values = [one for scores in told for one in scores[_KEYS[metric]]]
    return np.array([np.nan if one is None else float(one) for one in values])


@dataclass(frozen=True)
class Scores:
    """Trainings as a choice reads them.

    Attributes:
        trainings: one for each that was measured, in the same order.
        metric: what their scores are of.
        point: what a point is in units of the scores.
        rows: int64, positions of the rows that the metric applies to.
    """

    trainings: list[Training]
    metric: Metric
    point: float
    rows: np.ndarray


def to_trainings(found: Sequence[Measured], metric: Metric) -> Scores:
    """The scores of all trainings, higher is better.

    Where every training has the same share of right answers on every row, none or all, the metric tells no arm from
    another, and the loss takes its place. A point of the loss is a hundredth of the mean loss after training on random
    rows.

    Raises:
        ModelError: no training on random rows is whole.
    """
    random = [one for one in found if one.arm == RANDOM]
    if not random:
        raise ModelError("no training on random rows has been finished", why="Every arm is held against them.",
                         hint="see the warnings above; lower --learning-rate where a training diverged")
    shares = np.array([one.shares for one in found]) if metric.name != "loss" else None
    if shares is not None:
        rows = np.flatnonzero(~np.isnan(shares).any(axis=0))
        if len(rows) >= 2 and (shares[:, rows] != shares[0, rows]).any():
            return Scores([Training(one.arm, one.budget, one.shares[rows], float(one.losses.mean()))
                           for one in found if one.shares is not None], metric, 0.01, rows)
        metric = Metric("loss", f"{metric.words} is the same for every training: it tells no arm from another")
    most = max(one.budget or 0 for one in random)
    point = float(np.mean([one.losses.mean() for one in random if one.budget == most])) / 100
    return Scores([Training(one.arm, one.budget, -one.losses) for one in found], metric, max(point, 1e-12),
                  np.arange(len(found[0].losses)))
