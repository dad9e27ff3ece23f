"""Token ids of a text and where in it each token starts.

The text is tokenised once, as a whole, so that the ids are those the model sees anywhere else. Where each token starts
is counted from the bytes that it is spelled with: that costs a tenth of what the tokenizer's own offsets do, and is
taken only where the spellings, joined, are the text to the byte. Of all other texts the offsets say it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np

Span = tuple[int, int]

_PROBE = "A word, ünd\n\n  {zwei} 東 1"

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SHOWN = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_HIDDEN = sorted(set(range(256)) - set(_SHOWN))
_BYTES = {chr(byte): byte for byte in _SHOWN} | {chr(256 + k): byte for k, byte in enumerate(_HIDDEN)}


class Encoder:
    """Encodes texts with one tokenizer, without tokens that are not in the text.

    Args:
        tokenizer: A transformers tokenizer, fast or slow.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self._spelling: _Spelling | None = None
        self._adds_nothing = tokenizer.is_fast and _adds_nothing(type(tokenizer))
        if self._adds_nothing:
            ids = _ids(tokenizer.backend_tokenizer, _PROBE)
            spellings = (_Spelling(tokenizer, read) for read in (_byte_level, _piece))
            self._spelling = next((one for one in spellings if one.starts(ids, _PROBE) is not None), None)

    def encode(self, text: str, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
        """int32 [T] ids, and int64 [T] the character at which each token starts, never decreasing.

        Args:
            text: What is encoded.
            spans: Character ranges, ascending and disjoint, whose borders a slow tokenizer is to keep.
        """
        if not self.tokenizer.is_fast:
            return self._in_pieces(text, spans)
        backend = self.tokenizer.backend_tokenizer
        if not self._adds_nothing or not _is_plain(self.tokenizer, backend):
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True,
                                     return_attention_mask=False, return_token_type_ids=False)
            ids = np.array(encoded["input_ids"], dtype=np.int32)
            return ids, starts_by_offsets(encoded["offset_mapping"], encoded.tokens, text)
        if self._spelling is not None:
            ids = _ids(backend, text)
            starts = self._spelling.starts(ids, text)
            if starts is not None:
                return np.array(ids, dtype=np.int32), starts
        encoding = backend.encode(text, add_special_tokens=False)
        return (np.array(encoding.ids, dtype=np.int32),
                starts_by_offsets(encoding.offsets, lambda: encoding.tokens, text))

    def _in_pieces(self, text: str, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and starts where the tokenizer knows no offsets: the pieces between span borders, one by one."""
        ids: list[int] = []
        starts: list[int] = []
        for start, piece in _pieces(text, spans):
            tokens = self.tokenizer(piece, add_special_tokens=False)["input_ids"]
            ids += tokens
            starts += [start] * len(tokens)
        return np.array(ids, dtype=np.int32), np.array(starts, dtype=np.int64)


def starts_by_offsets(offsets: Sequence[Span], spelled: Callable[[], Sequence[str]], text: str) -> np.ndarray:
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


class _Spelling(dict[int, bytes]):
    """The bytes of each token of a vocabulary, looked up when first met; empty where that cannot be told.

    Args:
        tokenizer: whose it is.
        read: the bytes of a token as the vocabulary writes it.
    """

    def __init__(self, tokenizer: Any, read: Callable[[str], bytes]):
        super().__init__({i: token.content.encode() for i, token in tokenizer.added_tokens_decoder.items()})
        self._spelled: Callable[[int], str | None] = tokenizer.backend_tokenizer.id_to_token
        self._read = read

    def __missing__(self, token: int) -> bytes:
        found = self[token] = self._read(self._spelled(token) or "")
        return found

    def starts(self, ids: Sequence[int], text: str) -> np.ndarray | None:
        """The character at which each token starts, int64 [T]; None where the tokens do not spell the text."""
        spelled, whole = list(map(self.__getitem__, ids)), text.encode()
        if b"".join(spelled) != whole:
            return None
        lengths = np.fromiter(map(len, spelled), dtype=np.int64, count=len(spelled))
        if not lengths.all():
            return None
        starts = np.cumsum(lengths) - lengths
        if len(whole) == len(text):
            return starts
        first = (np.frombuffer(whole, dtype=np.uint8) & 0xC0) != 0x80  # the first byte of each character
        return (np.cumsum(first) - 1)[starts]


def _byte_level(token: str) -> bytes:
    """Byte-level BPE: each character of a token stands for a byte (Radford et al., 2019)."""
    known = [_BYTES.get(character) for character in token]
    return b"" if None in known else bytes(known)  # pyright: ignore[reportArgumentType]


def _piece(token: str) -> bytes:
    """SentencePiece: a space is written as a low line, and a byte without a token of its own as <0x0A>."""
    if byte := _BYTE.fullmatch(token):
        return bytes.fromhex(byte[1])
    return token.replace("\u2581", " ").encode()


def _ids(backend: Any, text: str) -> list[int]:
    return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids


def _adds_nothing(kind: type) -> bool:
    """Whether the tokenizer below transformers' own does the same, at less cost; a class of its own may do more."""
    from transformers import PreTrainedTokenizerFast

    return all(getattr(kind, name, None) is getattr(PreTrainedTokenizerFast, name, None)
               for name in ("__call__", "_encode_plus", "_batch_encode_plus"))


def _is_plain(tokenizer: Any, backend: Any) -> bool:
    """Whether it was not left set to cut, to pad or to split special tokens."""
    return (backend.truncation is None and backend.padding is None and not backend.encode_special_tokens
            and not getattr(tokenizer, "split_special_tokens", False))


def _pieces(text: str, spans: Sequence[Span]) -> Iterator[tuple[int, str]]:
    borders = [0, *(border for span in spans for border in span), len(text)]
    for start, end in pairwise(borders):
        if end > start:
            yield start, text[start:end]
