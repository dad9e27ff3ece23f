"""Inline SVG that needs neither a script nor a style attribute.

Across, everything is placed in per cent of the width, down in pixels: the same chart fits a phone and a wide screen
with text of one size. Labels stand above their bars, so that they take no room from them. Colours come from the
page's style sheet by class; no meaning hangs on colour alone. Every chart has a title and a description, and the page
puts its numbers in a table beside it.

Charts of one line a row stand in columns: names at the left, numbers at the right, what is drawn between them, so that
no name lies under a line. Each name is there twice, for narrow and for wide frames; the style sheet shows one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from markupsafe import Markup

from siftune._common.text import shorten, visible
from siftune.report import draw
from siftune.report.composition import nice
from siftune.report.formats import MISSING, number

PAIR_LABEL = 24  # columns of a label: what fits beside its numbers on a phone
NARROW, WIDE = 16, 26  # columns of a name at the left: on a phone, and on a wide screen
LEFT, RIGHT = 37.0, 81.0  # where names end and numbers begin, in per cent
KINDS = {"single": "?"}  # what is written into a mean that is no verdict


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
    """A mean with its interval and single seeds.

    ``kind``: ``method`` (filled), ``even`` (hollow: not told from what it is held against), ``single`` (a question
    mark: it stands on one training and has no verdict) or ``baseline`` (hollow and grey). ``low`` and ``high`` are None
    where the interval is not known; by ``name`` a page's script may find it.
    """

    label: str
    mean: float
    low: float | None = None
    high: float | None = None
    kind: str = "method"
    points: Sequence[float] = ()
    name: str = ""

    @property
    def title(self) -> str:
        return f"{self.label} (one training, no verdict)" if self.kind == "single" else self.label


@dataclass(frozen=True)
class Check:
    """Something to watch: how much of a whole (``share``, 0 to 1) there is, in words too, and whether that is enough.
    ``expected`` is where the bar would be without reason to watch it."""

    label: str
    share: float
    words: str
    is_fine: bool
    expected: float | None = None


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
              zero: tuple[str, str] | None = None, step: int = 24, clip: bool = False,
              within: tuple[float, float] | None = None) -> Markup:
    """A forest plot: a mean and its interval on each line, single seeds as small dots.

    Args:
        zero: with a line at zero, what lies to its left and to its right.
        step: pixels from line to line.
        clip: whether a few far values may be put at the edge, with an arrow, so that the others can be told apart.
        within: what the axis need not go beyond, such as 0 and 1 of a share.
    """
    low, high = _limits(rows, zero=zero is not None, clip=clip)
    if within:
        low, high = max(low, within[0] - 0.02), min(high, within[1] + 0.02)
    head = 22 if zero else 6
    bottom = head + step * len(rows)
    svg = draw.frame(title, description, bottom + 24)

    def place(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * min(max((value - low) / (high - low), 0.0), 1.0)

    shown: list[float] = []
    for tick in sorted(ticks(low, high, 4), key=lambda tick: (zero is not None and tick != 0, tick)):
        if all(abs(place(tick) - other) >= 16 for other in shown):  # what a number takes on a phone
            shown.append(place(tick))
            draw.line(svg, place(tick), head, place(tick), bottom, "grid")
            draw.text(svg, place(tick), bottom + 16, re.sub(r"\.0+(?=%|$)", "", show(tick)), "value", "middle")
    if zero:
        draw.line(svg, place(0), head - 4, place(0), bottom, "zero")
        for word, offset, anchor in ((f"← {zero[0]}", -6, "end"), (f"{zero[1]} →", 6, "start")):
            room = place(0) if anchor == "end" else 100 - place(0)
            if room > 2.5 * len(word):  # in per cent of a phone's width
                draw.text(svg, place(0), 12, word, "value", anchor).set("dx", str(offset))
    labels = draw.names([row.label for row in rows], NARROW, WIDE)
    for index, row in enumerate(rows):
        middle = head + (index + 0.5) * step
        ends = (row.low, row.high) if row.low is not None and row.high is not None else None
        interval = f", interval {show(ends[0])} to {show(ends[1])}" if ends else ""
        group = draw.group(svg, f"{row.title}: {show(row.mean)}{interval}", row.name)
        draw.name(group, middle + 4, *labels[index])
        draw.text(group, 100, middle + 4, show(row.mean), "value strong", "end")
        if ends:
            draw.line(group, place(ends[0]), middle, place(ends[1]), middle, f"whisker {row.kind}")
            for end in ends:
                if low <= end <= high:
                    draw.line(group, place(end), middle - 4, place(end), middle + 4, f"whisker {row.kind}")
        for point in row.points:
            draw.circle(group, place(point), middle, 2.5, f"seed {row.kind}")
        if low <= row.mean <= high:
            draw.circle(group, place(row.mean), middle, 7 if row.kind in KINDS else 5.5 if step >= 24 else 4.5,
                        f"mean {row.kind}")
            if row.kind in KINDS:
                draw.text(group, place(row.mean), middle + 4, KINDS[row.kind], "mean-mark", "middle")
        else:
            draw.text(group, place(row.mean), middle + 5, "▸" if row.mean > high else "◂", f"beyond {row.kind}",
                      "end" if row.mean > high else "start")
    return draw.markup(svg)


def unknown(title: str, description: str, names: Sequence[str], zero: str) -> Markup:
    """A forest plot of what has not been measured: its lines are there and empty."""
    step, head = 24, 22
    svg = draw.frame(title, description, head + step * len(names) + 6)
    middle_of_plot = (LEFT + RIGHT) / 2
    draw.line(svg, middle_of_plot, head - 4, middle_of_plot, head + step * len(names), "zero")
    draw.text(svg, middle_of_plot, 12, zero, "value", "middle")
    for index, name in enumerate(draw.names(names, NARROW, WIDE)):
        middle = head + (index + 0.5) * step
        draw.name(svg, middle + 4, *name)
        draw.line(svg, LEFT, middle, middle_of_plot - 4, middle, "empty")
        draw.line(svg, middle_of_plot + 4, middle, RIGHT, middle, "empty")
        draw.text(svg, middle_of_plot, middle + 5, "?", "value strong halo", "middle")
        draw.text(svg, 100, middle + 4, MISSING, "value", "end")
    return draw.markup(svg)


def _limits(rows: Sequence[Interval], *, zero: bool, clip: bool) -> tuple[float, float]:
    """The ends of the axis of a forest plot, with a margin."""
    means = [row.mean for row in rows] + ([0.0] if zero else [])
    values = [*means, *(value for row in rows for value in (row.low, row.high, *row.points) if value is not None)]
    low, high = min(values), max(values)
    if clip:  # baselines such as zero-shot lie far from everything else
        near = [row for row in rows if row.kind != "baseline"] or list(rows)
        means = [row.mean for row in near] + ([0.0] if zero else [])
        widths = sorted(row.high - row.low for row in near if row.low is not None and row.high is not None)
        room = 1.2 * max(max(means) - min(means), widths[len(widths) // 2] if widths else 0.0)
        low, high = max(low, min(means) - room), min(high, max(means) + room)
    margin = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def pairs(title: str, description: str, rows: Sequence[Pair], show: Callable[[float], str]) -> Markup:
    """As :func:`bar_pairs`, in columns: less high, for a few names."""
    top = max((max(pair.pool, pair.selected) for pair in rows), default=0) or 1.0
    step, left, right = 27, 34.0, 72.0
    svg = draw.frame(title, description, step * len(rows))
    labels = draw.names([pair.label for pair in rows], NARROW - 2, NARROW + 4)
    for index, pair in enumerate(rows):
        y = index * step
        group = draw.group(svg, f"{pair.label}: {show(pair.pool)} of the pool, {show(pair.selected)} of the subset")
        draw.name(group, y + 16, *labels[index])
        draw.text(group, 100, y + 16, f"{show(pair.pool)} → {show(pair.selected)}", "value", "end")
        draw.rect(group, left, y + 3, (right - left) * pair.pool / top, 7, "pool")
        draw.rect(group, left, y + 11, (right - left) * pair.selected / top, 9, "selected")
    return draw.markup(svg)


def checks(title: str, description: str, rows: Sequence[Check]) -> Markup:
    """One bar for each thing to watch, from nothing to all of it; what is not as it should be has a mark and a colour
    of its own."""
    step, left, right = 22, 43.0, 70.0
    svg = draw.frame(title, description, step * len(rows))
    for index, check in enumerate(rows):
        y = index * step
        kind = "selected" if check.is_fine else "watched"
        group = draw.group(svg, f"{check.label}: {check.words}{'' if check.is_fine else ' (watch this)'}")
        draw.text(group, 0, y + 16, f"{'✓' if check.is_fine else '!'} {check.label}",
                  "label" if check.is_fine else "label strong")
        draw.rect(group, left, y + 7, right - left, 9, "track")
        draw.rect(group, left, y + 7, (right - left) * min(max(check.share, 0.0), 1.0), 9, kind)
        if check.expected is not None:
            at = left + (right - left) * check.expected
            draw.line(group, at, y + 4, at, y + 19, "axis")
        draw.text(group, 100, y + 16, check.words, "value", "end")
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
