"""Instruction-following difficulty (Cherry LLM, arXiv 2308.12032; with small models: Superfiltering, arXiv 2402.00530).

    IFD(row) = PPL(response | prompt) / PPL(response)                                    (Superfiltering, section 2.2)

How much the prompt helps the model to predict the response: little where IFD is near 1. Rows of 1 or more are ruled
out, since their prompt makes the response less likely: it does not belong there, or the model does not follow it. Of
the others those with the highest IFD are kept: the response does follow, and the model has still to learn how.

Perplexities are exp(mean loss over the row's supervised tokens), so the ratio is exp(L(response | prompt) -
L(response)). Cherry LLM divides the losses themselves: the rows of 1 or more are the same, the order below 1 is not.

What "without the prompt" means differs between the papers' codes. Cherry LLM keeps the opening of the answer ("###
Response:") and leaves out what is before it. Superfiltering runs the output's text alone and so does not score its
first token, which it does score behind the prompt. Here it is as in Cherry LLM: the row's first token (beginning of
text, where there is one), the opening that the chat template puts before an assistant's turn, then the response; the
very same tokens, end of turn included, are scored both times. What is taken away is the prompt, then, and not also the
sign that an answer follows. Of several turns each has its opening, and the answers before it.
"""

from __future__ import annotations

import numpy as np

from siftune.data.rows import Examples
from siftune.data.templates import ChatTemplate
from siftune.features.base import Computed, Context
from siftune.features.forward.loss import Loss, ResponseAloneLoss
from siftune.features.forward.reader import Reader
from siftune.features.forward_passes import forward_stores
from siftune.features.similarity import first_identical
from siftune.features.work import Work

STEP = "loss with and without prompt"
RULED_OUT = "ifd-at-least-1"
"""The reason in ``dropped.jsonl``."""

LARGEST = 700.0  # exp() of more than 709 nats is infinite in float64


class Ifd:
    reads = ("autocast",)
    name = "ifd"
    summary = "How little the prompt helps to predict the response: perplexity with it over perplexity without it."
    paper = "arXiv 2308.12032, 2402.00530"
    cost = "one forward pass over the pool, and one over its responses"
    needs_target = False
    needs_model = True
    forward = True

    def compute(self, context: Context) -> Computed:
        pool = context.pool
        loss, response_alone = readers(context)
        stores = forward_stores(context, pool, [loss, response_alone], "pool", step=STEP)
        conditioned, alone = (store.array("loss").astype(np.float64) for store in stores)
        same = without_prompt(pool, response_alone)
        ratio = ifd(conditioned, np.where(same, conditioned, alone))[first_identical(pool)]
        out = np.flatnonzero(ratio >= 1)
        notes = {
            "ifd_quantiles": {f"{q:.0%}": round(float(np.quantile(ratio, q)), 6)
                              for q in (0, .05, .25, .5, .75, .95, 1)},
            "ifd_at_least_1": len(out),
            "ifd_share_at_least_1": round(len(out) / len(ratio), 6),
        }
        return Computed(scores=ratio, excluded={RULED_OUT: out}, stores=[store.folder for store in stores],
                        fingerprint=stores[0].fingerprint, notes=notes)


    def work(self, context: Context) -> list[Work]:
        """What `siftune plan` tells."""
        loss, alone = readers(context)
        pool = context.pool
        without = sum(len(alone.view(row)) for row in pool.rendered)
        return [Work(STEP, "forward", int(pool.tokens.sum()) + without, (loss,), 2 * len(pool))]


def readers(context: Context) -> list[Reader]:
    """What it reads of a forward pass."""
    tokenizer = context.model.tokenizer
    opening = tokenizer(ChatTemplate(tokenizer).opening(), add_special_tokens=False)["input_ids"]
    return [Loss(), ResponseAloneLoss(tuple(opening))]


def ifd(conditioned: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """float64 [N]: exp(conditioned - alone), always finite: differences above 700 nats a token count as 700.

    Args:
        conditioned, alone: float64 [N], mean loss of each row's response with and without its prompt, nats per token.
    """
    return np.exp(np.minimum(conditioned - alone, LARGEST))


def without_prompt(examples: Examples, alone: Reader) -> np.ndarray:
    """bool [N]: rows that are the same tokens with and without the prompt, since they have none.

    Their ratio is 1, which rounding must not decide.
    """
    return np.array([np.array_equal(alone.view(row).ids, row.ids) for row in examples.rendered])
