"""Learning percentage (Mekala et al., "Smaller Language Models are capable of selecting Instruction-Tuning Training
Data for Larger Language Models", arXiv 2402.10430, section 2).

The model is trained on the whole pool. With P_e the perplexity of a row's response after epoch e (P_0: before),

    LP(1)  = (P_0 - P_1) / (P_0 - P_3)      what the first epoch learns of all that three epochs learn    ("full")
    LP_app = (P_0 - P_1) / P_0              the same without the later epochs                             ("app")

A low percentage means learned late, hard, worth keeping: the score is minus the percentage. For diversity the paper
takes the hardest rows of every k-means cluster of sentence embeddings: the selector ``k-means-balanced``.

Both come from one training run, as in the released code: three epochs over the pool, cosine schedule with 3% warmup.
LP_app leaves off after its first epoch, at the learning rates of the whole run; asked for LP(1) later, training goes
on from there. The paper trains all weights at 2e-5; here it is the adapter of ``--lora-rank`` at
``training_learning_rate``.

LP(1) is not defined where nothing is learned. 4-5% of Dolly have P_0 <= P_3, for which the released code still
divides, so that a row which gets worse and worse appears to be learned at once; it gives 0 where P_0 = P_3. Here:

* A row whose loss falls by less than 1e-4 nats a token over the whole run, or rises, has LP(1) = 0: not learned.
* Others are kept between -1 and 2 (lost, or learned and lost again, as much as three epochs gain), lest a small
  denominator decides who is hardest. Ties are broken by id, as everywhere.

Computed from losses, as LP(1) = (1 - exp(L_1 - L_0)) / (1 - exp(L_3 - L_0)): perplexities overflow, this does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from siftune._common.artefacts import described
from siftune.config.options import COUNT, POSITIVE, option
from siftune.features.base import Computed, Context
from siftune.features.forward.loss import Loss
from siftune.features.forward_passes import forward_stores
from siftune.features.gradient_settings import lora_settings
from siftune.features.passes import refuse_other
from siftune.features.similarity import first_identical
from siftune.features.warmed_up import warmed_up
from siftune.features.work import Work
from siftune.methods.embedding import Embedded, embedding_vectors

if TYPE_CHECKING:
    from siftune.features.gradients.warmup import WarmupSettings

NAME = "learning-percentage"
EPOCHS = 3
LEARNED = 1e-4
"""Nats a token: the least by which the loss must fall over all epochs to speak of learning."""
LOWEST, HIGHEST = -1.0, 2.0
LARGEST = 600.0  # exp() of more than 709 nats is infinite in float64


@dataclass(frozen=True)
class EpochLoss(Loss):
    """The loss of each row at a checkpoint of this training run, in a store of its own."""

    @property
    def name(self) -> str:
        return NAME


@dataclass(frozen=True)
class LearningPercentageSettings(Embedded):
    learning_percentage: Literal["full", "app"] = option("full", "Of what three epochs learn (the paper's LP(1)), or "
                                                         "of the first perplexity (LP_app: one epoch).",
                                                         decides="selection")
    training_learning_rate: float = option(3e-4, "Peak learning rate of the training on the pool.", rule=POSITIVE,
                                           paper="2e-5, of all weights")
    training_batch_size: int = option(8, "Rows per optimizer step of the training on the pool.", rule=COUNT, paper=128)


class LearningPercentage:
    Settings = LearningPercentageSettings
    reads = ("autocast", "feature_dtype")
    name = NAME
    summary = "How much of what training teaches of a row its first epoch teaches; low is hard."
    paper = "arXiv 2402.10430"
    cost = "three epochs of training on the pool (app: one) and three forward passes over it (app: two)"
    needs_target = False
    needs_model = True
    forward = True

    def compute(self, context: Context) -> Computed:
        pool = context.pool
        full = context.settings.learning_percentage == "full"
        settings = training_settings(context)
        root = context.folder / "store" / NAME
        fingerprint = self.fingerprint(context, settings)
        refuse_other(context, root, fingerprint, training=NAME)
        [base] = forward_stores(context, pool, [Loss()], "pool", step="loss before training")
        stores = [base]
        with warmed_up(context, settings=settings, folder=NAME, stop_after=None if full else 1) as (model, checkpoints):
            for epoch in (1, EPOCHS) if full else (1,):
                stores += forward_stores(context, pool, [EpochLoss()], "pool", step=f"loss after epoch {epoch}",
                                         adapted=model, checkpoint=checkpoints[epoch - 1])
        first = first_identical(pool)
        losses = [store.array("loss").astype(np.float64)[first] for store in stores]
        percentage = learning_percentage(*losses) if full else approximate_percentage(*losses)
        return Computed(scores=0.0 - percentage, vectors=embedding_vectors(context), stores=[s.folder for s in stores],
                        fingerprint=fingerprint, notes=_notes(losses, percentage))

    def work(self, context: Context) -> list[Work]:
        """What `siftune plan` tells."""
        pool = context.pool
        tokens, epochs = int(pool.tokens.sum()), EPOCHS if context.settings.learning_percentage == "full" else 1
        passes = ("loss before training", "loss after epoch 1", f"loss after epoch {EPOCHS}")[: 2 if epochs == 1 else 3]
        return [Work(NAME, "training", epochs * tokens, told=f"{epochs} epoch{'s' * (epochs > 1)} on the whole pool"),
                *(Work(step, "forward", tokens, (Loss(),), len(pool)) for step in passes),
                Work("pool embeddings", "sentences", tokens, sentence_rows=len(pool), needs="vectors")]

    def fingerprint(self, context: Context, settings: WarmupSettings) -> dict[str, Any]:
        """What the training run is made from; LP(1) and LP_app share it."""
        config, loaded = context.config, context.model
        return {"model": loaded.identity, "dtype": loaded.dtype, "render": context.render, "pool": context.pool_key,
                "seed": config.seed, "lora": described(lora_settings(config)), "training": described(settings)}


def training_settings(context: Context) -> WarmupSettings:
    """Three epochs over the whole pool, as the released code trains."""
    from siftune.features.gradients.warmup import WarmupSettings
    from siftune.training.settings import TrainSettings

    own = context.settings
    train = TrainSettings(learning_rate=own.training_learning_rate, batch_size=own.training_batch_size,
                          micro_batch_tokens=context.config.micro_batch_tokens, schedule="cosine", warmup_share=0.03,
                          weight_decay=0.0)
    return WarmupSettings(share=1.0, min_rows=1, epochs=EPOCHS, train=train)


def learning_percentage(before: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """float64 [N]: LP(1) between -1 and 2; 0 for rows that are not learned.

    Args:
        before, first, last: float64 [N], loss of each row before training, after its first and after its last epoch, in
            nats per token.
    """
    learned = before - last > LEARNED
    gained, in_all = approximate_percentage(before, first), approximate_percentage(before, last)
    return np.where(learned, np.clip(gained / np.where(learned, in_all, 1.0), LOWEST, HIGHEST), 0.0)


def approximate_percentage(before: np.ndarray, first: np.ndarray) -> np.ndarray:
    """float64 [N]: LP_app = 1 - exp(first - before), finite; negative where the first epoch makes a row less likely."""
    return -np.expm1(np.minimum(first - before, LARGEST))


def _notes(losses: list[np.ndarray], percentage: np.ndarray) -> dict[str, Any]:
    epochs = (0, 1, EPOCHS)[: len(losses)]
    told: dict[str, Any] = {
        "learning_percentage": "full" if len(losses) == 3 else "app",
        "learning_percentage_quantiles": {f"{q:.0%}": round(float(np.quantile(percentage, q)), 6)
                                          for q in (0, .05, .25, .5, .75, .95, 1)},
        "mean_loss_after_epoch": {str(e): round(float(loss.mean()), 6) for e, loss in zip(epochs, losses, strict=True)},
        "less_likely_after_epoch_1": int((losses[1] > losses[0]).sum()),
    }
    if len(losses) == 3:
        fall = losses[0] - losses[2]
        told["never_learned"] = int((fall <= 0).sum())
        told["hardly_learned"] = int(((fall > 0) & (fall <= LEARNED)).sum())
        told["percentages_cut"] = int(((percentage <= LOWEST) | (percentage >= HIGHEST)).sum())
    return told
