"""Means with intervals and paired tests as the results of experiments tell them, and how not to compute them twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from siftune.evaluation.statistics import holm, interval, paired_difference, verdict

ENDS = {"loss": (0.0, np.inf), **dict.fromkeys(("exact_match", "acc", "acc_norm"), (0.0, 1.0))}
"""What a metric can be at all; one of the lm-evaluation-harness is taken for a share where all of its scores are."""

T = TypeVar("T")


def estimate(values: np.ndarray, metric: str, confidence: float, seed: int) -> dict[str, Any] | None:
    """``mean``, ``low``, ``high``, ``per_seed`` of a metric.

    Args:
        values: float64 [trainings, test rows]; NaN where the metric does not apply to a row.
        metric: ``loss``, ``exact_match``, ``acc``, ``acc_norm``, or ``task:metric`` of the lm-evaluation-harness.
        confidence: of the interval.
        seed: of the bootstrap.

    Returns:
        None where the metric applies to no row.
    """
    applicable = ~np.isnan(values).any(axis=0)
    if not applicable.any():
        return None
    values = values[:, applicable]
    found = interval(values if len(values) > 1 else values[0], confidence, seed)
    # Widened for few seeds, an interval may pass what the metric can be at all.
    share = (0.0, 1.0) if ((values >= 0) & (values <= 1)).all() else (-np.inf, np.inf)
    ends = ENDS.get(metric, share)
    low, high = max(found.low, ends[0]), min(found.high, ends[1])
    return {"mean": found.mean, "low": low, "high": high, "per_seed": values.mean(axis=1).tolist()}


def difference(ours: np.ndarray, theirs: np.ndarray, metric: str, confidence: float) -> dict[str, Any] | None:
    """``difference``, ``low``, ``high``, ``covers``, ``p_value``, ``n_examples``, ``n_seeds``, ``verdict`` of a paired
    comparison. Where a side stands on one training, ``covers`` is ``rows``, ``p_value`` None and ``verdict``
    ``single training``.

    Args:
        ours, theirs: float64 [trainings, test rows] on the same test rows; NaN where the metric does not apply.
        metric, confidence: as for :func:`estimate`.

    Returns:
        None where the metric applies to no row.
    """
    applicable = ~(np.isnan(ours).any(axis=0) | np.isnan(theirs).any(axis=0))
    if not applicable.any():
        return None
    found = paired_difference(ours[:, applicable], theirs[:, applicable], confidence,
                              lower_is_better=metric == "loss")
    i = found.interval
    return {"difference": i.mean, "low": i.low, "high": i.high, "covers": found.covers, "p_value": found.p_value,
            "n_examples": i.examples, "n_seeds": i.seeds, "verdict": found.verdict}


def judge(family: Iterable[dict[str, Any]], confidence: float) -> None:
    """Set ``p_value_holm`` and ``verdict`` of tests that are asked together, by Holm's adjustment over all of them.

    A comparison with one training on a side has no p-value: it gets no verdict, and the others do not pay for it.

    Args:
        family: of :func:`difference`; of the loss where a test has no ``metric``.
        confidence: of the verdicts.
    """
    family = list(family)
    for test, adjusted in zip(family, holm([test["p_value"] for test in family]), strict=True):
        test["p_value_holm"] = adjusted
        test["verdict"] = verdict(test["difference"], adjusted, confidence,
                                  lower_is_better=test.get("metric", "loss") == "loss")


class Remembered:
    """Calls pure functions, once for the same arguments: a summary is made again after each training, and nearly all
    of it is as before."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        key = (function, *map(_identity, arguments))
        if key not in self._known:
            self._known[key] = function(*arguments)
        return self._known[key]


def _identity(value: Any) -> Any:
    return (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
