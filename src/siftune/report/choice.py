"""A choice in words and as the page shows it: what was tried, what won, by how much, and whether to train at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from siftune._common.text import shorten
from siftune.experiments.results import RANDOM
from siftune.experiments.results.choice import UNTUNED, Choice, ChoiceTest, Gain
from siftune.experiments.text import aligned, shown_p
from siftune.report import charts, formats
from siftune.report.formats import count, duration, p_value

FEW_ROWS = 25
"""With fewer rows that score, the page says in plain words how little they tell."""

MANY_ARMS = 12  # in a sentence


def points(value: float | None) -> str:
    """A number of points with its sign."""
    if value is None:
        return formats.MISSING
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", formats.MINUS, 1)


def sentences(choice: Choice) -> list[str]:
    """The head of the page: what to take, whether to claim it, whether to train, what was tried and what it cost."""
    return [headline(choice), *_claim(choice), *_training(choice), _tried(choice), *cautions(choice), _cost(choice)]


def headline(choice: Choice) -> str:
    """What to take, and by how much it is expected to gain."""
    gain, take = choice.gain(choice.take), choice.take
    if take == UNTUNED:
        return (f"Do not train: the untuned model is expected to be {points(gain and gain.expected)} points above "
                f"training on random rows{_interval(gain)}.")
    if gain is None:
        best = next((one for one in choice.gains if one.arm != UNTUNED), None)
        second = f" The next best bet is {best.arm}, {points(best.expected)} points{_interval(best)}." if best else ""
        return f"Keep random rows: no arm is worth the risk.{second}"
    return f"Take {take}: it is expected to gain {points(gain.expected)} points over random rows{_interval(gain)}."


def answer(choice: Choice) -> str:
    """The headline in one short sentence."""
    return "Keep random rows: no arm is worth the risk." if choice.take == RANDOM else headline(choice)


def _interval(gain: Gain | None) -> str:
    if gain is None or gain.low is None or gain.high is None:
        return ""
    return f" (90% interval {points(gain.low)} to {points(gain.high)})"


def _claim(choice: Choice) -> Iterator[str]:
    claim = choice.claim
    if choice.take == RANDOM:
        if claim.winners:
            yield (f"Beyond chance better than random rows at {_at(choice)}, yet a worse bet: "
                   f"{', '.join(claim.winners)}.")
        return
    test = next((one for one in claim.tests if one.arm == choice.take), None)
    who = "the untuned model" if choice.take == UNTUNED else choice.take
    if claim.why_not:
        yield f"That {who} beats random rows cannot be claimed: {claim.why_not}"
    elif test is None:
        yield f"That {who} beats random rows cannot be claimed: it was not trained on {_at(choice)}."
    elif choice.claimed:
        yield (f"That {who} beats random rows may be claimed ({_p(test)}, "
               f"{count(claim.random_trainings, 'training')} on random rows, at {_at(choice)}).")
    else:
        yield (f"That {who} beats random rows may not be claimed ({_p(test)}): it is the best bet, no more. "
               f"{count(claim.random_trainings, 'training')} on random rows, at {_at(choice)}.")


def _p(test: ChoiceTest) -> str:
    return f"p {p_value(test.p_value)}, all arms allowed for"


def _at(choice: Choice) -> str:
    return f"{choice.compared_at:,} {choice.unit}"


def _training(choice: Choice) -> Iterator[str]:
    """Whether to train at all."""
    untuned = choice.gain(UNTUNED)
    if choice.take == UNTUNED:
        rest = ("Nothing was selected; --select-anyway selects with the best arm that is trained."
                if choice.selected is None else f"Selected all the same, as asked: with {choice.selected}.")
        yield f"Training on rows of this pool is not worth it for this target. {rest}"
    elif untuned is not None:
        told = f"the untuned model is expected to be {points(untuned.expected)} points from random rows"
        is_sure = untuned.high is not None and untuned.high < 0
        yield (f"{'Training is worth it' if is_sure else 'Whether to train at all is not settled'}: {told}"
               f"{_interval(untuned)}.")


def _tried(choice: Choice) -> str:
    named = list(choice.methods)
    arms = ", ".join(named[:MANY_ARMS]) + (f" and {len(named) - MANY_ARMS} more" if len(named) > MANY_ARMS else "")
    told = f"Tried: random rows, the untuned model{', ' if arms else ''}{arms}"
    rounds = " and ".join(filter(None, [", ".join(f"{r.budget:,}" for r in choice.rounds[:-1]),
                                        f"{choice.rounds[-1].budget:,}" if choice.rounds else ""]))
    told += f", on {rounds} {choice.unit}" if rounds else ""
    stopped = [f"{arm} after {one.budget:,}" for one in choice.rounds[:-1] for arm in one.stopped]
    told += f"; stopped early: {', '.join(stopped)}" if stopped else ""
    left = [f"{name} ({why})" for name, why in choice.left_out.items()]
    failed = [f"{name} (failed: {why})" for name, why in choice.failed.items()]
    return told + (f"; left out: {', '.join([*left, *failed])}" if left or failed else "") + "."


def cautions(choice: Choice) -> list[str]:
    """How much the rows that score can tell, and what was cut."""
    rows = choice.rows.applicable or 0
    found = []
    if choice.row_error is not None:
        little = f"Only {count(rows, 'row')} score, which tells little: by" if rows < FEW_ROWS else (
            f"{count(rows, 'row')} score: by")
        told = (f"{little} the choice of rows alone the difference of two trainings is uncertain by "
                f"{choice.row_error:.1f} points (one standard error).")
        if choice.settled:
            told += " The two in front are told apart with 95% probability."
        elif choice.rows_to_settle is None:
            told += " No number of rows would tell the two in front apart, only more trainings."
        else:
            told += f" About {choice.rows_to_settle:,} rows would tell the two in front apart."
        found.append(told)
    if choice.compared_at != choice.at:
        found.append(f"The arms were compared at {choice.compared_at:,} {choice.unit} only, and the choice is for "
                     f"{choice.at:,}.")
    if choice.cuts:
        found.append(f"Cut to fit {choice.settings.get('within', 'the time')}: {'; '.join(choice.cuts)}.")
    return found


def _cost(choice: Choice) -> str:
    costs = choice.costs
    parts = [f"{count(costs.trainings or 0, 'training')} on {costs.tokens or 0:,} tokens took "
             f"{duration(costs.train_seconds)}, features {duration(costs.feature_seconds)}"]
    if costs.expected_seconds is not None:
        parts.append(f"{duration(costs.expected_seconds)} at most were expected")
    return f"{'; '.join(parts)}; the last call took {duration(costs.wall_seconds)}."


def arms_table(choice: Choice) -> str:
    """Every arm in a line, the best bet first, as a Markdown table."""
    lines = [["", "trainings", f"measured at {_at(choice)}", "expected gain [90%]", "worse than random", "p",
              "stopped"]]
    tests = {one.arm: one for one in choice.claim.tests}
    for one in choice.gains:
        test = tests.get(one.arm)
        trained = "-" if one.arm == UNTUNED else str(one.trainings)  # it is scored, not trained
        lines.append([_marked(choice, one.arm), trained, _seen(choice, one.arm), _gain(one),
                      "-" if one.worse is None else f"{one.worse:.0%}", shown_p(test.p_value if test else None),
                      _stop(choice, one.arm) or "-"])
    random = sum(t.arm == RANDOM for t in choice.trainings)
    lines.append([_marked(choice, RANDOM), str(random), "0", "0", "-", "-", "-"])
    return aligned(lines)


def _marked(choice: Choice, arm: str) -> str:
    return f"{shorten(arm, 40)}{' *' if arm == choice.take else ''}"


def _gain(one: Gain) -> str:
    return f"{points(one.expected)} [{points(one.low)}, {points(one.high)}]"


def _seen(choice: Choice, arm: str) -> str:
    value = choice.rounds[-1].seen.get(arm) if choice.rounds else None
    return "-" if value is None else points(value)


def _stop(choice: Choice, arm: str) -> str:
    return next((f"after {one.budget:,}" for one in choice.rounds[:-1] if arm in one.stopped), "")


def choice_section(choice: Choice) -> dict[str, Any]:
    """All that the page shows of a choice, JSON-ready, in its order."""
    tests = {one.arm: one for one in choice.claim.tests}
    numbers = {name: i for i, name in enumerate(dict.fromkeys(one.arm for one in choice.gains), 1)}
    return {
        "take": choice.take, "selected": choice.selected, "worth_training": choice.worth_training,
        "claimed": choice.claimed,
        "badge": "✓ Beyond chance better than random" if choice.claimed and choice.take != UNTUNED else
                 "Training is not worth it" if choice.take == UNTUNED else
                 "Random rows stay" if choice.take == RANDOM else "A bet, not proven",
        "sentences": sentences(choice), "cautions": cautions(choice),
        "metric": choice.metric, "metric_why": choice.metric_why, "point": choice.point,
        "rows": choice.rows.model_dump(exclude={"scored_ids"}), "scored": len(choice.rows.scored_ids),
        "budget": choice.budget, "unit": choice.unit, "at": choice.at, "compared_at": choice.compared_at,
        "arms": [{**one.model_dump(), "number": numbers[one.arm], "method": choice.methods.get(one.arm, ""),
                  "seen": choice.rounds[-1].seen.get(one.arm) if choice.rounds else None,
                  "p_value": tests[one.arm].p_value if one.arm in tests else None,
                  "stopped": _stop(choice, one.arm)} for one in choice.gains],
        "rounds": [{"budget": one.budget, "random": one.random, "trained": one.trained, "front": one.front,
                    "stopped": one.stopped, "seen": [{"arm": arm, "number": numbers.get(arm), "gain": gain}
                                                     for arm, gain in one.seen.items()],
                    "band": _band(choice, one.budget)} for one in choice.rounds],
        "claim": choice.claim.model_dump(), "left_out": choice.left_out, "failed": choice.failed,
        "trainings": [one.model_dump(exclude={"scores", "losses", "cells"}) for one in choice.trainings],
        "costs": choice.costs.model_dump(), "notes": choice.notes, "settings": choice.settings,
    }


def _band(choice: Choice, budget: int) -> dict[str, float] | None:
    """How far single trainings on random rows lie from their mean, in points."""
    scores = [t.score for t in choice.trainings if t.arm == RANDOM and t.budget == budget and t.score is not None]
    if len(scores) < 2:
        return None
    mean = sum(scores) / len(scores)
    return {"low": (min(scores) - mean) / choice.point, "high": (max(scores) - mean) / choice.point}


def verdict(choice: Choice) -> dict[str, Any]:
    """As the verdict of a comparison: see :func:`siftune.report.verdict.verdict`."""
    told = sentences(choice)
    aside = cautions(choice)
    status = "better" if choice.claimed and choice.take != UNTUNED else "no different"
    return {"status": status, "answer": answer(choice), "sentences": [one for one in told if one not in aside],
            "cautions": aside}


def gains_chart(section: dict[str, Any]) -> Markup | None:
    """Expected gains over random rows with their intervals."""
    rows = [charts.Interval(one["arm"], one["expected"], one["low"], one["high"],
                            "method" if one["arm"] == section["take"] else
                            "baseline" if one["arm"] == UNTUNED else "even")
            for one in section["arms"] if None not in (one["expected"], one["low"], one["high"])]
    if not rows:
        return None
    return charts.intervals("Expected gain over random rows, in points", "Right of zero an arm is better than random "
                            "rows. The filled circle is the arm to take. Bars hold the gain with 90% probability.",
                            rows, points, zero=("worse", "better"))


def rounds_chart(section: dict[str, Any]) -> Markup | None:
    """Every arm against random rows over the rounds."""
    from siftune.report.study.charts import Axis, Dot, Series, plot  # its package draws on this page's environment

    rounds = section["rounds"]
    known = [(one["budget"], dot) for one in rounds for dot in one["seen"] if dot["gain"] is not None]
    if not known:
        return None
    made = []
    for name in dict.fromkeys(dot["arm"] for _, dot in known):
        dots = [Dot(budget, dot["gain"], f"{name}, {budget:,} {section['unit']}: "
                    f"{points(dot['gain'])} points", name=name)
                for budget, dot in known if dot["arm"] == name]
        made.append(Series("method" if name == section["take"] else "baseline", dots, joined=True,
                           label=name))
    band = [(one["budget"], one["band"]["low"], one["band"]["high"]) for one in rounds if one["band"]]
    values = [0.0, *(dot["gain"] for _, dot in known), *(end for _, low, high in band for end in (low, high))]
    return plot("Measured difference from random rows by round", "Each line is named at its right end; the line at "
                "zero is the mean of the trainings on random rows, the band their spread.",
                sorted(made, key=lambda one: one.kind == "method"),
                Axis.over(f"{section['unit']} trained on", [one["budget"] for one in rounds], formats.number, log=True,
                          margin=0.1, round_ones=[one["budget"] for one in rounds]),
                Axis.over("points above random rows", values, points, margin=0.12), height=230, gutter=12, band=band,
                zero=True)
