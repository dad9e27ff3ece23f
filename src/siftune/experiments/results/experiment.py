"""All that an experiment has come to, and what it was made from."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from siftune.experiments.results.analyses import Analyses
from siftune.experiments.results.base import (
    CHOSEN,
    RANDOM,
    Difference,
    Estimate,
    Kind,
    Number,
    Part,
    Plain,
    Verdict,
)

SCHEMA = 2
"""The version of the schema: it grows when an earlier reader would misunderstand a file. Files of version 1 do not say
so: they have no key ``schema``."""

TARGET = "target"
"""What the only target of a comparison is called."""


class Target(Part):
    """What the model was to learn. ``test_ids`` are in the order of all losses; ``subtasks`` belong to them.
    ``offering``: test rows that offer answers to choose from, null where nobody looked; ``choices_scored``: whether
    they are enough for these to be scored."""

    name: str
    target_files: list[str] = []
    test_files: list[str] = []
    target_rows: int | None = None
    test_rows: int | None = None
    test_ids: list[str] = []
    subtasks: list[str | None] = []
    offering: int | None = None
    choices_scored: bool = False

    @property
    def tested(self) -> int:
        """Test rows."""
        return len(self.test_ids) if self.test_rows is None else self.test_rows


class FeatureStep(Part):
    """A step that the features of a subset take, charged in full whoever ran it first; null seconds: another run left
    it. ``run_for``: the representation and the target for which it was run."""

    step: str
    seconds: Number = None
    run_for: list[str | None] | None = None


class Subset(Part):
    """Rows that were chosen; an ablation is the method that it ``varies`` with other ``settings``.

    ``target`` is null where no target played a part, ``budget`` for the full pool. ``file`` holds the ids, best first,
    relative to the experiment's folder. ``select_seconds`` is the selecting alone. ``distances``: representation ->
    target -> nearest, wasserstein. ``error`` is empty unless the selection failed.
    """

    id: str
    kind: Kind
    name: str
    target: str | None = None
    budget: str | None = None
    draw: int | None = None
    varies: str | None = None
    settings: Plain = {}
    rows: int | None = None
    tokens: int | None = None
    file: str | None = None
    scores: dict[str, Number] = {}
    select_seconds: Number = None
    feature_steps: list[FeatureStep] = []
    diagnostics: Plain = {}
    distances: dict[str, dict[str, dict[str, Number]]] = {}
    error: str = ""


class RowScores(Part):
    """Of each test row of a target; ``correct`` is null where exact match does not apply. ``acc`` and ``acc_norm`` are
    null where the row offers no answers, and empty where options are not scored."""

    loss: list[Number] = []
    correct: list[bool | None] = []
    acc: list[bool | None] = []
    acc_norm: list[bool | None] = []


class Metric(Part):
    """Of the lm-evaluation-harness over ``n`` examples."""

    value: Number = None
    stderr: Number = None
    n: int | None = None


class Training(Part):
    """One training and its scores. ``subset`` is null for zero-shot; trainings of the same ``id`` are one. ``results``
    are by target, ``lm_eval`` by task and metric. ``lost_rows``: rows that another model's tokenizer leaves nothing to
    train on."""

    id: str
    subset: str | None = None
    model: str
    seed: int | None = None
    status: Literal["done", "missing", "failed"]
    epochs: int | None = None
    steps: int | None = None
    train_seconds: Number = None
    lost_rows: int = 0
    results: dict[str, RowScores] = {}
    lm_eval: dict[str, dict[str, Metric]] = {}
    error: str = ""
    traceback: str = ""


class PartOfTest(Part):
    """An arm on the test rows of one subtask."""

    loss: Estimate = Estimate()
    exact_match: Estimate | None = None
    acc: Estimate | None = None
    acc_norm: Estimate | None = None
    n: int | None = None


class Arm(Part):
    """A method, ablation or baseline for a target and budget, over its ``trainings`` (of ``wanted``). Rows, tokens,
    steps and seconds are means over them; ``selection_seconds`` is all that selecting took, null where it is not known.
    ``lm_eval`` is by ``task:metric``, of the metrics that have a score for each example. ``subtasks`` are told in a
    comparison; those of a study are in its analyses."""

    model: str
    target: str
    budget: str | None
    kind: Kind
    name: str
    trainings: int = 0
    wanted: int = 0
    rows: Number = None
    tokens: Number = None
    steps: Number = None
    train_seconds: Number = None
    selection_seconds: Number = None
    loss: Estimate = Estimate()
    exact_match: Estimate | None = None
    acc: Estimate | None = None
    acc_norm: Estimate | None = None
    lm_eval: dict[str, Estimate | None] = {}
    subtasks: dict[str, PartOfTest] = {}


class Test(Difference):
    """A paired comparison of a method or an ablation with a baseline or, for an ablation, with the method that it
    varies, on all test rows. ``difference`` is ``method`` less ``against``; the adjusted p-value decides the verdict.
    See :mod:`siftune.experiments.summary.paired_tests` for the families."""

    __test__ = False  # not a test case of pytest's

    target: str
    budget: str | None
    method: str
    against: str
    metric: str
    verdict: Verdict


class Rank(Part):
    """``improvement``: mean over targets and budgets of the loss relative to random's, 0.2 for a fifth lower.
    ``judged``: comparisons with several trainings on both sides, which alone can be ``better`` or ``worse``."""

    name: str
    kind: Kind
    improvement: Number
    comparisons: int
    judged: int | None = None
    better: int
    worse: int


class Failure(Part):
    """What failed: a ``selection`` or a ``training``, why, and where the traceback is."""

    what: str
    title: str
    message: str
    traceback: str = ""


class Pool(Part):
    """Usable rows, their tokens, and rows that were read."""

    rows: int | None = None
    tokens: int | None = None
    read: int | None = None


class Costs(Part):
    """What was really spent; the features' passes are counted once."""

    feature_seconds: Number = None
    select_seconds: Number = None
    train_seconds: Number = None
    trainings: int | None = None
    attribution: str = ""


class Settings(Part):
    """Of the experiment. ``model`` chose the subsets, ``train_models`` are trained on them too; ``steps`` is a number
    of optimizer steps, or ``epochs``. Further settings are kept as they are."""

    model_config = ConfigDict(extra="allow")

    pool: list[str] = []
    model: str = ""
    train_models: list[str] = []
    methods: list[str] = []
    headline: list[str] = []
    budgets: list[str] = []
    seeds: int | None = None
    headline_seeds: int | None = None
    baselines: dict[str, int] = {}
    ablations: dict[str, str] = {}
    deciles: list[str] = []
    steps: int | str = "epochs"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: Number = None
    lora_rank: int | None = None
    max_length: int | None = None
    confidence: float = Field(default=0.95, gt=0, lt=1)
    seed: int | None = None
    length_reference: str | None = None


class Results(Part):
    """All of it. ``complete``: nothing is missing or has failed."""

    version: int = Field(default=SCHEMA, alias="schema")
    kind: Literal["comparison", "study"] = "study"
    siftune: str | None = None
    complete: bool = False
    settings: Settings = Settings()
    pool: Pool = Pool()
    targets: list[Target]
    subsets: list[Subset] = []
    cells: list[Training] = []
    arms: list[Arm] = []
    tests: list[Test] = []
    ranking: list[Rank] = []
    analyses: Analyses = Analyses()
    costs: Costs = Costs()
    failures: list[Failure] = []
    notes: list[str] = []

    def to_dict(self) -> dict[str, Any]:
        """As the file holds it."""
        return self.model_dump(by_alias=True)

    @property
    def model(self) -> str:
        """The model that chose the subsets; the others are trained on them too."""
        return self.settings.model or next((arm.model for arm in self.arms), "")

    @property
    def confidence(self) -> float:
        return self.settings.confidence

    @property
    def budgets(self) -> list[str]:
        """In the order of the settings; those that only the results name after them."""
        return list(dict.fromkeys([*self.settings.budgets, *(a.budget for a in self.arms if a.budget is not None)]))

    @property
    def methods(self) -> list[str]:
        """Of the settings and of the results, in alphabetical order."""
        return sorted({*self.settings.methods, *(t.method for t in self.tests),
                       *(a.name for a in self.arms if a.kind in CHOSEN)})

    @property
    def trainings(self) -> dict[str, str]:
        """The status of each training by its id; zero-shot is scored, not trained."""
        return {cell.id: cell.status for cell in self.cells if cell.subset is not None}

    @property
    def own(self) -> list[Arm]:
        """The arms of the experiment's own model."""
        return [arm for arm in self.arms if arm.model == self.model]

    def arm(self, target: str, budget: str | None, name: str) -> Arm | None:
        """With the experiment's own model."""
        return next((a for a in self.own if (a.target, a.budget, a.name) == (target, budget, name)), None)

    def test(self, target: str, budget: str | None, method: str, against: str = RANDOM, metric: str = "loss",
             ) -> Test | None:
        """The test of a method against another arm."""
        return next((t for t in self.tests if (t.target, t.budget, t.method, t.against, t.metric)
                     == (target, budget, method, against, metric)), None)
