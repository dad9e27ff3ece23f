"""What an experiment has come to, as a notebook wants it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from siftune.experiments.results import Estimate, Results

COLUMNS = ("model", "target", "budget", "kind", "name", "metric", "mean", "low", "high", "seeds", "rows", "tokens")


@dataclass(repr=False)
class Experiment:
    """A finished comparison or study.

    Attributes:
        file: ``comparison.json`` or ``study.json``.
        results: what it holds.
        report: path of the page, once it is made.
        verdict: the page's verdict and cautions in plain words, a line each.
    """

    file: Path
    results: Results
    report: Path | None = None
    verdict: str = ""

    @property
    def folder(self) -> Path:
        """Of the run or study."""
        return self.file.parent

    @property
    def failed(self) -> bool:
        """Whether a selection or a training failed."""
        return bool(self.results.failures)

    def to_frame(self) -> pd.DataFrame:
        """A row for each arm, target, budget and metric, with the columns :data:`COLUMNS`.

        ``mean``, ``low`` and ``high`` are of the metric (``loss`` in nats per token, ``exact_match``, ``acc`` and
        ``acc_norm`` as shares, or ``task:metric``), ``seeds`` the trainings behind them; ``budget``, ``rows`` and
        ``tokens`` are missing for zero-shot.
        """
        import pandas as pd

        return pd.DataFrame(list(_rows(self.results)), columns=list(COLUMNS))

    def __repr__(self) -> str:
        results = self.results
        done = sum(status == "done" for status in {cell.id: cell.status for cell in results.cells}.values())
        of = f"{len(results.targets)} targets x {len(results.budgets)} budgets, " if results.kind == "study" else ""
        methods = f"{len(results.methods)} method{'' if len(results.methods) == 1 else 's'}"
        tests = [test for test in results.tests if (test.against, test.metric) == ("random", "loss")]
        better = sum(test.verdict == "better" for test in tests)
        failed = f", {len(results.failures)} failed" if results.failures else ""
        return (f"<{results.kind}: {methods}, {of}{done} trainings done{failed}; better than random in {better} of "
                f"{len(tests)} tests ({self.file})>")


def _rows(results: Results) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for arm in results.arms:
        metrics: dict[str, Estimate | None] = {"loss": arm.loss, "exact_match": arm.exact_match, "acc": arm.acc,
                                               "acc_norm": arm.acc_norm, **arm.lm_eval}
        found += [(arm.model, arm.target, arm.budget, arm.kind, arm.name, metric, one.mean, one.low, one.high,
                   arm.trainings, arm.rows, arm.tokens) for metric, one in metrics.items() if one is not None]
    return found
