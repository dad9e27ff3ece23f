"""Rows in, projected gradient features out: engine, preconditioner and projection put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from siftune.data.rows import Rendered
from siftune.errors import ModelError
from siftune.gradients.batching import collate, plan_batches
from siftune.gradients.engine import GradientEngine
from siftune.gradients.projection import Projection

Preconditioner = Callable[[str, Tensor], Tensor]


def gradient_features(
    engine: GradientEngine,
    rendered: Sequence[Rendered],
    *,
    precondition: Preconditioner,
    projection: Projection,
    pad_id: int,
    batch_tokens: int,
    device: torch.device | str = "cpu",
    on_batch: Callable[[list[int]], None] = lambda positions: None,
) -> dict[str, np.ndarray]:
    """One row of features an example, in the order given, whatever the batches.

    Args:
        precondition: maps (parameter name, float32 [b, n] gradients) to directions of the same shape.
        projection: where the directions are added up, parameter by parameter.
        batch_tokens: padded tokens per batch.
        on_batch: called after each batch with the positions of its rows.

    Returns:
        ``feature`` float32 [N, dim]: the projected direction, L2-normalised;
        ``projected_norm`` float32 [N]: its norm before that;
        ``norm`` float32 [N]: the norm of the direction before projection;
        ``loss`` float32 [N]: the mean cross-entropy of the row's supervised tokens.

    Raises:
        ModelError: a row's gradient is not finite or exactly zero; such a row has no direction and would be ranked
            by an accident.
    """
    n = len(rendered)
    out = {
        "feature": np.empty((n, projection.dim), np.float32),
        "projected_norm": np.empty(n, np.float32),
        "norm": np.empty(n, np.float32),
        "loss": np.empty(n, np.float32),
    }
    for positions in plan_batches([len(r) for r in rendered], batch_tokens):
        batch = collate([rendered[i] for i in positions], pad_id, device)
        features = projection.new(len(positions), device)
        squares = torch.zeros(len(positions), dtype=torch.float32, device=device)
        gradient_squares = torch.zeros_like(squares)

        def consume(name: str, gradients: Tensor, features: Tensor = features, squares: Tensor = squares,
                    gradient_squares: Tensor = gradient_squares) -> None:
            gradient_squares.add_(gradients.square().sum(dim=1))
            directions = precondition(name, gradients)
            squares.add_(directions.square().sum(dim=1))
            projection.add(features, name, directions)

        with engine.capture(consume):
            losses = engine.backward(batch)
        _check(gradient_squares, losses)
        projected_norm = torch.linalg.vector_norm(features, dim=1)
        out["feature"][positions] = (features / projected_norm.clamp(min=1e-30)[:, None]).cpu().numpy()
        out["projected_norm"][positions] = projected_norm.cpu().numpy()
        out["norm"][positions] = squares.sqrt().cpu().numpy()
        out["loss"][positions] = losses.cpu().numpy()
        on_batch(positions)
    return out


def _check(gradient_squares: Tensor, losses: Tensor) -> None:
    if not bool(torch.isfinite(gradient_squares).all() and torch.isfinite(losses).all()):
        raise ModelError("a row's loss or gradient is not a finite number",
                         why="With NaN in the features, sorting would put such a row first.",
                         hint="half precision overflows on some models: try --dtype float32")
    if bool((gradient_squares == 0).any()):
        raise ModelError("a row's gradient is exactly zero",
                         why="Its Adam direction would be pure momentum, the same for every such row.",
                         hint="look at the row's mask with `siftune inspect`")
