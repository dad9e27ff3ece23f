"""Where the features of an ablation are computed and kept."""

from __future__ import annotations

import dataclasses

from siftune.experiments.ablations import Ablation
from siftune.experiments.inputs import StudyInputs
from siftune.features.base import Context


def varied_context(inputs: StudyInputs, target: str | None, owner: str, ablation: Ablation) -> Context:
    """What a representation is computed in with the settings of an ablation.

    Features that these settings change are kept below ``ablations`` of the run folder, named by the settings. All else,
    such as the warmup run where they leave it as it is, is the study's own.
    """
    plain = inputs.context(target, owner)
    home = inputs.home / ablation.folder if ablation.folder else inputs.home
    # What the study's methods read of one forward pass is in their own store already.
    collect = () if ablation.folder else plain.config.collect
    made = dataclasses.replace(
        plain, config=dataclasses.replace(ablation.of(plain.config), collect=collect), folder=home,
        below=ablation.folder,
        trained=None if ablation.retrains or not ablation.folder else inputs.home,
        siblings=lambda: [varied_context(inputs, name, owner, ablation) for name in inputs.by_target if name != target])
    return made.knows(inputs.pool_keys)  # a hash of the whole pool, the same for all targets
