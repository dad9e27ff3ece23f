"""The results of an experiment: the one schema of ``comparison.json`` and ``study.json``.

A comparison is a study of one target and one budget, so both files hold the same :class:`Results`: targets, subsets,
trainings with the score of every test row, arms (the trainings of one method for one target and budget), paired tests,
analyses and costs. Whoever writes, reads, prints or draws results works on these objects;
:func:`read_results` and :func:`write_results` are the way to the files, those of earlier versions too.

Losses are in nats per token, times in seconds, budgets as they were written. A number that cannot be told, or that is
none (a loss that went astray), is null. An experiment that has only begun lacks nearly everything, so that nearly
everything has a default; a value of the wrong kind is refused, a key that is not known is left out.
"""

from __future__ import annotations

from siftune.experiments.results.analyses import (
    Ablation,
    Analyses,
    BreakEven,
    Correlation,
    Curve,
    Deciles,
    Efficiency,
    Gain,
    Overlap,
    Pair,
    Point,
    Rho,
    Saved,
    SubtaskTest,
    Transfer,
)
from siftune.experiments.results.base import (
    CHOSEN,
    FULL,
    LENGTH_MATCHED,
    LONGEST,
    RANDOM,
    ZERO_SHOT,
    Difference,
    Estimate,
    Kind,
    Verdict,
)
from siftune.experiments.results.experiment import (
    SCHEMA,
    TARGET,
    Arm,
    Costs,
    Failure,
    FeatureStep,
    Metric,
    PartOfTest,
    Pool,
    Rank,
    Results,
    RowScores,
    Settings,
    Subset,
    Target,
    Test,
    Training,
)
from siftune.experiments.results.files import COMPARISON, STUDY, discard_unreadable, read_results, write_results

__all__ = [
    "CHOSEN",
    "COMPARISON",
    "FULL",
    "LENGTH_MATCHED",
    "LONGEST",
    "RANDOM",
    "SCHEMA",
    "STUDY",
    "TARGET",
    "ZERO_SHOT",
    "Ablation",
    "Analyses",
    "Arm",
    "BreakEven",
    "Correlation",
    "Costs",
    "Curve",
    "Deciles",
    "Difference",
    "Efficiency",
    "Estimate",
    "Failure",
    "FeatureStep",
    "Gain",
    "Kind",
    "Metric",
    "Overlap",
    "Pair",
    "PartOfTest",
    "Point",
    "Pool",
    "Rank",
    "Results",
    "Rho",
    "RowScores",
    "Saved",
    "Settings",
    "Subset",
    "SubtaskTest",
    "Target",
    "Test",
    "Training",
    "Transfer",
    "Verdict",
    "discard_unreadable",
    "read_results",
    "write_results",
]
