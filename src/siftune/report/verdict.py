"""The verdict in words, and what a reader should know before relying on it."""

from __future__ import annotations

from typing import Any

from siftune.experiments.results import FULL, RANDOM, ZERO_SHOT, Arm, Results, SubtaskTest, Test
from siftune.report.formats import count, p_value, percent, rough_percent, signed, signed_percents
from siftune.report.manifest import Manifest

ROUGH_SEEDS = 3  # with fewer seeds an interval says little about the noise of training
_ORDER = ("better", "no different", "single training", "worse")


def verdict(comparison: Results | None, manifest: Manifest) -> dict[str, Any]:
    """What the comparison says of the run's method, in one or two sentences.

    Returns:
        ``{"status": "better" | "worse" | "no different" | "single training" | "not compared", "sentences": [str],
        "cautions": [str], "answer": str}``; the answer is the first sentence in short, for the first screen.
    """
    if comparison is None:
        return _not_compared("Run `siftune compare` on this run folder to train on this subset and on random rows.")
    tests = [test for test in comparison.tests if (test.metric, test.against) == ("loss", RANDOM)]
    if not tests:
        return _not_compared("The comparison holds no test of a method against random rows on the held-out loss.")
    own = _own_names(manifest)
    if not own & {test.method for test in tests}:  # the first method of a comparison has chosen the run's subset
        own = set(comparison.settings.methods[:1])
    tests.sort(key=lambda test: (test.method not in own, _ORDER.index(test.verdict), test.difference or 0.0))
    return {
        "status": tests[0].verdict,
        "answer": _answer(tests[0], comparison),
        "sentences": [_sentence(test, comparison) for test in tests],
        "cautions": _cautions(tests, comparison),
    }


def relative(test: Test | SubtaskTest, comparison: Results, subtask: str | None = None,
             ) -> tuple[float, float, float] | None:
    """A loss difference and its interval (low, high) as shares of the mean loss of the arm it is held against."""
    arm = comparison.arm(test.target, None if test.against in (FULL, ZERO_SHOT) else test.budget, test.against)
    part = arm and (arm if subtask is None else arm.subtasks.get(subtask))
    if test.metric != "loss" or not part or not part.loss.mean:
        return None
    if test.difference is None or test.low is None or test.high is None:
        return None
    # Widened for few seeds, an interval may pass a loss of zero; a loss cannot be lowered by more than all of it.
    difference, low, high = (max(-1.0, value / part.loss.mean) for value in (test.difference, test.low, test.high))
    return difference, low, high


def _not_compared(reason: str) -> dict[str, Any]:
    return {"status": "not compared", "cautions": [], "answer": "Not known: nothing was trained on this subset.",
            "sentences": ["Not compared yet: whether this subset helps is not known.", reason]}


def _own_names(manifest: Manifest) -> set[str | None]:
    """What the run's method may be called: in earlier results its parts, joined by a plus."""
    method = manifest.method
    return {method.name, *(f"{method.representation}{sign}{method.selector}" for sign in ":+")}


def _amounts(test: Test, comparison: Results) -> tuple[str, str, str, str]:
    """By how much the loss changed, without and with its sign, the ends of the interval, and what stands behind it."""
    seeds = "" if test.n_seeds is None else f", {count(test.n_seeds, 'seed')}"
    if test.p_value_holm is not None:
        seeds += f", p after Holm {p_value(test.p_value_holm)}"
    share = relative(test, comparison)
    if share is None:
        by = "an unknown amount" if test.difference is None else f"{signed(abs(test.difference)).lstrip('+')} nats"
        return f"by {by}", f"{signed(test.difference)} nats", f"{signed(test.low)} to {signed(test.high)}", seeds
    difference, low, high = share
    change, *ends = signed_percents(share)
    # One direction only: the verb says which, the signs would say it twice.
    if test.verdict in ("better", "worse") and (low > 0 or high < 0):
        ends = [rough_percent(end) for end in sorted((abs(low), abs(high)))]
    return f"by {rough_percent(abs(difference))}", change, " to ".join(ends), seeds


def _is_same(test: Test) -> bool:
    """Whether nothing changed at all: the subsets hold the same rows, or nothing was learned from either."""
    return not test.difference and not test.low and not test.high and test.difference is not None


def _bracketed(words: str) -> str:
    return f" ({words.removeprefix(', ')})" if words else ""


def _answer(test: Test, comparison: Results) -> str:
    """One short sentence."""
    _, change, ends, seeds = _amounts(test, comparison)
    level = f"{100 * comparison.confidence:g}% interval"
    if test.verdict in ("better", "worse"):
        return _sentence(test, comparison)
    if _is_same(test):
        return f"{test.method} and random gave the very same held-out target loss{_bracketed(seeds)}."
    if test.verdict == "single training":
        rows = " over test rows alone" if test.covers == "rows" else ""
        return f"One training, no verdict: {change} of the held-out target loss ({level}{rows} {ends})."
    outcome = "was no better than random" if test.low is None or test.high is None or test.low <= 0 <= test.high else (
        "could not be told from random")
    return f"{test.method} {outcome}: {change} of the held-out target loss ({level} {ends}{seeds})."


def _sentence(test: Test, comparison: Results) -> str:
    by, change, inside, seeds = _amounts(test, comparison)
    level = f"{100 * comparison.confidence:g}% interval"
    interval = f"({level} {inside}{seeds})"
    if test.verdict == "better":
        return f"{test.method} lowered the held-out target loss {by} against random {interval}."
    if test.verdict == "worse":
        return (f"{test.method} raised the held-out target loss {by} against random {interval}: "
                "do not use this subset.")
    if test.verdict == "single training":
        rows = " over test rows alone" if test.covers == "rows" else ""
        changed = (f"did not change at all against random{_bracketed(seeds)}" if _is_same(test) else
                   f"changed by {change} against random ({level}{rows} {inside}{seeds})")
        return (f"One training, no verdict: with {test.method} the held-out target loss {changed}. "
                "The luck of a single training cannot be told from merit: "
                f"compare with {ROUGH_SEEDS} seeds or more.")
    if _is_same(test):
        return (f"{test.method} was no better than random here: do not rely on it. The held-out target loss did not "
                f"change at all{_bracketed(seeds)}: both may have trained on the same rows.")
    if test.low is not None and test.high is not None and not test.low <= 0 <= test.high:
        return (f"{test.method} could not be told from random: do not rely on it. The held-out target loss changed by "
                f"{change} {interval}; that interval leaves out zero, yet not when all the questions asked here are "
                "counted, and p after Holm decides.")
    return (f"{test.method} was no better than random here: do not rely on it. The held-out target loss changed by "
            f"{change} {interval}, which is within the noise.")


def _cautions(tests: list[Test], comparison: Results) -> list[str]:
    found = []
    if comparison.failures:
        failed = count(len(comparison.failures), "training or selection", "trainings or selections")
        found.append(f"{failed} failed: the arms stand on fewer trainings. Run the same command to try again.")
    seeds = [test.n_seeds for test in tests if test.n_seeds is not None and test.verdict != "single training"]
    if seeds and min(seeds) < ROUGH_SEEDS:
        found.append(f"Only {count(min(seeds), 'seed')}: with so few only a large difference can be told from the "
                     f"noise of training. Compare with at least {ROUGH_SEEDS}.")
    for test in tests:
        arm = comparison.arm(test.target, test.budget, test.method)
        if test.verdict != "better":
            continue
        if arm:
            found += _untuned_is_better(test, arm, comparison)
        found += _other_baselines(test, comparison)
        found += _worse_subtasks(test, comparison)
        if arm:
            found += _other_tokens(test, arm, comparison)
    return found


def _untuned_is_better(test: Test, arm: Arm, comparison: Results) -> list[str]:
    untuned = comparison.arm(test.target, None, ZERO_SHOT)
    if untuned is None or untuned.loss.mean is None or arm.loss.mean is None or arm.loss.mean < untuned.loss.mean:
        return []
    return [f"{test.method} is better than random, yet not better than the model without any training "
            f"(loss {arm.loss.mean:.3f} against {untuned.loss.mean:.3f}): training on these rows does not pay."]


def _other_baselines(test: Test, comparison: Results) -> list[str]:
    names = {arm.name for arm in comparison.own if arm.kind == "baseline"} - {RANDOM, ZERO_SHOT}
    lost = [other.against for other in comparison.tests if other.method == test.method and other.metric == "loss"
            and other.against in names and other.verdict != "better"]
    return [f"{test.method} is not shown to be better than {name}: what that baseline shares with it may explain the "
            "gain." for name in lost]


def _worse_subtasks(test: Test, comparison: Results) -> list[str]:
    worse = [other.subtask for other in comparison.analyses.subtasks
             if (other.name, other.against, other.metric, other.verdict) == (test.method, RANDOM, "loss", "worse")]
    if not worse:
        return []
    more = f" and {len(worse) - 3} more" if len(worse) > 3 else ""
    return [f"{test.method} is worse than random on {', '.join(worse[:3])}{more}."]


def _other_tokens(test: Test, arm: Arm, comparison: Results) -> list[str]:
    """Gradient methods prefer rows of other lengths: a subset with more tokens also gets more training."""
    random = comparison.arm(test.target, test.budget, RANDOM)
    if random is None or not arm.tokens or not random.tokens:
        return []
    ratio = arm.tokens / random.tokens
    if 0.9 <= ratio <= 1.1:
        return []
    amount = f"{percent(ratio - 1)} more" if ratio > 1 else f"{percent(1 - ratio)} fewer"
    return [f"{test.method} trained on {count(round(arm.tokens), 'token')}, random on "
            f"{count(round(random.tokens), 'token')} ({amount}): part of the effect may come from the amount of text. "
            "Compare with a token budget or a "
            "length-matched random."]
