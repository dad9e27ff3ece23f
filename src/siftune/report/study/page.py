"""The page of a study, made from what :func:`siftune.report.study.model.build_view` and
:func:`siftune.report.study.pool.pool_view` give and from nothing else.

Names of methods, targets and files come from anywhere, as do messages of failures. Jinja2 escapes every value, and a
content-security policy allows the page's own style sheet and script, by their digests, and no request at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from siftune.experiments.results import CHOSEN
from siftune.report import charts, formats
from siftune.report.answers import mark
from siftune.report.page import digest, environment
from siftune.report.study.charts import SECONDS, Axis, Dot, Series, plot

_HERE = Path(__file__).parent
_SHEETS = (_HERE.parent / "report.css", _HERE / "study.css", _HERE / "pool.css")
_SCRIPTS = (_HERE / "study.js", _HERE / "pool.js")
LARGEST_PLANE = 400  # dots that a plane can hold before it says nothing and costs much


def render(view: dict[str, Any]) -> str:
    """One file that asks for no other."""
    css = "".join(path.read_text(encoding="utf-8") for path in _SHEETS)
    script = "".join(path.read_text(encoding="utf-8") for path in _SCRIPTS)
    template = environment(_HERE).get_template("study.j2")
    return template.render(s=view, draw=_CHARTS, raw=_raw, css=Markup(css), css_hash=digest(css), script=Markup(script),
                           script_hash=digest(script))


def _raw(value: float | None) -> str:
    """A number for the script to sort by, whole; empty where there is none."""
    return "" if value is None else repr(value)


def forest(place: dict[str, Any]) -> Markup | None:
    """Differences in loss from random at one target and budget; hollow where they cannot be told from nothing."""
    rows = [charts.Interval(test["method"], test["difference"], test["low"], test["high"], mark(test["verdict"]),
                            name=test["method"])
            for test in place["tests"] if (test["against"], test["metric"]) == ("random", "loss")
            and None not in (test["difference"], test["low"], test["high"])]
    if not rows:
        return None
    return charts.intervals(f"Difference in loss from random, {place['target']}, {place['budget']}",
                            "Left of zero the method is better than random. A filled circle is told from random after "
                            "Holm's adjustment, a hollow one is not; a question mark is one training, which has no "
                            "verdict.", rows, formats.signed, zero=("better", "worse"))


def curve_chart(target: dict[str, Any], across: str) -> Markup | None:
    """The curves of all methods of a target in one plane, named at their ends, with random and its band behind them.

    Args:
        target: of the view's ``curves``.
        across: ``rows`` or ``tokens``.
    """
    def points(curve: dict[str, Any] | None) -> list[dict[str, Any]]:
        return [p for p in (curve or {}).get("points", []) if p["loss"] is not None and p[across]]

    everything = [p for curve in (target["random"], *target["methods"]) for p in points(curve)]
    if not everything:
        return None
    band = [(b[across], b["low"], b["high"]) for b in target["band"] if b[across]]
    losses = [p["loss"] for p in everything] + [end for _, low, high in band for end in (low, high)]
    room = max(0.5 * (max(losses) - min(losses)), 0.02 * max(losses))
    # A level far from all curves would flatten them: it is told at the edge instead.
    near = [v for _, v in target["levels"] if min(losses) - room <= v <= max(losses) + room]
    x = Axis.over(across, [p[across] for p in everything], formats.number, log=True)
    y = Axis.over("loss", [*losses, *near], formats.number, margin=0.1)

    def series(kind: str, name: str, curve: dict[str, Any] | None, of: str = "") -> Series:
        return Series(kind, [Dot(p[across], p["loss"], f"{name}, {p['budget']}: loss {formats.loss(p['loss'])}, "
                                 f"{formats.number(p[across])} {across}", name=of) for p in points(curve)], joined=True,
                      label=name)

    made = [series("baseline", "random", target["random"]),
            *(series("method", method["name"], method, method["name"]) for method in target["methods"])]
    return plot(f"Loss against {across}, {target['target']}",
                "Filled dots are methods, hollow ones random, with the band of its trainings; the names are at the "
                "right ends of the lines.", made, x, y, height=200, gutter=15, band=band, levels=target["levels"])


def correlation_forest(target: dict[str, Any]) -> Markup | None:
    rows = [charts.Interval(f"{r['representation']} · {r['budget']} · {r['measure']}", r["rho"], r["low"], r["high"],
                             "even" if r["low"] <= 0 <= r["high"] else "method")
            for r in target["rhos"] if None not in (r["rho"], r["low"], r["high"])]
    if not rows:
        return None
    return charts.intervals(f"Spearman's rho of distance and loss, {target['target']}",
                            "Right of zero a subset nearer to the target has a lower loss. Hollow where the interval "
                            "holds zero.", rows, formats.signed,
                            zero=("farther is better", "nearer is better"))


def correlation_plane(rho: dict[str, Any]) -> Markup | None:
    dots = rho["dots"][:LARGEST_PLANE]
    if len(dots) < 2:
        return None
    made = [Series("method" if chosen else "baseline", [
        Dot(d["distance"], d["loss"], f"{d['name']}: distance {formats.score(d['distance'])}, "
            f"loss {formats.loss(d['loss'])}", name=d["name"] if chosen else "")
        for d in dots if (d["kind"] in CHOSEN) == chosen]) for chosen in (False, True)]
    return plot(f"Loss against distance by {rho['representation']}, {rho['target']}, {rho['budget']}",
                "Each dot is a subset; hollow ones are baselines.", made,
                Axis.over(f"{rho['measure']} distance", [d["distance"] for d in dots], formats.number),
                Axis.over("loss", [d["loss"] for d in dots], formats.number), gutter=15)


def decile_plane(told: dict[str, Any]) -> Markup | None:
    bins = [b for b in told["bins"] if b["loss"] is not None]
    if not bins:
        return None
    dots = [Dot(b["bin"], b["loss"], f"bin {b['bin']}: loss {formats.loss(b['loss'])}") for b in bins]
    return plot(f"Loss by tenth of the pool, {told['name']}, {told['target']}",
                "From the rows ranked first, at the left, to those ranked last.",
                [Series("method", dots, joined=True)], Axis("tenth of the pool, ranked first at the left", 0.5, 10.5,
                                                            formats.number),
                Axis.over("loss", [b["loss"] for b in bins], formats.number), gutter=12)


def cost_plane(place: dict[str, Any]) -> Markup | None:
    arms = [a for a in place["arms"] if a["seconds"]]
    if not any(a["kind"] in CHOSEN for a in arms):
        return None
    gains = [0.0, *(a["gain"] for a in arms)]
    made = [Series("method" if a["kind"] in CHOSEN else "baseline", [
        Dot(a["seconds"], a["gain"], f"{a['name']}: {formats.signed_percent(a['gain'])} in "
            f"{formats.duration(a['seconds'])}", name=a["name"] if a["kind"] in CHOSEN else "")], label=a["name"])
            for a in reversed(arms)]
    return plot(f"Gain over random against cost, {place['target']}, {place['budget']}",
                "Upwards how much lower than random's the loss is, to the right seconds of selection and training. "
                "Each dot is named at the right.", made,
                Axis.over("selection and one training", [a["seconds"] for a in arms], formats.duration, log=True,
                          margin=0.1, round_ones=SECONDS),
                Axis.over("lower loss than random", gains, _percents_over(max(gains) - min(gains)), margin=0.12),
                height=190, gutter=15, zero=True)


def _percents_over(span: float) -> Callable[[float], str]:
    """Shares as per cents, with as many decimals as it takes to tell the numbers of an axis apart."""
    decimals = min(max(0, math.ceil(-math.log10(25 * span))), 6) if span else 0

    def show(share: float) -> str:
        text = f"{100 * share:+.{decimals}f}%"
        return "0%" if not text.strip("+-0.%") else text.replace("-", formats.MINUS)
    return show


_CHARTS = {"forest": forest, "curve_chart": curve_chart, "correlation_forest": correlation_forest,
           "correlation_plane": correlation_plane, "decile_plane": decile_plane, "cost_plane": cost_plane}
