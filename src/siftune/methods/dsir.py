"""DSIR: importance weights of hashed n-grams (Xie et al., arXiv 2302.03169).

1. The words and word pairs of all target rows, counted in buckets, are the target distribution p; those of the whole
   pool are q (section 4; :mod:`siftune.data.text.ngrams`).
2. A row's log importance weight is sum over its n-grams of log(p + 1e-8) - log(q + 1e-8), the smoothing of the
   authors' package ``data-selection``.
3. Rows are drawn by Gumbel top-k of these weights (the selector ``resampling``).

The weight is a sum, not a mean: a long row unlike the targets gets a weight far below that of any short row. The paper
selects among documents of 100 words or more, and its package leaves shorter ones out; a pool of instructions would lose
much by that, so nothing is left out here, and the correlation of weight and length stands in the notes. Two more
differences to the package: q is fitted on all of the pool, where the package stops at 100,000 n-grams a bucket; and
n-grams are kept in memory between the two passes (about 2 bytes each: as much as the text), since counting them anew
takes seconds and a store of them would take as long to read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siftune._common.errors import DataError
from siftune._common.progress import bar
from siftune.config.options import COUNT, OwnSettings, option
from siftune.data.rows import Examples
from siftune.data.text.ngrams import HashedNgrams, hashed_ngrams
from siftune.data.text.rows import FORM, conversation_texts, text_key
from siftune.features.base import Computed, Context, deciding_features

SMOOTHING = 1e-8


@dataclass(frozen=True)
class DsirSettings(OwnSettings):
    ngram_buckets: int = option(10000, "Buckets of hashed words and word pairs.", rule=COUNT)


class Dsir:
    Settings = DsirSettings
    reads = ()
    name = "dsir"
    summary = "Importance weights of hashed words and word pairs: how much likelier a row is among the targets."
    paper = "arXiv 2302.03169"
    cost = "seconds: words are counted, no model is run"
    needs_target = True
    needs_model = False

    def compute(self, context: Context) -> Computed:
        buckets = context.settings.ngram_buckets
        with context.clock.measure("n-grams"):
            target = _counted(context.target, buckets, "target")
            pool = _counted(context.pool, buckets, "pool")
        if not any(len(part.buckets) for part in target):
            raise DataError("there is no word in any target row", where="--target",
                            hint="give targets with text, or choose a method that looks at something else")
        difference = log_ratio(histogram(target, buckets), histogram(pool, buckets))
        scores = np.concatenate([part.sums(difference) for part in pool])
        counts = np.concatenate([part.counts for part in pool])
        notes = {"ngram_buckets": buckets, "target_ngrams": int(sum(len(part.buckets) for part in target)),
                 "pool_ngrams": int(counts.sum()), "rows_without_words": int((counts == 0).sum()),
                 "correlation_of_weight_and_length": _correlation(scores, counts)}
        fingerprint = {"text": FORM, "data": context.text_keys.key, "targets": text_key(context.target.rows),
                       "settings": deciding_features(self, context.settings)}
        return Computed(scores=scores, fingerprint=fingerprint, notes=notes)


def histogram(ngrams: list[HashedNgrams], buckets: int) -> np.ndarray:
    """int64 [buckets]: how often each bucket was hit."""
    return sum((np.bincount(part.buckets, minlength=buckets) for part in ngrams), start=np.zeros(buckets, np.int64))


def log_ratio(target: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """float64 [buckets]: log p - log q, from the counts of both (section 4).

    Args:
        target, pool: int64 [buckets], neither all zero, unless the pool has no word at all: then nothing is to be said.
    """
    if not pool.any():
        return np.zeros(len(pool))
    return np.log(target / target.sum() + SMOOTHING) - np.log(pool / pool.sum() + SMOOTHING)


def _counted(examples: Examples, buckets: int, kind: str) -> list[HashedNgrams]:
    parts = []
    with bar(f"{kind} n-grams", len(examples)) as progress:
        for part in hashed_ngrams(conversation_texts(examples.rows), buckets):
            parts.append(part)
            progress.advance(len(part.counts))
    return parts


def _correlation(scores: np.ndarray, counts: np.ndarray) -> float | None:
    if len(scores) < 2 or not np.ptp(scores) or not np.ptp(counts):
        return None
    return round(float(np.corrcoef(scores, counts)[0, 1]), 4)
