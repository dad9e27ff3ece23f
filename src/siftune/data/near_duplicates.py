"""Groups of rows that say nearly the same, found by MinHash (Broder, 1997) and verified.

MinHash with banding proposes pairs in near-linear time. Only pairs whose shingle sets truly reach the threshold are
joined, so no group is wrong; a pair just at the threshold is missed with a probability of at most 0.1%.

A row's sketch is a number for each band, in a temporary file; bands are looked at one after the other, and texts are
read again where a pair is proposed. Memory is some tens of bytes for a row, however long it is.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from types import ModuleType

import numpy as np

from siftune._common.errors import ConfigError
from siftune._common.progress import bar
from siftune.data.overlap import KEY_BYTES, normalised_key, normalised_keys
from siftune.data.rows import Row

SHINGLE_WORDS = 3
_PERMUTATIONS = 128
_MISSED = 1e-3
_AT_ONCE = 1024  # rows
_KEPT = 4096  # sets of shingles
_ODD = np.random.default_rng(17).integers(2**64, size=_PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
# Chinese, Japanese and Korean write no spaces: there every character counts as a word.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def shingles(text: str) -> np.ndarray:
    """Hashes of the 3-word shingles of a normalised text, uint64, sorted and distinct.

    A text of fewer words is one shingle of all its words.
    """
    words = _WORD.findall(text)
    size = min(SHINGLE_WORDS, len(words))
    grams = {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)} if words else {""}
    hashes = b"".join(blake2b(gram.encode("utf-8"), digest_size=8).digest() for gram in grams)
    return np.unique(np.frombuffer(hashes, dtype="<u8"))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|A and B| / |A or B| of two sets given as arrays without repeats."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def bands(threshold: float) -> tuple[int, int]:
    """Number of bands b and rows a band r: the longest bands that still propose nearly all pairs at the threshold.

    A pair of Jaccard similarity s is proposed with probability 1 - (1 - s^r)^b (Leskovec, Rajaraman and Ullman,
    Mining of Massive Datasets, section 3.4.2).
    """
    fitting = [r for r in range(1, _PERMUTATIONS + 1) if (1 - threshold**r) ** (_PERMUTATIONS // r) <= _MISSED]
    r = max(fitting, default=1)
    return _PERMUTATIONS // r, r


def near_duplicate_groups(rows: Sequence[Row], threshold: float = 0.8) -> list[list[int]]:
    """Connected groups of near-duplicates.

    Two rows are near-duplicates if the shingle sets of their normalised text (prompt and response) have a Jaccard
    similarity of at least ``threshold``. Rows of equal normalised text always are.

    Args:
        rows: The rows.
        threshold: Jaccard similarity, above 0 and at most 1.

    Returns:
        The groups of two or more rows: indices into ``rows``, ascending; groups ordered by their first index.

    Raises:
        ConfigError: the threshold is out of range, or ``datasketch`` is not installed.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"the near-duplicate threshold {threshold} is out of range",
                          hint="choose a Jaccard similarity above 0 and at most 1, such as 0.8")
    parent = _first_of_equal(normalised_keys(rows), len(rows))
    if threshold < 1 and len(rows):
        _join_similar(rows, np.flatnonzero(parent == np.arange(len(rows))), parent, threshold)
    return _groups(parent)


def _first_of_equal(keys: Iterable[bytes], count: int) -> np.ndarray:
    """int64 [N]: the first row of the same key, of every row."""
    whole = np.frombuffer(b"".join(keys), dtype=f"V{KEY_BYTES}") if count else np.zeros(0, dtype=f"V{KEY_BYTES}")
    _, first, of = np.unique(whole, return_index=True, return_inverse=True)
    return first[of].astype(np.int64)


def _groups(parent: np.ndarray) -> list[list[int]]:
    """Those of two or more rows; changes ``parent``, whose every entry leads to the first row of its group."""
    while not np.array_equal(further := parent[parent], parent):
        parent[:] = further
    order = np.argsort(parent, kind="stable")
    found = np.split(order, np.flatnonzero(np.diff(parent[order])) + 1)
    return [group.tolist() for group in found if len(group) > 1]


def _join_similar(rows: Sequence[Row], candidates: np.ndarray, parent: np.ndarray, threshold: float) -> None:
    """Join candidates that are similar enough.

    Args:
        rows: all of them.
        candidates: int64, ascending.
        parent: int64 [N], an earlier row of the same group or the row itself; changed.
        threshold: Jaccard similarity.
    """
    number, length = bands(threshold)
    with tempfile.TemporaryFile() as file, bar("near-duplicates", len(candidates)) as progress:
        for start in range(0, len(candidates), _AT_ONCE):
            some = candidates[start : start + _AT_ONCE]
            file.write(_sketched(rows, some, number, length).tobytes())  # a full disk is an error here, not a crash
            progress.advance(len(some))
        file.flush()
        sketches = np.memmap(file, dtype=np.uint32, mode="r", shape=(len(candidates), number))
        similar = _similarity(rows, threshold)
        for band in range(number):
            for bucket in _equal(np.array(sketches[:, band])):
                _join_bucket(candidates[bucket].tolist(), parent, similar)


def _join_bucket(members: Sequence[int], parent: np.ndarray, similar: Callable[[int, int], bool]) -> None:
    for place, i in enumerate(members):
        for j in members[:place]:
            a, b = _root(parent, i), _root(parent, j)
            if a != b and similar(j, i):
                parent[max(a, b)] = min(a, b)


def _similarity(rows: Sequence[Row], threshold: float) -> Callable[[int, int], bool]:
    """Whether two rows reach the threshold, remembered for a while: a pair is proposed by several bands."""
    sets = lru_cache(_KEPT)(lambda i: shingles(normalised_key(rows[i])))
    return lru_cache(64 * _KEPT)(lambda i, j: jaccard(sets(i), sets(j)) >= threshold)


def _sketched(rows: Sequence[Row], some: np.ndarray, number: int, length: int) -> np.ndarray:
    """uint32 [rows, bands]: equal where all MinHash values of a band are, and by a chance of 2^-32 where not."""
    datasketch = _datasketch()
    values = np.empty((len(some), _PERMUTATIONS), dtype=np.uint64)
    for at, i in enumerate(some.tolist()):
        sketch = datasketch.MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=int)
        sketch.update_batch((shingles(normalised_key(rows[i])) & np.uint64(0xFFFFFFFF)).tolist())
        values[at] = sketch.hashvalues
    # Multiply-shift (Dietzfelbinger, 1996): the upper half of a sum with random odd numbers, modulo 2^64.
    banded = values[:, : number * length].reshape(len(some), number, length)
    mixed = (banded * _ODD[:length]).sum(axis=2, dtype=np.uint64)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def _equal(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """The places, ascending, of each number that is there twice or more."""
    order = np.argsort(hashes, kind="stable")
    ends = np.flatnonzero(np.diff(hashes[order])) + 1
    starts = np.concatenate([[0], ends])
    sizes = np.diff(np.concatenate([starts, [len(order)]]))
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        yield order[start : start + size]


def _root(parent: np.ndarray, i: int) -> int:
    while (above := int(parent[i])) != i:
        parent[i] = parent[above]
        i = above
    return i


def _datasketch() -> ModuleType:
    try:
        import datasketch
    except ImportError as error:
        raise ConfigError("near-duplicates need the package datasketch", why="It is not installed.",
                          hint="pip install 'siftune[dedup]'") from error
    return datasketch
