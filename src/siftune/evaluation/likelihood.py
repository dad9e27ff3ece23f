"""Answers scored by likelihood: which of a row's options the model finds most probable.

``acc`` and ``acc_norm`` are those of multiple-choice tasks in the lm-evaluation-harness (Gao et al.,
https://github.com/EleutherAI/lm-evaluation-harness): the option with the highest log-likelihood, summed over its
tokens, and the one with the highest log-likelihood by byte of its text in UTF-8, so that long options are at no
disadvantage.
(Versions of the harness that tell ``acc_bytes`` divide by bytes there and by characters in ``acc_norm``; of ASCII text
the two are the same.) An option is rendered as the assistant's turn, as all rows are, so its end-of-turn token counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from siftune._common import progress
from siftune.data.problems import BadRow
from siftune.data.render import Renderer
from siftune.data.rows import Message, Rendered, Row
from siftune.evaluation.choices import Choices
from siftune.evaluation.loss import evaluating
from siftune.evaluation.prompts import ReadPrompts, keeps_keys, log_likelihoods
from siftune.models.batching import batch_cost, collate, plan_batches
from siftune.models.supervised_logits import supervised_logits


@dataclass(frozen=True)
class RenderedChoices:
    """The options of a row as the model sees them.

    Attributes:
        options: the conversation with each option for its answer; only the tokens of that turn are supervised.
        sizes: bytes of each option's text in UTF-8.
        answer: position of the right one.
    """

    options: tuple[Rendered, ...]
    sizes: tuple[int, ...]
    answer: int


@dataclass(frozen=True)
class ChoiceScores:
    """What the model makes of options.

    Attributes:
        log_likelihoods: float64 [options] of each row, in nats; None for a row without options.
        acc: bool [N]: whether the right option has the highest log-likelihood; the first one of equal ones counts.
            False where there are no options.
        acc_norm: bool [N]: likewise by byte of its text.
        applicable: bool [N]: whether the row has options.
    """

    log_likelihoods: list[np.ndarray | None]
    acc: np.ndarray
    acc_norm: np.ndarray
    applicable: np.ndarray


def render_choices(row: Row, choices: Choices, renderer: Renderer) -> RenderedChoices | None:
    """The options of a row as the model reads them; None where one cannot be rendered in full."""
    last = max(i for i, message in enumerate(row.messages) if message.role == "assistant")
    # What the assistant has said before is given, and no part of any option.
    before = [dataclasses.replace(m, train=False) if m.role == "assistant" else m for m in row.messages[:last]]
    rendered: list[Rendered] = []
    for option in choices.options:
        try:
            one = renderer.render([*before, Message("assistant", option)], row.tools)
        except BadRow:
            return None
        if one.cut_tokens:
            return None
        rendered.append(one)
    return RenderedChoices(tuple(rendered), tuple(len(option.encode()) for option in choices.options), choices.answer)


def choice_scores(model: Any, rows: Sequence[RenderedChoices | None], *, batch_tokens: int = 4096,
                  device: str | torch.device = "cpu", pad_id: int = 0, title: str = "options") -> ChoiceScores:
    """Log-likelihoods of all options, and whether the right one wins.

    What the options of a row have in common, the prompt, is read once wherever the model's attention lets its keys and
    values be used again; elsewhere every option is read in full. The result is the same but for float32 rounding.

    Args:
        model: A causal language model on ``device``, plain or with adapters.
        rows: The options of each row; None for rows without.
        batch_tokens: Tokens of prompts and options per forward pass; a longer row stands alone.
        device: Where the model is.
        pad_id: Token id to pad with (masked out, so any valid id).
        title: Of the progress bar.
    """
    found: list[np.ndarray | None] = [None] * len(rows)
    with evaluating(model), progress.bar(title, sum(row is not None for row in rows)) as bar:
        is_shared = keeps_keys(model)
        asked = [(i, row, common_start(row.options)) for i, row in enumerate(rows) if row is not None]
        for shared in (True, False):
            some = [one for one in asked if (is_shared and one[2] > 0) == shared]
            # Beside each option stand the keys and values of the prompt, so it takes the room of the whole.
            lengths = [sum(map(len, row.options)) for _, row, _ in some]
            for positions in plan_batches(lengths, batch_tokens, batch_cost=batch_cost(device)):
                batch = [some[p] for p in positions]
                options = [option for _, row, _ in batch for option in row.options]
                if shared:
                    of = [k for k, (_, row, _) in enumerate(batch) for _ in row.options]
                    ends = [without_start(option, batch[k][2]) for k, option in zip(of, options, strict=True)]
                    values = _after_prompts(model, [row.options[0].ids[:n] for _, row, n in batch], ends, of, pad_id,
                                            device)
                else:
                    values = _in_full(model, options, pad_id, device)
                cuts = np.cumsum([len(row.options) for _, row, _ in batch])[:-1]
                for (i, _, _), mine in zip(batch, np.split(values, cuts), strict=True):
                    found[i] = mine
                bar.advance(len(batch))
    return judged(rows, found)


def judged(rows: Sequence[RenderedChoices | None], found: list[np.ndarray | None]) -> ChoiceScores:
    """Which options win, by their log-likelihoods."""
    acc, acc_norm = np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
    for i, (row, values) in enumerate(zip(rows, found, strict=True)):
        if row is not None and values is not None:
            acc[i] = values.argmax() == row.answer
            acc_norm[i] = (values / np.array(row.sizes, dtype=np.float64)).argmax() == row.answer
    return ChoiceScores(found, acc, acc_norm, np.array([row is not None for row in rows], dtype=bool))


def common_start(options: Sequence[Rendered]) -> int:
    """Tokens that all options start with and that none is scored on, less the last one: it predicts what follows."""
    shortest = min(map(len, options))
    same = np.all([one.ids[:shortest] == options[0].ids[:shortest] for one in options], axis=0)
    first = min(int(one.mask.argmax()) for one in options)
    return min(first, shortest if same.all() else int(same.argmin())) - 1


def without_start(row: Rendered, start: int) -> Rendered:
    """What follows after so many tokens."""
    return Rendered(row.ids[start:], row.mask[start:])


def _in_full(model: Any, options: Sequence[Rendered], pad_id: int, device: str | torch.device) -> np.ndarray:
    batch = collate(options, pad_id, device)
    with supervised_logits(model, batch.supervised):
        out = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    return log_likelihoods(out.logits[0], batch.input_ids, batch.supervised)


def _after_prompts(model: Any, prompts: Sequence[np.ndarray], ends: Sequence[Rendered], of: Sequence[int], pad_id: int,
                   device: str | torch.device) -> np.ndarray:
    """float64 [options]: of ``ends[k]`` after ``prompts[of[k]]``."""
    read = ReadPrompts.read(model, prompts, pad_id, device)
    read.select(of)
    return read.score(model, ends, pad_id)
