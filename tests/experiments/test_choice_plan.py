"""What a choice will train is counted before, cut in the documented order to fit a time, and kept for the next call."""

from __future__ import annotations

import dataclasses

import pytest

from siftune._common.errors import ConfigError
from siftune.config.choosing import ChooseConfig
from siftune.experiments.choosing.schedule import Costs, Schedule, fitted, keep_plan, kept_plan

ARMS = ("bm25", "embed", "rds+", "less-round-robin")
WHOLE = Schedule(ARMS, 4, "rows", (25, 50, 100), (2, 2, 4), {})
FEATURES = {"bm25": 0.0, "embed": 5.0, "rds+": 60.0, "less-round-robin": 900.0}


def costs(per_token: float | None = 0.01, features: dict[str, float] | None = None) -> Costs:
    told = FEATURES if features is None else features
    return Costs(10.0, 2, 600.0, dict.fromkeys(ARMS, True), 1, 1, lambda arm, folds: told[arm], per_token)


def test_the_work_is_that_of_every_round_fold_and_arm():
    work = costs().of(WHOLE)
    assert work.trainings == 1 + (2 + 16) + (2 + 16) + (4 + 16)
    assert work.tokens == 10 * 2 * (25 * 18 + 50 * 18 + 100 * 20)
    assert work.scored == 600 * (1 + (2 + 4) + (2 + 4) + (4 + 4))
    assert work.seconds == pytest.approx(0.01 * (work.tokens + work.scored / 3) + sum(FEATURES.values()))
    of_tokens = dataclasses.replace(WHOLE, unit="tokens")
    assert costs().of(of_tokens).tokens == pytest.approx(work.tokens / 10)
    assert costs(None).of(WHOLE).seconds is None
    free = dataclasses.replace(costs(), looks={**dict.fromkeys(ARMS, True), "bm25": False})
    assert free.of(WHOLE).trainings == work.trainings - 3 * 3, "one training serves all folds"


def cut(seconds: float, **changes: object) -> Schedule:
    config = ChooseConfig(within=f"{seconds}s")
    return fitted(dataclasses.replace(WHOLE, **changes), costs(), config)  # type: ignore[arg-type]


def test_nothing_is_cut_where_it_fits_or_no_time_is_given():
    assert fitted(WHOLE, costs(), ChooseConfig()) is WHOLE
    assert cut(costs().of(WHOLE).seconds + 1) == WHOLE


def test_cuts_come_in_the_documented_order_and_no_more_of_them_than_needed():
    told, limit = WHOLE, costs().of(WHOLE).seconds
    order = []
    while True:
        try:
            told = cut(limit - 0.5)
        except ConfigError:
            break
        seconds = costs().of(told).seconds
        assert seconds <= limit - 0.5
        assert len(told.cuts) >= len(order)
        order = list(told.cuts)
        limit = seconds
    assert order == [
        "3 folds instead of 4", "2 folds instead of 3", "less-round-robin is not tried", "rds+ is not tried",
        "no round at 25 rows", "no round at 50 rows", "3 trainings on random rows instead of 4",
        "2 trainings on random rows instead of 3", "the arms are compared at 50 rows instead of 100",
        "the arms are compared at 25 rows instead of 50"]
    assert told.arms == ("bm25", "embed")
    assert told.left_out == {"less-round-robin": "its features alone take about 15 min",
                             "rds+": "its features alone take about 60 s"}
    assert (told.folds, told.rounds, told.random) == (2, (25,), (2,))
    with pytest.raises(ConfigError, match="a choice does not fit into"):
        cut(limit - 0.5)


def test_a_plan_is_kept_for_the_same_command_alone(tmp_path):
    told = dataclasses.replace(WHOLE, cuts=("one",), left_out={"fusion": "why"})
    keep_plan(tmp_path, "key", told, 12.5)
    assert kept_plan(tmp_path, "key") == (told, 12.5)
    assert kept_plan(tmp_path, "another") is None
    path = tmp_path / "choice-plan.json"
    path.write_text(path.read_text().replace("embed", "rds+"))
    assert kept_plan(tmp_path, "key") is None, "an edited plan is made again"


@pytest.mark.parametrize(("within", "seconds"), [("2h", 7200), ("30 min", 1800), ("1.5d", 129600), ("90s", 90)])
def test_times_are_read(within, seconds):
    assert ChooseConfig(within=within).seconds == seconds


@pytest.mark.parametrize("within", ["soon", "0h", "-1h", "5", "1h30"])
def test_what_is_no_time_is_refused(within):
    with pytest.raises(ConfigError, match="cannot read the time"):
        _ = ChooseConfig(within=within).seconds
