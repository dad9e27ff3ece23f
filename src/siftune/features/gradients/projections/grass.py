"""GraSS and FactGraSS (arXiv 2505.18976): keep a few random coordinates, then sketch them.

GraSS keeps a random ``1 / SHRINK`` of a parameter's coordinates, scaled to keep inner products in expectation.
FactGraSS keeps random coordinates of a layer's inputs and of its output gradients, so that only the kept part of the
gradient is ever formed. Both then apply the sparse projection. Masks are the cheapest projection and the noisiest:
what the mask drops is gone. (The paper's trained masks are not offered: they need a training run of their own.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from siftune._common.seeds import permutation
from siftune.features.gradients.engine import LayerGradient
from siftune.features.gradients.projections.sparse_jl import SparseJL

SHRINK = 8
FACTOR = 48  # kept coordinates of each side of a layer


class GraSS(SparseJL):
    """Mask + sketch on the gradient's elements."""

    kind = "grass"

    def __init__(self, dim: int, seed: int):
        super().__init__(dim, seed)
        self._kept: dict[tuple[str, str, int, str], Tensor] = {}

    def _mask(self, name: str, side: str, n: int, kept: int, device: torch.device) -> Tensor:
        """int64 [min(kept, n)], ascending: the coordinates that stay."""
        key = (name, side, n, str(device))
        if key not in self._kept:
            drawn = permutation(n, self.seed, self.kind, side, name)[:kept]
            drawn.sort()
            self._kept[key] = torch.from_numpy(drawn).to(device)
        return self._kept[key]

    def add(self, sketch: Any, gradient: LayerGradient) -> None:
        values = gradient.full()
        n = values.shape[1]
        kept = self._mask(gradient.name, "", n, max(1, n // SHRINK), values.device)
        masked = values.index_select(1, kept) * (n / len(kept)) ** 0.5
        super().add(sketch, LayerGradient.of(gradient.name, masked))


class FactGraSS(GraSS):
    """Masks on both factors of a layer's gradient, then the sketch of the small product."""

    kind = "factgrass"
    factored = True

    def add(self, sketch: Any, gradient: LayerGradient) -> None:
        if gradient.right is None:  # a bias is a vector: nothing to factor
            SparseJL.add(self, sketch, gradient)
            return
        left, scale_left = self._side(gradient.name, "left", gradient.left)
        right, scale_right = self._side(gradient.name, "right", gradient.right)
        small = LayerGradient(gradient.name, left, right).full() * (scale_left * scale_right)
        SparseJL.add(self, sketch, LayerGradient.of(gradient.name, small))

    def _side(self, name: str, side: str, factor: Tensor) -> tuple[Tensor, float]:
        n = factor.shape[2]
        kept = self._mask(name, side, n, FACTOR, factor.device)
        return factor.index_select(2, kept), (n / len(kept)) ** 0.5
