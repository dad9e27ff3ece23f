"""The analyses of a study as the page shows them: each a list of parts that belong to a target (and a budget)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from siftune.experiments.results import (
    CHOSEN,
    FULL,
    RANDOM,
    ZERO_SHOT,
    Arm,
    BreakEven,
    Correlation,
    Results,
    Saved,
)


def curves(study: Results) -> list[dict[str, Any]]:
    """By target: random's curve with the band of its trainings, each method's curve, zero-shot and full as levels."""
    found = []
    for target in (t.name for t in study.targets):
        mine = [c for c in study.analyses.curves if c.target == target]
        random = next((c for c in mine if c.name == RANDOM), None)
        methods = [c for c in mine if c.name not in (RANDOM, FULL)]
        if not any(len(c.points) > 1 for c in mine):
            continue
        levels = [(name, arm.loss.mean) for name in (ZERO_SHOT, FULL)
                  if (arm := study.arm(target, None, name)) and arm.loss.mean is not None]
        found.append({"target": target, "random": random.model_dump() if random else None,
                      "methods": [c.model_dump(exclude={"efficiency"}) for c in methods],
                      "band": _band(study, target), "levels": levels})
    return found


def _band(study: Results, target: str) -> list[dict[str, Any]]:
    """Of random at each budget: the lowest and the highest mean loss of a training."""
    found = []
    for arm in study.own:
        losses = [loss for loss in arm.loss.per_seed if loss is not None]
        if (arm.target, arm.name) == (target, RANDOM) and losses and arm.budget is not None:
            found.append({"budget": arm.budget, "rows": arm.rows, "tokens": arm.tokens, "low": min(losses),
                          "high": max(losses)})
    return found


def efficiency(study: Results) -> list[dict[str, Any]]:
    """Rows that random needs for a method's loss, one entry for each method, target and budget."""
    found = []
    for curve in study.analyses.curves:
        rows = {point.budget: point for point in curve.points}
        for told in curve.efficiency:
            point = rows.get(told.budget)
            found.append({"target": curve.target, "name": curve.name, "rows": point.rows if point else None,
                          "loss": point.loss if point else None, **told.model_dump()})
    return found


def correlations(study: Results) -> list[dict[str, Any]]:
    """By target: Spearman's rho of every representation, budget and measure, with the dots that it is made of."""
    found = []
    for target in (t.name for t in study.targets):
        mine = [c for c in study.analyses.distance_predicts_loss if c.target == target]
        if mine:
            found.append({"target": target, "has_exact": any(c.exact_match for c in mine), "rhos": [
                {**c.model_dump(exclude={"pairs"}), "dots": _dots(study, c)} for c in mine]})
    return found


def _dots(study: Results, told: Correlation) -> list[dict[str, Any]]:
    """The subsets that a correlation is made of, with their names."""
    known = {subset.id: subset for subset in study.subsets}
    return [{"name": known[p.subset].name, "kind": known[p.subset].kind, "distance": p.distance, "loss": p.loss}
            for p in told.pairs if p.subset in known and None not in (p.distance, p.loss)]


def deciles(study: Results) -> list[dict[str, Any]]:
    return [{**d.model_dump(), "bins": [{"bin": place + 1, "loss": loss}
                                        for place, loss in zip(d.bins, d.losses, strict=False)]}
            for d in study.analyses.deciles]


def overlaps(study: Results) -> list[dict[str, Any]]:
    """Jaccard matrices; each value with the step, 0 to 10, of its colour."""
    def cell(value: float | None) -> dict[str, Any]:
        return {"value": value, "step": None if value is None else round(10 * min(max(value, 0), 1))}

    return [{"target": o.target, "budget": o.budget, "names": o.names,
             "lines": [{"name": name, "cells": list(map(cell, line))}
                       for name, line in zip(o.names, o.jaccard, strict=False)]}
            for o in study.analyses.overlap]


def transfer(study: Results, model_name: Callable[[str], str]) -> list[dict[str, Any]]:
    return [{**t.model_dump(), "model": model_name(t.model)} for t in study.analyses.transfer]


def cost_and_gain(study: Results) -> list[dict[str, Any]]:
    """By target and budget: seconds of selection and training of each method against its gain over random.

    The gain is how much lower than random's the mean loss is, as a share of random's; the seconds are those of one
    selection and one training. The best gain is first.
    """
    found = []
    for target in (t.name for t in study.targets):
        for budget in study.budgets:
            random = study.arm(target, budget, RANDOM)
            if random is None or not random.loss.mean:
                continue
            arms = [a for a in study.own if (a.target, a.budget) == (target, budget) and a.loss.mean is not None]
            listed = [_cost(arm, random.loss.mean) for arm in arms]
            methods = sorted((c for c in listed if c["kind"] in CHOSEN), key=lambda c: (-c["gain"], c["name"]))
            if methods:
                baselines = [c for c in listed if c["kind"] not in CHOSEN]
                found.append({"target": target, "budget": budget, "arms": [*methods, *baselines]})
    return found


def _cost(arm: Arm, random: float) -> dict[str, Any]:
    told = (arm.selection_seconds, arm.train_seconds)
    seconds = None if None in told else sum(s for s in told if s is not None)
    return {"name": arm.name, "kind": arm.kind, "selection_seconds": arm.selection_seconds,
            "train_seconds": arm.train_seconds, "seconds": seconds, "gain": (random - (arm.loss.mean or 0.0)) / random}


def break_even(study: Results) -> list[dict[str, Any]]:
    """After how many trainings a selection has paid for its time, in words."""
    bounds = {(c.target, e.budget, c.name): e.bound for c in study.analyses.curves for e in c.efficiency}
    return [{**b.model_dump(),
             "random_words": _words(b, b.against_random, bounds.get((b.target, b.budget, b.name), "")),
             "full_words": _words(b, b.against_full, "")} for b in study.analyses.break_even]


def _words(told: BreakEven, saved: Saved | None, bound: str) -> str:
    if saved is None:
        return "–"
    if saved.trainings is not None:
        return f"{'at most ' if saved.at_least else ''}{saved.trainings:,}"
    if bound == "below" or (saved.saved is not None and saved.saved <= 0 and not saved.at_least):
        return "never"
    return "not known"
