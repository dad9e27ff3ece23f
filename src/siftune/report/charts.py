"""Inline SVG that needs neither a script nor a style attribute.

Across, everything is placed in per cent of the width, down in pixels: the same chart fits a phone and a wide screen
with text of one size. Labels stand above their bars, so that they take no room from them. Colours come from the
page's style sheet by class; no meaning hangs on colour alone. Every chart has a title and a description, and the page
puts its numbers in a table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from markupsafe import Markup

from siftune._common.text import shorten, visible
from siftune.report import draw
from siftune.report.composition import nice
from siftune.report.formats import number

PAIR_LABEL, INTERVAL_LABEL = 24, 32  # columns of a label: what fits beside its numbers on a phone


@dataclass(frozen=True)
class Pair:
    """A label with its share in the pool and in the subset."""

    label: str
    pool: float
    selected: float


@dataclass(frozen=True)
class Series:
    """One panel of a histogram: ``counts[i]`` rows in bin ``i``; ``kind`` is ``pool`` or ``selected``."""

    label: str
    kind: str
    counts: Sequence[int]


@dataclass(frozen=True)
class Interval:
    """A mean with its interval and single seeds; ``kind`` is ``baseline`` or ``method``; by ``name`` a page's script
    may find it."""

    label: str
    mean: float
    low: float
    high: float
    kind: str = "method"
    points: Sequence[float] = ()
    name: str = ""


def bar_pairs(title: str, description: str, pairs: Sequence[Pair], show: Callable[[float], str]) -> Markup:
    """Two bars for each label, pool above subset, all on one scale from zero."""
    top = max((max(pair.pool, pair.selected) for pair in pairs), default=0) or 1.0
    step = 46
    svg = draw.frame(title, description, step * len(pairs))
    for index, pair in enumerate(pairs):
        y = index * step
        group = draw.group(svg, f"{pair.label}: {show(pair.pool)} of the pool, {show(pair.selected)} of the subset")
        draw.text(group, 0, y + 14, shorten(pair.label, PAIR_LABEL), "label")
        draw.text(group, 100, y + 14, f"{show(pair.pool)} → {show(pair.selected)}", "value", "end")
        draw.rect(group, 0, y + 20, 100 * pair.pool / top, 7, "pool")
        draw.rect(group, 0, y + 28, 100 * pair.selected / top, 9, "selected")
    return draw.markup(svg)


def histogram(title: str, description: str, edges: Sequence[float], panels: Sequence[Series], *,
              show: Callable[[float], str] = number, mark: tuple[float, str] | None = None,
              is_open: bool = False) -> Markup:
    """One panel below the other on one horizontal axis, each with its own vertical scale.

    Args:
        edges: the bins' limits, one more than a panel has counts.
        mark: a value on the axis to draw a line at, with its label.
        is_open: whether the last bin has no upper limit.
    """
    height, head = 84, 32
    low, high = edges[0], edges[-1]
    span = (high - low) or 1.0
    bottom = len(panels) * (height + head)
    top = 20 if mark else 0
    svg = draw.frame(title, description, top + bottom + 22)
    for index, panel in enumerate(panels):
        base = top + index * (height + head) + head + height
        draw.text(svg, 0, base - height - 10, panel.label, "label")
        largest = max(panel.counts, default=0) or 1
        draw.text(svg, 100, base - height - 10, f"highest bar {number(largest)}", "value", "end")
        for bin_index, rows in enumerate(panel.counts):
            if not rows:
                continue
            left, right = edges[bin_index], edges[bin_index + 1]
            last = is_open and bin_index == len(panel.counts) - 1
            name = f"{show(left)} and more" if last else f"{show(left)} to {show(right)}"
            group = draw.group(svg, f"{panel.label}, {name}: {rows:,}")
            tall = max(1.5, height * rows / largest)  # a bin that holds something never looks empty
            draw.rect(group, 100 * (left - low) / span, base - tall, 100 * (right - left) / span, tall,
                      f"{panel.kind} bin")
        draw.line(svg, 0, base, 100, base, "axis")
    limit = edges[-2] if is_open else high
    for tick in ticks(low, limit):
        draw.tick(svg, 100 * (tick - low) / span, top + bottom + 16,
                  f"{show(tick)}+" if is_open and tick == limit else show(tick))
    if mark:
        at = 100 * min(max((mark[0] - low) / span, 0.0), 1.0)
        draw.line(svg, at, 16, at, top + bottom, "mark")
        draw.tick(svg, at, 11, mark[1], "mark-label")
    return draw.markup(svg)


def intervals(title: str, description: str, rows: Sequence[Interval], show: Callable[[float], str], *,
              zero: tuple[str, str] | None = None) -> Markup:
    """A forest plot: a mean and its interval on each line, single seeds as small dots.

    Args:
        zero: with a line at zero, what lies to its left and to its right.
    """
    values = [value for row in rows for value in (row.mean, row.low, row.high, *row.points)]
    values += [0.0] if zero else []
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin
    step, head = 46, 22 if zero else 0
    bottom = head + step * len(rows)
    svg = draw.frame(title, description, bottom + 26)

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    for tick in ticks(low, high, 4):
        draw.line(svg, place(tick), head, place(tick), bottom, "grid")
        draw.tick(svg, place(tick), bottom + 18, show(tick))
    if zero:
        draw.line(svg, place(0), 4, place(0), bottom, "zero")
        for word, offset, anchor in ((f"← {zero[0]}", -8, "end"), (f"{zero[1]} →", 8, "start")):
            if (place(0) if anchor == "end" else 100 - place(0)) > 15:  # no room for the word otherwise
                draw.text(svg, place(0), 14, word, "value", anchor).set("dx", str(offset))
    for index, row in enumerate(rows):
        y = head + index * step
        group = draw.group(svg, f"{row.label}: {show(row.mean)}, interval {show(row.low)} to {show(row.high)}",
                           row.name)
        draw.text(group, 0, y + 15, shorten(row.label, INTERVAL_LABEL), "label halo")
        draw.text(group, 100, y + 15, show(row.mean), "value strong halo", "end")
        middle = y + 31
        draw.line(group, place(row.low), middle, place(row.high), middle, f"whisker {row.kind}")
        for end in (row.low, row.high):
            draw.line(group, place(end), middle - 5, place(end), middle + 5, f"whisker {row.kind}")
        for point in row.points:
            draw.circle(group, place(point), middle, 2.5, f"seed {row.kind}")
        draw.circle(group, place(row.mean), middle, 6, f"mean {row.kind}")
    return draw.markup(svg)


def columns(title: str, description: str, bars: Sequence[tuple[str, int]], *, none: str) -> Markup:
    """One upright bar for each label; a label without any gets a ring under the line, named ``none`` in its title."""
    height, base = 96, 110
    top = max((value for _, value in bars), default=0) or 1
    svg = draw.frame(title, description, base + 22)
    width = 100 / max(len(bars), 1)
    bar = min(width, 8.0)
    draw.text(svg, 0, 10, f"highest bar {number(top)}", "value")
    for index, (label, value) in enumerate(bars):
        group = draw.group(svg, f"{label}: {value:,}" if value else f"{label}: {none}")
        tall = max(1.5, (height - 16) * value / top) if value else 0
        draw.rect(group, index * width + (width - bar) / 2, base - tall, bar, tall, "selected bin")
        if not value:
            draw.circle(group, (index + 0.5) * width, base + 10, 3.5, "uncovered")
    draw.line(svg, 0, base, 100, base, "axis")
    return draw.markup(svg)


def curve(title: str, description: str, points: Sequence[tuple[float, float]], top: float, *, limit: str) -> Markup:
    """A line through points from the origin on, below a dashed line at ``top``, which ``limit`` names."""
    height, head = 140, 22
    svg = draw.frame(title, description, head + height + 22)
    last = max((x for x, _ in points), default=0) or 1
    most = max(top, max((y for _, y in points), default=0)) or 1

    def across(x: float) -> float:
        return 100 * x / last

    def down(y: float) -> float:
        return head + height * (1 - y / most)

    for tick in ticks(0, last):
        draw.tick(svg, across(tick), head + height + 16, number(tick))
    for tick in ticks(0, most, 3)[1:]:
        draw.line(svg, 0, down(tick), 100, down(tick), "grid")
        draw.text(svg, 100, down(tick) + 14, number(tick), "value halo", "end")
    draw.line(svg, 0, down(top), 100, down(top), "mark")
    draw.text(svg, 0, down(top) - 8, limit, "mark-label")
    before = (0.0, 0.0)
    for point in points:
        draw.line(svg, across(before[0]), down(before[1]), across(point[0]), down(point[1]), "curve")
        before = point
    draw.line(svg, 0, head + height, 100, head + height, "axis")
    return draw.markup(svg)


def bar(value: float, top: float, title: str) -> Markup:
    """A small bar for a cell of a table; the number stands beside it."""
    svg = Element("svg", {"class": "cell-bar", "height": "8", "aria-hidden": "true", "focusable": "false"})
    SubElement(svg, "title").text = visible(title)
    draw.rect(svg, 0, 0, 100, 8, "track")
    draw.rect(svg, 0, 0, 100 * value / top if top else 0, 8, "selected")
    return draw.markup(svg)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers in ``[low, high]``, about ``wanted`` of them."""
    if not high > low:
        return [low]
    step = nice((high - low) / wanted)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [0.0 if index == 0 else float(f"{index * step:.12g}") for index in range(first, last + 1)]
