"""MADS: the neurons that a row switches on, as the set of what it covers (arXiv 2605.30857).

Only the abstract is public to us, so this is our reading of it: the feature set of a row is F(x) = {(layer l, neuron
j): the aggregated activation a_lj(x) is among the layer's strongest}, with the gated activation (the input of the
MLP's down projection) averaged in magnitude over the response. The core set is then the one that covers most: see
:mod:`siftune.selectors.coverage`. No target is needed.

The same number of neurons of each layer counts for every row (``active``), since with a raw threshold
(``threshold``) the set grows and shrinks with the length of the response, and coverage would choose by length: the
notes tell the correlation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from siftune._common.progress import log
from siftune.features.activations import ActiveSettings, Sets, active_neurons, stored_sets
from siftune.features.base import Computed, Context
from siftune.features.similarity import first_identical
from siftune.features.work import Work, forward_work

if TYPE_CHECKING:
    from siftune.features.forward.active_sets import ActiveNeurons

BY_LENGTH = 0.5  # correlation of set size and response length above which a warning is due


class Mads:
    Settings = ActiveSettings
    reads = ("autocast",)
    name = "mads"
    summary = "The strongest neurons of every layer as feature sets, to be covered (our reading of the abstract)."
    paper = "arXiv 2605.30857"
    cost = "one forward pass over the pool"
    needs_target = False
    needs_model = True
    forward = True

    def compute(self, context: Context) -> Computed:
        sets, first = stored_sets(context, context.pool, readers(context), "pool"), first_identical(context.pool)
        return Computed(sets=lambda: sets.matrix(first), stores=[sets.store.folder],
                        fingerprint=sets.store.fingerprint, notes=set_notes(context, sets))

    def work(self, context: Context) -> list[Work]:
        """What `siftune plan` tells."""
        return forward_work(context, readers(context))


def readers(context: Context) -> list[ActiveNeurons]:
    """What it reads of a forward pass."""
    return [active_neurons(context.of(Mads.name).settings)]


def set_notes(context: Context, sets: Sets) -> dict[str, Any]:
    """Sizes of the sets, and whether they tell more of a row than its length."""
    sizes = sets.sizes()
    lengths = context.pool.supervised
    correlation = float(np.corrcoef(sizes, lengths)[0, 1]) if sizes.std() > 0 and lengths.std() > 0 else None
    notes: dict[str, Any] = {"set_size": {"mean": float(sizes.mean()), "least": int(sizes.min()),
                                          "most": int(sizes.max())},
                             "neurons": sets.features, "set_size_by_length": correlation}
    if correlation is not None and correlation > BY_LENGTH:
        notes["set_size_warning"] = ("Rows with longer responses have more active neurons (correlation "
                                     f"{correlation:.2f}): coverage chooses by length. Leave threshold out, so that "
                                     "every row counts the same number of neurons (active).")
        log(f"warning: {notes['set_size_warning']}")
    return notes
