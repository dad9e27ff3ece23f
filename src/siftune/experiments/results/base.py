"""What all parts of the results are made of: numbers that are finite or not there, estimates, differences."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from siftune._common.text import strict

RANDOM, LENGTH_MATCHED, LONGEST, FULL, ZERO_SHOT = "random", "length-matched-random", "longest", "full", "zero-shot"
METRICS = ("loss", "exact_match", "acc", "acc_norm")
"""What is measured of every test row; but for the loss, higher is better, and null where it does not apply."""
CHOSEN = ("method", "ablation")
"""Kinds of arms that are tested against random."""


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
"""A finite number, or None."""
Plain = Annotated[dict[str, Any], BeforeValidator(strict)]
"""Whatever strict JSON can hold."""
Kind = Literal["baseline", "method", "ablation", "decile"]
Verdict = Literal["better", "worse", "no different", "single training"]
"""``single training``: one side stands on one training, whose luck cannot be told from merit."""


class Part(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class Estimate(Part):
    """A mean with its interval over trainings and test rows; ``per_seed`` are the means of single trainings."""

    mean: Number = None
    low: Number = None
    high: Number = None
    per_seed: list[Number] = []


class Difference(Part):
    """Of a paired comparison; nothing of it where that has not been trained yet. ``p_value_holm`` is adjusted for the
    whole family of tests, ``n_seeds`` the smaller number of trainings of both sides. Where a side stands on one
    training there is no p-value, and the interval ``covers`` rows, elsewhere ``trainings and rows``."""

    difference: Number = None
    low: Number = None
    high: Number = None
    covers: str | None = None
    p_value: Number = None
    p_value_holm: Number = None
    n_examples: int | None = None
    n_seeds: int | None = None
