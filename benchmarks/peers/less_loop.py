"""What the released code of LESS does for its pool (``collect_grads`` in ``data_selection/collect_grad_reps.py``).

One example at a time: ``loss.backward()``, the gradients of all LoRA parameters in one vector, the Adam direction of
that vector (no bias correction, eps inside the root), and every ``project_interval = 16`` examples a dense Rademacher
projection to 8192 dimensions. That code projects with ``fast_jl``, which needs CUDA. Here a matrix of the same
distribution is made block by block and multiplied, which on a CPU costs far more than the gradients; its time is
therefore kept apart, and the loop should be judged without it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siftune.data.rows import Rendered
from siftune.features.gradients.projections.rademacher import Rademacher

PROJECT_INTERVAL = 16
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class LessLoop:
    """Per-example features as LESS's code makes them.

    Args:
        model: with a LoRA adapter, the only thing that is trainable.
        first, second: float32 [n], Adam's moments of all trainable parameters, in their order.
        dim: of the projection.
        output: a file for the features, float32 [rows, dim].
    """

    def __init__(self, model: Any, first: Tensor, second: Tensor, dim: int, seed: int, output: Path):
        self.model, self.first, self.second, self.output = model, first, second, output
        self.rademacher = Rademacher(dim, seed)

    def __call__(self, rows: Sequence[Rendered], *, project: bool = True) -> dict[str, float]:
        """Returns ``projection_seconds`` and ``projection_cpu_seconds``, the parts of the time that the projection
        took, and ``loss`` of all supervised tokens together."""
        self.loss = 0.0
        waiting: list[Tensor] = []
        features: list[Tensor] = []
        projection_seconds = projection_cpu_seconds = 0.0
        for number, row in enumerate(rows):
            waiting.append(self._direction(self._gradient(row)))
            if project and (len(waiting) == PROJECT_INTERVAL or number + 1 == len(rows)):
                started, cpu = time.perf_counter(), time.process_time()
                features.append(self._project(torch.stack(waiting)))
                projection_seconds += time.perf_counter() - started
                projection_cpu_seconds += time.process_time() - cpu
            if len(waiting) == PROJECT_INTERVAL:
                waiting = []
        if features:
            torch.save(torch.cat(features), self.output)
        return {"projection_seconds": projection_seconds, "projection_cpu_seconds": projection_cpu_seconds,
                "loss": self.loss}

    def _gradient(self, row: Rendered) -> Tensor:
        ids = torch.from_numpy(row.ids).long()[None]
        labels = ids.masked_fill(~torch.from_numpy(row.mask)[None], -100)
        loss = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        loss.backward()
        self.loss += loss.item() * row.supervised
        gradient = torch.cat([p.grad.view(-1) for p in self.model.parameters() if p.grad is not None])
        self.model.zero_grad()
        return gradient

    def _direction(self, gradient: Tensor) -> Tensor:
        first = BETA1 * self.first + (1 - BETA1) * gradient
        second = BETA2 * self.second + (1 - BETA2) * gradient**2
        return first / torch.sqrt(second + EPS)

    def _project(self, directions: Tensor) -> Tensor:
        block = self.rademacher.BLOCK
        out = directions.new_zeros(len(directions), self.rademacher.dim)
        for index, start in enumerate(range(0, directions.shape[1], block)):
            part = directions[:, start : start + block]
            out += part @ torch.from_numpy(self.rademacher.block("all", index))[: part.shape[1]]
        return out
