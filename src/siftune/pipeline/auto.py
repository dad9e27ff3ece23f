"""`--method auto`: what has measured best for what is given, and can be had on this machine; and what it will cost.

* With a target: LESS gradients with greedy round-robin, at any budget. On 250 published cells (arXiv 2602.14696) it has
  the largest mean gain of all fixed methods, and no other selector on the same gradients is ahead of it at any budget,
  optimal transport for large ones included (`benchmarks/fixed_methods.py`); on tasks that words do not give away it is
  the only method here that lowers the loss (docs/results.md). Where gradients would take longer than half a day, two
  stages, which take one of its passes over all rows and the others over what that finds, for 99% of its selection
  (docs/representations.md); where these would too, RDS+ with round-robin, which needs one forward pass: published, it
  cannot be told from LESS (arXiv 2503.01807 finds it the best at scale).
* With rows that the model already knows (`--existing`): conditional facility location, DELIFT's continual stage (arXiv
  2411.04425), on LESS features where there is a target, on DELIFT's own utility where its pairs can be afforded, else
  on RDS+.
* Without either: the coverage of neural activations, MADS (arXiv 2605.30857).

The cost is arithmetic, not a measurement, so that the same command chooses the same on machines of one kind: 2 FLOPs a
parameter and token forward, 6 with the backward pass, at a rough speed of the device. `siftune plan` measures.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from siftune._common.progress import about

#: FLOPs a second that a feature pass reaches: per core of a CPU, on a GPU, on an Apple chip.
CPU_CORE_SPEED, CUDA_SPEED, MPS_SPEED = 5e10, 4e13, 2e12
PATIENCE = 12 * 3600.0  # seconds
#: What is known of each: the published cells of docs/results.md. Evidence for the mean, not for the task at hand.
_ROUND_ROBIN = ("better than random rows in 64% of 250 published cells and worse in 35%, by 2.5 points on average "
                "(0.8 to 4.2)")
_RDS = "better than random rows in 62% of 250 published cells and worse in 37%, by 1.9 points on average (0.5 to 3.3)"
_MEASURE = "siftune choose measures which one is worth it here"


@dataclass(frozen=True)
class Situation:
    """What the choice depends on.

    Attributes:
        has_target, has_existing: whether these files are given.
        tokens: of the usable pool.
        parameters: of the model.
        speed: FLOPs a second, see :func:`speed`.
        warmup_epochs, warmup_share: of the warmup run.
        pairs_per_row: how many rows DELIFT would score each example on.
        kept: share of the pool that the first of two stages would keep.
    """

    has_target: bool
    has_existing: bool = False
    tokens: int = 0
    parameters: int = 0
    speed: float = CPU_CORE_SPEED
    warmup_epochs: int = 4
    warmup_share: float = 0.05
    pairs_per_row: int = 32
    kept: float = 1.0

    @property
    def forward(self) -> float:
        """Seconds of a forward pass over the pool."""
        return 2.0 * self.parameters * self.tokens / self.speed

    @property
    def gradients(self) -> float:
        """Seconds of LESS: the warmup run, and a gradient pass over the pool for every checkpoint."""
        return 3 * self.forward * self.warmup_epochs * (1 + self.warmup_share)

    @property
    def stages(self) -> float:
        """Seconds of LESS in two stages: a pass at one checkpoint, and all of them over the rows that are kept."""
        return 3 * self.forward * (1 + self.warmup_epochs * (self.warmup_share + self.kept))

    @property
    def pairs(self) -> float:
        """Seconds of DELIFT's pairwise utility with a sparse kernel."""
        return self.forward * (self.pairs_per_row + 1)


@dataclass(frozen=True)
class Advice:
    """A method's name, a selector instead of its own (or nothing), and why, with the expected cost."""

    method: str
    selector: str
    reason: str


def recommend(s: Situation) -> Advice:
    """The recipe for a situation."""
    if s.has_target and s.has_existing:
        if s.gradients <= PATIENCE:
            return Advice("less", "flcmi", "a target and rows that the model already knows are given: LESS gradients "
                          f"with conditional mutual information; {about(s.gradients)}")
        return Advice("rds+", "flcmi", "a target and rows that the model already knows are given, and gradients would "
                      f"take {about(s.gradients)}: RDS+ with conditional mutual information; {about(s.forward)}")
    if s.has_existing:
        if s.pairs <= PATIENCE:
            return Advice("delift", "", "rows that the model already knows are given: DELIFT's continual stage; "
                          f"{about(s.pairs)}")
        return Advice("rds+", "flcg", "rows that the model already knows are given, and DELIFT's pairs would take "
                      f"{about(s.pairs)}: RDS+ with conditional facility location; {about(s.forward)}")
    if not s.has_target:
        return Advice("mads", "", "no target is given: the rows that together activate most of the model's neurons; "
                      f"{about(s.forward)}")
    if s.stages <= PATIENCE < s.gradients:
        return Advice("two-stage", "", f"gradients at all checkpoints would take {about(s.gradients)} here: LESS in "
                      "two stages takes the last one over all rows and the others over what it finds, which is 99% of "
                      f"the same selection on ten recorded targets; {about(s.stages)}; {_MEASURE}")
    if s.gradients > PATIENCE:
        return Advice("rds+", "", f"gradients would take {about(s.gradients)} here: RDS+ with greedy round-robin "
                      f"needs one forward pass; {_RDS}; {about(s.forward)}; {_MEASURE}")
    return Advice("less-round-robin", "", f"a target is given: LESS gradients with greedy round-robin; {_ROUND_ROBIN}; "
                  f"{about(s.gradients)}; {_MEASURE}")


def speed(device: str) -> float:
    """FLOPs a second, roughly, of ``cuda:1``, ``mps`` or ``cpu``."""
    if device.startswith("cuda"):
        return CUDA_SPEED
    return MPS_SPEED if device == "mps" else CPU_CORE_SPEED * (os.cpu_count() or 1)
