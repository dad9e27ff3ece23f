"""The first screen of a run's page: does it help, what was chosen, what to watch; a sentence and a picture each.

Made from the report's dictionary and from nothing else. Whatever a run lacks, the three questions have an answer: where
nothing was trained it is said so, with the command that would tell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from siftune._common.errors import ConfigError
from siftune._common.text import shorten
from siftune.config.plain_yaml import load_yaml
from siftune.pipeline.findings import CONCENTRATED, RARE
from siftune.report import charts, formats
from siftune.report import choice as choices
from siftune.report.formats import count
from siftune.report.verdict import ROUGH_SEEDS

ARMS, PARTS, CHECKS = 4, 4, 5  # lines of the pictures
BADGES = {"better": "✓ Better than random", "worse": "✗ Worse than random", "no different": "= Not told from random",
          "single training": "? One training, no verdict", "not compared": "Not compared"}
WORDS = 110  # columns of the first thing to watch


def answers(report: dict[str, Any]) -> dict[str, Any]:
    """``help``, ``chosen`` and ``watch``, each with ``sentence`` and ``picture``; ``help`` also with ``badge``,
    ``status`` and, where nothing was compared, ``command``; ``watch`` with all ``notes``."""
    return {"help": _help(report), "chosen": _chosen(report), "watch": _watch(report)}


def _help(report: dict[str, Any]) -> dict[str, Any]:
    verdict, choice, comparison = report["verdict"], report["choice"], report["comparison"]
    badge = choice["badge"] if choice and not comparison else BADGES[verdict["status"]]
    picture = _effects(comparison) if comparison else _gains(choice) if choice else None
    return {"badge": badge, "status": verdict["status"], "sentence": verdict["answer"],
            "picture": picture or _nothing_trained(),
            "command": None if comparison or choice else _command(report)}


def _command(report: dict[str, Any]) -> str:
    """That which would tell, of a run whose configuration is known."""
    try:
        known = load_yaml(report["config"] or "", "config.yaml")
    except ConfigError:
        known = None
    folder = known.get("output_dir") if isinstance(known, dict) else None
    at = shlex.quote(f"{folder if isinstance(folder, str) and folder else report['run']}/config.yaml")
    return f"siftune compare {at} --test HELD_OUT.jsonl"


def _effects(comparison: dict[str, Any]) -> Markup | None:
    """The arms of a comparison against random: differences in loss as shares of random's, or in nats where that is
    not known."""
    tests = [test for test in comparison["tests"] if (test["against"], test["metric"], test["subtask"])
             == ("random", "loss", "all") and test["difference"] is not None]
    if not tests:
        return None
    is_relative = all(test["relative"] for test in tests)
    rows = []
    for test in tests[:ARMS]:
        found = test["relative"] if is_relative else test
        rows.append(charts.Interval(test["method"], found["difference"], found["low"], found["high"],
                                    mark(test["verdict"])))
    losses = {arm["name"]: arm["loss"]["mean"] for result in comparison["results"] if result["subtask"] == "all"
              for arm in result["arms"]}
    random, untuned = losses.get("random"), losses.get("zero-shot")
    if random and untuned is not None:
        rows.append(charts.Interval("zero-shot", (untuned - random) / (random if is_relative else 1.0),
                                    kind="baseline"))
    return charts.intervals("Held-out loss against random", "Left of the line at zero, which is training on random "
                            "rows, the loss is lower. Zero-shot is the model without training.", rows,
                            formats.signed_percent if is_relative else formats.signed,
                            zero=("better", "worse"), clip=True)


def mark(verdict: str | None) -> str:
    """How a chart draws an arm of this verdict."""
    return {"better": "method", "worse": "method", "single training": "single"}.get(verdict or "", "even")


def _gains(choice: dict[str, Any]) -> Markup | None:
    known = [one for one in choice["arms"] if None not in (one["expected"], one["low"], one["high"])]
    untuned = [one for one in known if one["arm"] == "untuned"]
    others = [one for one in known if one["arm"] != "untuned"]
    others.sort(key=lambda one: one["arm"] != choice["take"])
    rows = [charts.Interval("zero-shot" if one["arm"] == "untuned" else one["arm"], one["expected"], one["low"],
                            one["high"], "method" if one["arm"] == choice["take"] else
                            "baseline" if one["arm"] == "untuned" else "even")
            for one in [*others[:ARMS], *untuned]]
    if not rows:
        return None
    return charts.intervals("Expected gain over random rows, in points", "Right of the line at zero, which is training "
                            "on random rows, an arm is better. The filled circle is the arm to take, zero-shot the "
                            "model without training.", rows, choices.points, zero=("worse", "better"), clip=True)


def _nothing_trained() -> Markup:
    """The picture that a comparison would fill: its lines are empty."""
    return charts.unknown("Nothing was trained", "This subset and the model without training are not measured against "
                          "random rows.", ("this subset", "zero-shot"), "random")


def _chosen(report: dict[str, Any]) -> dict[str, Any]:
    summary = report["summary"]
    if not report["has_selection"]:
        return {"sentence": "Nothing was selected: the untuned model is the better bet.",
                "picture": charts.checks("Rows selected", "Of the pool, none.",
                                         [charts.Check("Rows selected", 0.0, "0", is_fine=True)])}
    rows, usable = summary["selected_rows"], summary["usable_rows"]
    share = f" ({formats.percent(rows / usable)})" if rows is not None and usable else ""
    method = summary["method"]["name"]
    by = f" by {shorten(method, 40)}" if method else ""
    sentence = (f"{formats.number(rows)} of {formats.number(usable)} usable rows{share}{by}: "
                f"{formats.number(summary['selected_tokens'])} tokens.")
    return {"sentence": sentence, "picture": _beside_the_pool(report) or charts.checks(
        "Rows selected", "Of the rows that can be used.",
        [charts.Check("Rows selected", rows / usable if rows and usable else 0.0, formats.number(rows), is_fine=True)])}


def _beside_the_pool(report: dict[str, Any]) -> Markup | None:
    """Shares of groups or sources, of whichever the subset differs most in; else of rows by length."""
    parts = report["composition"] or {}
    several = [(what, parts[key]["listed"], parts[key]["count"])
               for key, what in (("groups", "group"), ("sources", "source"))
               if parts.get(key) and parts[key]["count"] > 1]
    if several:
        what, listed, names = max(several, key=lambda one: sum(
            abs((entry["selected_share"] or 0.0) - entry["pool_share"]) for entry in one[1]))
        return _shares(listed, names, what)
    return _lengths(parts.get("histogram"))


def _shares(listed: list[dict[str, Any]], names: int, what: str) -> Markup:
    named = [entry for entry in listed if not entry.get("others")]
    ordered = sorted(named, key=lambda entry: -max(entry["selected_share"] or 0.0, entry["pool_share"]))
    first = ordered[:PARTS] if names <= PARTS else ordered[:PARTS - 1]
    rest = [entry for entry in listed if not any(entry is one for one in first)]
    rows = [charts.Pair(entry["name"], entry["pool_share"], entry["selected_share"] or 0.0)
            for entry in first]
    if rest:
        rows.append(charts.Pair(f"{names - len(first):,} others", sum(entry["pool_share"] for entry in rest),
                                sum(entry["selected_share"] or 0.0 for entry in rest)))
    return charts.pairs(f"Share of rows by {what}", "For each name the share of the pool above, of the subset below.",
                        rows, whole_percent)


def whole_percent(share: float) -> str:
    """A share to the whole per cent; what is there is never nothing."""
    return "< 1%" if 0 < share < 0.005 else f"{100 * share:.0f}%"


def _lengths(histogram: dict[str, Any] | None) -> Markup | None:
    """Shares of rows by tokens, in up to four ranges of about as many rows of the pool."""
    if not histogram or not sum(histogram["pool"]):
        return None
    pool, taken = sum(histogram["pool"]), sum(histogram["selected"]) or 1
    rows, start, so_far = [], 0, 0
    for place, rows_here in enumerate(histogram["pool"]):
        so_far += rows_here
        is_last = place == len(histogram["pool"]) - 1
        if so_far * PARTS >= pool * (len(rows) + 1) or is_last:
            low, high = (formats.number(histogram["edges"][at]) for at in (start, place + 1))
            name = f"{low} or more" if is_last and start else f"under {high}" if not start else f"{low} to {high}"
            rows.append(charts.Pair(name, sum(histogram["pool"][start:place + 1]) / pool,
                                    sum(histogram["selected"][start:place + 1]) / taken))
            start = place + 1
    return charts.pairs("Share of rows by tokens", "For each length the share of the pool above, of the subset below.",
                        rows, whole_percent)


def _watch(report: dict[str, Any]) -> dict[str, Any]:
    notes = [*report["verdict"]["cautions"], *report["warnings"],
             *(f"Not shown: {gap['shows']}. The run folder has no {gap['file']}." for gap in report["missing"])]
    rows = list(_checks(report))[:CHECKS]
    return {"sentence": to_watch(notes, rows), "notes": notes, "picture": charts.checks(
        "What to watch", "A full bar is all that is wanted; an exclamation mark says what to look at.", rows)}


def to_watch(notes: Sequence[str], rows: Sequence[charts.Check]) -> str:
    """One short sentence: the first note, and how many there are; without notes the checks that want a look."""
    if not notes:
        look = [f"{row.label.lower()}: {row.words}" for row in rows if not row.is_fine]
        return f"Only this stands out: {', '.join(look)}." if look else "Nothing stands out."
    first = ended(first_clause(notes[0]))
    return first if len(notes) == 1 else f"{len(notes):,} things, the first: {first}"


def first_clause(text: str) -> str:
    """As much of a note as is one short sentence."""
    text = " ".join(text.split())
    if len(text) <= WORDS:
        return text
    found = re.match(rf".{{20,{WORDS}}}?(?=[.:;] )", text)
    return found[0] if found else f"{text[:WORDS].rpartition(' ')[0] or text[:WORDS]} …"


def ended(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def _checks(report: dict[str, Any]) -> Iterator[charts.Check]:
    choice, comparison = report["choice"], report["comparison"]
    if comparison:
        known = [test["n_seeds"] for test in comparison["tests"] if (test["against"], test["metric"], test["subtask"])
                 == ("random", "loss", "all") and test["n_seeds"] is not None]
        if known:
            yield charts.Check("Trainings", min(known) / ROUGH_SEEDS, count(min(known), "seed"),
                               is_fine=min(known) >= ROUGH_SEEDS)
    elif choice:
        rows = choice["scored"]
        yield charts.Check("Rows that score", rows / choices.FEW_ROWS, formats.number(rows),
                           is_fine=rows >= choices.FEW_ROWS)
    else:
        yield charts.Check("Measured", 0.0, "not yet", is_fine=False)
    if not report["has_selection"]:
        return
    yield from _budget(report)
    targets = report["targets"]
    if targets and targets["without_rows"] is not None:
        served = targets["count"] - targets["without_rows"]
        yield charts.Check("Targets served", served / targets["count"],
                           f"{formats.number(served)} of {formats.number(targets['count'])}",
                           is_fine=not targets["without_rows"])
    yield from _concentration(report)
    summary = report["summary"]
    cut, of = summary["truncated_rows"], summary["usable_rows"]
    if cut is not None and of:
        yield charts.Check("Rows not cut", 1 - cut / of, f"{formats.number(cut)} cut" if cut else "all",
                           is_fine=not cut)


def _budget(report: dict[str, Any]) -> Iterator[charts.Check]:
    """How much of what was asked for was taken."""
    budget = report["diagnostics"].get("budget")
    if not isinstance(budget, dict):
        return
    limit, taken = budget.get("limit"), budget.get("tokens" if budget.get("kind") == "tokens" else "rows")
    if isinstance(limit, int) and isinstance(taken, int) and limit > 0:
        short = report["diagnostics"].get("exhausted") is True
        share = taken / limit
        yield charts.Check("Budget used", share, whole_percent(share), is_fine=not short)


def _concentration(report: dict[str, Any]) -> Iterator[charts.Check]:
    """The part that most of the subset is from, where there are several, beside its share of the pool."""
    parts = report["composition"] or {}
    found = [(entry["selected_share"] or 0.0, entry["pool_share"], what)
             for key, what in (("sources", "source"), ("groups", "group"))
             if parts.get(key) and parts[key]["count"] > 1 for entry in parts[key]["listed"]]
    if found:
        share, of_pool, what = max(found)
        yield charts.Check(f"Largest {what}", share, f"{whole_percent(share)}, pool {whole_percent(of_pool)}",
                           expected=of_pool,
                           is_fine=not (share > CONCENTRATED and of_pool < RARE))
