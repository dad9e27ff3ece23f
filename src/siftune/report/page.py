"""The HTML page, made from the report's dictionary and from nothing else.

Row text is hostile until shown otherwise. Three things hold it down, each enough by itself: Jinja2 escapes every
value, a content-security policy forbids every script and every request, and invisible characters are spelled out.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from siftune._common.text import pretty_json, shorten, visible
from siftune.report import charts, formats
from siftune.report import choice as choices
from siftune.report.answers import answers, mark

_HERE = Path(__file__).parent


def render(report: dict[str, Any]) -> str:
    """The page of a report made by :func:`siftune.report.model.build_report`: one file that asks for no other."""
    css = (_HERE / "report.css").read_text(encoding="utf-8")
    template = environment().get_template("report.html.j2")
    return template.render(r=report, a=answers(report), charts=_charts(report), css=Markup(css), css_hash=digest(css))


def digest(text: str) -> str:
    """By which a content-security policy knows a style sheet or a script (SHA-256 in base 64)."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


@cache
def environment(*folders: Path) -> Environment:
    """Templates of these folders and of the report, with every value escaped and the report's filters at hand."""
    environment = Environment(loader=FileSystemLoader([*folders, _HERE]), autoescape=True, undefined=StrictUndefined,
                              finalize=_shown, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        number=formats.number, loss=formats.loss, score=formats.score, p_value=formats.p_value, verdict=formats.verdict,
        percent=formats.percent, signed_percent=formats.signed_percent, signed=formats.signed,
        duration=formats.duration, day=formats.day,
        model_name=formats.model_name, points=choices.points, size=formats.size, pretty_json=pretty_json,
        shorten=shorten,
    )
    environment.globals.update(count=formats.count, cell_bar=charts.bar, f=formats)
    return environment


def _shown(value: Any) -> Any:
    """Applied to every value before it is escaped: nothing reaches the page around it."""
    if isinstance(value, Markup):
        return value
    return formats.MISSING if value is None else visible(str(value))


def _charts(report: dict[str, Any]) -> dict[str, Markup | None]:
    parts, comparison = report["composition"] or {}, report["comparison"]
    choice = report["choice"]
    return {
        "choice_gains": choices.gains_chart(choice) if choice else None,
        "choice_rounds": choices.rounds_chart(choice) if choice else None,
        "arms": _arms(comparison, "loss") if comparison else None,
        "arms_exact": _arms(comparison, "exact_match") if comparison else None,
        "arms_acc": _arms(comparison, "acc") if comparison else None,
        "differences": _differences(comparison) if comparison else None,
        "sources": _shares(parts.get("sources"), "sources"),
        "groups": _shares(parts.get("groups"), "groups"),
        "lengths": _lengths(parts.get("histogram")),
        "scores": _scores(report["scores"]),
        "targets": _targets(report["targets"]),
        "coverage": _coverage(report["coverage"]),
    }


def _known(estimate: dict[str, Any] | None) -> bool:
    return estimate is not None and None not in (estimate["mean"], estimate["low"], estimate["high"])


def _arms(comparison: dict[str, Any], metric: str) -> Markup | None:
    """The pooled result of every arm; where there is none, of the first subtask."""
    if not comparison["results"]:
        return None
    result = comparison["results"][0]
    rows = [
        charts.Interval(arm["name"], estimate["mean"], estimate["low"], estimate["high"], arm["kind"],
                        [point for point in estimate["per_seed"] if point is not None])
        for arm in result["arms"] if _known(estimate := arm[metric])
    ]
    if not rows:
        return None
    title = {"loss": "Loss on held-out target rows", "exact_match": "Exact match on held-out rows",
             "acc": "Held-out rows whose likeliest option is the right one"}[metric]
    side = "left" if metric == "loss" else "right"
    description = f"Further {side} is better. Each line is one arm, with its mean, its interval and its single seeds."
    if metric == "loss":
        return charts.intervals(title, description, rows, formats.loss)
    return charts.intervals(title, description, rows, formats.percent, within=(0.0, 1.0))


def _differences(comparison: dict[str, Any]) -> Markup | None:
    rows = [
        charts.Interval(test["method"] if test["subtask"] == "all" else f"{test['method']} · {test['subtask']}",
                        test["difference"], test["low"], test["high"], mark(test["verdict"]))
        for test in comparison["tests"]
        if test["metric"] == "loss" and test["against"] == "random"
        and None not in (test["difference"], test["low"], test["high"])
    ]
    if not rows:
        return None
    return charts.intervals("Difference in loss, method minus random", "Left of zero the method is better than random. "
                            "Filled circles are told from random, hollow ones are not; a question mark stands for one "
                            "training, which has no verdict.", rows, formats.signed,
                            zero=("better", "worse"))


def _shares(shares: dict[str, Any] | None, what: str) -> Markup | None:
    if shares is None or shares["count"] < 2:
        return None
    pairs = [charts.Pair(entry["name"], entry["pool_share"], entry["selected_share"] or 0.0)
             for entry in shares["listed"]]
    return charts.bar_pairs(f"Share of rows by {what}", "For each name the share of the pool, then of the subset.",
                            pairs, formats.percent)


def _panels(histogram: dict[str, Any]) -> Sequence[charts.Series]:
    return [charts.Series("All usable rows", "pool", histogram["pool"]),
            charts.Series("Selected rows", "selected", histogram["selected"])]


def _lengths(histogram: dict[str, Any] | None) -> Markup | None:
    if histogram is None:
        return None
    return charts.histogram("Tokens per row", "The pool above, the subset below, on one axis.", histogram["edges"],
                            _panels(histogram), is_open=histogram["open"])


def _scores(scores: dict[str, Any] | None) -> Markup | None:
    if scores is None:
        return None
    cut = scores["cut"]
    cut_line = None if cut is None else (cut, f"lowest selected {formats.score(cut)}")
    names = {"similarity": "similarities to the nearest target", "method_score": "method's scores"}
    of = names.get(scores["of"], "scores")
    line = " The dashed line is the lowest score that was selected." if cut_line else ""
    return charts.histogram(f"Distribution of the {of}", "All usable rows above, the selected rows below, on one axis."
                            + line, scores["edges"], _panels(scores), mark=cut_line)


def _targets(targets: dict[str, Any] | None) -> Markup | None:
    """One bar for each target; for those in the table where there are too many to tell apart."""
    if targets is None or all(entry["selected"] is None for entry in targets["shown"]):
        return None
    bars = [(str(entry["id"]), int(entry["selected"] or 0)) for entry in targets["shown"]]
    return charts.columns("Selected rows by target", "One bar for each target, in the order of the table below. A ring "
                          "marks a target without any.", bars, none="no selected row")


def _coverage(coverage: dict[str, Any] | None) -> Markup | None:
    if coverage is None:
        return None
    limit = f"{formats.number(coverage['features'])} that any row of the pool has"
    return charts.curve("Features covered by the first rows", "From left to right the rows as they were selected, "
                        "upwards how many features at least one of them has.", coverage["curve"], coverage["features"],
                        limit=limit)
