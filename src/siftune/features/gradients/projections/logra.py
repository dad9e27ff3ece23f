"""LoGra (Choe et al., arXiv 2405.13954): project both factors of a layer's gradient, never forming the gradient.

A linear layer's gradient is ``dY^T X``; a Kronecker-structured projection of it is ``(dY Q)^T (X P)`` with one random
matrix a side, at ``FACTOR x FACTOR`` numbers a layer. The layers' products, side by side, are LoGra's feature; a last
sparse projection brings any number of layers to ``dim``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from siftune.features.gradients.engine import LayerGradient
from siftune.features.gradients.projections.base import random_signs
from siftune.features.gradients.projections.sparse_jl import SparseJL

FACTOR = 48  # dimensions of each side of a layer


class LoGra(SparseJL):
    kind = "logra"
    factored = True

    def __init__(self, dim: int, seed: int):
        super().__init__(dim, seed)
        self._matrices: dict[tuple[str, str, int, str], Tensor] = {}

    def add(self, sketch: Any, gradient: LayerGradient) -> None:
        if gradient.right is None:  # a bias is a vector: nothing to factor
            super().add(sketch, gradient)
            return
        small = LayerGradient(gradient.name, self._side(gradient.name, "left", gradient.left),
                              self._side(gradient.name, "right", gradient.right))
        super().add(sketch, LayerGradient.of(gradient.name, small.full()))

    def _side(self, name: str, side: str, factor: Tensor) -> Tensor:
        """[b, T, min(n, FACTOR)]: the factor times a random +-1 matrix; a narrow side stays as it is."""
        n = factor.shape[2]
        if n <= FACTOR:
            return factor
        key = (name, side, n, str(factor.device))
        if key not in self._matrices:
            signs = random_signs(n * FACTOR, self.seed, self.kind, side, name).reshape(n, FACTOR)
            matrix = signs * np.float32(1 / np.sqrt(FACTOR))
            self._matrices[key] = torch.from_numpy(matrix).to(factor.device)
        return factor.float() @ self._matrices[key]

    def fingerprint(self) -> dict[str, Any]:
        return {**super().fingerprint(), "factor": FACTOR}
