"""RDS+ (Ivison et al., arXiv 2503.01807): cosines of position-weighted mean hidden states.

e(x) = sum_t t h_t / sum_t t over all tokens of prompt and response (section 3), h_t the last hidden state; S[q, j] is
the cosine of e(q) and e(j). One forward pass over the pool, no training, no gradients. As published, each target takes
turns (round-robin); where there are several tasks, the tasks do, each by its best similarity to any of its targets:
that is the selector ``round-robin-subtask``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from siftune.features.base import Computed, Context
from siftune.features.cosines import cosines, identical_vectors
from siftune.features.forward_passes import forward_stores
from siftune.features.similarity import first_identical
from siftune.features.whitening import Whitenable, prepared
from siftune.features.work import Work, forward_work

if TYPE_CHECKING:
    from siftune.features.forward.reader import Reader


class Rds:
    Settings = Whitenable
    reads = ("autocast", "feature_dtype")
    name = "rds"
    summary = "Position-weighted mean of the last hidden states; cosine to the targets."
    paper = "arXiv 2503.01807"
    cost = "one forward pass over the pool"
    needs_target = True
    without_target = ("vectors", "kernel")
    needs_model = True
    forward = True

    def compute(self, context: Context) -> Computed:
        own = readers(context)
        [pool] = forward_stores(context, context.pool, own, "pool")
        target = forward_stores(context, context.target, own, "target") if len(context.target) else []
        known = forward_stores(context, context.existing, own, "existing") if len(context.existing) else []
        vectors, (queries, existing), notes = prepared(
            context, identical_vectors(pool.feature_blocks, first_identical(context.pool)),
            target[0].whole_features() if target else None, known[0].whole_features() if known else None)
        return Computed(blocks=None if queries is None else cosines(vectors, queries), vectors=vectors,
                        existing=None if existing is None else cosines(vectors, existing),
                        stores=[pool.folder], fingerprint=pool.fingerprint, notes=notes)

    def work(self, context: Context) -> list[Work]:
        """What `siftune plan` tells."""
        own = readers(context)
        return forward_work(context, own, own, own)


def readers(context: Context) -> list[Reader]:
    """What it reads of a forward pass."""
    from siftune.features.forward.hidden import PositionWeightedMean

    return [PositionWeightedMean()]
