"""What a study shows in words: for each target and budget which methods beat random, and what cannot be told."""

from __future__ import annotations

from typing import Any

from siftune.experiments.results import FULL, LENGTH_MATCHED, RANDOM, ZERO_SHOT, Results, Test
from siftune.report.formats import count, p_value, percent, rough_percent, signed, signed_percent

ROUGH_SEEDS = 3  # with fewer trainings an interval says little about the noise of training


def verdict(study: Results) -> dict[str, Any]:
    """The head of the page.

    Returns:
        ``status`` (better, worse, no different, single training, not compared), ``headline``, ``counts`` of verdicts,
        ``targets`` with what each budget shows, and ``cautions``.
    """
    tests = [t for t in study.tests if (t.against, t.metric) == (RANDOM, "loss")]
    counts = {name: sum(t.verdict == name for t in tests)
              for name in ("better", "worse", "no different", "single training")}
    if not tests:
        status = "not compared"
    elif counts["better"]:
        status = "better"
    else:
        status = "worse" if counts["worse"] else "no different" if counts["no different"] else "single training"
    return {
        "status": status, "headline": _headline(tests, counts), "counts": counts, "compared": len(tests),
        "targets": [{"name": target.name, "test_rows": target.tested, "target_rows": target.target_rows,
                     "budgets": [_place(study, target.name, budget, tests) for budget in study.budgets]}
                    for target in study.targets],
        "cautions": _cautions(study, tests),
    }


def share(study: Results, test: Test) -> tuple[float, float, float] | None:
    """A loss difference and its interval (low, high) as shares of the mean loss of the arm it is held against."""
    base = study.arm(test.target, None if test.against == FULL else test.budget, test.against)
    if test.metric != "loss" or base is None or not base.loss.mean:
        return None
    if test.difference is None or test.low is None or test.high is None:
        return None
    # Widened for few trainings, an interval may pass a loss of zero; no loss can be lowered by more than all of it.
    difference, low, high = (max(-1.0, v / base.loss.mean) for v in (test.difference, test.low, test.high))
    return difference, low, high


def _headline(tests: list[Test], counts: dict[str, int]) -> str:
    if not tests:
        return "No method has been compared with random yet."
    wins: dict[str, int] = {}
    for test in tests:
        if test.verdict == "better":
            wins[test.method] = wins.get(test.method, 0) + 1
    if not wins:
        told = counts["no different"] + counts["worse"]
        if not told:
            return "Nothing can be told yet: every method stands on one training."
        return f"No method beat random beyond chance in {count(told, 'comparison')}."
    first = sorted(wins, key=lambda name: (-wins[name], name))
    if len(tests) == len({t.method for t in tests}):
        return f"{_listed(first)} beat random."
    every = {name: sum(t.method == name for t in tests) for name in first}
    shown = [f"{first[0]} beat random in {wins[first[0]]} of {count(every[first[0]], 'comparison')}",
             *(f"{name} in {wins[name]} of {every[name]}" for name in first[1:3])]
    return ", ".join(shown) + (f"; {count(len(first) - 3, 'other method')} did so too." if len(first) > 3 else ".")


def _listed(names: list[str]) -> str:
    shown = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} other methods"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _place(study: Results, target: str, budget: str, tests: list[Test]) -> dict[str, Any]:
    mine = sorted((t for t in tests if (t.target, t.budget) == (target, budget)), key=lambda t: t.difference or 0.0)
    lines = []
    for outcome, verb in (("better", "lowered"), ("worse", "raised")):
        lines += [{"verdict": outcome, "methods": [t.method], "text": _sentence(study, t, verb)}
                  for t in mine if t.verdict == outcome]
    for outcome, words in (("no different", "Cannot be told from random (p after Holm is too large)"),
                           ("single training", "One training on a side, no verdict")):
        names = [t for t in mine if t.verdict == outcome]
        if names:
            listed = ", ".join(f"{t.method} ({_by(study, t)})" for t in names)
            lines.append({"verdict": outcome, "methods": [t.method for t in names], "text": f"{words}: {listed}."})
    return {"budget": budget, "lines": lines, "cautions": list(_place_cautions(study, target, budget, mine))}


def _by(study: Results, test: Test) -> str:
    part = share(study, test)
    return signed_percent(part[0]) if part else f"{signed(test.difference)} nats"


def _sentence(study: Results, test: Test, verb: str) -> str:
    part = share(study, test)
    level = f"{100 * study.confidence:g}% interval"
    trainings = "" if test.n_seeds is None else f", {count(test.n_seeds, 'training')}"
    if part is None:
        by, ends = f"{signed(abs(test.difference or 0)).lstrip('+')} nats", f"{signed(test.low)} to {signed(test.high)}"
    else:
        by, ends = rough_percent(abs(part[0])), " to ".join(
            rough_percent(end) for end in sorted((abs(part[1]), abs(part[2]))))
    return (f"{test.method} {verb} the held-out loss by {by} against random "
            f"({level} {ends}, p after Holm {p_value(test.p_value_holm)}{trainings}).")


def _place_cautions(study: Results, target: str, budget: str, tests: list[Test]) -> Any:
    """What stands between a better loss and a reason to use the method."""
    untuned = study.arm(target, None, ZERO_SHOT)
    random = study.arm(target, budget, RANDOM)
    for test in (t for t in tests if t.verdict == "better"):
        arm = study.arm(target, budget, test.method)
        if arm is None:
            continue
        if untuned and None not in (untuned.loss.mean, arm.loss.mean) and arm.loss.mean >= untuned.loss.mean:  # type: ignore[operator]
            yield (f"{test.method} is not better than the model without training (loss {arm.loss.mean:.3f} against "
                   f"{untuned.loss.mean:.3f}).")
        matched = study.test(target, budget, test.method, LENGTH_MATCHED)
        if matched and matched.verdict != "better":
            yield (f"{test.method} is not shown to be better than random rows of the same response lengths: length may "
                   "explain its gain.")
        if random and random.tokens and arm.tokens and not 0.9 <= arm.tokens / random.tokens <= 1.1:
            ratio = arm.tokens / random.tokens
            more = f"{percent(ratio - 1)} more" if ratio > 1 else f"{percent(1 - ratio)} fewer"
            yield f"{test.method} trained on {more} tokens than random did."


def _cautions(study: Results, tests: list[Test]) -> list[str]:
    found = []
    unique = study.trainings
    missing = sum(status == "missing" for status in unique.values())
    if missing:
        found.append(f"{count(missing, 'training')} of {len(unique):,} {'is' if missing == 1 else 'are'} still "
                     "missing: the verdicts may change.")
    if study.failures:
        failed = count(len(study.failures), "selection or training", "selections or trainings")
        found.append(f"{failed} failed; see below.")
    few = [t for t in tests if t.n_seeds is not None and 1 < t.n_seeds < ROUGH_SEEDS]
    if few:
        found.append(f"{count(len(few), 'comparison')} {'stands' if len(few) == 1 else 'stand'} on fewer than "
                     f"{ROUGH_SEEDS} trainings: with so few they are wide, and only a large difference can be told.")
    return found
