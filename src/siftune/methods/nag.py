"""NAG: how much a row's active neurons are those of the targets (arXiv 2604.15706).

Per layer, the 20 neurons with the largest mean of |up projection| over all tokens. A subtask's profile says how often
each neuron of a layer occurs among its targets, and sums to 1 over the layer; the similarity of a row is the mean over
the layers of the profile's weight of the row's neurons, between 0 and 1. The paper cuts rows at 120 tokens
(``--max-length`` does); it was published for pretraining data and a single target set. With several subtasks their
profiles are the lines that take turns; with one, turns are the paper's ranking.

The same sets serve MADS, and are shared with it where the settings agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from siftune.config.options import option
from siftune.features.activations import ActiveSettings, Sets, active_neurons, stored_sets
from siftune.features.base import Computed, Context
from siftune.features.similarity import Subtasks, first_identical, identical_blocks
from siftune.features.work import Work, forward_work
from siftune.methods.mads import set_notes

if TYPE_CHECKING:
    from siftune.features.forward.active_sets import ActiveNeurons


@dataclass(frozen=True)
class NagSettings(ActiveSettings):
    neurons: Literal["gated", "up"] = option("up", "Whose activations count: those of the MLP's up projection, or the "
                                             "gated ones that enter its down projection.")
    span: Literal["response", "prompt", "all"] = option("all", "Over which tokens activations are taken.")


class Nag:
    Settings = NagSettings
    reads = ("autocast",)
    name = "nag"
    summary = "Overlap of a row's strongest neurons with those of the targets, layer by layer."
    paper = "arXiv 2604.15706"
    cost = "one forward pass over the pool"
    needs_target = True
    needs_model = True
    forward = True

    def compute(self, context: Context) -> Computed:
        own, subtasks = readers(context), Subtasks(context.target)
        sets, first = stored_sets(context, context.pool, own, "pool"), first_identical(context.pool)
        profile = profiles(stored_sets(context, context.target, own, "target"), subtasks)
        return Computed(blocks=identical_blocks(lambda: overlaps(sets, profile), first), lines=subtasks.names,
                        sets=lambda: sets.matrix(first), stores=[sets.store.folder],
                        fingerprint=sets.store.fingerprint, notes=set_notes(context, sets))

    def work(self, context: Context) -> list[Work]:
        """What `siftune plan` tells."""
        own = readers(context)
        return forward_work(context, own, own)


def readers(context: Context) -> list[ActiveNeurons]:
    """What it reads of a forward pass."""
    return [active_neurons(context.of(Nag.name).settings)]


def profiles(sets: Sets, subtasks: Subtasks) -> np.ndarray:
    """float64 [K, L I]: how often each neuron occurs among each subtask's targets, divided by the layer's total.

    A layer in which no target has an active neuron (only with a threshold) stays 0.
    """
    counts = np.zeros((len(subtasks.names), sets.features))
    for start, block in sets.blocks():
        for row, active in enumerate(block, start=start):
            for line, member in enumerate(subtasks.members):
                if member[row]:
                    counts[line, active] += 1  # by flag or by number: no neuron twice
    layered = counts.reshape(len(counts), sets.layers, sets.width)
    return (layered / np.maximum(layered.sum(axis=2, keepdims=True), 1)).reshape(counts.shape)


def overlaps(sets: Sets, profile: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float64 [K, n]): the mean over the layers of the profile's weight of each row's neurons."""
    for start, block in sets.blocks():
        if sets.bits:
            yield start, np.stack([(block * line).sum(axis=1) for line in profile]) / sets.layers
        else:
            yield start, np.stack([line[block].sum(axis=1) for line in profile]) / sets.layers
