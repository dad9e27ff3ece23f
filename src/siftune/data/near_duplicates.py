"""Groups of rows that say nearly the same, found by MinHash (Broder, 1997) and verified.

MinHash with banding proposes pairs in near-linear time. Only pairs whose shingle sets truly reach the threshold are
joined, so no group is wrong; a pair just at the threshold is missed with a probability of at most 0.1%.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from types import ModuleType

import numpy as np

from siftune._common.errors import ConfigError
from siftune._common.progress import bar
from siftune.data.overlap import normalised_key, normalised_keys
from siftune.data.rows import Row

SHINGLE_WORDS = 3
_PERMUTATIONS = 128
_MISSED = 1e-3
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
    parent = list(range(len(rows)))
    representatives = _join_equal(normalised_keys(rows), parent)
    if threshold < 1:
        _join_similar(rows, representatives, parent, threshold)
    groups: dict[int, list[int]] = {}
    for i in range(len(rows)):
        groups.setdefault(_root(parent, i), []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def _join_equal(keys: Iterable[bytes], parent: list[int]) -> list[int]:
    """Join rows of equal keys; the first row of each key."""
    first: dict[bytes, int] = {}
    for i, key in enumerate(keys):
        parent[i] = first.setdefault(key, i)
    return list(first.values())


def _join_similar(rows: Sequence[Row], candidates: Sequence[int], parent: list[int], threshold: float) -> None:
    datasketch = _datasketch()
    index = datasketch.MinHashLSH(num_perm=_PERMUTATIONS, params=bands(threshold))
    sets: dict[int, np.ndarray] = {}
    with bar("near-duplicates", len(candidates)) as progress:
        for i in candidates:
            sets[i] = shingles(normalised_key(rows[i]))
            sketch = datasketch.MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=int)
            sketch.update_batch((sets[i] & np.uint64(0xFFFFFFFF)).tolist())
            for j in index.query(sketch):
                a, b = _root(parent, i), _root(parent, j)
                if a != b and jaccard(sets[i], sets[j]) >= threshold:
                    parent[max(a, b)] = min(a, b)
            index.insert(i, sketch)
            progress.advance()


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def _datasketch() -> ModuleType:
    try:
        import datasketch
    except ImportError as error:
        raise ConfigError("near-duplicates need the package datasketch", why="It is not installed.",
                          hint="pip install 'siftune[dedup]'") from error
    return datasketch
