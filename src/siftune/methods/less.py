"""LESS: low-rank gradient similarity search (Xia et al., arXiv 2402.04333).

1. Warmup (section 4.1): LoRA on a random share of the pool; a checkpoint with Adam's moments after every epoch.
2. Pool features (sections 3.1, 4.1): the Adam direction of each row's gradient at every checkpoint, randomly
   projected, L2-normalised.
3. Target features: the plain gradient at the same checkpoints, same projection.
4. Score (section 4.2): Inf(j, k) = sum_i w_i <t_ik, x_ij> with w_i = eta_i / sum(eta), where x_ij is row j's feature at
   checkpoint i and t_ik stands for subtask k: the normalised mean of its targets' gradients (``target_mean =
   "gradient"``, the paper) or the mean of their normalised gradients (``"cosine"``, the released code).

Cosines rather than inner products, because gradient norms fall with response length (section 3.2; ``gradient_score =
"dot"`` takes inner products nevertheless, so that the difference can be measured). For selectors
that look at single targets, S[q, j] = sum_i w_i <q_i, x_ij>.

Since the targets are known, they come first unless features are wanted (``projection = "none"``): each pool row is
multiplied with their unprojected directions in the pass itself and only the cosines are kept. That is exact and takes
a few floats a row, but has to be done again for other targets: :mod:`siftune.features.exact_scores`. With
``keep_features``, and for a selector that compares rows of the pool with each other, features are projected and kept as
the paper has it, and serve any targets.

``center`` takes out what all rows share; that is not in the paper, see :mod:`siftune.features.centring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from siftune.config.options import option
from siftune.features.base import Computed, Context
from siftune.features.centring import Centred, centred_queries, mean_vector, note, reference_rows
from siftune.features.exact_scores import are_kept, exact_scores
from siftune.features.gradient_passes import Pass, Passes
from siftune.features.gradient_settings import (
    Compared,
    Projected,
    WarmedUp,
    gradient_fingerprint,
    needs_reference,
    settled,
)
from siftune.features.passes import refuse_other
from siftune.features.similarity import (
    Queries,
    Subtasks,
    UnitFeatures,
    first_identical,
    identical_blocks,
    stacked_blocks,
    weighted_blocks,
)
from siftune.features.store import FeatureStore
from siftune.features.warmed_up import warmed_up, warmup_folder

if TYPE_CHECKING:
    from siftune.features.gradients.warmup import Checkpoint


@dataclass(frozen=True)
class LessSettings(Compared, Projected, WarmedUp):
    adam: Literal["paper", "less-code", "no-momentum", "none"] = option(
        "paper", "Direction of pool features: Adam's next step; as the released code has it; without the momentum, "
        "which all rows share; or the plain gradient.")
    directions: Literal["targets", "subtasks"] = option("targets", "Of exact scores (projection=none): a direction per "
                                                        "target, or only one per subtask (less memory).")
    keep_features: bool = option(False, "With projection=auto: keep projected features of the pool, with which other "
                                 "targets (--from) need no pass over it; else the scores are exact, and for these "
                                 "targets only.", paper=True)


class Less:
    Settings = LessSettings
    reads = ("autocast", "feature_dtype")
    name = "less"
    summary = "LoRA gradients at warmup checkpoints: Adam directions for the pool, plain for targets; exact cosines."
    paper = "arXiv 2402.04333"
    cost = "one backward pass over the pool per checkpoint, plus a warmup run on 5% of it"
    needs_target = True
    needs_model = True
    projection = "none"
    projection_of_features = "sparse-jl"
    projections: tuple[str, ...] = ("sparse-jl", "countsketch", "srht", "rademacher", "grass", "none")
    warmup = True

    def numbers_per_row(self, settings: LessSettings, targets: int, subtasks: int) -> int:
        """What a pass keeps of a row."""
        if settings.projection == "none":
            means = (1 if settings.adam == "none" else 2) if settings.center else 0
            return subtasks + (targets if settings.directions == "targets" else 0) + means
        return settings.projection_dim

    def keeps_features(self, settings: LessSettings) -> bool:
        return settings.projection != "none"

    def keeps_besides(self, settings: LessSettings) -> tuple[str, ...]:
        """Without a projection it is the cosine with each subtask's direction that is kept, which the mean decides."""
        return ("target_mean",) if settings.projection == "none" else ()

    def kept(self, context: Context) -> bool:
        """Whether its exact scores of the pool are there, so that :meth:`compute` would run no pass over it."""
        return settled(context, self).projection == "none" and are_kept(context, self)

    def compute(self, context: Context) -> Computed:
        from siftune.features.gradients.warmup import score_weights

        settings = settled(context, self)
        if settings.projection == "none":
            return exact_scores(context, self)
        fingerprint = gradient_fingerprint(context, self, settings)
        root = context.folder / "store" / "less"
        refuse_other(context, root, fingerprint, training=warmup_folder(context))
        with warmed_up(context) as (model, checkpoints):
            passes = Passes(context, settings, model, fingerprint, root)
            weights = score_weights(checkpoints)
            notes = {"checkpoint_weights": [round(float(w), 6) for w in weights],
                     "warmup_steps": [c.step for c in checkpoints]}
            return _projected(context, passes, checkpoints, weights, notes)


def _projected(context: Context, passes: Passes, checkpoints: Sequence[Checkpoint], weights: np.ndarray,
               notes: dict[str, Any]) -> Computed:
    directions = [Pass(c, passes.settings.adam) for c in checkpoints]
    pool = passes.over(context.pool, directions, "pool")
    target = passes.over(context.target, [Pass(c) for c in checkpoints], "target")
    known = existing_features(context, passes, directions)
    plain: list[FeatureStore] = []
    if needs_reference(passes.settings):
        rows = reference_rows(context.whole_pool, context.config.seed)
        plain = passes.over(rows, [Pass(c) for c in checkpoints], "reference")
    return compared(context, pool, [Queries.of(store) for store in target], weights, passes.fingerprint, notes, known,
                    plain)


def existing_features(context: Context, passes: Passes, how: Sequence[Pass]) -> list[FeatureStore]:
    """Features of the rows that the model already knows, made as those of the pool; empty where there are none."""
    return passes.over(context.existing, how, "existing") if len(context.existing) else []


def compared(context: Context, pool: Sequence[FeatureStore], queries: Sequence[Queries], weights: np.ndarray,
             fingerprint: dict[str, Any], notes: dict[str, Any], known: Sequence[FeatureStore] = (),
             plain: Sequence[FeatureStore] = ()) -> Computed:
    """Similarities and subtask scores from unit features of the pool and the targets at every checkpoint.

    With ``center`` all of them are taken less their mean: the targets less that of ``plain``, plain gradients of rows
    of the pool (the pool's features themselves where none are given). With ``gradient_score = "dot"`` they are the
    inner products <q, x> of the projected gradients themselves (LESS, section 2, before the normalisation of section
    3.2); pool rows are still compared with each other by cosine.
    """
    settings = context.settings
    subtasks = Subtasks(context.target)
    dot = settings.gradient_score == "dot"
    rows: Sequence[UnitFeatures] = pool
    existing = [Queries.of(store) for store in known]
    if settings.center:
        with context.clock.measure("centre"):
            means = [mean_vector(store.feature_blocks) for store in pool]
            plain_means = [mean_vector(store.feature_blocks) for store in plain] or means
        rows = [Centred(store, mean) for store, mean in zip(pool, means, strict=True)]
        queries = [centred_queries(q, mean) for q, mean in zip(queries, plain_means, strict=True)]
        existing = [centred_queries(x, mean) for x, mean in zip(existing, means[: len(existing)], strict=True)]
        notes |= note(means)
    lines = [query.feature * query.norm[:, None] if dot else query.feature for query in queries]
    towards = [subtasks.directions(query, settings.target_mean, unit=not dot) for query in queries]
    norms = None
    if dot:  # the stores hold unit features and their lengths: dividing by 1 / length gives the gradients back
        norms = [1 / np.maximum(store.array("projected_norm").astype(np.float64), 1e-30) for store in pool]
        notes["gradient_score"] = "dot"
    if settings.damping:
        with context.clock.measure("preconditioner"):
            norms = []
            for i, features in enumerate(rows):
                lines[i], towards[i], norm = _whitened(features, lines[i], towards[i], settings.damping)
                norms.append(norm)
        notes["damping"] = settings.damping
    first = first_identical(context.pool)
    old = [x.feature for x in existing]
    # Whitened similarities are to the targets only: pool rows are compared with each other as they are.
    return Computed(blocks=identical_blocks(lambda: weighted_blocks(rows, lines, weights, norms), first),
                    subtask_blocks=identical_blocks(lambda: weighted_blocks(rows, towards, weights, norms), first),
                    vectors=lambda: stacked_blocks(rows, weights),
                    existing=(lambda: weighted_blocks(rows, old, weights)) if old else None,
                    stores=[store.folder for store in pool], fingerprint=fingerprint, notes=notes)


def _whitened(store: UnitFeatures, lines: np.ndarray, means: np.ndarray, damping: float,
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lines, means, norms of the pool [N]) for cosines under the pool's damped inverse Gram matrix."""
    from siftune.features.gradients.gram import DampedInverse

    inverse = DampedInverse((store.features(shard) for shard in store.shards()), damping)
    norms = np.concatenate([inverse.norms(store.features(shard)) for shard in store.shards()])
    solved = [inverse.solve(x) / np.maximum(inverse.norms(x), 1e-30)[:, None] for x in (lines, means)]
    return solved[0], solved[1], norms
