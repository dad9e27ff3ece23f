"""Supervised stretches of a text become a mask over its tokens.

The text is tokenised once, as a whole, so that the ids are those the model sees anywhere else; the tokenizer's
character offsets say which token stands where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from itertools import chain, pairwise
from typing import Any

import numpy as np

Span = tuple[int, int]


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokens that can end a turn: the tokenizer's added tokens, except those for runs of white space."""
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}


def encode_with_mask(
    tokenizer: Any, text: str, spans: Sequence[Span], special: Set[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of ``text`` and which of them are supervised.

    A token is supervised if it starts inside a span; one that straddles the start of a span is not, since it is
    partly prompt. White space after the last special token of a span (the line break that ChatML puts after
    ``<|im_end|>``) is layout between turns and is not supervised.

    Args:
        tokenizer: A transformers tokenizer, fast or slow.
        text: The rendered conversation with all its special tokens.
        spans: Character ranges, end exclusive, ascending and disjoint.
        special: What :func:`special_ids` says of the tokenizer.

    Returns:
        int32 [T] ids and bool [T] mask.
    """
    ids, starts = _encode(tokenizer, text, spans)
    mask = np.zeros(len(ids), dtype=bool)
    for start, end in spans:
        first, last = np.searchsorted(starts, (start, end))
        mask[first : _without_layout(tokenizer, ids, int(first), int(last), special)] = True
    return ids, mask


def encode_marked(tokenizer: Any, text: str, blocks: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of ``text`` and which of them stand inside a template's own markers, exactly as transformers says.

    A block's tokens are those from the one that holds its first character through the first one that holds its last,
    layout included.

    Args:
        tokenizer: A transformers tokenizer, fast or slow.
        text: The rendered conversation with all its special tokens.
        blocks: Character ranges, end exclusive, ascending and disjoint; may be empty ranges.

    Returns:
        int32 [T] ids and bool [T] mask.
    """
    ids, starts = _encode(tokenizer, text, blocks)
    mask = np.zeros(len(ids), dtype=bool)
    if tokenizer.is_fast:
        for start, end in blocks:
            if start < end and len(ids):
                first, last = (np.searchsorted(starts, starts[max(np.searchsorted(starts, at, "right") - 1, 0)])
                               for at in (start, end - 1))
                mask[first : last + 1] = True
    else:
        for start, end in blocks:
            mask[slice(*np.searchsorted(starts, (start, end)))] = True
    return ids, mask


def token_starts(offsets: Sequence[Span], spelled: Callable[[], Sequence[str]], text: str) -> np.ndarray:
    """Where each token starts in the text, int64 [T], never decreasing.

    Raw offsets need care: the bytes of one character are several tokens with the same offsets, some tokenizers
    give ``(0, 0)`` for special tokens, and some leave the space before a word out of the word's token.

    Args:
        offsets: The tokenizer's offsets, characters, end exclusive.
        spelled: Gives the tokens as the vocabulary spells them; only some tokenizers' offsets need it.
        text: The text they were made from.
    """
    if not offsets:
        return np.zeros(0, dtype=np.int64)
    table = np.fromiter(chain.from_iterable(offsets), dtype=np.int64, count=2 * len(offsets))
    starts, ends = table[::2], table[1::2]
    if not starts[0] and (ends > starts).all() and (np.diff(starts) >= 0).all() and (starts[1:] <= ends[:-1]).all():
        return starts  # nothing to mend, as nearly always
    tokens = spelled()
    starts = np.zeros(len(offsets), dtype=np.int64)
    before = reached = 0
    for t, (start, end) in enumerate(offsets):
        if end <= start:  # no offsets: it stands where the last one ended, and is as long as it is spelled there
            start, end = reached, reached + (len(tokens[t]) if text.startswith(tokens[t], reached) else 0)
        elif start > reached and text[reached:start].isspace():
            start = reached
        before = starts[t] = max(before, start)
        reached = max(reached, end)
    return starts


def _without_layout(tokenizer: Any, ids: np.ndarray, first: int, last: int, special: Set[int]) -> int:
    """The end (exclusive) of a span of tokens once white space after its last special token is left out."""
    for t in range(last - 1, first - 1, -1):
        if int(ids[t]) in special:
            after = ids[t + 1 : last].tolist()
            return t + 1 if not after or not tokenizer.decode(after).strip() else last
    return last


def _encode(tokenizer: Any, text: str, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
    """int32 [T] ids, and int64 [T] where in the text each token starts."""
    if not tokenizer.is_fast:
        return _encode_in_pieces(tokenizer, text, spans)
    if (backend := _plain_backend(tokenizer)) is not None:
        encoding = backend.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, dtype=np.int32), token_starts(encoding.offsets, lambda: encoding.tokens, text)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False,
                        return_token_type_ids=False)
    ids = np.array(encoded["input_ids"], dtype=np.int32)
    return ids, token_starts(encoded["offset_mapping"], encoded.tokens, text)


def _plain_backend(tokenizer: Any) -> Any:
    """The tokenizer below transformers' own, which does the same at two thirds of the cost for one text; None where a
    class of its own does more, or where it was left set to cut, to pad or to split special tokens."""
    from transformers import PreTrainedTokenizerFast

    if any(getattr(type(tokenizer), name, None) is not getattr(PreTrainedTokenizerFast, name, None)
           for name in ("__call__", "_encode_plus", "_batch_encode_plus")):
        return None
    backend = tokenizer.backend_tokenizer
    is_plain = (backend.truncation is None and backend.padding is None and not backend.encode_special_tokens
                and not getattr(tokenizer, "split_special_tokens", False))
    return backend if is_plain else None


def _encode_in_pieces(tokenizer: Any, text: str, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and starts where the tokenizer knows no offsets: the pieces between span borders, one by one."""
    ids: list[int] = []
    starts: list[int] = []
    for start, piece in _pieces(text, spans):
        tokens = tokenizer(piece, add_special_tokens=False)["input_ids"]
        ids += tokens
        starts += [start] * len(tokens)
    return np.array(ids, dtype=np.int32), np.array(starts, dtype=np.int64)


def _pieces(text: str, spans: Sequence[Span]) -> Iterator[tuple[int, str]]:
    borders = [0, *(border for span in spans for border in span), len(text)]
    for start, end in pairwise(borders):
        if end > start:
            yield start, text[start:end]
