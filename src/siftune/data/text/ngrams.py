"""Hashed n-grams (DSIR, arXiv 2302.03169, section 4): words and pairs of neighbouring words, counted in buckets.

Words are runs of letters, digits and underscores, or runs of other signs (NLTK's ``wordpunct``), in lower case. An
n-gram's bucket is its SHA-256 modulo the number of buckets, as in the paper's package ``data-selection``: the same in
every process and on every machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

WORDS = re.compile(r"\w+|[^\w\s]+")
CHUNK_ROWS = 8192  # n-grams are told apart once per chunk: many rows share them, and memory stays bounded


def words(text: str) -> list[str]:
    return WORDS.findall(text.lower())


def bucket_of(ngrams: Iterable[str], buckets: int) -> np.ndarray:
    """Of the smallest unsigned type, [n]: SHA-256 of each n-gram, modulo ``buckets`` (at most 2**32)."""
    digests = b"".join([hashlib.sha256(n.encode("utf-8", "surrogatepass")).digest() for n in ngrams])
    found = np.zeros(len(digests) // 32, dtype=np.uint64)
    for part in np.frombuffer(digests, dtype=">u4").reshape(-1, 8).T:  # the remainder of 256 bits, 32 at a time
        found = (found << np.uint64(32) | part.astype(np.uint64)) % np.uint64(buckets)
    return found.astype(np.min_scalar_type(buckets - 1))


@dataclass(frozen=True)
class HashedNgrams:
    """The n-grams of consecutive rows, every occurrence.

    Attributes:
        buckets: [sum of counts], of the smallest unsigned type; the occurrences of one row after the other, each row's
            words in order, then its pairs.
        counts: int64 [n]: n-grams of each row.
    """

    buckets: np.ndarray
    counts: np.ndarray

    def sums(self, values: np.ndarray) -> np.ndarray:
        """float64 [n]: for each row the sum of ``values[bucket]`` over its n-grams."""
        row = np.repeat(np.arange(len(self.counts)), self.counts)
        return np.bincount(row, weights=values[self.buckets], minlength=len(self.counts))


def hashed_ngrams(texts: Iterable[str], buckets: int, *, chunk_rows: int = CHUNK_ROWS) -> Iterator[HashedNgrams]:
    """The n-grams of texts, chunk by chunk in order.

    Args:
        texts: any strings.
        buckets: how many there are.
        chunk_rows: rows at a time; it does not change the result.
    """
    chunk: list[str] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == chunk_rows:
            yield _hashed(chunk, buckets)
            chunk = []
    if chunk:
        yield _hashed(chunk, buckets)


def _hashed(texts: Sequence[str], buckets: int) -> HashedNgrams:
    vocabulary: dict[str, int] = {}
    numbers = [[vocabulary.setdefault(word, len(vocabulary)) for word in words(text)] for text in texts]
    lengths = np.array([len(row) for row in numbers], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(numbers), dtype=np.int64, count=int(lengths.sum()))
    spelled = list(vocabulary)
    row = np.repeat(np.arange(len(texts)), lengths)

    same_row = row[1:] == row[:-1]
    pairs, which = np.unique((flat[:-1] << 32 | flat[1:])[same_row], return_inverse=True)
    left, right = (pairs >> 32).tolist(), (pairs & 0xFFFFFFFF).tolist()
    of_word = bucket_of(spelled, buckets)
    of_pair = bucket_of((f"{spelled[a]} {spelled[b]}" for a, b in zip(left, right, strict=True)), buckets)

    both = np.concatenate([of_word[flat], of_pair[which]])
    order = np.argsort(np.concatenate([row, row[1:][same_row]]), kind="stable")
    return HashedNgrams(both[order], lengths + np.maximum(lengths - 1, 0))
