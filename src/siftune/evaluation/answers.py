"""Loss, exact match and options of test rows, each prompt read once.

The three ask different things after the same prompt, which is most of the tokens of a benchmark's rows: its loss what
the model makes of the right answer, its options what of each one, exact match what the model says itself. Wherever a
model's attention lets the keys and values of a prompt be used again (:func:`~siftune.evaluation.prompts.keeps_keys`)
the prompt is read once for all of them. Elsewhere, and for rows that are supervised before their last answer, each
measure reads the rows by itself. The numbers are the same but for float32 rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from siftune._common import progress
from siftune.data.rows import Rendered
from siftune.evaluation.exact_match import ExactMatches, applicable_references, exact_match, judged_answer, stop_tokens
from siftune.evaluation.likelihood import (
    ChoiceScores,
    RenderedChoices,
    choice_scores,
    common_start,
    judged,
    without_start,
)
from siftune.evaluation.loss import evaluating, row_losses
from siftune.evaluation.prompts import ReadPrompts, keeps_keys
from siftune.models.batching import BATCH_COST, plan_batches


@dataclass(frozen=True)
class AnswerScores:
    """What a model makes of test rows.

    Attributes:
        loss: float64 [N], nats per supervised token, see :func:`~siftune.evaluation.loss.row_losses`.
        matches: See :func:`~siftune.evaluation.exact_match.exact_match`; None where nothing was asked.
        choices: See :func:`~siftune.evaluation.likelihood.choice_scores`; None where nothing was offered.
    """

    loss: np.ndarray
    matches: ExactMatches | None
    choices: ChoiceScores | None


@dataclass(frozen=True)
class _Asked:
    """What is asked after one row's prompt, which has ``start`` tokens in common with all of it."""

    position: int
    start: int
    row: Rendered
    options: tuple[Rendered, ...]
    prompt: np.ndarray | None
    room: int

    @property
    def tokens(self) -> int:
        """That stand in a batch at a time: every end beside a copy of the prompt's keys and values."""
        return sum(map(len, (self.row, *self.options)))


def score_answers(model: Any, tokenizer: Any, rendered: Sequence[Rendered], prompts: Sequence[np.ndarray] = (),
                  references: Sequence[str] = (), choices: Sequence[RenderedChoices | None] = (), *,
                  max_reference_tokens: int = 32, margin: int = 8, batch_tokens: int = 4096,
                  device: str | torch.device = "cpu", pad_id: int = 0, title: str = "answers") -> AnswerScores:
    """Loss, exact match and options of rows.

    Args:
        model: A causal language model on ``device``, plain or with adapters.
        tokenizer: Its tokenizer.
        rendered: The rows; each must have a supervised token.
        prompts, references: For exact match, one for each row; empty where it is not wanted.
        choices: Options of each row, None for rows without; empty where they are not wanted.
        max_reference_tokens, margin: See :func:`~siftune.evaluation.exact_match.exact_match`.
        batch_tokens: Tokens of prompts and what follows them per forward pass; a longer row stands alone.
        device: Where the model is.
        pad_id: Token id to pad with (masked out, so any valid id).
        title: Of the progress bar.

    Raises:
        DataError: a row has no supervised token.
        ValueError: the numbers of rows, prompts, references and choices differ.
    """
    for name, given in (("prompts", prompts), ("references", references), ("choices", choices)):
        if given and len(given) != len(rendered):
            raise ValueError(f"{len(given)} {name} for {len(rendered)} rows")
    sizes, applicable = applicable_references(tokenizer, references, max_reference_tokens)
    with evaluating(model):
        is_shared = keeps_keys(model)
    asked = []
    for i, row in enumerate(rendered):
        found = choices[i] if choices else None
        offered = found.options if found else ()
        prompt = prompts[i] if prompts and applicable[i] else None
        start = _start(row, offered, prompt) if is_shared and row.supervised else 0
        asked.append(_Asked(i, start, row, offered, prompt, sizes[i] + margin if prompt is not None else 0))
    shared = [one for one in asked if one.start > 0]
    alone = [one.position for one in asked if one.start <= 0]

    loss = np.full(len(rendered), np.nan)
    options: list[np.ndarray | None] = [None] * len(rendered)
    outputs: list[str | None] = [None] * len(rendered)
    correct = np.zeros(len(rendered), dtype=bool)
    stops = stop_tokens(model, tokenizer)
    with evaluating(model), progress.bar(title, len(shared)) as bar:
        # Where answers are generated every token is a pass of its own over the weights: few full batches are best.
        for positions in plan_batches([one.tokens for one in shared], batch_tokens, batch_cost=BATCH_COST):
            batch = [shared[p] for p in positions]
            values, answers = _batch(model, batch, stops, pad_id, device)
            for one, mine, answer in zip(batch, values, answers, strict=True):
                loss[one.position] = -mine[0] / one.row.supervised
                options[one.position] = mine[1:] if one.options else None
                if answer is not None:
                    outputs[one.position], correct[one.position] = judged_answer(
                        tokenizer, answer[:one.room], str(references[one.position]), stops)
            bar.advance(len(batch))
    if alone:
        _score_alone(model, tokenizer, rendered, prompts, references, choices, alone, loss, options, outputs, correct,
                     max_reference_tokens=max_reference_tokens, margin=margin, batch_tokens=batch_tokens,
                     device=device, pad_id=pad_id, title=title)
    return AnswerScores(loss, ExactMatches(correct, applicable, outputs) if prompts else None,
                        judged(choices, options) if choices else None)


def _score_alone(model: Any, tokenizer: Any, rendered: Sequence[Rendered], prompts: Sequence[np.ndarray],
                 references: Sequence[str], choices: Sequence[RenderedChoices | None], rows: list[int],
                 loss: np.ndarray, options: list[np.ndarray | None], outputs: list[str | None], correct: np.ndarray, *,
                 max_reference_tokens: int, margin: int, batch_tokens: int, device: str | torch.device, pad_id: int,
                 title: str) -> None:
    """Rows of which nothing can be shared, each measure by itself, into the places of all rows."""
    loss[rows] = row_losses(model, [rendered[i] for i in rows], batch_tokens=batch_tokens, device=device,
                            pad_id=pad_id, title=f"{title}: loss")
    if prompts:
        found = exact_match(model, tokenizer, [prompts[i] for i in rows], [references[i] for i in rows],
                            max_reference_tokens=max_reference_tokens, margin=margin, batch_tokens=batch_tokens,
                            device=device, title=title)
        correct[rows] = found.correct
        for i, output in zip(rows, found.outputs, strict=True):
            outputs[i] = output
    if choices:
        picked = choice_scores(model, [choices[i] for i in rows], batch_tokens=batch_tokens, device=device,
                               pad_id=pad_id, title=f"{title}: options")
        for i, values in zip(rows, picked.log_likelihoods, strict=True):
            options[i] = values


def _start(row: Rendered, options: tuple[Rendered, ...], prompt: np.ndarray | None) -> int:
    start = common_start((row, *options))
    if prompt is not None:
        shortest = min(start, len(prompt) - 1)  # the last token of the prompt predicts the first of the answer
        same = row.ids[:shortest] == prompt[:shortest]
        start = shortest if same.all() else int(same.argmin())
    return start


def _batch(model: Any, batch: Sequence[_Asked], stops: list[int], pad_id: int,
           device: str | torch.device) -> tuple[list[np.ndarray], list[list[int] | None]]:
    """Of each row the log-likelihoods of its answer and of its options, float64 [1 + options], and what the model
    answers itself, None where it is not asked."""
    read = ReadPrompts.read(model, [one.row.ids[:one.start] for one in batch], pad_id, device)
    asked = [k for k, one in enumerate(batch) if one.prompt is not None]
    answers: list[list[int] | None] = [None] * len(batch)
    if asked:
        kept = read.copy()
        kept.select(asked)
        heads = [prompt[one.start:] for one in batch if (prompt := one.prompt) is not None]
        written = kept.write(model, heads, [batch[k].room for k in asked], stops, pad_id)
        for k, answer in zip(asked, written, strict=True):
            answers[k] = answer
    turns = [(k, without_start(turn, one.start)) for k, one in enumerate(batch) for turn in (one.row, *one.options)]
    read.select([k for k, _ in turns])
    values = read.score(model, [turn for _, turn in turns], pad_id)
    return np.split(values, np.cumsum([1 + len(one.options) for one in batch])[:-1]), answers
