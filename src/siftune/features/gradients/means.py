"""The mean direction of some rows, whole: what their gradients share, D floats.

The length of a row's direction is known only when all of its parameters are there, so the gradients of a batch are held
in memory until they are; no more rows at a time than :data:`HELD` bytes take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from siftune.data.rows import Rendered
from siftune.features.gradients.basis import Directions
from siftune.features.gradients.engine import GradientEngine, LayerGradient, parameter_sizes
from siftune.features.gradients.features import Preconditioner, check
from siftune.models.batching import collate, run_batches

HELD = 1 << 30
"""Bytes of whole gradients held at a time (of a single row, where that takes more)."""


def mean_directions(engine: GradientEngine, rendered: Sequence[Rendered], path: Path, *,
                    precondition: Preconditioner | None, pad_id: int, batch_tokens: int, device: torch.device | str,
                    on_batch: Callable[[list[int]], None] = lambda positions: None) -> Directions:
    """The mean of the rows' directions, each of length 1; and of their plain gradients, where these are others.

    Args:
        engine: of the model with its adapter.
        rendered: the rows, at least one.
        path: of the matrix that is written.
        precondition: as for :func:`~siftune.features.gradients.features.gradient_features`.
        pad_id, batch_tokens, device: as there.
        on_batch: called after each batch with the positions of its rows.

    Returns:
        float32 [1, D], or [2, D]: the mean of ``precondition``'s directions, then that of the gradients.

    Raises:
        ModelError: a row's gradient is not finite or exactly zero.
    """
    sizes = parameter_sizes(engine.model)
    kinds: list[Preconditioner | None] = [None] if precondition is None else [precondition, None]
    made = Directions.create(path, len(kinds), sizes)
    total = np.zeros((len(kinds), sum(sizes.values())))
    most = max(1, HELD // (4 * total.size))

    def run(positions: list[int]) -> None:
        for start in range(0, len(positions), most):
            some = positions[start : start + most]
            gradients: dict[str, Tensor] = {}

            def hold(gradient: LayerGradient, gradients: dict[str, Tensor] = gradients) -> None:
                gradients[gradient.name] = gradient.full()

            losses = engine.backward(collate([rendered[i] for i in some], pad_id, device), hold)
            check(_square_lengths(gradients), losses)
            for k, kind in enumerate(kinds):
                parts = {name: kind(name, one) for name, one in gradients.items()} if kind else gradients
                weights = _square_lengths(parts).rsqrt() / len(rendered)
                for name, values in parts.items():
                    first, size = made.places[name]
                    total[k, first : first + size] += (weights @ values).cpu().numpy()
        on_batch(positions)

    with engine.capture():
        run_batches([len(r) for r in rendered], batch_tokens, device, run)
    made.matrix[:] = total
    made.matrix.flush()  # type: ignore[attr-defined]
    return made


def _square_lengths(parts: dict[str, Tensor]) -> Tensor:
    """float32 [rows] of vectors that lie in pieces."""
    found = [torch.linalg.vector_norm(values, dim=1).square() for values in parts.values()]
    return torch.stack(found).sum(dim=0)
