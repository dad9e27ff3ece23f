"""What ``manifest.json`` and ``comparison.json`` hold.

Everything in the manifest is optional: a page with a gap is better than no page. A value of the wrong kind is not.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ALL = "all"  # the name of the pooled result beside the subtasks'
ZERO_SHOT = "zero-shot"
RANDOM = "random"


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Method(_Part):
    name: str | None = None
    representation: str | None = None
    selector: str | None = None
    paper: str | None = None
    reason: str | None = None


class ModelInfo(_Part):
    name: str | None = None
    class_: str | None = Field(None, alias="class")
    parameters: int | None = None
    dtype: str | None = None
    device: str | None = None


class Source(_Part):
    name: str
    rows: int | None = None


class Overlap(_Part):
    kind: str
    pool_id: str | None = None
    other_id: str | None = None
    other: str | None = None
    dropped: bool | None = None


class Data(_Part):
    pool_rows: int | None = None
    usable_rows: int | None = None
    target_rows: int | None = None
    sources: list[Source] = []
    overlaps: list[Overlap] = []
    truncated: int | None = None


class BudgetInfo(_Part):
    asked: str | int | float | None = None
    rows: int | None = None
    tokens: int | None = None


class Step(_Part):
    step: str
    seconds: float | None = None
    reused: bool = False


class Store(_Part):
    folder: str | None = None
    bytes: int | None = None
    fingerprint: dict[str, Any] = {}


class Manifest(_Part):
    siftune: str | None = None
    created: str | None = None
    method: Method = Method()
    model: ModelInfo | None = None
    data: Data = Data()
    budget: BudgetInfo = BudgetInfo()
    diagnostics: dict[str, Any] = {}
    times: list[Step] = []
    store: Store | None = None
    warnings: list[str] = []
    seed: int | None = None
    command: str | None = None


class Estimate(_Part):
    """A mean over seeds and examples with its interval; ``per_seed`` are the means of the single seeds."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    per_seed: list[float | None] = []


class Result(_Part):
    loss: Estimate | None = None
    exact_match: Estimate | None = None
    n: int | None = None


class Arm(_Part):
    """One thing that was trained (or, for zero-shot, not) and measured on the held-out rows."""

    name: str
    kind: Literal["baseline", "method"]
    rows: int | None = None
    tokens: int | None = None
    seeds: list[int] = []
    steps: int | None = None
    results: dict[str, Result] = {}


class Test(_Part):
    """A paired test; ``difference`` is the method's value minus that of the arm it is held against."""

    __test__ = False  # not a test case of pytest's

    method: str
    against: str
    subtask: str
    metric: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    covers: str | None = None
    p_value: float | None = None
    p_value_holm: float | None = None
    n_examples: int | None = None
    n_seeds: int | None = None
    verdict: Literal["better", "worse", "no different", "single training"]


class Comparison(_Part):
    arms: list[Arm]
    tests: list[Test] = []
    confidence: float = Field(0.95, gt=0, lt=1)
    learning_rate: float | None = None
    epochs: float | None = None
    note: str | None = None
