"""Subsampled randomised Hadamard transform (Ailon & Chazelle 2006; Tropp 2011), parameter by parameter.

For a parameter of n elements, padded to N = 2^k: ``sqrt(N / m) R H D x`` with random signs D, the orthonormal Hadamard
matrix H, and R, which draws m = min(N, dim) of the N results and deals them to random distinct outputs. Parameters are
added up, each with a D and an R of its own. Costs N log N additions, made here as products with small Hadamard
matrices; between the sparse and the dense projection in time, and like the dense one in its tail.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from siftune._common.seeds import permutation
from siftune.features.gradients.engine import LayerGradient
from siftune.features.gradients.projections.base import VERSION, random_signs

_LEAF = 128  # order of the largest Hadamard matrix that is multiplied as such


class SRHT:
    kind = "srht"
    factored = False

    def __init__(self, dim: int, seed: int):
        self.dim, self.seed = dim, seed
        self._plans: dict[tuple[str, int, str], tuple[Tensor, Tensor, Tensor]] = {}

    def new(self, rows: int, device: torch.device | str) -> Tensor:
        return torch.zeros(rows, self.dim, dtype=torch.float32, device=device)

    def _plan(self, name: str, n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """(signs float32 [n], drawn int64 [m], outputs int64 [m]) on the device."""
        key = (name, n, str(device))
        if key not in self._plans:
            size = 1 << (n - 1).bit_length()
            drawn = min(size, self.dim)
            self._plans[key] = (
                torch.from_numpy(random_signs(n, self.seed, "srht", "signs", name)).to(device, torch.float32),
                torch.from_numpy(permutation(size, self.seed, "srht", "rows", name)[:drawn].copy()).to(device),
                torch.from_numpy(permutation(self.dim, self.seed, "srht", "outputs", name)[:drawn].copy()).to(device),
            )
        return self._plans[key]

    def add(self, sketch: Tensor, gradient: LayerGradient) -> None:
        values = gradient.full()
        n = values.shape[1]
        signs, drawn, outputs = self._plan(gradient.name, n, values.device)
        size = 1 << (n - 1).bit_length()
        for row in range(len(values)):  # one shape for every batch, since rounding may depend on it
            mixed = hadamard(torch.nn.functional.pad(values[row] * signs, (0, size - n)))
            sketch[row, outputs] += mixed[drawn] * (size / len(drawn)) ** 0.5

    def read(self, sketch: Tensor) -> Tensor:
        return sketch

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": self.kind, "dim": self.dim, "seed": self.seed, "version": VERSION}


def hadamard(x: Tensor) -> Tensor:
    """The orthonormal Walsh-Hadamard transform of float32 [N], N a power of two."""
    size, done = x.numel(), 1
    while done < size:
        # H_N is the Kronecker product of smaller ones: each factor acts on one axis of x seen as a box.
        order = min(_LEAF, size // done)
        x = (_matrix(order, str(x.device)) @ x.reshape(-1, order, done)).reshape(-1)
        done *= order
    return x


@lru_cache(maxsize=16)
def _matrix(order: int, device: str) -> Tensor:
    made = torch.ones(1, 1)
    while len(made) < order:
        made = torch.cat([torch.cat([made, made], 1), torch.cat([made, -made], 1)]) / 2**0.5
    return made.to(device)
