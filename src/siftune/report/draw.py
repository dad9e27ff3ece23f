"""The parts of a chart: places across in per cent of its width, down in pixels.

Everything is made by ElementTree, which escapes every text and attribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from siftune._common.text import shorten, visible


def frame(title: str, description: str, height: float) -> Element:
    """An empty chart; it is named by attribute, not by id, so that the same numbers give the same bytes."""
    svg = Element("svg", {"class": "chart", "role": "img", "width": "100%", "height": f"{height:g}",
                          "aria-label": visible(f"{title}. {description}")})
    SubElement(svg, "title").text = visible(title)
    SubElement(svg, "desc").text = visible(description)
    return svg


def markup(svg: Element) -> Markup:
    """ElementTree escapes every text and attribute, so what it writes is safe to inline."""
    return Markup(tostring(svg, encoding="unicode"))


def group(parent: Element, title: str, name: str = "") -> Element:
    """What belongs together, with a title to point at; ``name`` is what a page's script may find it by."""
    made = SubElement(parent, "g", {"data-method": visible(name)} if name else {})
    SubElement(made, "title").text = visible(title)
    return made


def percent(value: float) -> str:
    return f"{round(value, 3):g}%"


def rect(parent: Element, x: float, y: float, width: float, height: float, kind: str) -> None:
    SubElement(parent, "rect", {"class": kind, "x": percent(x), "y": f"{y:.4g}", "width": percent(width),
                                "height": f"{height:.4g}"})


def line(parent: Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    SubElement(parent, "line", {"class": kind, "x1": percent(x1), "y1": f"{y1:g}", "x2": percent(x2),
                                "y2": f"{y2:g}"})


def circle(parent: Element, x: float, y: float, radius: float, kind: str) -> None:
    SubElement(parent, "circle", {"class": kind, "cx": percent(x), "cy": f"{y:g}", "r": f"{radius:g}"})


def text(parent: Element, x: float, y: float, words: str, kind: str, anchor: str = "start") -> Element:
    element = SubElement(parent, "text", {"class": kind, "x": percent(x), "y": f"{y:g}", "text-anchor": anchor})
    element.text = visible(words)
    return element


def name(parent: Element, y: float, short: str, whole: str, x: float = 0) -> None:
    """A name that begins at ``x``: as it is in a narrow frame, and as it is in a wide one."""
    text(parent, x, y, short, "label narrow")
    text(parent, x, y, whole, "label wide")


def names(labels: Sequence[str], narrow: int, wide: int) -> list[tuple[str, str]]:
    """Each label cut to ``narrow`` columns and to ``wide`` ones, so that those of a chart can be told apart."""
    return list(zip(_cut(labels, narrow), _cut(labels, wide), strict=True))


def _cut(labels: Sequence[str], width: int) -> list[str]:
    """Cut in the middle; where that makes different labels the same, nearer to an end."""
    found = [shorten(label, width) for label in labels]
    sharing: dict[str, set[str]] = {}
    for label, short in zip(labels, found, strict=True):
        sharing.setdefault(short, set()).add(label)
    for short, group in sharing.items():
        if len(group) < 2:
            continue
        ways = ({label: f"{label[:head]}…{label[len(label) - (width - 1 - head):]}" for label in group}
                for head in (width - 1, 0, *range(1, width - 1)))
        way = next((way for way in ways if len(set(way.values())) == len(group)), None)
        if way:
            found = [shorten(way[label], width) if one == short else one
                     for label, one in zip(labels, found, strict=True)]
    return found


def tick(parent: Element, x: float, y: float, words: str, kind: str = "value") -> None:
    """A label centred on ``x``, yet inside the chart at both ends, on a phone too."""
    half = 1.2 * len(words)  # in per cent of a phone's width
    text(parent, x, y, words, kind, "start" if x < half else "end" if x > 100 - half else "middle")
