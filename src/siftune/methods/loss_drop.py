"""Loss drop: how much easier a row becomes for a model that was trained on the targets.

A small adapter is trained on the target rows of a subtask. With l_j(theta) the mean loss of row j's response,

    s_j = (l_j(theta_0) - l_j(theta_T)) / l_j(theta_0)      theta_0: the plain model; theta_T: after the targets
    s_j = l_j(theta_R) - l_j(theta_T)                       ``control = "random"``; theta_R: after as many random rows

To first order the drop is the learning rate times the inner product of row j's gradient with the sum of the targets',
so it is LESS's question at the price of two forward passes, asked of an adapter that may have moved far: it also holds
what the targets teach of format and language, which the control takes out (rows that it was trained on become easier
by it, and lose by that). Two relatives are published: ToV (arXiv 2510.00386) trains on the targets and ranks by the
change of the loss; CoLoR-Filter (arXiv 2406.10670) holds a model trained further on the targets against the one before.
Both train whole models, for longer.

Each subtask has an adapter and a line of scores of its own, and subtasks take turns. A loss of less than 1e-4 nats a
token leaves nothing to learn, and has drop 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from siftune._common.seeds import derive, shuffled
from siftune.config.options import COUNT, POSITIVE, OwnSettings, option
from siftune.data.rows import Examples
from siftune.features.adapters import Train, TrainedAdapter, adapters
from siftune.features.base import Computed, Context
from siftune.features.forward.loss import Loss
from siftune.features.forward_passes import forward_stores
from siftune.features.similarity import Subtasks, first_identical
from siftune.features.work import Work

if TYPE_CHECKING:
    from siftune.training.settings import TrainSettings

NAME = "loss-drop"
LEAST = 1e-4
"""Nats a token: a row whose loss is smaller has nothing left to learn."""


@dataclass(frozen=True)
class TrainedLoss(Loss):
    """The loss of each row with an adapter of this method, in stores of its own."""

    @property
    def name(self) -> str:
        return NAME


@dataclass(frozen=True)
class LossDropSettings(OwnSettings):
    control: Literal["none", "random"] = option("none", "What the loss after training on the targets is held against: "
                                                "that of the plain model, as a share of it; or that after training on "
                                                "as many random rows of the pool.")
    training_learning_rate: float = option(3e-4, "Peak learning rate of the training on the targets.", rule=POSITIVE)
    training_epochs: int = option(4, "Epochs of the training on the targets.", rule=COUNT)
    training_batch_size: int = option(4, "Rows per optimizer step of the training on the targets.", rule=COUNT)


class LossDrop:
    Settings = LossDropSettings
    reads = ("autocast",)
    name = NAME
    summary = "How much a row's loss falls when a small adapter is trained on the targets."
    paper = "after arXiv 2510.00386, 2406.10670"
    cost = "a short training on the targets of each subtask and a forward pass over the pool for it, and one before"
    needs_target = True
    needs_model = True
    forward = True
    selector = "round-robin"

    def compute(self, context: Context) -> Computed:
        subtasks, pool, control = Subtasks(context.target), context.pool, context.settings.control
        groups = [_rows(context.target, np.flatnonzero(member)) for member in subtasks.members]
        before = []
        if control != "random" or context.config.collect:  # what else is to be read of the plain model, is read here
            before = forward_stores(context, pool, [Loss()], "pool", step="loss before")
        with adapters(context, training_settings(context), NAME) as (model, train):
            def loss(adapter: TrainedAdapter, step: str) -> Any:
                return forward_stores(context, pool, [TrainedLoss()], "pool", step=step, adapted=model,
                                      checkpoint=adapter)[0]

            trained = [train(group, f"training on {name}") for name, group in zip(subtasks.names, groups, strict=True)]
            after = [loss(one, f"loss after {name}") for name, one in zip(subtasks.names, trained, strict=True)]
            if control == "random":
                before = [loss(one, "loss after random rows") for one in _controls(context, groups, train)]
        first = first_identical(pool)
        losses = [store.array("loss").astype(np.float64)[first] for store in after]
        plain = [store.array("loss").astype(np.float64)[first] for store in before] * (len(after) // len(before))
        drops = np.stack([there - now if control == "random" else relative_drop(there, now)
                          for there, now in zip(plain, losses, strict=True)])
        stores = [*dict.fromkeys(store.folder for store in [*before, *after])]
        notes = {"control": control, "mean_loss_before": round(float(plain[0].mean()), 6), "loss_drop": {
            name: {"rows": len(group), "steps": len(one.losses),
                   "training_loss": [round(one.losses[0], 4), round(one.losses[-1], 4)],
                   "mean": round(float(line.mean()), 6), "harder": int((line < 0).sum())}
            for name, group, one, line in zip(subtasks.names, groups, trained, drops, strict=True)}}
        return Computed(blocks=lambda: iter([(0, drops)]), lines=subtasks.names, stores=stores,
                        fingerprint={"loss": [store.fingerprint for store in [*before, *after]]}, notes=notes)

    def work(self, context: Context) -> list[Work]:
        """What `siftune plan` tells."""
        settings, pool, subtasks = context.settings, context.pool, Subtasks(context.target)
        tokens, targets = int(pool.tokens.sum()), int(context.target.tokens.sum())
        random = settings.control == "random"
        counts = {int(member.sum()) for member in subtasks.members}
        rows = sum(counts) / len(pool) * tokens if random else 0  # as many rows of the pool, at their mean length
        told = f"{settings.training_epochs} epochs on the targets" + " and on as many random rows" * random
        passes = [*(["loss before"] if not random else ["loss after random rows"] * len(counts)),
                  *(f"loss after {name}" for name in subtasks.names)]
        return [Work(NAME, "training", settings.training_epochs * round(targets + rows), told=told),
                *(Work(step, "forward", tokens, (Loss(),), len(pool)) for step in passes)]


def training_settings(context: Context) -> TrainSettings:
    """How each adapter is trained."""
    from siftune.training.settings import TrainSettings

    own = context.settings
    return TrainSettings(learning_rate=own.training_learning_rate, epochs=own.training_epochs,
                         batch_size=own.training_batch_size, micro_batch_tokens=context.config.micro_batch_tokens,
                         seed=derive(context.config.seed, NAME))


def relative_drop(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """float64 [N]: (before - after) / before; 0 where there was nothing to lose. Negative where a row became harder."""
    some = before > LEAST
    return np.where(some, (before - after) / np.where(some, before, 1.0), 0.0)


def _controls(context: Context, groups: list[Examples], train: Train) -> list[TrainedAdapter]:
    """For each group an adapter that was trained on as many random rows of the pool; one for groups of one size."""
    order = shuffled(context.pool.ids, derive(context.config.seed, NAME), "random rows")
    made: dict[int, TrainedAdapter] = {}
    for count in map(len, groups):
        if count not in made:
            made[count] = train(_rows(context.pool, np.array(order[:count])), f"training on {count} random rows")
    return [made[len(group)] for group in groups]


def _rows(of: Examples, positions: np.ndarray) -> Examples:
    return of.take(positions)
