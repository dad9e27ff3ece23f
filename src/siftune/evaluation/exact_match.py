"""Greedy generation and exact match, for answers short enough that a match means something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from siftune._common import progress
from siftune.evaluation.loss import evaluating
from siftune.models.batching import BATCH_COST, plan_batches

#: Tokens that end a turn in the chat formats in use; those that a tokenizer knows also end an answer.
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|end_of_text|>", "<|endoftext|>", "</s>")


@dataclass(frozen=True)
class ExactMatches:
    """Which answers came out exactly.

    Attributes:
        correct: bool [N]; false where not applicable.
        applicable: bool [N]; false where the reference is longer than the limit or empty, so that nothing was
            generated.
        outputs: What the model answered, without special tokens; ``None`` where not applicable.
    """

    correct: np.ndarray
    applicable: np.ndarray
    outputs: list[str | None]

    @property
    def skipped(self) -> int:
        """References for which exact match does not apply."""
        return int((~self.applicable).sum())

    @property
    def rate(self) -> float | None:
        """Share of correct answers among the applicable ones; ``None`` if there are none."""
        return float(self.correct[self.applicable].mean()) if self.applicable.any() else None


def normalise(text: str) -> str:
    """What counts as the same answer: case (Unicode casefold) and white space do not matter, everything else does."""
    return " ".join(text.casefold().split())


def exact_match(model: Any, tokenizer: Any, prompts: Sequence[np.ndarray], references: Sequence[str], *,
                max_reference_tokens: int = 32, margin: int = 8, batch_tokens: int = 4096,
                device: str | torch.device = "cpu", title: str = "answers") -> ExactMatches:
    """Answer every prompt greedily and compare with its reference after :func:`normalise`.

    Each answer ends at the first end-of-sequence or end-of-turn token, or after the reference's length plus
    ``margin`` tokens, whichever comes first, so that it does not depend on the rest of its batch.

    Args:
        model: A causal language model on ``device``, plain or with adapters.
        tokenizer: Its tokenizer.
        prompts: int [T] token ids each, up to where the answer starts.
        references: The right answers as text.
        max_reference_tokens: Longer references are not applicable: no model is expected to repeat them word by word.
        margin: Tokens an answer may have beyond its reference.
        batch_tokens: Tokens of prompts and answers per batch, padding included.
        device: Where the model is.
        title: Of the progress bar.

    Returns:
        Matches in the order of ``prompts``.

    Raises:
        ValueError: the numbers of prompts and references differ, or a prompt is empty.
    """
    if len(prompts) != len(references):
        raise ValueError(f"{len(prompts)} prompts but {len(references)} references")
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt is empty")
    reference_tokens, applicable = applicable_references(tokenizer, references, max_reference_tokens)
    outputs: list[str | None] = [None] * len(prompts)
    correct = np.zeros(len(prompts), dtype=bool)
    chosen: list[int] = np.flatnonzero(applicable).tolist()
    room = [reference_tokens[i] + margin for i in chosen]
    stops = stop_tokens(model, tokenizer)
    lengths = [len(prompts[i]) + r for i, r in zip(chosen, room, strict=True)]
    with evaluating(model), progress.bar(title, len(chosen)) as bar:
        # Every token generated is a pass of its own over the weights, so few full batches are best on any device.
        for positions in plan_batches(lengths, batch_tokens, batch_cost=BATCH_COST):
            batch = [prompts[chosen[k]] for k in positions]
            answers = _generate(model, batch, max(room[k] for k in positions), stops, device)
            for k, answer in zip(positions, answers, strict=True):
                i = chosen[k]
                outputs[i], correct[i] = judged_answer(tokenizer, answer[:room[k]], references[i], stops)
            bar.advance(len(positions))
    return ExactMatches(correct, applicable, outputs)


def applicable_references(tokenizer: Any, references: Sequence[str], most: int) -> tuple[list[int], np.ndarray]:
    """Tokens of each reference, and whether there are some and not more than ``most``: bool [N]."""
    tokens = [len(tokenizer.encode(text, add_special_tokens=False)) for text in references]
    return tokens, np.array([0 < n <= most for n in tokens], dtype=bool)


def judged_answer(tokenizer: Any, answer: list[int], reference: str, stops: list[int]) -> tuple[str, bool]:
    """An answer's text, up to the first token that ends it, and whether it is the reference."""
    output = str(tokenizer.decode(_until_stop(answer, stops), skip_special_tokens=True))
    return output, normalise(output) == normalise(reference)


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the model's and the tokenizer's end of sequence, and every known end of turn."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    known = configured if isinstance(configured, list) else [configured]
    vocabulary = tokenizer.get_vocab()
    candidates = [*known, tokenizer.eos_token_id, *(vocabulary.get(token) for token in END_OF_TURN)]
    return sorted({int(token) for token in candidates if token is not None})


def _generate(model: Any, prompts: Sequence[np.ndarray], new_tokens: int, stops: list[int],
              device: str | torch.device) -> list[list[int]]:
    """Greedy continuations of left-padded prompts, padded themselves where another answer took longer."""
    from transformers import GenerationConfig

    width = max(len(prompt) for prompt in prompts)
    pad = stops[0] if stops else 0
    ids = np.full((len(prompts), width), pad, dtype=np.int64)
    attention = np.zeros((len(prompts), width), dtype=np.int64)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt):] = prompt
        attention[i, width - len(prompt):] = 1
    # Said in full, and the model's own configuration, which may sample or penalise, is put aside meanwhile: versions
    # of transformers differ in when they take a value from it, some even where the one that is given is the default.
    config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, num_beams=1, repetition_penalty=1.0,
                              no_repeat_ngram_size=0, eos_token_id=stops or None, pad_token_id=pad,
                              temperature=1.0, top_p=1.0, top_k=50)
    with _generating_by(model, config):
        out = model.generate(input_ids=torch.from_numpy(ids).to(device),
                             attention_mask=torch.from_numpy(attention).to(device), generation_config=config)
    return out[:, width:].tolist()


@contextmanager
def _generating_by(model: Any, config: Any) -> Iterator[None]:
    """The configuration in place of the model's own, and of that of the model that it adapts."""
    models = [model, getattr(model, "get_base_model", lambda: model)()]
    own = [each.generation_config for each in models]
    try:
        for each in models:
            each.generation_config = config
        yield
    finally:
        for each, before in zip(models, own, strict=True):
            each.generation_config = before


def _until_stop(answer: list[int], stops: list[int]) -> list[int]:
    end = next((t for t, token in enumerate(answer) if token in stops), len(answer))
    return answer[:end]
