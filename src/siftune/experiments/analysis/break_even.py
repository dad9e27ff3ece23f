"""When has selecting paid for itself? Selection time against the training time that it saves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from siftune.experiments.analysis.curves import Needed


@dataclass(frozen=True)
class BreakEven:
    """Selection time against time saved.

    Attributes:
        saved: seconds that each training is shorter; negative where it is longer; None where that is not known.
        at_least: whether ``saved`` is a lower bound.
        trainings: trainings (other seeds, models, settings) after which the selection has paid; None for never, or
            where the selection time is not known.
    """

    saved: float | None
    at_least: bool
    trainings: int | None


def against(selection: float | None, training: float, other: float, *, at_least: bool = False) -> BreakEven:
    """A training of ``training`` seconds on a subset that took ``selection`` seconds, against one of ``other``.

    Args:
        selection: None where it is not known.
        training, other: seconds.
        at_least: whether ``other`` is a lower bound.
    """
    saved = other - training
    pays = math.ceil(selection / saved) if selection is not None and saved > 0 else None
    return BreakEven(saved, at_least, None if pays is None else max(1, pays))


def against_random(selection: float | None, training: float, rows_per_second: float, needed: Needed) -> BreakEven:
    """Against a training on as many random rows as reach the same loss.

    Args:
        selection: seconds; None where they are not known.
        training: seconds of the training on the subset.
        rows_per_second: subset rows that a training on random rows takes in a second, all its epochs counted once.
        needed: random rows for the same loss; where random has it at its smallest budget already, nothing is saved.
    """
    if needed.bound == "below":
        return BreakEven(None, False, None)
    rows = needed.limit if needed.rows is None else needed.rows
    if rows is None:
        return BreakEven(None, False, None)
    return against(selection, training, rows / rows_per_second, at_least=needed.bound == "above")
