"""What ``study.json`` holds: the one file that a report on a study reads.

It is written whole after every training, so ``complete`` says whether anything is still missing; numbers that cannot
be told yet are left out or null. Losses are in nats per token, times in seconds, budgets as they were written.
"""

from __future__ import annotations

from typing import Any, TypedDict


class Estimate(TypedDict):
    """A mean with its interval over trainings and test rows."""

    mean: float
    low: float
    high: float
    per_seed: list[float]


class Target(TypedDict):
    """What the model was to learn. ``test_ids`` are in the order of all losses; ``subtasks`` belong to them."""

    name: str
    target_files: list[str]
    test_files: list[str]
    target_rows: int
    test_ids: list[str]
    subtasks: list[str | None]


class SubsetResult(TypedDict):
    """A subset. ``kind``: baseline, method, ablation or decile; an ablation is the method that it ``varies`` with other
    ``settings``. ``target`` is null where no target played a part, ``budget`` for the full pool. ``file`` holds the
    ids, best first, relative to the study's folder.

    ``select_seconds`` is the selecting alone; ``feature_steps`` what its features take, charged in full whoever ran
    them first (null seconds: another run left them). ``distances``: representation -> target -> nearest, wasserstein.
    ``error`` is empty unless the selection failed.
    """

    id: str
    kind: str
    name: str
    target: str | None
    budget: str | None
    draw: int | None
    varies: str | None
    settings: dict[str, Any]
    rows: int
    tokens: int
    file: str | None
    scores: dict[str, float]
    select_seconds: float
    feature_steps: list[dict[str, Any]]
    diagnostics: dict[str, Any]
    distances: dict[str, dict[str, dict[str, float | None]]]
    error: str


class CellResult(TypedDict):
    """One training. ``subset`` is null for zero-shot; cells of the same ``id`` are one training. ``status``: done,
    missing or failed. ``results``: target -> ``loss`` and ``correct`` of each test row (null where exact match does not
    apply). ``lm_eval``: task of the lm-evaluation-harness -> metric -> ``value``, ``stderr``, ``n`` (examples).
    ``lost_rows``: rows that another model's tokenizer leaves nothing to train on."""

    id: str
    subset: str | None
    model: str
    seed: int
    status: str
    epochs: int | None
    steps: int | None
    train_seconds: float | None
    lost_rows: int
    results: dict[str, dict[str, list[Any]]]
    lm_eval: dict[str, dict[str, dict[str, float | None]]]
    error: str
    traceback: str


class Arm(TypedDict):
    """A method, ablation or baseline for a target and budget, over its ``trainings`` (of ``wanted``). Rows, tokens,
    steps and seconds are means over them; ``selection_seconds`` is all that selecting took, null where it is not known.
    ``lm_eval`` is by ``task:metric``, of the metrics that have a score for each example."""

    model: str
    target: str
    budget: str | None
    kind: str
    name: str
    trainings: int
    wanted: int
    rows: float | None
    tokens: float | None
    steps: float
    train_seconds: float
    selection_seconds: float | None
    loss: Estimate
    exact_match: Estimate | None
    lm_eval: dict[str, Estimate | None]


class Test(TypedDict):
    """A paired comparison of a method or an ablation with random, with length-matched random, with the full pool or,
    for an ablation, with the method that it varies. ``difference`` is ``method`` less ``against``; ``p_value_holm`` is
    adjusted for all comparisons of the study, those with the full pool among themselves. ``verdict``: better, worse, no
    different; or ``single training`` where one side stands on one training, whose luck cannot be told from merit: there
    is no p-value then, and the interval ``covers`` rows, elsewhere ``trainings and rows``."""

    target: str
    budget: str
    method: str
    against: str
    metric: str
    difference: float
    low: float
    high: float
    covers: str
    p_value: float | None
    p_value_holm: float | None
    n_examples: int
    n_seeds: int
    verdict: str


class Rank(TypedDict):
    """``improvement``: mean over targets and budgets of the loss relative to random's, 0.2 for a fifth lower.
    ``judged``: comparisons with several trainings on both sides, which alone can be ``better`` or ``worse``."""

    name: str
    kind: str
    improvement: float
    comparisons: int
    judged: int
    better: int
    worse: int


class Failed(TypedDict):
    """What failed: a ``selection`` or a ``training``, why, and where the traceback is."""

    what: str
    title: str
    message: str
    traceback: str


class StudyResult(TypedDict):
    """All of it. ``analyses`` holds what :mod:`siftune.experiments.analyses` describes; ``costs`` what was really
    spent."""

    siftune: str
    complete: bool
    settings: dict[str, Any]
    pool: dict[str, int]
    targets: list[Target]
    subsets: list[SubsetResult]
    cells: list[CellResult]
    arms: list[Arm]
    tests: list[Test]
    ranking: list[Rank]
    analyses: dict[str, Any]
    costs: dict[str, Any]
    failures: list[Failed]
    notes: list[str]
