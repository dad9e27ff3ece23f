"""How a LoRA run is trained: everything that decides its result, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib.util import find_spec

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name

#: Our name of a learning-rate schedule -> transformers' name. All start with a linear warmup.
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
TRACKERS = ("none", "tensorboard", "trackio", "wandb")


@dataclass(frozen=True)
class TrainSettings:
    """AdamW over shuffled epochs.

    Attributes:
        learning_rate: Peak learning rate.
        epochs: Passes over the rows; each in an order of its own.
        batch_size: Rows per optimizer step; the last batch of an epoch may be smaller.
        micro_batch_tokens: Padded tokens per forward pass: a batch is cut into micro-batches of rows of like length,
            which bounds the memory of a step; its loss is the same. A longer row stands alone.
        schedule: ``linear`` or ``cosine`` (both to zero) or ``constant``.
        warmup_share: Share of the steps over which the learning rate rises from zero.
        weight_decay: AdamW's decoupled decay.
        max_grad_norm: Gradients are scaled down to this Euclidean norm; 0 leaves them alone.
        betas: AdamW's decay rates of the first and second moment.
        eps: AdamW's epsilon (outside the square root).
        seed: Decides the row order of every epoch and the dropout of every step.
        average_last: The trained weights are the mean of those after each of so many last steps (of all, where there
            are fewer), which takes a part of the luck of the last batches away; 1 for the last alone.
        save_steps: Also checkpoint after every so many steps, for long epochs; does not change the result.
        report_to: Tracker that loss and learning rate of every step go to, one of :data:`TRACKERS`; changes no result.
    """

    learning_rate: float = 3e-4
    epochs: int = 4
    batch_size: int = 8
    micro_batch_tokens: int = 1024
    schedule: str = "linear"
    warmup_share: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    seed: int = 0
    average_last: int = 1
    save_steps: int | None = field(default=None, metadata={"decides": "nothing"})
    report_to: str = field(default="none", metadata={"decides": "nothing"})

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES, flag="--schedule")
        if self.report_to not in TRACKERS:
            raise unknown_name("tracker", self.report_to, TRACKERS, flag="--report-to")
        if self.report_to != "none" and find_spec(self.report_to) is None:
            raise ConfigError(f"{self.report_to} is not installed", where="--report-to",
                              hint=f"pip install {self.report_to}, or leave the flag out")
        for name in ("epochs", "batch_size", "micro_batch_tokens", "average_last", "save_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise _wrong(name, value, "a whole number from 1")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise _wrong("learning_rate", self.learning_rate, "a positive number, for example 3e-4")
        if not 0 <= self.warmup_share < 1:
            raise _wrong("warmup_share", self.warmup_share, "a share in [0, 1), for example 0.03")
        for name in ("weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise _wrong(name, getattr(self, name), "a number from 0")

    def steps_per_epoch(self, rows: int) -> int:
        return math.ceil(rows / self.batch_size)

    def warmup_steps(self, total_steps: int) -> int:
        """Steps of rising learning rate; always fewer than all, so that the shortest run still learns something."""
        return min(math.ceil(self.warmup_share * total_steps), total_steps - 1)


def _wrong(name: str, value: object, wanted: str) -> ConfigError:
    flag = f"--{name.replace('_', '-')}"
    return ConfigError(f"{name.replace('_', ' ')} cannot be {value}", where=flag, hint=f"give {flag} {wanted}")
