"""What a projection is, and the random parts that several kinds share."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from siftune._common.seeds import random_bits
from siftune.features.gradients.engine import LayerGradient

VERSION = 2  # raise it whenever the numbers change: stored features are then refused, not mixed


class Projection(Protocol):
    """Maps the concatenation of all parameters' gradients to ``dim`` numbers, one parameter at a time.

    Attributes:
        kind: its name, as the setting ``projection`` has it.
        dim: numbers per row.
        factored: whether it works on the two factors of a layer's gradient and so cannot follow Adam.
    """

    kind: str
    dim: int
    factored: bool

    def new(self, rows: int, device: torch.device | str) -> Any:
        """An empty sketch of ``rows`` rows to add into; its layout is the projection's own."""
        ...

    def add(self, sketch: Any, gradient: LayerGradient) -> None:
        """Add the projection of one parameter's gradients; its name keys the random numbers."""
        ...

    def read(self, sketch: Any) -> Tensor:
        """float32 [rows, dim]: what has been added up."""
        ...

    def fingerprint(self) -> dict[str, Any]: ...


def random_signs(n: int, *key: str | int) -> np.ndarray:
    """int8 [n] of +-1."""
    bits = random_bits((n + 63) // 64, *key)  # type: ignore[arg-type]
    ones = np.unpackbits(bits.astype("<u8").view(np.uint8), bitorder="little")[:n]
    return ones.view(np.int8) * np.int8(2) - np.int8(1)
