"""GIST: targeted selection through coupled optimization geometry (arXiv 2602.18584).

The targets' plain LoRA gradients G [M, D] span the only subspace that matters to them. With the Gram matrix
``K = G G^T = U diag(S^2) U^T`` and a rank r <= M,

    P = G^T U_r diag(1 / S_r)   [D, r], orthonormal;   targets: U_r diag(S_r);   pool: g P,

so that r floats a row replace a random projection: no noise, and no dimension spent on what no target uses. The score
is LESS's, in that space and without Adam: the cosine of a row with each subtask's mean target feature, weighed over
checkpoints, the largest over subtasks.

The Gram matrix and P are made column range by column range; G and P stay on disk. A cosine inside the subspace says
nothing about what lies outside of it, so the captured share |gP| / |g| of every row is kept and told in the notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from siftune._common.artefacts import digest
from siftune._common.errors import ConfigError
from siftune.config.options import POSITIVE, option
from siftune.features.base import Computed, Context, content_key
from siftune.features.earlier import kept_earlier
from siftune.features.gradient_passes import Pass, Passes, can_join, together
from siftune.features.gradient_settings import Compared, WarmedUp, gradient_fingerprint, settled
from siftune.features.passes import refuse_other
from siftune.features.similarity import Queries
from siftune.features.target_gradients import target_gradients
from siftune.features.warmed_up import warmed_up, warmup_folder
from siftune.methods.less import compared, existing_features

if TYPE_CHECKING:
    from siftune.features.gradients.warmup import Checkpoint


VERSION = 1
"""Of the subspace: whoever changes how it is made of the targets' gradients counts up."""


@dataclass(frozen=True)
class GistSettings(Compared, WarmedUp):
    target_rank: float = option(0.95, "Dimensions of the targets' subspace, as a share of explained variance (below 1) "
                                "or a number.", rule=POSITIVE)


class Gist:
    Settings = GistSettings
    reads = ("autocast", "feature_dtype")
    name = "gist"
    summary = "Plain LoRA gradients in the subspace that the targets' gradients span."
    paper = "arXiv 2602.18584"
    cost = "as LESS; a few floats a row, for these targets only"
    needs_target = True
    needs_model = True
    projection = "none"
    projections: tuple[str, ...] = ("none",)

    warmup = True

    def numbers_per_row(self, settings: GistSettings, targets: int, subtasks: int) -> int:
        """At most: the rank, which is known once the targets' gradients are."""
        return int(settings.target_rank) if settings.target_rank >= 1 else targets

    def keeps_features(self, settings: GistSettings) -> bool:
        return True

    def compute(self, context: Context) -> Computed:
        from siftune.features.gradients.warmup import score_weights

        own = _Owner(context)
        refuse_other(context, own.root, own.fingerprint, training=warmup_folder(context))
        with warmed_up(context) as (model, checkpoints):
            with context.clock.measure("target subspace") as entry:
                own.prepare(model, checkpoints)
                more = {one.root: one for one in map(_Owner, context.siblings()) if one.root != own.root}
                others = [one for one in more.values() if can_join(one, model, checkpoints)]
                spaces = own.spaces
                entry["reused"] = not any(space.fresh for one in (own, *others) for space in one.spaces)
            pool, *_ = together([(one.passes, one.coordinates) for one in (own, *others)], context.pool, "pool")
            weights = score_weights(checkpoints)
            known = existing_features(context, own.passes, own.coordinates)
        captured = [store.array("projected_norm") / store.array("norm") for store in pool]
        notes: dict[str, Any] = {
            "checkpoint_weights": [round(float(w), 6) for w in weights],
            "rank": [len(space.scale) for space in spaces],
            "explained_variance": [round(space.explained, 4) for space in spaces],
            "captured_share": [round(float(share.mean()), 4) for share in captured],
        }
        return compared(context, pool, [space.queries() for space in spaces], weights, own.fingerprint, notes,
                        known)


class _Owner:
    """A target's stores, subspaces and coordinates. One pass over the pool serves the targets of a whole study.

    Attributes:
        root, fingerprint: of the stores.
        passes, spaces, coordinates: of every checkpoint, once prepared.
    """

    def __init__(self, context: Context):
        self.context = context
        targets = content_key(context.target)
        self.root = context.folder / "store" / f"gist-{targets[:12]}"
        self.settings = settled(context, Gist())
        self.fingerprint = {**gradient_fingerprint(context, Gist(), self.settings), "targets": targets}

    def prepare(self, model: Any, checkpoints: Sequence[Checkpoint]) -> None:
        self.passes = Passes(self.context, self.settings, model, self.fingerprint, self.root)
        self.spaces = [_Subspace(self.context, self.passes, checkpoint) for checkpoint in checkpoints]
        self.coordinates = [Pass(c, basis=space.file) for c, space in zip(checkpoints, self.spaces, strict=True)]


class _Subspace:
    """The span of the targets' gradients at one checkpoint; made once, then read from disk.

    Attributes:
        file: P^T, float32 [r, D].
        features: float64 [M, r], U_r diag(S_r).
        scale: float64 [r], S_r, descending.
        explained: share of the targets' squared gradient norm inside the subspace.
    """

    def __init__(self, context: Context, passes: Passes, checkpoint: Any):
        from siftune.features.gradients.basis import KIND, kept_directions

        path = passes.root / "subspace" / f"epoch-{checkpoint.epoch}.npy"
        made_from = {**passes.fingerprint, "checkpoint": checkpoint, "code": VERSION}
        key = digest(made_from)
        kept = kept_directions(path, key) or kept_earlier(context, path, KIND, made_from, head=passes.head)
        self.fresh = kept is None
        if kept is None:
            gradients = target_gradients(context, passes, checkpoint,
                                         path.with_name(f"gradients-{checkpoint.epoch}.npy"))
            basis, features, explained = subspace(gradients.gram(), context.settings.target_rank)
            kept = gradients.combined(path, basis).keep(key, {"features": features.tolist(), "explained": explained})
            gradients.remove()
        self.file = kept
        self.features = np.array(kept.about["features"])
        self.scale = np.linalg.norm(self.features, axis=0)
        self.explained = float(kept.about["explained"])

    def queries(self) -> Queries:
        norm = np.linalg.norm(self.features, axis=1)
        unit = self.features / np.maximum(norm, 1e-30)[:, None]
        return Queries(unit.astype(np.float32), norm.astype(np.float32))


def subspace(gram: np.ndarray, target_rank: float) -> tuple[np.ndarray, np.ndarray, float]:
    """The leading directions of the span of M vectors, from their Gram matrix.

    Args:
        gram: float64 [M, M], K = G G^T.
        target_rank: the number of directions (1 or more), or the share of variance to explain (below 1). Directions
            without any variance (of repeated targets) are never taken.

    Returns:
        ``diag(1 / S_r) U_r^T`` [r, M], which makes P^T from G; ``U_r diag(S_r)`` [M, r]; the explained share.

    Raises:
        ConfigError: more directions than targets.
    """
    if target_rank >= 1 and (target_rank > len(gram) or target_rank != int(target_rank)):
        raise ConfigError(f"{len(gram)} targets do not span {target_rank:g} dimensions", where="--set target_rank",
                          hint=f"give a whole number up to {len(gram)}, or a share of variance such as 0.95")
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    real = int((values > values[0] * len(values) * np.finfo(np.float32).eps).sum())
    share = np.cumsum(values[:real]) / values[:real].sum()
    rank = min(real, int(target_rank) if target_rank >= 1 else int(np.searchsorted(share, target_rank - 1e-12)) + 1)
    scale = np.sqrt(values[:rank])
    return (vectors[:, :rank] / scale).T, vectors[:, :rank] * scale, float(share[rank - 1])
