"""How well does each representation tell a target's own rows from the rest of the pool?

    python benchmarks/study/separation.py    # after: siftune study benchmarks/study/study.yaml

Own rows are those of the target's family, or, of conversations, those that the rule which made the target recognises.
For each target and representation: the chance that an own row is nearer to the targets than another row (the area
under the ROC curve of the largest similarity to any target row; 0.5 is chance), own rows among the nearest 51, and the
largest similarities. Reads the study's features; writes results/separation.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from siftune._common.files import write_json
from siftune.experiments.config import load_study
from siftune.experiments.inputs import StudyInputs, read_study
from siftune.features.centring import SHARED
from siftune.pipeline.recipes import representation_of

HERE = Path(__file__).resolve().parent
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "less": ("less", {}), "less, last checkpoint": ("less", {"checkpoints": "last"}),
    "less, inner product": ("less", {"gradient_score": "dot"}), "less, centred": ("less", {"center": True}),
    "less, centred, last checkpoint": ("less", {"center": True, "checkpoints": "last"}),
    "gist": ("gist", {}), "gist, centred": ("gist", {"center": True}),
    "rds": ("rds", {}), "rds, centred": ("rds", {"center": True}),
    "embed": ("embed", {}), "embed, centred": ("embed", {"center": True}), "bm25": ("bm25", {}),
}


def area(scores: np.ndarray, own: np.ndarray) -> float:
    """The chance that a row of ``own`` (bool [N]) has a higher score than one that is not: the area under the ROC
    curve."""
    ranks = rankdata(scores)
    return float((ranks[own].sum() - own.sum() * (own.sum() + 1) / 2) / (own.sum() * (~own).sum()))


def separation(inputs: StudyInputs, target: str, representation: str, changes: dict[str, Any]) -> dict[str, Any]:
    context = inputs.context(target, representation)
    context.config = context.config.with_own({representation: changes})
    found = representation_of(representation).compute(context)
    assert found.blocks is not None
    nearest = np.concatenate([block for _, block in found.blocks()], axis=1).max(axis=0)
    own = np.array([row.group == target for row in inputs.pool.rows])
    top = np.argsort(-nearest, kind="stable")[:51]
    shared = found.notes.get(SHARED)  # of centred vectors: the length of the mean that was taken out
    told: dict[str, Any] = {SHARED: shared} if shared else {}
    return told | {"own": int(own.sum()), "auc": round(area(nearest, own), 4), "own_in_top_51": int(own[top].sum()),
                   "largest": [round(float(v), 4) for v in nearest[top[:5]]],
                   "median": round(float(np.median(nearest)), 4)}


def main() -> None:
    inputs = read_study(load_study(HERE / "study.yaml"))
    told: dict[str, dict[str, Any]] = {}
    for name, (representation, changes) in ARMS.items():
        told[name] = {t.name: separation(inputs, t.name, representation, changes) for t in inputs.config.targets}
        print(name, {t: (v["auc"], v["own_in_top_51"]) for t, v in told[name].items()}, flush=True)
        write_json(HERE / "results" / "separation.json",
                   {"command": "python benchmarks/study/separation.py", "separation": told})


if __name__ == "__main__":
    main()
