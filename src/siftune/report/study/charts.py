"""Lines and dots in a plane, drawn as the other charts of a report are: across in per cent, down in pixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from markupsafe import Markup

from siftune.report import draw
from siftune.report.charts import ticks

HEAD, FOOT = 24, 40  # above and below the plane, in pixels
NAMED, LINE = 60.0, 15  # where the plane ends when lines are named, in per cent; pixels from name to name
NARROW, WIDE = 14, 24  # columns of a name
SPACING = 0.2  # of the width: what a number below the plane needs on a phone
SECONDS = [1, 2, 5, 10, 20, 30, *(60 * m for m in (1, 2, 5, 10, 20, 30)), *(3600 * h for h in (1, 2, 5, 10, 24, 48))]
"""Times that people count in."""


@dataclass(frozen=True)
class Axis:
    """One direction of the plane: its name, its ends, how its numbers are written, whether it is logarithmic, and
    which numbers are round (powers of ten and their multiples when none are given)."""

    label: str
    low: float
    high: float
    show: Callable[[float], str]
    log: bool = False
    round_ones: Sequence[float] = ()

    @classmethod
    def over(cls, label: str, values: Sequence[float], show: Callable[[float], str], *, log: bool = False,
             margin: float = 0.06, round_ones: Sequence[float] = ()) -> Axis:
        """An axis with room for all values; logarithmic only where all of them are positive."""
        log = log and min(values) > 0
        low, high = (math.log(v) if log else v for v in (min(values), max(values)))
        room = margin * (high - low) or (0.5 if log else abs(high) * 0.05 or 1.0)
        low, high = low - room, high + room
        return cls(label, math.exp(low) if log else low, math.exp(high) if log else high, show, log, round_ones)

    def place(self, value: float) -> float:
        """From 0 at ``low`` to 1 at ``high``; values beyond an end are put at that end."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return min(max((at - low) / (high - low), 0.0), 1.0)

    def ticks(self, wanted: int, spacing: float = SPACING) -> list[float]:
        """Round numbers on the axis, at most about ``wanted`` of them and no two of them closer than ``spacing``."""
        found = ticks(self.low, self.high, wanted)
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            known = self.round_ones or [m * 10.0 ** p for p in powers for m in (1, 2, 5)]
            inside = [value for value in known if self.low <= value <= self.high]
            found = inside[::math.ceil(len(inside) / wanted)] if len(inside) > 1 else found
        apart: list[float] = []
        for value in found:
            if not apart or self.place(value) - self.place(apart[-1]) >= spacing:
                apart.append(value)
        return apart


@dataclass(frozen=True)
class Dot:
    """A point with the title that pointing at it shows. ``mark`` is written into it; by ``name`` a script finds it."""

    x: float
    y: float
    title: str
    mark: str = ""
    name: str = ""


@dataclass(frozen=True)
class Series:
    """Dots of one kind (``method`` or ``baseline``), joined by a line from left to right or not. What has a ``label``
    is named at the right end of its line."""

    kind: str
    dots: Sequence[Dot]
    joined: bool = False
    label: str = ""


def plot(title: str, description: str, series: Sequence[Series], x: Axis, y: Axis, *, height: int = 150,
         gutter: float = 12, band: Sequence[tuple[float, float, float]] = (),
         levels: Sequence[tuple[str, float]] = (), zero: bool = False) -> Markup:
    """A plane with series of dots.

    Args:
        height: of the plane, in pixels.
        gutter: per cent of the width that the numbers of the vertical axis take, at the left.
        band: (x, low, high), filled between low and high.
        levels: labelled horizontal lines; one beyond the axis is told at the edge.
        zero: whether a line is drawn at y = 0.
    """
    named = [one for one in series if one.label and one.dots]
    height = max(height, LINE * len(named))
    right = NAMED if named else 100.0
    svg = draw.frame(title, description, HEAD + height + FOOT)
    bottom = HEAD + height

    def across(value: float) -> float:
        return gutter + (right - 2 - gutter) * x.place(value)

    def down(value: float) -> float:
        return HEAD + height * (1 - y.place(value))

    draw.text(svg, 0, 11, y.label, "value")
    draw.text(svg, right, bottom + 35, x.label, "value", "end")
    for tick in y.ticks(4):
        draw.line(svg, gutter, down(tick), right, down(tick), "grid")
        draw.text(svg, 0, down(tick) + 4, y.show(tick), "value")
    for tick in x.ticks(4, 0.36 if named else SPACING):
        draw.tick(svg, across(tick), bottom + 17, x.show(tick))
    if zero:
        draw.line(svg, gutter, down(0), right, down(0), "zero")
    if len(band) > 1:
        _band(svg, sorted(band), x, down, gutter, right)
    for one in series:
        if one.joined:
            path = sorted(one.dots, key=lambda dot: dot.x)
            line = draw.group(svg, one.label, path[0].name) if one.label and path else svg
            for a, b in itertools.pairwise(path):
                draw.line(line, across(a.x), down(a.y), across(b.x), down(b.y), f"path {one.kind}")
    for label, value in levels:
        _level(svg, label, value, y, down, gutter, right)
    _names(svg, named, across, down, right, bottom)
    for one in series:
        for dot in one.dots:
            group = draw.group(svg, dot.title, dot.name)
            draw.circle(group, across(dot.x), down(dot.y), 10 if dot.mark else 4, f"dot {one.kind}")
            if dot.mark:
                draw.text(group, across(dot.x), down(dot.y) + 4, dot.mark, "dot-mark", "middle")
    draw.line(svg, gutter, bottom, right, bottom, "axis")
    return draw.markup(svg)


def _band(svg: Element, band: Sequence[tuple[float, float, float]], x: Axis, down: Callable[[float], float],
          gutter: float, right: float) -> None:
    """A polygon knows no per cent: it stands in a frame of its own that is stretched to the width."""
    height = float(svg.attrib["height"])
    inner = SubElement(svg, "svg", {"x": f"{gutter:g}%", "y": "0", "width": f"{right - 2 - gutter:g}%",
                                    "height": f"{height:g}", "viewBox": f"0 0 100 {height:g}",
                                    "preserveAspectRatio": "none"})
    there = [f"{100 * x.place(at):.4g},{down(high):.5g}" for at, _, high in band]
    back = [f"{100 * x.place(at):.4g},{down(low):.5g}" for at, low, _ in reversed(band)]
    SubElement(inner, "polygon", {"class": "band", "points": " ".join([*there, *back])})


def _names(svg: Element, named: Sequence[Series], across: Callable[[float], float], down: Callable[[float], float],
           right: float, bottom: float) -> None:
    """The names of lines at their right ends, moved apart where the ends are close, with a thread to each end."""
    ends = sorted(((max(one.dots, key=lambda dot: dot.x), one) for one in named), key=lambda end: down(end[0].y))
    places: list[float] = []
    for dot, _ in ends:
        places.append(max(down(dot.y), places[-1] + LINE if places else HEAD))
    limit = bottom
    for at in reversed(range(len(places))):
        places[at] = min(places[at], limit)
        limit = places[at] - LINE
    labels = draw.names([one.label for _, one in ends], NARROW, WIDE)
    for (dot, one), place, label in zip(ends, places, labels, strict=True):
        group = draw.group(svg, one.label, dot.name)
        draw.line(group, across(dot.x), down(dot.y), right + 2, place, "thread")
        draw.name(group, place + 4, *label, right + 3)


def _level(svg: Element, label: str, value: float, y: Axis, down: Callable[[float], float], gutter: float,
           right: float) -> None:
    told = f"{label} {y.show(value)}"
    if value > y.high:
        draw.text(svg, right, HEAD + 4, f"{told} ↑", "level-label halo", "end")
    elif value < y.low:
        draw.text(svg, right, down(y.low) - 6, f"{told} ↓", "level-label halo", "end")
    else:
        draw.line(svg, gutter, down(value), right, down(value), "level")
        # Losses fall from left to right: where the curves are not, a low level's label is at the left, a high one's at
        # the right.
        low = y.place(value) < 0.5
        at, anchor = (gutter + 1, "start") if low else (right, "end")
        draw.text(svg, at, down(value) - 5, told, "level-label halo", anchor)
