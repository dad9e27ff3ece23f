"""What ``manifest.json`` holds.

Everything in it is optional: a page with a gap is better than no page. A value of the wrong kind is not.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


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
