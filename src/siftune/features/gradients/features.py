"""Rows in, projected gradient features out: engine, preconditioner and projection put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from siftune._common.errors import ModelError
from siftune.data.rows import Rendered
from siftune.features.gradients.engine import GradientEngine, LayerGradient
from siftune.features.gradients.projections import Projection
from siftune.models.batching import collate, run_batches

Preconditioner = Callable[[str, Tensor], Tensor]


def gradient_features(
    engine: GradientEngine,
    rendered: Sequence[Rendered],
    *,
    projection: Projection,
    precondition: Preconditioner | None = None,
    pad_id: int,
    batch_tokens: int,
    device: torch.device | str = "cpu",
    on_batch: Callable[[list[int]], None] = lambda positions: None,
) -> dict[str, np.ndarray]:
    """One row of features an example, in the order given, whatever the batches.

    Args:
        projection: where the directions are added up, parameter by parameter.
        precondition: maps (parameter name, float32 [b, n] gradients) to directions of the same shape; None for the
            gradients themselves. A factored projection allows None only.
        batch_tokens: padded tokens per batch. A batch that does not fit in the device's memory is halved.
        on_batch: called after each batch with the positions of its rows.

    Returns:
        ``projected`` float32 [N, dim]: the projected direction;
        ``norm`` float32 [N]: the norm of the direction before projection (absent for a factored projection, which
        never forms it);
        ``loss`` float32 [N]: the mean cross-entropy of the row's supervised tokens.

    Raises:
        ModelError: a row's gradient is not finite or exactly zero; such a row has no direction and would be ranked
            by an accident.
    """
    n = len(rendered)
    out = {"projected": np.empty((n, projection.dim), np.float32), "loss": np.empty(n, np.float32)}
    if not projection.factored:
        out["norm"] = np.empty(n, np.float32)

    def run(positions: list[int]) -> None:
        batch = collate([rendered[i] for i in positions], pad_id, device)
        sums = _Sums(projection, precondition, len(positions), device)
        losses = engine.backward(batch, sums.add)
        projected, norm = sums.read(losses)
        out["projected"][positions] = projected.cpu().numpy()
        out["loss"][positions] = losses.cpu().numpy()
        if norm is not None:
            out["norm"][positions] = norm.cpu().numpy()
        on_batch(positions)

    with engine.capture():
        run_batches([len(r) for r in rendered], batch_tokens, device, run)
    return out


def normalised(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``projected`` replaced by ``feature``, its rows of length 1, and ``projected_norm`` float32 [N].

    Cosines are what gradient methods compare: gradient norms fall with response length (LESS, section 3.2).
    """
    rest = {name: array for name, array in arrays.items() if name != "projected"}
    norm = np.linalg.norm(arrays["projected"], axis=1)
    return {"feature": arrays["projected"] / np.maximum(norm, 1e-30)[:, None], "projected_norm": norm, **rest}


class _Sums:
    """Of one batch: the sketch, and the squared norms of gradients and directions."""

    def __init__(self, projection: Projection, precondition: Preconditioner | None, rows: int,
                 device: torch.device | str):
        self.projection, self.precondition = projection, precondition
        self.sketch = projection.new(rows, device)
        self.gradient = torch.zeros(rows, device=device)
        self.direction = torch.zeros(rows, device=device)

    def add(self, gradient: LayerGradient) -> None:
        if self.projection.factored:
            self.projection.add(self.sketch, gradient)
            return
        values = gradient.full()
        norm = torch.linalg.vector_norm(values, dim=1)
        self.gradient += norm * norm
        if self.precondition is not None:
            values = self.precondition(gradient.name, values)
            norm = torch.linalg.vector_norm(values, dim=1)
        self.direction += norm * norm
        self.projection.add(self.sketch, LayerGradient.of(gradient.name, values))

    def read(self, losses: Tensor) -> tuple[Tensor, Tensor | None]:
        projected = self.projection.read(self.sketch)
        if self.projection.factored:
            check(projected.square().sum(dim=1), losses)
            return projected, None
        check(self.gradient, losses)
        return projected, self.direction.sqrt()


def check(gradient_squares: Tensor, losses: Tensor) -> None:
    """Refuse rows without a direction.

    Args:
        gradient_squares: float32 [rows], squared lengths of their gradients.
        losses: float32 [rows].

    Raises:
        ModelError: see :func:`gradient_features`.
    """
    if not bool(torch.isfinite(gradient_squares).all() and torch.isfinite(losses).all()):
        raise ModelError("a row's loss or gradient is not a finite number",
                         why="With NaN in the features, sorting would put such a row first.",
                         hint="half precision overflows on some models: try --dtype float32")
    if bool((gradient_squares == 0).any()):
        raise ModelError("a row's gradient is exactly zero",
                         why="Its Adam direction would be pure momentum, the same for every such row.",
                         hint="look at the row's mask with `siftune inspect`")
