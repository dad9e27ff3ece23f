"""Is the selected subset better than a random one? Intervals, a test, and a verdict that needs both.

A comparison has two sources of chance: the *seed* (which random subset, which adapter initialisation, which row order)
and the *example* (which test rows happen to be in the file). Losses come as a matrix L[seed, example]; every seed is
measured on the same examples, so the two are crossed, and both are resampled, independently ("pigeonhole bootstrap",
Owen 2007, Annals of Applied Statistics 1(2), section 3), which for crossed data is slightly conservative.

A handful of seeds resampled as they are give intervals that are far too narrow: the spread of S values resampled
from themselves is too small by sqrt((S - 1) / S), and it is itself uncertain. Deviations between seeds are therefore
expanded by that factor and by the ratio of Student's to the normal quantile (Hesterberg 2015, The American
Statistician 69(4), section 3.3, "expanded percentile interval"). With three seeds the seed part remains rough: it
has only ten distinct resamples. With one seed there is none, and the interval covers the examples alone.

Random numbers are the raw Philox stream (see :mod:`siftune._common.seeds`): the same seed gives the same interval
everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from siftune._common import seeds
from siftune._common.errors import ConfigError, DataError

Verdict = Literal["better", "worse", "no different"]

_DRAWS = 10_000
_EXACT_UP_TO = 16  # examples: 2^16 sign patterns are quickly enumerated
_CHUNK = 1_000  # draws at a time, so that memory stays at chunk x examples


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap percentile interval.

    Attributes:
        mean: Over all seeds and examples.
        low, high: Ends of the interval.
        confidence: Its nominal coverage, for example 0.95.
        seeds: Number of seeds behind it; with one, the interval covers the choice of examples alone.
        examples: Number of examples behind it.
    """

    mean: float
    low: float
    high: float
    confidence: float
    seeds: int
    examples: int


@dataclass(frozen=True)
class PairedDifference:
    """Method minus random, on the same examples.

    Attributes:
        interval: The mean difference and its two-level bootstrap interval.
        p_value: Two-sided, of the sign-flip permutation test over examples.
        exact: Whether all sign patterns were enumerated, rather than sampled.
        verdict: ``better`` or ``worse`` only if the interval excludes zero *and* ``p_value < 1 - confidence`` *and* no
            side stands on a single seed, whose luck nothing here could tell from merit.
    """

    interval: Interval
    p_value: float
    exact: bool
    verdict: Verdict


def interval(values: np.ndarray, confidence: float, seed: int) -> Interval:
    """Mean of L[seed, example] with a two-level bootstrap interval.

    It covers where the mean would lie with other seeds and other test examples of the same kind. It does not cover
    another pool, target task, model or hyperparameters, and with few seeds its seed part is rough.

    Args:
        values: float [S, E], or [E] for a method without seeds (zero-shot).
        confidence: In (0, 1).
        seed: Of the resampling.

    Raises:
        DataError: empty, or a value is NaN or infinite.
        ConfigError: ``confidence`` is not in (0, 1).
    """
    matrix = _checked(values, confidence)
    expansion = _expansion(len(matrix), len(matrix) - 1, confidence)
    draws = np.concatenate([
        _resampled_means(matrix, by_seed, by_example)
        for by_seed, by_example in zip(_counts(len(matrix), seed, "seeds", expansion),
                                       _counts(matrix.shape[1], seed, "examples"), strict=True)
    ])
    return _percentile(draws, float(matrix.mean()), confidence, *matrix.shape)


def paired_difference(method: np.ndarray, random: np.ndarray, confidence: float, seed: int, *,
                      lower_is_better: bool = True) -> PairedDifference:
    """Mean of ``method - random`` over the same examples, its interval, its p-value and a verdict.

    The interval resamples seeds independently on both sides (their subsets have nothing in common) and examples
    jointly (both sides answered the same ones), so that what makes an example hard for both cancels out. The p-value
    asks a narrower question: given these very models, would differences this large arise if either side were equally
    likely to win each example? Being silent about seeds, it alone cannot carry a verdict; nor can the interval, which
    is rough with few seeds. Neither covers another pool, target or model.

    Args:
        method: float [S1, E] losses; [E] for a side that has no seeds at all (zero-shot).
        random: float [S2, E] or [E], on the same examples in the same order.
        confidence: In (0, 1).
        seed: Of the resampling.
        lower_is_better: True for losses, false for scores such as exact match.

    Raises:
        DataError: empty, another number of examples, or a value is NaN or infinite.
        ConfigError: ``confidence`` is not in (0, 1).
    """
    ours, theirs = _checked(method, confidence), _checked(random, confidence)
    if ours.shape[1] != theirs.shape[1]:
        raise DataError("the two methods were measured on different examples",
                        why=f"{ours.shape[1]} and {theirs.shape[1]} of them.", hint="evaluate both on one --test file")
    examples, degrees = ours.shape[1], len(ours) + len(theirs) - 2
    draws = np.concatenate([
        _resampled_means(ours, by_ours, by_example) - _resampled_means(theirs, by_theirs, by_example)
        for by_ours, by_theirs, by_example in zip(
            _counts(len(ours), seed, "method seeds", _expansion(len(ours), degrees, confidence)),
            _counts(len(theirs), seed, "random seeds", _expansion(len(theirs), degrees, confidence)),
            _counts(examples, seed, "examples"), strict=True)
    ])
    differences = ours.mean(axis=0) - theirs.mean(axis=0)
    found = _percentile(draws, float(differences.mean()), confidence, min(len(ours), len(theirs)), examples)
    p_value = sign_flip_p_value(differences, seed)
    single = any(np.ndim(side) == 2 and len(side) == 1 for side in (method, random))
    verdict: Verdict = "no different" if single else _verdict(found, p_value, lower_is_better)
    return PairedDifference(found, p_value, examples <= _EXACT_UP_TO, verdict)


def sign_flip_p_value(differences: np.ndarray, seed: int, draws: int = _DRAWS - 1) -> float:
    """Two-sided p-value of the paired sign-flip permutation test (Fisher 1935) on the mean difference.

    All 2^E sign patterns for up to 16 examples; otherwise ``draws`` random ones and ``(k + 1) / (draws + 1)``, which is
    a valid p-value and never zero (Phipson & Smyth 2010).

    Args:
        differences: float [E], averaged over seeds.
        seed: Of the random patterns.
        draws: How many random patterns.
    """
    examples = len(differences)
    observed = abs(differences.sum())
    # Patterns that tie with the observed one in exact arithmetic must not be lost to rounding.
    threshold = observed - 1e-12 * np.abs(differences).sum()
    if examples <= _EXACT_UP_TO:
        patterns = np.arange(2**examples)[:, None] >> np.arange(examples) & 1
        return float(np.mean(np.abs((1 - 2 * patterns) @ differences) >= threshold))
    as_extreme = 0
    for start in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - start)
        words = seeds.random_bits(count * (-(-examples // 64)), seed, "sign flips", start).reshape(count, -1)
        bits = np.unpackbits(words.astype("<u8").view(np.uint8), axis=1)[:, :examples]
        as_extreme += int(np.sum(np.abs((1.0 - 2.0 * bits) @ differences) >= threshold))
    return (as_extreme + 1) / (draws + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for asking several questions at once (Holm 1979), in the order given.

    Rejecting those below a level keeps the chance of any false rejection below it, however the tests depend on
    each other.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _verdict(found: Interval, p_value: float, lower_is_better: bool) -> Verdict:
    if found.low <= 0 <= found.high or p_value >= 1 - found.confidence:
        return "no different"
    return "better" if (found.mean < 0) == lower_is_better else "worse"


def _expansion(count: int, degrees: int, confidence: float) -> float:
    """How much to expand deviations between ``count`` seeds, whose spread is known with ``degrees`` of freedom."""
    from scipy.stats import norm, t

    if count < 2:
        return 1.0
    upper = (1 + confidence) / 2
    return math.sqrt(count / (count - 1)) * float(t.ppf(upper, degrees) / norm.ppf(upper))


def _counts(size: int, seed: int, name: str, expansion: float = 1.0) -> Iterator[np.ndarray]:
    """Chunks of resamples, float [chunk, size]: how often each of ``size`` items was drawn; rows sum to ``size``.

    With an ``expansion`` the deviations from once each are multiplied by it.
    """
    for start in range(0, _DRAWS, _CHUNK):
        # The bias of the remainder is below size / 2^64.
        drawn = seeds.random_bits(_CHUNK * size, seed, "bootstrap", name, start) % np.uint64(size)
        cells = drawn.astype(np.int64).reshape(_CHUNK, size) + np.arange(_CHUNK)[:, None] * size
        counts = np.bincount(cells.ravel(), minlength=_CHUNK * size).reshape(_CHUNK, size)
        yield 1.0 + expansion * (counts - 1.0)


def _resampled_means(matrix: np.ndarray, by_seed: np.ndarray, by_example: np.ndarray) -> np.ndarray:
    """float [chunk]: the mean of ``matrix`` with its rows and columns weighted by how often they were drawn."""
    return np.einsum("de,de->d", by_seed @ matrix, by_example) / matrix.size


def _percentile(draws: np.ndarray, mean: float, confidence: float, seed_count: int, examples: int) -> Interval:
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high), confidence, seed_count, examples)


def _checked(values: np.ndarray, confidence: float) -> np.ndarray:
    if not 0 < confidence < 1:
        raise ConfigError(f"a confidence of {confidence} is not in (0, 1)", where="--confidence", hint="try 0.95")
    matrix = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if matrix.ndim != 2 or not matrix.size:
        raise DataError("there is nothing to compare", why=f"The results have shape {np.shape(values)}.",
                        hint="give at least one seed and one test example")
    if not np.isfinite(matrix).all():
        raise DataError("a result is NaN or infinite", why="A mean over it would say nothing.",
                        hint="look for a diverged run: lower --learning-rate")
    return matrix
