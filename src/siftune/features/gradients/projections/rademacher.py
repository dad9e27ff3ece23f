"""Dense projection with independent +-1/sqrt(dim) entries: LESS's own (arXiv 2402.04333, section 4.1, step 2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from siftune.features.gradients.engine import LayerGradient
from siftune.features.gradients.projections.base import VERSION, random_signs


class Rademacher:
    """For parity with LESS; exact and slow.

    The matrix is never stored: blocks of ``BLOCK`` rows are made from the seed as they are needed, which costs more
    than the multiplication. Matrices of one shape are multiplied whatever the batch, since the rounding of a product
    may depend on its shape.
    """

    kind = "rademacher"
    factored = False
    BLOCK = 256  # coordinates per generated block
    ROWS = 16  # gradients per multiplication

    def __init__(self, dim: int, seed: int):
        self.dim, self.seed = dim, seed

    def new(self, rows: int, device: torch.device | str) -> Tensor:
        return torch.zeros(rows, self.dim, dtype=torch.float32, device=device)

    def block(self, name: str, index: int) -> np.ndarray:
        """float32 [BLOCK, dim]: the part of the matrix for coordinates ``index * BLOCK`` onwards."""
        signs = random_signs(self.BLOCK * self.dim, self.seed, self.kind, name, index)
        return signs.reshape(self.BLOCK, self.dim) * np.float32(1 / np.sqrt(self.dim))

    def add(self, sketch: Tensor, gradient: LayerGradient) -> None:
        values = gradient.full()
        rows, n = values.shape
        padded_rows = -(-rows // self.ROWS) * self.ROWS
        padded = values.new_zeros(padded_rows, -(-n // self.BLOCK) * self.BLOCK)
        padded[:rows, :n] = values
        for index in range(padded.shape[1] // self.BLOCK):
            matrix = torch.from_numpy(self.block(gradient.name, index)).to(values.device)
            columns = padded[:, index * self.BLOCK : (index + 1) * self.BLOCK]
            for start in range(0, rows, self.ROWS):
                stop = min(start + self.ROWS, rows)
                sketch[start:stop] += (columns[start : start + self.ROWS].contiguous() @ matrix)[: stop - start]

    def read(self, sketch: Tensor) -> Tensor:
        return sketch

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": self.kind, "dim": self.dim, "seed": self.seed, "version": VERSION}
