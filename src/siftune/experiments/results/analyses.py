"""The analyses of an experiment; :mod:`siftune.experiments.summary` makes them."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from siftune.experiments.results.base import RANDOM, Difference, Kind, Number, Part, Plain, Verdict


class Point(Part):
    budget: str | None
    rows: Number
    tokens: Number
    loss: Number


class Efficiency(Part):
    """Rows that random needs for the loss at a budget, their ``ratio`` to the method's, and whether that is exact
    (``=``) or a bound (``>``, ``<``)."""

    budget: str | None
    rows_needed: Number = None
    bound: str = ""
    limit: Number = None
    ratio: Number = None
    relation: str = ""


class Curve(Part):
    """Loss against budget; the full pool is the last point of the random curve."""

    target: str
    name: str
    points: list[Point] = []
    efficiency: list[Efficiency] = []


class Overlap(Part):
    """Jaccard similarities of the subsets; of random its first draw."""

    target: str
    budget: str
    names: list[str]
    jaccard: list[list[Number]]


class Rho(Part):
    """Spearman's rank correlation of ``n`` pairs, with its interval."""

    rho: Number = None
    low: Number = None
    high: Number = None
    n: int = 0


class Pair(Part):
    """A subset that a correlation is made of; ``exact_match`` where that is on."""

    subset: str
    distance: Number
    loss: Number = None
    exact_match: Number = None


class Correlation(Rho):
    """Of distance and loss over the subsets; ``exact_match`` is the same with exact match, where more is better."""

    representation: str
    target: str
    budget: str
    measure: str
    pairs: list[Pair] = []
    exact_match: Rho | None = None


class Deciles(Rho):
    """Mean ``losses`` of the ten bins (rows ranked first in bin 0), and the correlation of bin and loss."""

    name: str
    target: str
    bins: list[int] = []
    losses: list[Number] = []
    rows: int | None = None


class Gain(Difference):
    """How much lower than random's a loss is, on another model and on the study's own."""

    name: str
    gain: Number = None
    gain_here: Number = None


class Transfer(Rho):
    """The correlation of both models' losses; the ``gains`` of all transfers are one family of tests."""

    model: str
    target: str
    budget: str
    names: list[str] = []
    gains: list[Gain] = []


class Saved(Part):
    """Seconds that a training saves (``at_least``: or more), and after how many trainings a selection has paid."""

    saved: Number = None
    at_least: bool = False
    trainings: int | None = None


class BreakEven(Part):
    target: str
    budget: str | None
    name: str
    selection_seconds: Number = None
    train_seconds: Number = None
    against_random: Saved | None = None
    against_full: Saved | None = None


class Ablation(Difference):
    """A method with other settings, beside the method; the difference is ablation less method."""

    name: str
    method: str
    settings: Plain = {}
    target: str
    budget: str
    rows: int | None = None
    jaccard: Number = None
    loss: Number = None
    method_loss: Number = None
    verdict: Verdict | None = None


class SubtaskTest(Difference):
    """An arm on the test rows of one subtask; the difference is from the baseline ``against`` there. Exploratory:
    the tests of all subtasks are a ``family`` of their own, of so many."""

    target: str
    subtask: str
    budget: str | None
    kind: Kind
    name: str
    against: str = RANDOM
    metric: str = "loss"
    loss: Number = None
    random_loss: Number = None
    family: int | None = None
    verdict: Verdict | None = None


class Analyses(Part):
    curves: list[Curve] = []
    overlap: list[Overlap] = []
    distance_predicts_loss: list[Correlation] = []
    deciles: list[Deciles] = []
    transfer: list[Transfer] = []
    break_even: list[BreakEven] = []
    ablations: list[Ablation] = []
    subtasks: list[SubtaskTest] = []
