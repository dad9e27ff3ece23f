"""Which neurons of each layer a row switches on: the strongest few, or all above a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from siftune._common.errors import ConfigError, ModelError
from siftune.features.forward.reader import Reader, Reading, Tap
from siftune.features.forward.spans import Span, span_mask, token_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from siftune.models.batching import Batch

Neurons = Literal["gated", "up"]
Aggregate = Literal["mean", "max"]
LARGEST_UINT16 = 65535


@dataclass(frozen=True)
class ActiveNeurons(Reader):
    """The neurons of each layer whose aggregated magnitude is among the largest, or above a threshold.

    a_lj(x) is the mean (or the maximum) of |activation of neuron j in layer l| over the tokens of the span. Kept are,
    with ``top``, ``active`` [n, L top]: the ``top`` neurons of each layer with the largest a_lj (of equal ones the
    first), ascending inside a layer, as uint16 (int32 where a layer has more than 65,536 neurons); with a threshold,
    ``active.bits`` uint8 [n, ceil(L I / 8)]: whether a_lj exceeds it, eight to a byte, layer after layer.

    Attributes:
        neurons: whose activations: ``gated`` or ``up``, see :mod:`siftune.features.forward.mlp`.
        span: over which tokens, see :func:`siftune.features.forward.spans.span_mask`.
        aggregate: ``mean`` or ``max``.
        top: how many of each layer; not used with a threshold.
        threshold: above 0 to count every neuron above it.
    """

    neurons: Neurons = "gated"
    span: Span = "response"
    aggregate: Aggregate = "mean"
    top: int = 20
    threshold: float = 0.0

    @property
    def taps(self) -> frozenset[Tap]:  # type: ignore[override]
        return frozenset({self.neurons})

    @property
    def name(self) -> str:
        kind = f"above{self.threshold!r}" if self.threshold else f"top{self.top}"
        return f"active-{self.neurons}-{self.span}-{self.aggregate}-{kind}"

    def start(self, batch: Batch, device: torch.device | str) -> Reading:
        return _ActiveReading(self, batch)

    def bytes_per_row(self, model: Any, feature_dtype: str) -> int:
        from siftune.features.forward.mlp import neurons

        layers, width = neurons(model)
        if self.threshold:
            return -(-layers * width // 8)
        return layers * self.top * (2 if width <= LARGEST_UINT16 + 1 else 4)


class _ActiveReading(Reading):
    def __init__(self, reader: ActiveNeurons, batch: Batch):
        self._reader = reader
        mask = span_mask(batch, reader.span)
        self._weights = token_weights(mask)
        self._outside = ~mask.unsqueeze(2)
        self._layers: list[Tensor] = []

    def neurons(self, tap: Tap, layer: int, values: Tensor) -> None:
        magnitude = values.float().abs()  # [B, T, I]
        if self._reader.aggregate == "mean":
            found = (self._weights @ magnitude).squeeze(1)
        else:
            found = magnitude.masked_fill(self._outside, 0.0).amax(dim=1)
        self._layers.append(found)

    def arrays(self) -> dict[str, Tensor]:
        import torch

        magnitude = torch.stack(self._layers, dim=1)  # [B, L, I]
        if not bool(torch.isfinite(magnitude).all()):
            raise ModelError("an activation is not a finite number for some row",
                             why="Half precision overflows on some models.", hint="try --dtype float32")
        if self._reader.threshold:
            return {"active.bits": _packed(magnitude.flatten(1) > self._reader.threshold)}
        width = magnitude.shape[2]
        if self._reader.top > width:
            raise ConfigError(f"a layer has {width} neurons, of which {self._reader.top} cannot be the strongest",
                              where="--set active", hint=f"give a number up to {width}, for example 20")
        chosen = largest(magnitude, self._reader.top).flatten(1)
        return {"active": chosen.to(torch.uint16 if width <= LARGEST_UINT16 + 1 else torch.int32)}


def largest(values: Tensor, count: int) -> Tensor:
    """int64 [..., count]: where the ``count`` largest of the last dimension are, ascending; of equal ones the first.

    ``torch.topk`` alone takes any of several equal ones.
    """
    least = values.topk(count, dim=-1).values[..., -1:]
    above, equal = values > least, values == least
    wanted = count - above.sum(dim=-1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=-1) <= wanted))
    return chosen.nonzero()[:, -1].view(*values.shape[:-1], count)


def _packed(bits: Tensor) -> Tensor:
    """uint8 [B, ceil(F / 8)], the first bit of each byte the highest, as ``numpy.packbits`` does."""
    import torch

    padded = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8)).view(len(bits), -1, 8)
    weights = 2 ** torch.arange(7, -1, -1, device=bits.device)
    return (padded * weights).sum(dim=2).to(torch.uint8)
