"""Sets of active neurons out of their stores: what MADS and NAG have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from siftune.config.options import COUNT, NOT_NEGATIVE, OwnSettings, option
from siftune.data.rows import Examples
from siftune.features.base import Context
from siftune.features.forward_passes import forward_stores
from siftune.features.store import FeatureStore

if TYPE_CHECKING:
    from siftune.features.forward.active_sets import ActiveNeurons


@dataclass(frozen=True)
class ActiveSettings(OwnSettings):
    """Of methods that look at the sets of neurons which a row switches on."""

    neurons: Literal["gated", "up"] = option("gated", "Whose activations count: the gated ones that enter the MLP's "
                                             "down projection, or those of its up projection.")
    span: Literal["response", "prompt", "all"] = option("response", "Over which tokens activations are taken.")
    aggregate: Literal["mean", "max"] = option("mean", "How the tokens of a row are put together.")
    active: int = option(20, "Neurons of each layer that count as active in a row: its so many strongest.", rule=COUNT)
    threshold: float = option(0.0, "Count every neuron above this magnitude as active instead, however many; longer "
                              "rows then have more of them. 0 for off.", rule=NOT_NEGATIVE)


def active_neurons(settings: ActiveSettings) -> ActiveNeurons:
    """The reader that the settings ask for."""
    from siftune.features.forward.active_sets import ActiveNeurons

    return ActiveNeurons(settings.neurons, settings.span, settings.aggregate,
                         0 if settings.threshold else settings.active, settings.threshold)


def stored_sets(context: Context, examples: Examples, own: Sequence[ActiveNeurons], kind: str) -> Sets:
    """The sets that the one reader :func:`active_neurons` keeps of some rows; read in a forward pass where missing.

    Args:
        context: of the run.
        examples: the pool, or other rows.
        own: that reader.
        kind: ``pool`` or ``target``.
    """
    from siftune.features.forward.mlp import neurons

    layers, width = neurons(context.model.model)  # refuses a model without such, before any pass
    [store] = forward_stores(context, examples, own, kind)
    return Sets(store, layers, width, bits=own[0].threshold > 0)


@dataclass(frozen=True)
class Sets:
    """The active neurons of stored rows, numbered l I + j.

    Attributes:
        store: what :class:`~siftune.features.forward.active_sets.ActiveNeurons` has kept.
        layers, width: L and I.
        bits: whether the store holds packed bits rather than the same number of neurons for every row.
    """

    store: FeatureStore
    layers: int
    width: int
    bits: bool

    @property
    def features(self) -> int:
        return self.layers * self.width

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, bool [n, L I] or int32 [n, k]) of each shard: who is active, as flags (bits) or by number."""
        for shard in self.store.shards():
            if self.bits:
                packed = self.store.read(shard, "active.bits")
                yield shard.start, np.unpackbits(packed, axis=1, count=self.features).view(bool)
            else:
                active = self.store.read(shard, "active")
                per_layer = active.shape[1] // self.layers
                offsets = np.repeat(np.arange(self.layers, dtype=np.int32) * np.int32(self.width), per_layer)
                yield shard.start, active.astype(np.int32) + offsets

    def sizes(self) -> np.ndarray:
        """int64 [N]: how many neurons each row has switched on."""
        if not self.bits:
            return np.full(self.store.rows, self.store.read(self.store.shards()[0], "active").shape[1], dtype=np.int64)
        return np.concatenate([block.sum(axis=1) for _, block in self.blocks()]).astype(np.int64)

    def matrix(self, first: np.ndarray) -> Any:
        """``scipy.sparse.csr_array`` of bool [N, L I], five bytes an entry.

        Args:
            first: int64 [N]: the first row with the same content as each row, whose set it gets: rounding in another
                batch must not tell copies apart.
        """
        from scipy.sparse import csr_array

        sizes = self.sizes()[first]
        total = int(sizes.sum())
        starts = np.zeros(len(sizes) + 1, dtype=np.int64 if total > np.iinfo(np.int32).max else np.int32)
        np.cumsum(sizes, out=starts[1:])
        indices = np.empty(total, dtype=starts.dtype)
        for start, block in self.blocks():
            stop = start + len(block)
            if self.bits:
                found = np.nonzero(block)[1]
                own = first[start:stop] == np.arange(start, stop)
                if own.all():
                    indices[starts[start]:starts[stop]] = found
                else:
                    for row in np.flatnonzero(own).tolist():
                        indices[starts[start + row]:starts[start + row + 1]] = np.flatnonzero(block[row])
            else:
                indices[starts[start]:starts[stop]] = block.ravel()
        for row in np.flatnonzero(first != np.arange(len(first))).tolist():  # a first row stands before its copies
            source = int(first[row])
            indices[starts[row]:starts[row + 1]] = indices[starts[source]:starts[source + 1]]
        return csr_array((np.ones(total, dtype=bool), indices, starts), shape=(len(sizes), self.features))
