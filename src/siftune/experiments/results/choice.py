"""The results of a choice: the one schema of ``choice.json``.

Gains are in points: hundredths of the metric where it is a share of right answers, hundredths of the mean loss after
training on random rows where it is the loss. Higher is better for all of them. Times are in seconds.
"""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from siftune._common.errors import DataError
from siftune._common.files import write_json
from siftune._common.reading import read_json_of, validated
from siftune._common.text import strict
from siftune.experiments.results.base import RANDOM, Number, Part, Plain

CHOICE = "choice.json"
CHOICE_SCHEMA = 1
"""The version of the schema: it grows when an earlier reader would misunderstand a file."""
UNTUNED = "untuned"

_AGAIN = "run `siftune choose` again with the same --output-dir: finished trainings are not repeated"


class ChoiceRows(Part):
    """The rows that were worked on. ``scored_ids`` are in the order of all scores, fold after fold; ``scored_by``: the
    targets' folds or a validation file; ``applicable``: how many of them the metric applies to."""

    pool: int | None = None
    targets: int | None = None
    scored_by: Literal["folds", "validation"] = "folds"
    folds: int | None = None
    scored_ids: list[str] = []
    applicable: int | None = None
    subtasks: list[str] = []


class ChoiceTraining(Part):
    """A training that was scored on all rows; with folds, that of a method is one adapter for each, in ``cells``.
    ``budget`` is null for the untuned model; ``score`` the mean of ``scores`` (of rows that the metric does not apply
    to: null)."""

    arm: str
    budget: int | None = None
    number: int = 0
    cells: list[str] = []
    rows: Number = None
    tokens: Number = None
    seconds: Number = None
    score: Number = None
    loss: Number = None
    scores: list[Number] = []
    losses: list[Number] = []


class Gain(Part):
    """What an arm gains over random rows at the budget asked for, in points: see
    :class:`siftune.evaluation.choosing.ArmGain`. It lies between ``low`` and ``high`` with a probability of 90%."""

    arm: str
    trainings: int = 0
    measured: Number = None
    expected: Number = None
    low: Number = None
    high: Number = None
    worse: Number = None
    worse_by_a_point: Number = None
    utility: Number = None


class Round(Part):
    """One round: what was trained, and what was known after it. ``gains`` are for the budget asked for, ``seen`` the
    mean differences from random rows at this round's budget."""

    budget: int
    trained: list[str] = []
    random: int = 0
    trainings: int = 0
    front: str = ""
    gains: list[Gain] = []
    seen: dict[str, Number] = {}
    stopped: dict[str, str] = {}


class ChoiceTest(Part):
    """One arm tested against random rows, see :class:`siftune.evaluation.choosing.ArmTest`. ``p_value`` allows for all
    arms that were tried, those that were stopped too."""

    arm: str
    gain: Number = None
    p_trainings: Number = None
    p_rows: Number = None
    p_value: Number = None


class ChoiceClaim(Part):
    """Whether "better than random rows" may be said, and of which arms, at which budget."""

    winners: list[str] = []
    tests: list[ChoiceTest] = []
    level: float = 0.05
    at: int | None = None
    random_trainings: int = 0
    why_not: str | None = None


class ChoiceCosts(Part):
    """``expected_seconds`` as told before, null where nobody asked; ``wall_seconds`` of the last call alone, which may
    have found things done already; the others are of all calls."""

    expected_seconds: Number = None
    wall_seconds: Number = None
    feature_seconds: Number = None
    train_seconds: Number = None
    trainings: int | None = None
    tokens: int | None = None


class Choice(Part):
    """All of it.

    ``take`` is the arm to take: ``random`` or ``untuned`` where no method is worth it. ``worth_training`` is false
    where the untuned model is taken. ``selected`` is the arm whose rows stand in ``selected.jsonl``, null where nothing
    was selected. ``at`` is the budget chosen for, in ``unit``; ``compared_at`` the largest that was trained.
    """

    version: int = Field(default=CHOICE_SCHEMA, alias="schema")
    kind: Literal["choice"] = "choice"
    siftune: str | None = None
    settings: Plain = {}
    rows: ChoiceRows = ChoiceRows()
    metric: str
    metric_why: str = ""
    point: float = 0.01
    take: str
    expected: Number = None
    worth_training: bool = True
    selected: str | None = None
    budget: str = ""
    unit: Literal["rows", "tokens"] = "rows"
    at: int
    compared_at: int
    row_error: Number = None
    rows_to_settle: int | None = None
    settled: bool = False
    gains: list[Gain] = []
    claim: ChoiceClaim = ChoiceClaim()
    rounds: list[Round] = []
    trainings: list[ChoiceTraining] = []
    methods: dict[str, str] = {}
    left_out: dict[str, str] = {}
    failed: dict[str, str] = {}
    cuts: list[str] = []
    costs: ChoiceCosts = ChoiceCosts()
    notes: list[str] = []

    @model_validator(mode="after")
    def _consistent(self) -> Choice:
        known = {RANDOM, UNTUNED, *self.methods}
        if self.take not in known:
            raise ValueError(f"take names {self.take!r}, which is no arm")
        count = len(self.rows.scored_ids)
        for one in self.trainings:
            if len(one.losses) != count or len(one.scores) != count:
                raise ValueError(f"a training of {one.arm} has scores of {len(one.losses)} rows, not of {count}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """As the file holds it."""
        return self.model_dump(by_alias=True)

    def gain(self, arm: str) -> Gain | None:
        """What an arm gains over random rows; None for these themselves."""
        return next((one for one in self.gains if one.arm == arm), None)

    @property
    def claimed(self) -> bool:
        """Whether it may be said that the arm taken beats random rows."""
        return self.take in self.claim.winners


def write_choice(path: Path, choice: Choice) -> None:
    """Write a file of results, whole or not at all."""
    write_json(path, choice.to_dict())


def read_choice(path: str | Path) -> Choice:
    """The results in a file.

    Raises:
        DataError: it is not JSON, a value in it is of the wrong kind (told with its key), its parts do not fit
            together, or a newer siftune wrote it.
    """
    path = Path(path)
    value = strict(read_json_of(path, _AGAIN))
    version = value.get("schema") if isinstance(value, dict) else None
    if isinstance(version, int) and version > CHOICE_SCHEMA:
        raise DataError(f"{path.name} was written by a newer siftune", where=str(path),
                        why=f"Its schema is {version}, and this version reads up to {CHOICE_SCHEMA}.",
                        hint="upgrade siftune: pip install -U siftune")
    return validated(value, path, Choice, _AGAIN)
