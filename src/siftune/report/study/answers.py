"""The first screen of a study's page: a sentence, every arm against random over all targets, and what to watch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from siftune._common.text import shorten
from siftune.experiments.analysis.overall import Effect, overall
from siftune.experiments.results import CHOSEN, RANDOM, ZERO_SHOT, Results
from siftune.report import charts, formats
from siftune.report.answers import BADGES, mark, to_watch
from siftune.report.formats import count, rough_percent
from siftune.report.study.verdict import ROUGH_SEEDS

FEW_TEST_ROWS = 20
"""Held-out rows of a target, below which only a large difference can be told."""

CHECKS = 4
LINES = 18  # of the picture on the first screen; more arms are in the section that it belongs to


def answers(study: Results, verdict: dict[str, Any]) -> dict[str, Any]:
    """``sentence``, ``status`` and ``badge``, ``picture`` of all arms, ``effects`` (its numbers, by name), ``hidden``
    (how many arms only ``whole`` shows), ``singles`` (whether an arm has no verdict), and ``watch`` with ``sentence``,
    ``picture`` and all ``notes``."""
    effects = overall(study)
    shown = _first(effects)
    sentence, status = _verdict(study, effects, verdict)
    return {
        "sentence": sentence, "status": status, "badge": BADGES[status],
        "picture": _picture(study, shown, step=18 if len(shown) <= 14 else 16) if effects else charts.unknown(
            "Nothing has been compared", "No arm and random have both finished yet.",
            [*study.methods[:6], ZERO_SHOT], "random"),
        "hidden": len(effects) - len(shown),
        "whole": _picture(study, effects, step=20) if len(effects) > len(shown) else None,
        "is_measured": bool(effects), "singles": any(effect.singles and effect.kind in CHOSEN for effect in effects),
        "effects": {effect.name: effect for effect in effects},
        "watch": _watch(verdict, sorted(_checks(study, verdict), key=lambda check: check.is_fine)[:CHECKS]),
    }


def _verdict(study: Results, effects: list[Effect], verdict: dict[str, Any]) -> tuple[str, str]:
    """A sentence and what it comes to. Over several places it is of the best arm that is told from random over all of
    them; else what the single comparisons show."""
    lines = [line for target in verdict["targets"] for place in target["budgets"] for line in place["lines"]]
    if len(study.targets) * len(study.budgets) == 1 and lines and lines[0]["verdict"] == "better":
        return lines[0]["text"], "better"
    better = [effect for effect in effects if effect.verdict == "better" and effect.places > 1]
    if not better:
        return verdict["headline"], verdict["status"]
    best = better[0]
    low, high = sorted((abs(min(best.low or 0.0, 0.0)), abs(min(best.high or 0.0, 0.0))))
    over = count(len(study.targets), "target") if len(study.targets) > 1 else count(best.places, "budget")
    sentence = (f"{shorten(best.name, 32)} lowered the held-out loss by {rough_percent(abs(best.mean))} against random "
                f"over {over} ({100 * study.confidence:g}% interval {rough_percent(low)} to {rough_percent(high)})")
    others = len(better) - 1
    return sentence + (f"; so did {count(others, 'other arm')}." if others else "."), "better"


def _first(effects: list[Effect]) -> list[Effect]:
    """As many as the first screen holds: the best arms, the worst one, and what the model does without training."""
    if len(effects) <= LINES:
        return effects
    chosen = [effect for effect in effects if effect.kind in CHOSEN]
    untuned = [effect for effect in effects if effect.name == ZERO_SHOT]
    room = LINES - len(untuned)
    kept = chosen if len(chosen) <= room else [*chosen[:room - 1], chosen[-1]]
    others = [effect for effect in effects if effect.kind not in CHOSEN and effect not in untuned]
    return [*kept, *others[:room - len(kept)], *untuned]


def _picture(study: Results, effects: list[Effect], step: int) -> Markup:
    rows = [charts.Interval(effect.name, effect.mean, effect.low, effect.high, _kind(study, effect),
                            name=effect.name if effect.kind in CHOSEN else "") for effect in effects]
    places = len(study.targets) * len(study.budgets)
    return charts.intervals(
        f"Held-out loss against random over {count(len(study.targets), 'target')}",
        f"The mean over {count(places, 'target and budget', 'targets and budgets')} of the difference in loss from "
        "random, as a share of random's; left of the line at zero, which is random, the loss is lower.",
        rows, formats.signed_percent, zero=("better", "worse"), step=step, clip=True)


def _kind(study: Results, effect: Effect) -> str:
    """How an arm is drawn; at a single target and budget by its test there, which all tests of the study count for."""
    if effect.kind not in CHOSEN:
        return "baseline"
    if effect.places == 1:
        test = next((test for test in study.tests if (test.method, test.against, test.metric)
                     == (effect.name, RANDOM, "loss")), None)
        return mark(test.verdict if test else None)
    return "single" if effect.singles else mark(effect.verdict)


def _watch(verdict: dict[str, Any], rows: list[charts.Check]) -> dict[str, Any]:
    """The cautions of the whole and of each place; the first of them in a sentence."""
    several = len(verdict["targets"]) > 1 or any(len(target["budgets"]) > 1 for target in verdict["targets"])
    notes = [*verdict["cautions"], *(
        f"{target['name']}, {place['budget']}: {text}" if several else text
        for target in verdict["targets"] for place in target["budgets"] for text in place["cautions"])]
    singles, compared = verdict["counts"]["single training"], verdict["compared"]
    if singles:
        notes.insert(0, f"{singles:,} of {count(compared, 'comparison')} {'has' if singles == 1 else 'have'} "
                        "one training and no verdict.")
    if not compared:
        notes.insert(0, "Nothing has been compared with random yet.")
    return {"sentence": to_watch(notes, rows), "notes": notes, "picture": charts.checks(
        "What to watch", "A full bar is all that is wanted; an exclamation mark says what to look at.", rows)}


def _checks(study: Results, verdict: dict[str, Any]) -> Iterator[charts.Check]:
    trained = study.trainings
    done, wanted = sum(status == "done" for status in trained.values()), len(trained)
    if wanted:
        yield charts.Check("Trainings done", done / wanted, f"{done:,} of {wanted:,}", is_fine=done == wanted)
    compared, counts = verdict["compared"], verdict["counts"]
    if not compared:
        yield charts.Check("Compared", 0.0, "not yet", is_fine=False)
        return
    judged = compared - counts["single training"]
    yield charts.Check("With a verdict", judged / compared, f"{judged:,} of {compared:,}", is_fine=judged == compared)
    enough = sum((test.n_seeds or 0) >= ROUGH_SEEDS for test in study.tests
                 if (test.against, test.metric) == ("random", "loss"))
    yield charts.Check(f"{ROUGH_SEEDS} or more seeds", enough / compared, f"{enough:,} of {compared:,}",
                       is_fine=enough == compared)
    gained = sum(any(line["verdict"] == "better" for place in target["budgets"] for line in place["lines"])
                 for target in verdict["targets"])
    targets = len(verdict["targets"])
    yield charts.Check("Targets that gain", gained / targets, f"{gained:,} of {targets:,}", is_fine=gained > 0)
    least = min((target["test_rows"] or 0 for target in verdict["targets"]), default=0)
    if least:
        yield charts.Check("Fewest test rows", min(1.0, least / FEW_TEST_ROWS), f"{least:,}",
                           is_fine=least >= FEW_TEST_ROWS)
