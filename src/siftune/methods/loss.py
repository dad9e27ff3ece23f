"""The mean loss of a row's response under the model as it is: a plain score of how hard the row is.

Higher is harder; the exponential is the response's perplexity. It makes no claim that hard rows are good ones: it is
there for quotas and strata, and as a baseline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from siftune.features.base import Computed, Context
from siftune.features.forward_passes import forward_stores
from siftune.features.similarity import first_identical
from siftune.features.work import Work, forward_work

if TYPE_CHECKING:
    from siftune.features.forward.reader import Reader


class LossScore:
    reads = ("autocast",)
    name = "loss"
    summary = "Mean loss of the response, nats per token: the hardest rows first."
    paper = ""
    cost = "one forward pass over the pool"
    needs_target = False
    needs_model = True
    forward = True

    def compute(self, context: Context) -> Computed:
        [store] = forward_stores(context, context.pool, readers(context), "pool")
        losses = store.array("loss").astype(np.float64)[first_identical(context.pool)]
        return Computed(scores=losses, stores=[store.folder], fingerprint=store.fingerprint,
                        notes={"mean_loss": float(losses.mean())})

    def work(self, context: Context) -> list[Work]:
        """What `siftune plan` tells."""
        return forward_work(context, readers(context))


def readers(context: Context) -> list[Reader]:
    """What it reads of a forward pass."""
    from siftune.features.forward.loss import Loss

    return [Loss()]
