"""What is taken, what is claimed, and how often either is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from siftune._common.errors import ConfigError, DataError
from siftune._common.files import read_json
from siftune.evaluation.choosing import (
    CAUTION,
    DROP,
    LOSS_WEIGHT,
    PRIOR,
    Training,
    choose,
    claim,
    row_noise,
)
from siftune.evaluation.gains import RANDOM, UNTUNED, posterior

RECORDED = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "choice-rules.json"


def answers(share: float, rows: int, seed: int, hard: np.ndarray | None = None) -> np.ndarray:
    """float [rows], 0 or 1: right with probability ``share``; ``hard`` in [0, 1] is common to several models."""
    draw = np.random.default_rng(seed).random(rows)
    return ((draw if hard is None else np.where(np.random.default_rng(seed + 1).random(rows) < 0.775, hard, draw))
            < share).astype(float)


def trained(rows: int = 200, **shares: float) -> list[Training]:
    """One training at 500 rows of each arm; ``untuned`` is the untuned model."""
    hard = np.random.default_rng(99).random(rows)
    return [Training(arm, None if arm == "untuned" else 500, answers(share, rows, 10 * i, hard))
            for i, (arm, share) in enumerate(shares.items())]


def same(ours: object, theirs: object) -> None:
    assert type(ours) is type(theirs)
    for name, value in vars(ours).items():
        other = getattr(theirs, name)
        if isinstance(value, tuple) and value and not isinstance(value[0], str):
            assert len(value) == len(other)
            for one, another in zip(value, other, strict=True):
                same(one, another)
        else:
            assert other == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value), name


def test_an_arm_that_is_right_where_random_rows_are_wrong_is_taken_and_repetition_leaves_no_doubt() -> None:
    rows = np.arange(200)
    once = [Training("random", 500, (rows % 2).astype(float)), Training("bm25", 500, np.ones(200)),
            Training("less", 500, (rows % 4 == 0).astype(float))]
    found = choose(once, 500)
    assert found.take == "bm25"
    assert found.arms[0].worse > 0.01  # one training each may have been luck
    found = choose(once * 3, 500)
    assert found.take == "bm25"
    assert found.expected == pytest.approx(50, abs=5)
    assert [one.arm for one in found.arms] == ["bm25", "less"]
    assert found.arms[0].low > 0
    assert found.arms[0].worse < 0.01
    assert found.arms[0].measured == pytest.approx(50)
    assert found.going_on == ("random", "bm25")
    assert found.rows_to_settle == found.rows == 200


def test_arms_that_do_the_same_leave_random_rows_in_place() -> None:
    scores = answers(0.6, 100, 0)
    found = choose([Training(arm, 500, scores) for arm in ("random", "bm25", "less")], 500)
    assert found.take == "random"
    assert found.expected == 0.0
    assert [one.arm for one in found.arms] == ["bm25", "less"]
    assert all(abs(one.expected) < 1e-9 and one.worse == pytest.approx(0.5) for one in found.arms)
    assert set(found.going_on) == {"random", "bm25", "less"}
    assert found.rows_to_settle is None


def test_neither_the_order_of_trainings_nor_that_of_rows_matters() -> None:
    trainings = [*trained(random=0.5, less=0.58, bm25=0.58, untuned=0.45),
                 *[Training(arm, 100, answers(0.5, 200, 77 + i)) for i, arm in enumerate(("less", "random", "bm25"))],
                 Training("less", 500, answers(0.6, 200, 5))]
    trainings = [Training(t.arm, t.budget, t.scores, 1 + i / 10) for i, t in enumerate(trainings)]
    order = np.random.default_rng(0).permutation(200)
    turned = [Training(t.arm, t.budget, t.scores[order], t.loss) for t in reversed(trainings)]
    same(choose(trainings, 500), choose(turned, 500))


def test_names_decide_nothing_but_ties() -> None:
    shares = {"random": 0.5, "a": 0.52, "b": 0.63, "c": 0.4}
    renamed = {"random": "random", "a": "z", "b": "m", "c": "d"}
    trainings = trained(**shares)
    found = choose(trainings, 500)
    again = choose([Training(renamed[t.arm], t.budget, t.scores) for t in trainings], 500)
    assert again.take == renamed[found.take]
    assert [one.arm for one in again.arms] == [renamed[one.arm] for one in found.arms]
    np.testing.assert_allclose([one.expected for one in again.arms], [one.expected for one in found.arms], atol=1e-9)
    twins = [*trained(random=0.3), *(Training(arm, 500, answers(0.7, 200, 1)) for arm in ("y", "x"))]
    assert choose(twins, 500).take == choose(twins[::-1], 500).take == "x"


def test_the_untuned_model_is_taken_where_every_training_does_harm() -> None:
    found = choose(trained(random=0.4, bm25=0.38, untuned=0.75), 500)
    assert found.take == "untuned"
    assert "untuned" not in found.going_on


def test_the_more_caution_the_more_doubt_random_rows_survive() -> None:
    trainings = trained(60, random=0.5, bm25=0.6)
    bold, cautious = choose(trainings, 500, caution=0), choose(trainings, 500, caution=50)
    assert (bold.take, cautious.take) == ("bm25", "random")
    assert bold.arms[0].expected == cautious.arms[0].expected > 0
    assert bold.arms[0].utility == bold.arms[0].expected


def test_trainings_at_smaller_budgets_count() -> None:
    late = trained(50, random=0.5, bm25=0.58)
    early = [Training(arm, budget, answers(share, 50, int(budget) + i))
             for budget in (125.0, 250.0) for i, (arm, share) in enumerate((("random", 0.4), ("bm25", 0.66)))]
    with_them, without = choose(late + early, 500), choose(late, 500)
    assert with_them.arms[0].worse < without.arms[0].worse
    assert with_them.arms[0].trainings == 3
    assert choose(early, 500).arms[0].measured is None


def test_how_many_rows_would_settle_it_grows_as_arms_come_closer() -> None:
    def wanted(share: float) -> int | None:
        right = np.arange(100) < 50
        others = np.roll(right, 20) if share == 0.5 else np.arange(100) < 100 * share
        return choose([Training("random", 500, right * 1.0), Training("bm25", 500, others * 1.0)], 500).rows_to_settle

    near, far = wanted(0.6), wanted(0.62)
    assert near is not None
    assert far is not None
    assert near > far >= 100
    assert wanted(0.5) is None


def test_what_the_loss_lets_expect_gives_way_to_the_metric() -> None:
    scores = answers(0.5, 40, 3)
    losses = {"random": 1.0, "bm25": 0.5, "less": 1.3}
    by_loss = choose([Training(arm, 500, scores, loss) for arm, loss in losses.items()], 500)
    assert [one.arm for one in by_loss.arms] == ["bm25", "less"]
    assert by_loss.arms[0].expected > 0 > by_loss.arms[1].expected
    assert choose([Training(arm, 500, scores, loss) for arm, loss in losses.items()], 500,
                  loss_weight=0).arms[0].expected == pytest.approx(0)
    unknown = [Training("random", 500, scores), *(Training(arm, 500, scores, 0.5) for arm in ("bm25", "less"))]
    assert choose(unknown, 500).arms[0].expected == pytest.approx(0)
    worse = [Training("random", 500, answers(0.7, 2000, 1), 1.0), Training("bm25", 500, answers(0.5, 2000, 2), 0.5)]
    assert choose(worse, 500).take == "random"
    assert choose(worse, 500).arms[0].expected == pytest.approx(-18, abs=4)


def test_row_noise_is_the_variance_of_a_mean_that_trainings_do_not_share() -> None:
    draw = np.random.default_rng(0)
    hard, means = draw.normal(0, 30, size=(4000, 1, 50)), np.array([[40.0], [50], [70]])
    scores = means + hard + draw.normal(0, 20, size=(4000, 3, 50))
    assert np.mean([row_noise(one) for one in scores]) == pytest.approx((400 * 49 + 500 * 2) / 51 / 50, rel=0.01)
    differences = (scores[:, 0] - scores[:, 1]).mean(axis=1)
    assert differences.var() == pytest.approx(2 * 400 / 50, rel=0.1)


def test_more_validation_rows_do_not_lower_the_gain_and_the_posterior_is_calibrated() -> None:
    draw = np.random.default_rng(2)
    arms, budgets = np.array([RANDOM, 1, 2, 3, UNTUNED] * 2), np.repeat([250.0, 500.0], 5)
    arms, budgets = arms[:-1], budgets[:-1]  # one untuned model
    asked = np.array([RANDOM, 1, 2, 3, UNTUNED])
    joint = PRIOR.covariance(np.append(arms, asked[:-1]), np.append(budgets, np.full(4, 500.0)))
    cases = 4000
    part = draw.choice(len(PRIOR.weights), size=cases, p=np.array(PRIOR.weights) / sum(PRIOR.weights))
    root = np.linalg.cholesky(joint + 1e-9 * np.eye(len(joint)))
    effects = np.array(PRIOR.scales)[part][:, None] * (draw.standard_normal((cases, len(joint))) @ root.T)
    scores = 50 + effects[:, :9] + np.sqrt(PRIOR.luck(arms))[part] * draw.standard_normal((cases, 9))
    truth = np.column_stack([effects[:, 10:13], effects[:, 4]]) - effects[:, [9]]
    noise = draw.standard_normal((cases, 9))
    gained = []
    for rows in (25, 50, 100, 400, 10_000):
        variance = 1000 / rows
        found = posterior(scores + np.sqrt(variance) * noise, variance, arms, budgets, wanted=asked[1:], at=500.0,
                          prior=PRIOR)
        utility = found.expected - found.expected_loss * CAUTION
        best = utility.argmax(axis=1)
        take = utility.max(axis=1) > 0
        gain = np.where(take, truth[np.arange(cases), best], 0.0)
        told = np.where(take, found.expected[np.arange(cases), best], 0.0)
        gained.append(gain.mean())
        assert gain.mean() == pytest.approx(told.mean(), abs=4 * (gain - told).std() / cases**0.5)
        below = found.probability_below(truth)
        assert ((below > 0.05) & (below < 0.95)).mean() == pytest.approx(0.9, abs=0.02)
    assert gained == sorted(gained)
    assert gained[-1] > 1.2 * gained[0]


@pytest.mark.parametrize(("repeats", "rows", "luck"), [(2, 8, 0.0), (3, 40, 0.1), (8, 100, 0.03)])
def test_where_all_arms_are_random_subsets_a_winner_is_claimed_in_at_most_one_of_twenty(
        repeats: int, rows: int, luck: float) -> None:
    draw = np.random.default_rng([repeats, rows])
    cases, claimed, taken = 800, 0, 0
    names = ["random"] * repeats + ["bm25", "embed", "less"]
    for _ in range(cases):
        shares = np.clip(0.5 + luck * draw.standard_normal((len(names), 1)), 0, 1)
        size = (len(names), rows)
        shared = draw.random(size) < 0.775
        right = np.where(shared, draw.random(rows), draw.random(size)) < shares
        trainings = [Training(name, 500, one.astype(float)) for name, one in zip(names, right, strict=True)]
        claimed += bool(claim(trainings, 500).winners)
        if taken < 1 and _ < 30:
            taken += choose(trainings, 500, caution=0).take != "random"
    assert claimed / cases < 0.05 + 2.3 * (0.05 * 0.95 / cases) ** 0.5
    assert taken  # to take is another thing than to claim


def test_a_real_winner_is_claimed_from_enough_trainings_and_no_other_arm() -> None:
    hard = np.random.default_rng(1).random(150)
    randoms = [Training("random", 500, answers(0.5, 150, 2 * i, hard)) for i in range(8)]
    arms = [Training("bm25", 500, answers(0.75, 150, 101, hard)), Training("less", 500, answers(0.5, 150, 103, hard)),
            Training("untuned", None, answers(0.3, 150, 105, hard))]
    found = claim(randoms + arms, 500)
    assert found.winners == ("bm25",)
    assert found.why_not is None
    assert found.tests[0].arm == "bm25"
    assert found.tests[0].gain == pytest.approx(25, abs=10)
    assert found.tests[0].p_value < 0.05 <= found.tests[1].p_value
    assert claim(randoms[:2] + arms, 500).winners == ()  # two trainings cannot show how far luck goes


def test_one_training_on_random_rows_supports_no_claim_whatever_the_scores() -> None:
    found = claim([Training("random", 500, np.zeros(100)), Training("bm25", 500, np.ones(100))], 500)
    assert found.winners == ()
    assert found.why_not is not None
    assert "at least 2" in found.why_not
    elsewhere = [*(Training("random", 500, answers(0.5, 50, i)) for i in range(4)), Training("bm25", 100, np.ones(50))]
    assert claim(elsewhere, 500).why_not == "No other arm was trained on 500 rows."


def test_random_trainings_that_agree_by_chance_support_no_claim() -> None:
    randoms = [Training("random", 500, np.array([0.0, 1, 0, 1, 0, 1, 0, 1])) for _ in range(3)]
    assert claim([*randoms, Training("bm25", 500, np.array([0.0, 1, 0, 1, 0, 1, 1, 1]))], 500).winners == ()


@pytest.mark.parametrize(("trainings", "at", "error", "text"), [
    ([Training("bm25", 500, np.ones(9))], 500, DataError, 'no training of "random"'),
    ([Training("random", 500, np.ones(9))], 500, DataError, "any arm but"),
    ([Training("random", 500, np.ones(9)), Training("bm25", 500, np.ones(8))], 500, DataError, "same validation rows"),
    ([Training("random", 500, np.ones(1)), Training("bm25", 500, np.ones(1))], 500, DataError, "two at least"),
    ([Training("random", 500, np.ones(9)), Training("bm25", 500, np.full(9, np.nan))], 500, DataError, "bm25 is NaN"),
    ([Training("random", 500, np.ones(9), 1.0), Training("bm25", 500, np.ones(9), -1.0)], 500, DataError,
     "loss of bm25"),
    ([Training("random", 0, np.ones(9)), Training("bm25", 500, np.ones(9))], 500, ConfigError, "not positive"),
    ([Training("random", 500, np.ones(9)), Training("bm25", 500, np.ones(9))], -1, ConfigError, "not positive"),
])
def test_what_nothing_can_be_chosen_by_is_refused(trainings: list[Training], at: float, error: type[Exception],
                                                  text: str) -> None:
    with pytest.raises(error, match=text):
        choose(trainings, at)


def test_negative_caution_and_impossible_levels_are_refused() -> None:
    trainings = [Training("random", 500, np.ones(9)), Training("bm25", 500, np.ones(9))]
    with pytest.raises(ConfigError, match="caution"):
        choose(trainings, 500, caution=-1)
    with pytest.raises(ConfigError, match="level"):
        claim(trainings, 500, level=1)


def test_the_shipped_constants_are_those_that_the_recorded_run_judged() -> None:
    recorded = read_json(RECORDED)
    assert recorded["prior"] == {name: list(value) if isinstance(value, tuple) else value
                                 for name, value in vars(PRIOR).items()}
    assert (recorded["caution"], recorded["drop"], recorded["loss_weight"]) == (CAUTION, DROP, LOSS_WEIGHT)
