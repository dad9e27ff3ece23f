"""Which arm to take after a few measured trainings, and whether a win over random rows may be claimed.

Two questions, kept apart:

* :func:`choose`: which arm to *take*. A decision: the arm with the largest expected gain over random rows less
  ``caution`` times the loss that it may bring (expectation of max(0, -gain)); random rows where nothing is left. It
  uses every training, those at smaller budgets included, and also says which arms deserve another, larger round.
* :func:`claim`: whether a "winner over random rows" may be *claimed*. A test, with a level: where every arm is itself a
  random subset, it names a winner in at most 5% of cases. Taking an arm needs no claim: on few rows the best bet is
  often an unproven one.

What an arm gains is estimated by :mod:`siftune.evaluation.gains`, where the model is. :data:`PRIOR` and :data:`CAUTION`
were fitted to published trainings by ``benchmarks/choice_rules.py``; docs/choosing.md has what the rule gains there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from siftune._common.errors import ConfigError, DataError
from siftune.evaluation.gains import RANDOM, UNTUNED, Posterior, Prior, posterior
from siftune.evaluation.statistics import holm, paired_difference

CAUTION = 3.0  # on the published trainings: of a hundred cases, one made worse by a point weighs 0.1 points of gain
LOSS_WEIGHT = 0.05  # points that one percent less loss lets expect, before the metric is seen; chosen likewise
DROP = 0.05  # an arm with less chance than this to be better than the one in front gets no further training
SURE = 0.95  # when a choice between two arms counts as settled
_ROW_VARIANCE = 500.0  # squared points of a row and training beyond what is common; binary scores have 0 to 1,000
_ROWS_OF_PRIOR = 2  # how many rows that guess counts as
_MOST_ROWS = 1_000_000

# Each pair is a part of the mixture: scale of the task in points, luck of one training in units of it.
COMPONENTS = tuple((scale, luck) for scale in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0) for luck in (0.15, 0.5, 1.5))
PRIOR = Prior(  # of arXiv 2602.14696's trainings, all 50 cells of pool, model and task; see benchmarks/choice_rules.py
    common=0.89, untuned=1.673, level=2.012, follow=0.391, random_luck=1.441,
    common_rho=0.914, own_rho=0.856, level_rho=0.918,
    scales=tuple(scale for scale, _ in COMPONENTS), lucks=tuple(luck for _, luck in COMPONENTS),
    weights=(0.0063, 0.0056, 0.0053, 0.0499, 0.0755, 0.0053, 0.0315, 0.0587, 0.0402, 0.0725, 0.0651, 0.0388,
             0.1902, 0.1572, 0.0229, 0.0415, 0.0407, 0.0053, 0.052, 0.03, 0.0053))

@dataclass(frozen=True)
class Training:
    """One trained model, scored on the validation rows.

    Attributes:
        arm: Name of the arm; trainings of one arm share it.
        budget: Rows it was trained on; None for the untuned model.
        scores: float [E]: its metric on each validation row, higher is better, the rows in the same order for all.
        loss: Its mean loss on rows of the task, the same for all; None where it is not known (or is itself the metric).
    """

    arm: str
    budget: float | None
    scores: np.ndarray
    loss: float | None = None


@dataclass(frozen=True)
class ArmGain:
    """What one arm gains over random rows at the budget asked for, in points.

    Attributes:
        arm: Its name.
        trainings: How many there were at any budget.
        measured: Its mean score less that of random rows, of trainings at this budget; None without any.
        expected: Expected gain.
        low, high: The gain lies between them with a probability of 90%.
        worse: Probability that the arm is worse than random rows.
        worse_by_a_point: Probability that it is worse by more than a point.
        utility: What the choice maximises: expected gain less caution times expected loss.
    """

    arm: str
    trainings: int
    measured: float | None
    expected: float
    low: float
    high: float
    worse: float
    worse_by_a_point: float
    utility: float


@dataclass(frozen=True)
class Choice:
    """The arm to take, and what it stands on.

    Attributes:
        take: Name of the arm; that of random rows where no other has a positive utility.
        at: The budget in rows that it was chosen for.
        expected: Its expected gain over random rows, in points; 0 for random rows.
        arms: Every arm but random rows, largest utility first.
        going_on: Arms that deserve another training, random rows among them; only ``take`` (and random rows, to be
            compared with) are left when there is no doubt. The untuned model is never there: it needs none.
        rows: How many validation rows there were.
        row_error: Standard error of the difference of two trainings that the choice of those rows gives, in points.
        rows_to_settle: With how many validation rows the two arms in front (random rows may be one) would be told
            apart with 95% probability, did the mean scores stay as they are: ``rows`` where they already are, None
            where no number of rows does it, only more trainings.
    """

    take: str
    at: float
    expected: float
    arms: tuple[ArmGain, ...]
    going_on: tuple[str, ...]
    rows: int
    row_error: float
    rows_to_settle: int | None


@dataclass(frozen=True)
class ArmTest:
    """One arm tested against random rows.

    Attributes:
        arm: Its name.
        gain: Its mean score less that of random rows, in points.
        p_trainings: Would one more training on random rows have done as well?
        p_rows: Would other validation rows have shown it? None where the first answer was already no.
        p_value: The larger of the two, adjusted for the number of arms (Holm 1979).
    """

    arm: str
    gain: float
    p_trainings: float
    p_rows: float | None
    p_value: float


@dataclass(frozen=True)
class Claim:
    """Which arms beat random rows beyond chance.

    Attributes:
        winners: Their names, smallest p-value first; empty where nothing may be claimed.
        tests: One an arm, smallest p-value first.
        level: Chance of naming any winner where all arms are random subsets.
        random_trainings: How many trainings on random rows the test stands on.
        why_not: Why no claim could be tested at all; None where it could.
    """

    winners: tuple[str, ...]
    tests: tuple[ArmTest, ...]
    level: float
    random_trainings: int
    why_not: str | None


def choose(trainings: Sequence[Training], at: float, *, caution: float = CAUTION, baseline: str = "random",
           point: float = 0.01, prior: Prior | None = None, loss_weight: float = LOSS_WEIGHT) -> Choice:
    """The arm to take for a training on ``at`` rows.

    The result depends neither on the order of trainings nor on that of rows. Where every training has a loss, it says
    what to expect of an arm before the metric is looked at; on many rows the metric outweighs it.

    Args:
        trainings: At least one of ``baseline`` and one of another arm; several of one arm, at several budgets, and the
            untuned model are welcome.
        at: Budget in rows.
        caution: 0 takes the largest expected gain; the larger, the more often random rows stay.
        baseline: Name of the arm of random rows.
        point: A point in the units of the scores: 0.01 of a metric in [0, 1].
        prior: Constants of the model; :data:`PRIOR` by default.
        loss_weight: Points that one percent less of the loss lets expect; 0 looks at no loss.

    Raises:
        DataError: no baseline, no other arm, fewer than two rows, other rows in one training than in another, a NaN.
        ConfigError: ``caution`` is negative, or a budget is not positive.
    """
    scores, arms, budgets, names = _checked(trainings, at, caution, baseline, point)
    untuned = UNTUNED in arms
    wanted = np.array([*range(1, len(names)), *([UNTUNED] if untuned else [])])
    of = dict(enumerate(names))
    of[UNTUNED] = next((t.arm for t in trainings if t.budget is None), "")
    means, noise = scores.mean(axis=1), row_noise(scores)
    by_loss, gains_by_loss = _expected_by_loss(trainings, arms, budgets, wanted, at, loss_weight)

    def after(rows: float) -> Posterior:
        return posterior(means, noise * scores.shape[1] / rows, arms, budgets, wanted=wanted, at=at,
                         prior=prior or PRIOR, expected=by_loss, expected_gains=gains_by_loss)

    found = after(scores.shape[1])
    utilities = found.expected - caution * found.expected_loss
    # The wanted arms are in order of their names: that, and neither the order of trainings nor rounding, decides a tie.
    order = np.argsort(-np.round(utilities, 9), kind="stable")
    best = int(order[0]) if utilities[order[0]] > 1e-9 else None
    low, high = found.quantile(0.05), found.quantile(0.95)
    worse, by_a_point = found.probability_below(0.0), found.probability_below(-1.0)
    gains = tuple(ArmGain(of[int(wanted[i])], int((arms == wanted[i]).sum()),
                          _measured(means, arms, budgets, int(wanted[i]), at), float(found.expected[i]), float(low[i]),
                          float(high[i]), float(worse[i]), float(by_a_point[i]), float(utilities[i])) for i in order)
    above = found.probability_above_arm(np.array(0 if best is None else best + 1))
    going_on = tuple(of[int(number)] for number, p in zip(wanted, above, strict=True)
                     if number != UNTUNED and p >= DROP)
    # Against whom the arm in front has to hold out: the next best, random rows (a utility of 0) among them.
    rival = next((int(i) for i in order if i != best and (best is None or utilities[i] > 1e-9)), None)
    return Choice(
        take=baseline if best is None else of[int(wanted[best])],
        at=at,
        expected=0.0 if best is None else float(found.expected[best]),
        arms=gains,
        going_on=(baseline, *going_on),
        rows=scores.shape[1],
        row_error=math.sqrt(2 * noise),
        rows_to_settle=_rows_to_settle(after, scores.shape[1], best, rival),
    )


def row_noise(scores: np.ndarray) -> float:
    """Variance of a training's mean score over [trainings, rows] beyond what all trainings share, in squared points.

    The residual mean square of trainings x rows, which leaves out how hard a row is and how good a training, over the
    number of rows. Few rows may agree by chance: a guess that counts as two rows keeps the variance above zero.
    """
    count, rows = scores.shape
    residuals = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
    prior_degrees = _ROWS_OF_PRIOR * (count - 1)
    square = (float((residuals**2).sum()) + prior_degrees * _ROW_VARIANCE) / ((count - 1) * (rows - 1) + prior_degrees)
    return square / rows


def claim(trainings: Sequence[Training], at: float, *, level: float = 0.05, baseline: str = "random",
          point: float = 0.01) -> Claim:
    """Which arms beat random rows beyond chance, from the trainings on ``at`` rows.

    An arm has to pass two one-sided tests. *Trainings*: against the spread between trainings on random rows, Student's
    t with a variance of s^2 (1 + 1/R), asks whether one more random subset would have done as well; where the arm is
    one, that holds exactly (for scores that are normal over subsets). Several trainings of an arm count as one: they
    may stand on the same rows, whose luck repetition does not average. *Rows*: the paired test over validation rows of
    :mod:`siftune.evaluation.statistics`. Holm's correction covers the number of arms. The untuned model, if it is
    there, is one of them.

    Args:
        trainings, at, baseline, point: As for :func:`choose`.
        level: Chance of any winner where all arms are random subsets.

    Raises:
        DataError: as for :func:`choose`.
        ConfigError: ``level`` is not in (0, 0.5), or a budget is not positive.
    """
    from scipy.stats import t as student

    if not 0 < level < 0.5:
        raise ConfigError(f"a level of {level} is not in (0, 0.5)", hint="try 0.05")
    scores, arms, budgets, names = _checked(trainings, at, 0.0, baseline, point)
    here = (budgets == at) | (arms == UNTUNED)
    random = scores[here & (arms == RANDOM)]
    if len(random) < 2:
        return Claim((), (), level, len(random), f"There are {len(random)} trainings on {at:g} random rows; how much "
                     "they differ by luck takes at least 2 to see, and 4 or more to be any use.")
    tried = sorted(set(arms[here]) - {RANDOM})
    if not tried:
        return Claim((), (), level, len(random), f"No other arm was trained on {at:g} rows.")
    # A few trainings may agree by chance, on few rows even exactly: they spread at least as rows make them.
    spread = max(float(random.mean(axis=1).var(ddof=1)), row_noise(scores[here])) * (1 + 1 / len(random))
    tests: list[tuple[str, float, float, float | None]] = []
    for number in tried:
        name = next(t.arm for t in trainings if t.budget is None) if number == UNTUNED else names[number]
        gain = float(scores[here & (arms == number)].mean() - random.mean())
        by_trainings = float(student.sf(gain / math.sqrt(spread), len(random) - 1))
        by_rows = None
        if by_trainings < level:  # so that the gain is positive: one side is half of two
            two_sided = paired_difference(scores[here & (arms == number)].mean(axis=0), random.mean(axis=0), 1 - level,
                                          lower_is_better=False).p_value
            by_rows = 1.0 if two_sided is None else two_sided / 2
        tests.append((name, gain, by_trainings, by_rows))
    adjusted = holm([max(by_trainings, by_rows or 0.0) for _, _, by_trainings, by_rows in tests])
    found = sorted((ArmTest(*test, 1.0 if p is None else p) for test, p in zip(tests, adjusted, strict=True)),
                   key=lambda test: (test.p_value, test.arm))
    return Claim(tuple(test.arm for test in found if test.p_value < level), tuple(found), level, len(random), None)


def _measured(means: np.ndarray, arms: np.ndarray, budgets: np.ndarray, number: int, at: float) -> float | None:
    ours = means[(arms == number) & ((budgets == at) | (number == UNTUNED))]
    random = means[(arms == RANDOM) & (budgets == at)]
    return float(ours.mean() - random.mean()) if len(ours) and len(random) else None


def _expected_by_loss(trainings: Sequence[Training], arms: np.ndarray, budgets: np.ndarray, wanted: np.ndarray,
                      at: float, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Points that the losses let expect of every training, but for a constant, and of the gain of every wanted arm."""
    losses = [t.loss for t in trainings]
    if not weight or any(loss is None for loss in losses):
        return np.zeros(len(arms)), np.zeros(len(wanted))
    known = np.array(losses, dtype=np.float64)
    if not (np.isfinite(known) & (known > 0)).all():
        raise DataError(f"a loss of {trainings[int(np.argmin(np.isfinite(known) & (known > 0)))].arm} is not positive",
                        hint="look for a diverged run, or leave the losses out")
    points = -100 * weight * np.log(known)

    def nearest(arm: int, budget: float) -> tuple[float, float]:
        """The budget nearest to the one given at which the arm was trained, and the mean there."""
        ours = arms == arm
        near = min(set(budgets[ours].tolist()), key=lambda b: (abs(math.log(b / budget)), b))
        return near, float(points[ours & (budgets == near)].mean())

    gains = []
    for arm in wanted:
        near, value = nearest(int(arm), at)
        gains.append(value - nearest(RANDOM, at if arm == UNTUNED else near)[1])
    return points, np.array(gains)


def _rows_to_settle(after: Callable[[float], Posterior], rows: int, best: int | None, rival: int | None) -> int | None:
    """See :class:`Choice`; ``after`` gives the posterior were there so many rows, ``best`` and ``rival`` positions."""
    def doubt(rows: float) -> float:
        found = after(rows)
        if rival is None:
            below = float(found.probability_below(0.0)[best])
        elif best is None:
            below = float(found.probability_below(0.0)[rival])
        else:
            below = float(found.probability_above_arm(np.array(best + 1))[rival])
        return min(below, 1 - below)

    if doubt(rows) <= 1 - SURE:
        return rows
    if doubt(_MOST_ROWS) > 1 - SURE:
        return None
    low, high = rows, _MOST_ROWS
    while high - low > 1:
        middle = (low + high) // 2 if high < 4 * low else math.isqrt(low * high)
        low, high = (middle, high) if doubt(middle) > 1 - SURE else (low, middle)
    return high


def _checked(trainings: Sequence[Training], at: float, caution: float, baseline: str, point: float) -> tuple[
        np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Scores float [T, E] in points, arm numbers int [T], budgets float [T] and the name of each number from 0 on."""
    if caution < 0:
        raise ConfigError(f"a caution of {caution} is negative", hint=f"{CAUTION:g} is the default, 0 has no caution")
    for budget in (at, *(t.budget for t in trainings)):
        if budget is not None and not budget > 0:
            raise ConfigError(f"a budget of {budget:g} rows is not positive")
    random = [t for t in trainings if t.arm == baseline and t.budget is not None]
    if not random or len(random) == len(trainings):
        missing = f'"{baseline}"' if not random else f'any arm but "{baseline}"'
        raise DataError(f"there is no training of {missing} to choose by",
                        hint="measure random rows and at least one other arm")
    sizes = {np.shape(t.scores) for t in trainings}
    if len(sizes) > 1 or len(size := sizes.pop()) != 1 or size[0] < 2:
        raise DataError("trainings to choose between need scores on the same validation rows, two at least",
                        why="; ".join(f"{t.arm}: {np.shape(t.scores)}" for t in trainings[:8]))
    scores = np.stack([np.asarray(t.scores, dtype=np.float64) for t in trainings]) / point
    if not np.isfinite(scores).all():
        arm = trainings[int(np.argmin(np.isfinite(scores).all(axis=1)))].arm
        raise DataError(f"a score of {arm} is NaN or infinite", why="No choice can rest on it.",
                        hint="look for a diverged run: lower --learning-rate")
    # Numbers follow the names, so that the order of trainings cannot matter.
    names = [baseline, *sorted({t.arm for t in trainings if t.budget is not None} - {baseline})]
    numbers = [UNTUNED if t.budget is None else names.index(t.arm) for t in trainings]
    budgets = [1.0 if t.budget is None else float(t.budget) for t in trainings]
    return scores, np.array(numbers), np.array(budgets), names
