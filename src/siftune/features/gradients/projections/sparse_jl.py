"""Sparse Johnson-Lindenstrauss transform (Kane & Nelson 2014, the block construction) and CountSketch.

The output is cut into ``copies`` equal parts. In each part, every coordinate is added to one of its ``width`` buckets
with a random sign. A parameter's coordinates are dealt round by round: a round of ``width`` neighbouring coordinates
fills every bucket once, in an order that is one of a small pool of random permutations, rotated at random. So

* no two coordinates of a round ever meet; two of different rounds meet with probability exactly 1 / width;
* the signs are independent, so the inner product is unbiased with variance at most (|x|^2 |y|^2 + <x, y>^2) / dim;
* everything a round touches lies in one small stretch of memory, and the tables are tiny.

Several copies, averaged, keep the error of vectors with a few very large entries near that of a dense projection; one
copy (CountSketch, Charikar et al. 2002) has a heavier tail. On the CPU a compiled loop adds eight rows at once; its
cost is a few percent of the backward pass. Elsewhere the same sums are made by gathers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siftune._common.seeds import permutation, random_bits
from siftune.features.gradients.engine import LayerGradient
from siftune.features.gradients.projections.base import VERSION, random_signs

POOL = 64  # permutations that rounds draw from


@dataclass
class _Sketch:
    rows: int
    lanes: np.ndarray | None  # on the CPU: float32 [ceil(rows / LANES), dim, LANES]
    sums: Tensor | None  # elsewhere: float32 [rows, dim]


@dataclass(frozen=True)
class _Plan:
    """Of one parameter: its signs int8 [n]; the permutation and the rotation of each round, int32 [copies, rounds]."""

    signs: np.ndarray
    which: np.ndarray
    rotation: np.ndarray


class SparseJL:
    """The default, with four copies; ``dim % copies`` numbers at the end stay zero."""

    kind = "sparse-jl"
    factored = False

    def __init__(self, dim: int, seed: int, copies: int = 4):
        self.dim, self.seed, self.copies = dim, seed, min(copies, dim)
        self.width = dim // self.copies
        self._plans: dict[tuple[str, int], _Plan] = {}
        self._on: dict[tuple[str, int, str], tuple[Tensor, Tensor, Tensor]] = {}
        self._inverses: dict[str, Tensor] = {}
        self._pool = np.stack([permutation(self.width, seed, "sparse-jl", "pool", self.width, k)
                               for k in range(POOL)]).astype(np.int32)

    def new(self, rows: int, device: torch.device | str) -> _Sketch:
        if torch.device(device).type == "cpu":
            from siftune.features.gradients.projections.scatter import LANES

            return _Sketch(rows, np.zeros((-(-rows // LANES), self.dim, LANES), np.float32), None)
        return _Sketch(rows, None, torch.zeros(rows, self.dim, device=device))

    def add(self, sketch: _Sketch, gradient: LayerGradient) -> None:
        values = gradient.full()
        if sketch.lanes is not None:
            from siftune.features.gradients.projections.scatter import scatter

            plan = self._plan(gradient.name, values.shape[1])
            scatter(sketch.lanes, values.contiguous().numpy(), plan.signs, self._pool, plan.which, plan.rotation)
        else:
            assert sketch.sums is not None
            self._gather(sketch.sums, gradient.name, values)

    def read(self, sketch: _Sketch) -> Tensor:
        if sketch.lanes is not None:
            sums = torch.from_numpy(sketch.lanes.transpose(0, 2, 1).reshape(-1, self.dim)[: sketch.rows].copy())
        else:
            assert sketch.sums is not None
            sums = sketch.sums
        return sums * float(np.float32(1 / np.sqrt(self.copies)))

    def _plan(self, name: str, n: int) -> _Plan:
        if (name, n) not in self._plans:
            rounds = -(-n // self.width)
            bits = random_bits(2 * self.copies * rounds, self.seed, "sparse-jl", "rounds", name)
            which, rotation = bits.reshape(2, self.copies, rounds)
            # A remainder of 64 random bits: the bias is below width / 2^64.
            self._plans[name, n] = _Plan(random_signs(n, self.seed, "sparse-jl", "signs", name),
                                         (which % np.uint64(POOL)).astype(np.int32),
                                         (rotation % np.uint64(self.width)).astype(np.int32))
        return self._plans[name, n]

    def _gather(self, sums: Tensor, name: str, values: Tensor) -> None:
        """The same sums without a compiled loop: bucket t of a round takes the coordinate that is dealt to it."""
        key = (name, values.shape[1], str(values.device))
        if key not in self._on:
            plan = self._plan(name, values.shape[1])
            tables = (plan.signs, plan.which.astype(np.int64), plan.rotation.astype(np.int64))
            self._on[key] = tuple(torch.from_numpy(t).to(values.device) for t in tables)  # type: ignore[assignment]
        signs, which, rotation = self._on[key]
        inverse = self._inverse(str(values.device))
        rounds = which.shape[1]
        dealt = torch.nn.functional.pad(values * signs, (0, rounds * self.width - values.shape[1]))
        dealt = dealt.view(len(values), rounds, self.width)
        buckets = torch.arange(self.width, device=values.device)
        for copy in range(self.copies):
            place = (buckets - rotation[copy][:, None]) % self.width  # [rounds, width]
            source = inverse[which[copy]].gather(1, place)
            part = dealt.gather(2, source.expand(len(values), -1, -1)).sum(dim=1)
            sums[:, copy * self.width : (copy + 1) * self.width] += part

    def _inverse(self, device: str) -> Tensor:
        """int64 [permutations, width]: the place of a round that each bucket takes, before rotation."""
        if device not in self._inverses:
            self._inverses[device] = torch.from_numpy(np.argsort(self._pool, axis=1)).to(device)
        return self._inverses[device]

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": self.kind, "dim": self.dim, "seed": self.seed, "copies": self.copies, "version": VERSION}


class CountSketch(SparseJL):
    """One copy only: right on average, with a heavier tail."""

    kind = "countsketch"

    def __init__(self, dim: int, seed: int):
        super().__init__(dim, seed, copies=1)
