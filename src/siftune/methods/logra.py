"""LoGra: gradients of a base model's own linear weights, without an adapter or a warmup run (arXiv 2405.13954).

Both factors of every layer's gradient are projected and the small product is kept (see
:mod:`siftune.features.gradients.projections.logra`), so no full gradient is ever formed and one pass over the pool is
all there is to it. With ``damping`` the similarity is LoGra's influence, the inner product under the damped inverse
of the pool's projected Gram matrix, normalised; without it, a plain cosine of gradients.

The fast option where there is no time for a warmup. LESS found gradients of a model that has not been warmed up to
select little better than chance (section 6, ablations), so compare with random before you rely on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siftune.features.base import Computed, Context
from siftune.features.gradient_passes import Pass, Passes
from siftune.features.gradient_settings import (
    Compared,
    Projected,
    choose_linear_weights,
    gradient_fingerprint,
    settled,
)
from siftune.features.passes import refuse_other
from siftune.features.similarity import Queries
from siftune.methods.less import compared, existing_features


@dataclass(frozen=True)
class LoGraSettings(Compared, Projected):
    pass


class LoGra:
    Settings = LoGraSettings
    reads = ("autocast", "feature_dtype")
    name = "logra"
    summary = "Gradients of the base model's linear weights, both factors projected; no warmup."
    paper = "arXiv 2405.13954"
    cost = "one backward pass over the pool"
    needs_target = True
    needs_model = True
    projection = "logra"
    projections: tuple[str, ...] = ("logra", "factgrass", "sparse-jl", "countsketch", "srht", "rademacher", "grass")

    warmup = False

    def numbers_per_row(self, settings: LoGraSettings, targets: int, subtasks: int) -> int:
        """What the pass keeps of a row."""
        return settings.projection_dim

    def keeps_features(self, settings: LoGraSettings) -> bool:
        return True

    def compute(self, context: Context) -> Computed:
        config, settings = context.config, settled(context, self)
        fingerprint = gradient_fingerprint(context, self, settings)
        root = context.folder / "store" / "logra"
        refuse_other(context, root, fingerprint)
        frozen = {p: p.requires_grad for p in context.model.model.parameters()}
        try:
            passes = Passes(context, settings, choose_linear_weights(context.model.model, config), fingerprint, root)
            pool = passes.over(context.pool, [Pass()], "pool")
            target = passes.over(context.target, [Pass()], "target")
            known = existing_features(context, passes, [Pass()])
        finally:
            for parameter, flag in frozen.items():
                parameter.requires_grad_(flag)
        return compared(context, pool, [Queries.of(store) for store in target], np.ones(1), fingerprint, {},
                        known)
