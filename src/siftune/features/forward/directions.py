"""How activations move between the first and the last token of a response, and how rows lie along such moves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from siftune._common.artefacts import KeptFile
from siftune.features.forward.active_sets import Neurons
from siftune.features.forward.reader import Reader, Reading, Tap
from siftune.features.forward.spans import Span, span_mask, token_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from siftune.models.batching import Batch


@dataclass(frozen=True)
class Deltas(Reader):
    """``delta`` float32 [n, L, I]: the activations at the last response token minus those at the first.

    First and last of all supervised tokens but those that only close a turn; a response of one token has the delta 0.

    Attributes:
        neurons: whose activations.
        closing: ids of special tokens. What a model does at the end of a turn is much the same whatever was said: with
            it as the last token, directions tell of ending.
    """

    neurons: Neurons = "gated"
    closing: tuple[int, ...] = ()

    @property
    def taps(self) -> frozenset[Tap]:  # type: ignore[override]
        return frozenset({self.neurons})

    @property
    def name(self) -> str:
        return f"deltas-{self.neurons}"

    def start(self, batch: Batch, device: torch.device | str) -> Reading:
        return _DeltaReading(batch, self.closing)

    def bytes_per_row(self, model: Any, feature_dtype: str) -> int:
        from siftune.features.forward.mlp import neurons

        layers, width = neurons(model)
        return 4 * layers * width


class _DeltaReading(Reading):
    def __init__(self, batch: Batch, closing: tuple[int, ...]):
        import torch

        rows, length = batch.supervised.shape
        special = torch.isin(batch.input_ids, torch.tensor(closing, dtype=torch.int64, device=batch.input_ids.device))
        said = batch.supervised & ~special
        said = torch.where(said.any(dim=1, keepdim=True), said, batch.supervised)
        place = torch.arange(length, device=batch.supervised.device).expand(rows, length)
        self._rows = torch.arange(rows, device=place.device)
        self._last = place.masked_fill(~said, -1).amax(dim=1)
        self._first = place.masked_fill(~said, length).amin(dim=1)
        self._layers: list[Tensor] = []

    def neurons(self, tap: Tap, layer: int, values: Tensor) -> None:
        self._layers.append((values[self._rows, self._last] - values[self._rows, self._first]).float())

    def arrays(self) -> dict[str, Tensor]:
        import torch

        return {"delta": torch.stack(self._layers, dim=1)}


@dataclass(frozen=True)
class Along(Reader):
    """``dot`` float32 [n, K, L]: the inner products <A_l, v_kl> of a row's mean activations with K directions, and
    ``norm`` float32 [n, L]: their lengths |A_l|.

    Attributes:
        directions: ``.npy`` file with float32 [K, L, I]; None where only time and memory matter (`siftune plan`).
        targets: names what the directions are made from; part of the store's name.
        count: how many directions there are, K.
        neurons, span: whose activations, and over which tokens their mean is taken.
    """

    directions: KeptFile | None
    targets: str
    count: int
    neurons: Neurons = "gated"
    span: Span = "response"

    @property
    def taps(self) -> frozenset[Tap]:  # type: ignore[override]
        return frozenset({self.neurons})

    @property
    def name(self) -> str:
        return f"nait-{self.neurons}-{self.span}-{self.targets[:12]}"

    def start(self, batch: Batch, device: torch.device | str) -> Reading:
        directions = None if self.directions is None else _loaded(self.directions, str(device))
        return _AlongReading(directions, self.count, token_weights(span_mask(batch, self.span)))

    def bytes_per_row(self, model: Any, feature_dtype: str) -> int:
        from siftune.features.forward.mlp import neurons

        return 4 * neurons(model)[0] * (self.count + 1)


class _AlongReading(Reading):
    def __init__(self, directions: Tensor | None, count: int, weights: Tensor):
        self._directions, self._count, self._weights = directions, count, weights
        self._dots: list[Tensor] = []
        self._norms: list[Tensor] = []

    def neurons(self, tap: Tap, layer: int, values: Tensor) -> None:
        mean = (self._weights @ values.float()).squeeze(1)  # [B, I]
        known = self._directions
        along = mean.new_zeros(self._count, mean.shape[1]) if known is None else known[:, layer]
        self._dots.append(mean @ along.T)
        self._norms.append(mean.norm(dim=1))

    def arrays(self) -> dict[str, Tensor]:
        import torch

        return {"dot": torch.stack(self._dots, dim=2), "norm": torch.stack(self._norms, dim=1)}


@lru_cache(maxsize=2)
def _loaded(directions: KeptFile, device: str) -> Tensor:
    """The directions on a device; by their checksum, since another run may write others to the same place."""
    import torch

    return torch.from_numpy(np.load(directions.path)).to(device)
