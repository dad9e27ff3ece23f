"""Is the selected subset better than a random one? Intervals, a test, and a verdict that keeps its level.

A comparison has two sources of chance: the *training* (which random subset, which adapter initialisation, which row
order; one seed each) and the *row* (which test rows happen to be in the file). Losses come as a matrix L[seed, row];
every seed is measured on the same rows, so the two are crossed.

**A difference.** The mean difference D has a variance of three parts, each estimated by itself: the trainings of one
side, V1 = s1^2 / S1 over its seeds' means, with S1 - 1 degrees of freedom; those of the other side, V2, likewise; and
the rows, V3 = s3^2 / E over the rows' differences, both sides averaged over seeds, with E - 1. The interval is

    D +- sqrt(t1^2 V1 + t2^2 V2 + t3^2 V3),     tk = Student's quantile with the degrees of freedom of part k,

and p is the level at which it just reaches zero, so that interval and test never disagree (Banerjee 1961, Sankhya 23,
"On confidence interval for two-means problem based on separate estimates of variances and tabulated values of
t-table", here with a third part). For normal losses its level holds whatever the parts' sizes: let F be the
distribution of a chi-square with one degree of freedom and w_k the share that part k has in the variance of D. Given
the estimates, the interval covers with probability F(sum w_k t_k^2 V_k / E[V_k]); F is concave and the w_k sum to
one, so by Jensen's inequality the mean of this is at least sum w_k P(|t with f_k| < t_k) = the confidence. An
interaction of seed and row is counted twice, as noise of seeds and of rows, which errs on the safe side; what two
trainings with one seed share is not made use of.

Why not Welch's t. Random draws other rows with every seed, and the variance between its trainings was 6 to 240 times
that of LESS in the recorded study, so degrees of freedom must not be pooled: in simulations the pooled rule that stood
here before saw a difference in up to 18% of cases without one. Welch and Satterthwaite's single number of degrees of
freedom mends this where one part rules, but not where a part with one degree of freedom stands beside one with many: by
luck the former is often estimated near zero, and the quantile then taken is the normal one. With the rows as third
part it errs in up to 14% of cases; on the seeds' means alone in 11% with 5 seeds against 2, and in up to 27% where rows
bring chance too. ``benchmarks/calibration.py`` measures all of this, and the power that it costs; docs/statistics.md
has the tables.

Why no permutation test beside it. Flipping the signs of rows' differences asks whether *these very models* differ; it
rejects up to 59% where only the draw of the trainings differs, and as a second condition it lowers the share of false
verdicts by half a point at most and finds nothing more. What it knew about few rows is kept:
no p is smaller than 2^(1 - E), the least that a test of E signs can give, so that five rows carry no verdict.

**A mean** has a two-level bootstrap interval: seeds and rows are resampled independently ("pigeonhole bootstrap",
Owen 2007, Annals of Applied Statistics 1(2), section 3). A handful of seeds resampled as they are give intervals that
are far too narrow: the spread of S values resampled from themselves is too small by sqrt((S - 1) / S), and it is itself
uncertain. Deviations between seeds are therefore expanded by that factor and by the ratio of Student's to the normal
quantile (Hesterberg 2015, The American Statistician 69(4), section 3.3, "expanded percentile interval"). It bears no
verdict. Random numbers are the raw Philox stream (see :mod:`siftune._common.seeds`): the same seed gives the same
interval everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from siftune._common import seeds
from siftune._common.errors import ConfigError, DataError

Verdict = Literal["better", "worse", "no different", "single training"]
Covers = Literal["trainings and rows", "rows"]

_DRAWS = 10_000
_LEAST_P = 1e-100
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
        interval: The mean difference and its interval.
        p_value: Two-sided; None where a side stands on a single training.
        covers: What the interval allows for: other trainings and other rows, or other rows alone, where a side stands
            on a single training.
        verdict: ``better`` or ``worse`` where ``p_value < 1 - confidence``; ``single training``, which is no verdict,
            where a side stands on one training, whose luck nothing here could tell from merit.
    """

    interval: Interval
    p_value: float | None
    covers: Covers
    verdict: Verdict


@dataclass(frozen=True)
class Parts:
    """The parts of the variance of a mean difference.

    Attributes:
        variances: float64 [..., K], one estimate a part.
        degrees: The degrees of freedom of each part, at least one.
    """

    variances: np.ndarray
    degrees: tuple[int, ...]

    def half_width(self, confidence: float) -> np.ndarray:
        """float64 [...]: half of the interval's width."""
        from scipy.stats import t

        quantiles = t.ppf((1 + confidence) / 2, self.degrees)
        return np.sqrt(self.variances @ quantiles**2)


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
    expansion = _expansion(len(matrix), confidence)
    draws = np.concatenate([
        _resampled_means(matrix, by_seed, by_example)
        for by_seed, by_example in zip(_counts(len(matrix), seed, "seeds", expansion),
                                       _counts(matrix.shape[1], seed, "examples"), strict=True)
    ])
    return _percentile(draws, float(matrix.mean()), confidence, *matrix.shape)


def paired_difference(method: np.ndarray, random: np.ndarray, confidence: float, *, lower_is_better: bool = True,
                      ) -> PairedDifference:
    """Mean of ``method - random`` over the same examples, its interval, its p-value and a verdict.

    Trainings are independent between the sides (their subsets have nothing in common), examples are paired (both sides
    answered the same ones), so that what makes an example hard for both cancels out. The interval excludes zero where
    p is below ``1 - confidence`` and nowhere else, save with so few examples that p cannot get there; then p decides.
    Neither covers another pool, target or model.

    Args:
        method: float [S1, E] losses; [E] for a side that has no seeds at all (zero-shot).
        random: float [S2, E] or [E], on the same examples in the same order.
        confidence: In (0, 1).
        lower_is_better: True for losses, false for scores such as exact match.

    Raises:
        DataError: empty, another number of examples, or a value is NaN or infinite.
        ConfigError: ``confidence`` is not in (0, 1).
    """
    ours, theirs = _checked(method, confidence), _checked(random, confidence)
    if ours.shape[1] != theirs.shape[1]:
        raise DataError("the two methods were measured on different examples",
                        why=f"{ours.shape[1]} and {theirs.shape[1]} of them.", hint="evaluate both on one --test file")
    single = any(np.ndim(side) == 2 and len(side) == 1 for side in (method, random))
    parts = variance_parts(ours, theirs, rows_only=single)
    mean, half = float((ours.mean(axis=0) - theirs.mean(axis=0)).mean()), float(parts.half_width(confidence))
    found = Interval(mean, mean - half, mean + half, confidence, min(len(ours), len(theirs)), ours.shape[1])
    p_value = None if single else p_at_zero(mean, parts, ours.shape[1])
    return PairedDifference(found, p_value, "rows" if single else "trainings and rows",
                            verdict(mean, p_value, confidence, lower_is_better=lower_is_better))


def variance_parts(ours: np.ndarray, theirs: np.ndarray, *, rows_only: bool = False) -> Parts:
    """What the variance of the mean of ``ours - theirs`` is made of: trainings of each side with several, and rows.

    Args:
        ours, theirs: float64 [..., S1, E] and [..., S2, E], for any number of comparisons at once.
        rows_only: Leaves the trainings out.
    """
    found: list[tuple[np.ndarray, int]] = []
    for side in () if rows_only else (ours, theirs):
        seeds_of_side = side.shape[-2]
        if seeds_of_side > 1:
            found.append((side.mean(axis=-1).var(axis=-1, ddof=1) / seeds_of_side, seeds_of_side - 1))
    rows = ours.shape[-1]
    if rows > 1:
        differences = ours.mean(axis=-2) - theirs.mean(axis=-2)
        found.append((differences.var(axis=-1, ddof=1) / rows, rows - 1))
    if not found:  # one row, no seeds: nothing is known of its variance
        found.append((np.zeros(ours.shape[:-2]), 1))
    return Parts(np.stack([variance for variance, _ in found], axis=-1), tuple(degrees for _, degrees in found))


def p_at_zero(difference: float, parts: Parts, rows: int) -> float:
    """The level at which the interval just reaches zero, but no less than a test of the rows' signs could give."""
    from scipy.optimize import brentq

    least = max(_LEAST_P, 2.0 ** (1 - rows))
    if difference == 0 or least == 1:
        return 1.0

    def beyond_zero(log_p: float) -> float:
        return _half_width_at(parts, math.exp(log_p)) - abs(difference)

    low = math.log(least)
    return least if beyond_zero(low) <= 0 else math.exp(float(brentq(beyond_zero, low, 0.0, xtol=1e-12)))  # type: ignore[arg-type]


def verdict(difference: float, p_value: float | None, confidence: float, *, lower_is_better: bool = True) -> Verdict:
    """What a difference shows, by its p-value, which may be one that is adjusted for several questions."""
    if p_value is None:
        return "single training"
    if p_value >= 1 - confidence:
        return "no different"
    return "better" if (difference < 0) == lower_is_better else "worse"


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for asking several questions at once (Holm 1979), in the order given.

    Rejecting those below a level keeps the chance of any false rejection below it, however the tests depend on
    each other. None stands for what is not tested: it stays None, and the others do not pay for it.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = largest
    return adjusted


def _half_width_at(parts: Parts, level: float) -> float:
    from scipy.stats import t

    return math.sqrt(sum(variance * float(t.isf(level / 2, degrees)) ** 2
                         for variance, degrees in zip(parts.variances, parts.degrees, strict=True)))


def _expansion(count: int, confidence: float) -> float:
    """How much to expand deviations between ``count`` seeds, from which their spread must be estimated too."""
    from scipy.stats import norm, t

    if count < 2:
        return 1.0
    upper = (1 + confidence) / 2
    return math.sqrt(count / (count - 1)) * float(t.ppf(upper, count - 1) / norm.ppf(upper))


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
