"""Supervised stretches of a text become a mask over its tokens."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from siftune.data.token_starts import Encoder, Span


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokens that can end a turn: the tokenizer's added tokens, except those for runs of white space."""
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}


def encode_with_mask(
    encoder: Encoder, text: str, spans: Sequence[Span], special: Set[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of ``text`` and which of them are supervised.

    A token is supervised if it starts inside a span; one that straddles the start of a span is not, since it is
    partly prompt. White space after the last special token of a span (the line break that ChatML puts after
    ``<|im_end|>``) is layout between turns and is not supervised.

    Args:
        encoder: Of the tokenizer.
        text: The rendered conversation with all its special tokens.
        spans: Character ranges, end exclusive, ascending and disjoint.
        special: What :func:`special_ids` says of the tokenizer.

    Returns:
        int32 [T] ids and bool [T] mask.
    """
    ids, starts = encoder.encode(text, spans)
    mask = np.zeros(len(ids), dtype=bool)
    for start, end in spans:
        first, last = np.searchsorted(starts, (start, end))
        mask[first : _without_layout(encoder.tokenizer, ids, int(first), int(last), special)] = True
    return ids, mask


def encode_marked(encoder: Encoder, text: str, blocks: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of ``text`` and which of them stand inside a template's own markers, exactly as transformers says.

    A block's tokens are those from the one that holds its first character through the first one that holds its last,
    layout included.

    Args:
        encoder: Of the tokenizer.
        text: The rendered conversation with all its special tokens.
        blocks: Character ranges, end exclusive, ascending and disjoint; may be empty ranges.

    Returns:
        int32 [T] ids and bool [T] mask.
    """
    ids, starts = encoder.encode(text, blocks)
    mask = np.zeros(len(ids), dtype=bool)
    if encoder.tokenizer.is_fast:
        for start, end in blocks:
            if start < end and len(ids):
                first, last = (np.searchsorted(starts, starts[max(np.searchsorted(starts, at, "right") - 1, 0)])
                               for at in (start, end - 1))
                mask[first : last + 1] = True
    else:
        for start, end in blocks:
            mask[slice(*np.searchsorted(starts, (start, end)))] = True
    return ids, mask


def _without_layout(tokenizer: Any, ids: np.ndarray, first: int, last: int, special: Set[int]) -> int:
    """The end (exclusive) of a span of tokens once white space after its last special token is left out."""
    for t in range(last - 1, first - 1, -1):
        if int(ids[t]) in special:
            after = ids[t + 1 : last].tolist()
            return t + 1 if not after or not tokenizer.decode(after).strip() else last
    return last
