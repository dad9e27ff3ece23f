"""Charts place what they are given, name it for a screen reader, and stay inside their frame."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from siftune._common.text import shorten, visible
from siftune.report import charts, draw, formats
from siftune.report.study.charts import SPACING, Axis, Dot, Series, plot

finite = st.floats(-1e9, 1e9, allow_nan=False).map(lambda value: 0.0 if abs(value) < 1e-9 else value)


def parsed(chart: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(str(chart))


def percents(svg: ElementTree.Element) -> list[float]:
    """Every horizontal place of a chart, right ends of bars included."""
    found = []
    for element in svg.iter():
        found += [float(element.attrib[name][:-1]) for name in ("x", "x1", "x2", "cx") if name in element.attrib]
        if element.tag == "rect":
            found.append(float(element.attrib["x"][:-1]) + float(element.attrib["width"][:-1]))
    return found


def test_a_chart_has_a_name_a_title_and_a_description() -> None:
    svg = parsed(charts.columns("Coverage", "One bar each.", [("a", 2), ("b", 0)], none="no selected row"))
    assert svg.attrib["role"] == "img"
    assert svg.attrib["aria-label"] == "Coverage. One bar each."
    assert [child.text for child in svg[:2]] == ["Coverage", "One bar each."]
    assert [group[0].text for group in svg.iter("g")] == ["a: 2", "b: no selected row"]
    assert len([c for c in svg.iter("circle") if c.attrib["class"] == "uncovered"]) == 1


def test_labels_cannot_leave_their_text() -> None:
    evil = "</text></svg><script>alert(1)</script>\u202e\x00"
    svg = parsed(charts.bar_pairs(evil, evil, [charts.Pair(evil, 0.1, 0.2)], formats.percent))
    assert {element.tag for element in svg.iter()} == {"svg", "title", "desc", "g", "text", "rect"}
    assert svg[0].text == "</text></svg><script>alert(1)</script>[U+202E][U+0000]"


def test_pairs_share_one_scale_from_zero() -> None:
    svg = parsed(charts.bar_pairs("t", "d", [charts.Pair("a", 0.5, 0.25), charts.Pair("b", 0.0, 0.125)],
                                  formats.percent))
    assert [rect.attrib["width"] for rect in svg.iter("rect")] == ["100%", "50%", "0%", "25%"]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
def test_a_histogram_gives_every_filled_bin_one_bar_in_proportion(counts: list[int]) -> None:
    edges = [float(i) for i in range(len(counts) + 1)]
    svg = parsed(charts.histogram("t", "d", edges, [charts.Series("rows", "pool", counts)]))
    heights = [float(rect.attrib["height"]) for rect in svg.iter("rect")]
    filled = [rows for rows in counts if rows]
    assert len(heights) == len(filled)
    for height, rows in zip(heights, filled, strict=True):
        assert height == pytest.approx(max(1.5, 84 * rows / max(filled)), rel=1e-3)
    assert all(-1e-6 <= place <= 100.001 for place in percents(svg))


@given(st.lists(st.tuples(finite, finite, finite), min_size=1, max_size=8), st.booleans())
def test_a_forest_plot_keeps_order_and_everything_inside(rows: list[tuple[float, float, float]], zero: bool) -> None:
    ordered = [sorted(row) for row in rows]
    svg = parsed(charts.intervals("t", "d", [charts.Interval("a", mean, low, high, points=(low, high))
                                             for low, mean, high in ordered], formats.signed,
                                  zero=("better", "worse") if zero else None))
    assert all(0 <= place <= 100 for place in percents(svg))
    means = [float(c.attrib["cx"][:-1]) for c in svg.iter("circle") if c.attrib["class"].startswith("mean")]
    for (_, first, _), x in zip(ordered, means, strict=True):
        for (_, second, _), y in zip(ordered, means, strict=True):
            assert x <= y or first >= second


def test_an_interval_without_width_is_drawn() -> None:
    svg = parsed(charts.intervals("t", "d", [charts.Interval("a", 1.0, 1.0, 1.0)], formats.loss))
    (whisker, _, _) = [line for line in svg.iter("line") if line.attrib["class"].startswith("whisker")]
    (middle,) = [c.attrib["cx"] for c in svg.iter("circle")]
    assert whisker.attrib["x1"] == whisker.attrib["x2"] == middle == f"{(charts.LEFT + charts.RIGHT) / 2:g}%"


@pytest.mark.parametrize(("labels", "wanted"), [
    (["short", "other"], ["short", "other"]), (["representation-2:a-selector"], ["representa…ector"]),
    (["representation-2:a-selector", "representation-3:a-selector", "x"],
     ["…on-2:a-selector", "…on-3:a-selector", "x"]),
    (["a" * 20 + "1" + "b" * 20, "a" * 20 + "2" + "b" * 20], ["a" * 10 + "…" + "b" * 4 + "b"] * 2),
    (["a" * 30, "a" * 30], ["aaaaaaaaaa…aaaaa"] * 2),
])
def test_names_of_a_chart_are_cut_so_that_they_can_be_told_apart(labels: list[str], wanted: list[str]) -> None:
    found = [short for short, _ in draw.names(labels, 16, 100)]
    assert found == wanted
    assert [whole for _, whole in draw.names(labels, 16, 100)] == labels


@pytest.mark.parametrize(("kind", "mark"), [("method", []), ("even", []), ("baseline", []), ("single", ["?"])])
def test_one_training_has_a_mark_of_its_own_and_says_so(kind: str, mark: list[str]) -> None:
    svg = parsed(charts.intervals("t", "d", [charts.Interval("a", 1.0, 0.5, 1.5, kind)], formats.loss))
    assert [c.attrib["class"] for c in svg.iter("circle")] == [f"mean {kind}"]
    assert [t.text for t in svg.iter("text") if t.attrib["class"] == "mean-mark"] == mark
    [title] = [group[0].text for group in svg.iter("g")]
    assert title == f"a{' (one training, no verdict)' if mark else ''}: 1.000, interval 0.500 to 1.500"


def test_what_lies_far_off_is_put_at_the_edge_and_keeps_its_number() -> None:
    rows = [charts.Interval("a", -0.1, -0.2, 0.0), charts.Interval("far", 9.0, kind="baseline")]
    svg = parsed(charts.intervals("t", "d", rows, formats.signed, zero=("better", "worse"), clip=True))
    [arrow] = [t for t in svg.iter("text") if t.attrib["class"].startswith("beyond")]
    assert (arrow.text, arrow.attrib["x"]) == ("▸", f"{charts.RIGHT:g}%")
    assert "+9.000" in [t.text for t in svg.iter("text")]
    whiskers = [float(e.attrib["x1"][:-1]) for e in svg.iter("line") if e.attrib["class"].startswith("whisker")]
    assert max(whiskers) - min(whiskers) > 10, "the others are told apart"


def test_names_stand_left_of_everything_that_is_drawn_and_numbers_right_of_it() -> None:
    rows = [charts.Interval("name", value, value - 1, value + 1) for value in (-3.0, 0.0, 3.0)]
    svg = parsed(charts.intervals("t", "d", rows, formats.signed, zero=("better", "worse")))
    drawn = [float(e.attrib[key][:-1]) for e in svg.iter() if e.tag in ("line", "circle")
             for key in ("x1", "x2", "cx") if key in e.attrib]
    assert min(drawn) >= charts.LEFT
    assert max(drawn) <= charts.RIGHT
    labels = [t for t in svg.iter("text") if "label" in t.attrib["class"]]
    assert {(t.attrib["x"], t.attrib["text-anchor"]) for t in labels} == {("0%", "start")}
    assert [t.attrib["class"] for t in labels] == ["label narrow", "label wide"] * 3


def test_a_check_that_is_not_met_has_a_word_a_sign_and_a_colour() -> None:
    svg = parsed(charts.checks("t", "d", [charts.Check("Seeds", 0.5, "2 of 4", is_fine=False),
                                          charts.Check("Budget", 1.0, "100%", is_fine=True, expected=0.25)]))
    assert [group[0].text for group in svg.iter("g")] == ["Seeds: 2 of 4 (watch this)", "Budget: 100%"]
    assert [t.text for t in svg.iter("text")] == ["! Seeds", "2 of 4", "✓ Budget", "100%"]
    bars = [r.attrib for r in svg.iter("rect")]
    assert [b["class"] for b in bars] == ["track", "watched", "track", "selected"]
    assert [float(b["width"][:-1]) for b in bars] == pytest.approx([27, 13.5, 27, 27])


@given(st.lists(st.tuples(st.floats(1, 1e4), st.floats(0.1, 9)), min_size=1, max_size=20))
def test_the_names_of_lines_are_in_the_order_of_their_ends_and_apart(ends: list[tuple[float, float]]) -> None:
    made = [Series("method", [Dot(x, y, "dot")], label=f"n{i}") for i, (x, y) in enumerate(ends)]
    svg = parsed(plot("t", "d", made, Axis("x", 0.5, 2e4, formats.number), Axis("y", 0, 10, formats.number)))
    names = [(float(t.attrib["y"]), int(str(t.text)[1:])) for t in svg.iter("text")
             if t.attrib["class"] == "label narrow"]
    assert sorted(i for _, i in names) == list(range(len(ends)))
    tops = sorted(names)
    assert all(b[0] - a[0] >= 14.9 for a, b in itertools.pairwise(tops))
    assert all(ends[a[1]][1] >= ends[b[1]][1] - 1e-9 for a, b in itertools.pairwise(tops))
    assert 0 <= tops[0][0] <= tops[-1][0] <= float(svg.attrib["height"])


places = st.lists(st.tuples(st.floats(1e-3, 1e6), finite), min_size=1, max_size=8)


@given(places, st.booleans(), finite)
def test_a_plane_keeps_order_and_everything_inside(points: list[tuple[float, float]], log: bool, level: float) -> None:
    x = Axis.over("x", [p[0] for p in points], formats.number, log=log)
    y = Axis.over("y", [p[1] for p in points], formats.number)
    svg = parsed(plot("t", "d", [Series("method", [Dot(*p, title="dot") for p in points], joined=True)], x, y,
                      levels=[("level", level)]))
    height = float(svg.attrib["height"])
    assert all(0 <= place <= 100 for place in percents(svg))
    ys = [float(e.attrib[name]) for e in svg.iter() for name in ("y", "y1", "y2", "cy") if name in e.attrib]
    assert all(0 <= place <= height for place in ys)
    dots = [(float(c.attrib["cx"][:-1]), float(c.attrib["cy"])) for c in svg.iter("circle")]
    for (a, b), (p, q) in zip(points, dots, strict=True):
        for (c, d), (r, s) in zip(points, dots, strict=True):
            assert p <= r or a >= c
            assert q >= s or b >= d  # down is less
    assert len([line for line in svg.iter("line") if line.attrib["class"].startswith("path")]) == len(points) - 1


@given(places, st.booleans())
def test_numbers_of_an_axis_are_on_it_and_stand_apart(points: list[tuple[float, float]], log: bool) -> None:
    axis = Axis.over("x", [p[0] for p in points], formats.number, log=log)
    found = axis.ticks(4)
    assert found
    at = [axis.place(tick) for tick in found]
    assert all(b - a >= SPACING for a, b in itertools.pairwise(at))
    slack = 1e-9 * max(abs(axis.low), abs(axis.high))
    assert all(axis.low - slack <= tick <= axis.high + slack for tick in found)


def test_a_band_is_the_polygon_between_its_ends() -> None:
    x, y = Axis("x", 0, 10, formats.number), Axis("y", 0, 1, formats.number)
    svg = parsed(plot("t", "d", [], x, y, height=100, band=[(10, 0.5, 1.0), (0, 0.0, 0.25)]))
    (polygon,) = svg.iter("polygon")
    assert polygon.attrib["points"] == "0,99 100,24 100,74 0,124"


@given(finite, st.floats(1e-3, 1e9))
def test_ticks_are_inside_rising_and_few(low: float, width: float) -> None:
    high = low + width
    found = charts.ticks(low, high)
    slack = 1e-6 * (abs(low) + abs(high) + width)
    assert all(low - slack <= tick <= high + slack for tick in found)
    assert found == sorted(found)
    assert len(found) <= 7


@pytest.mark.parametrize(("text", "width", "wanted"), [
    ("short", 10, "short"), ("two\n lines", 20, "two lines"), ("abcdefghijklmnop", 10, "abcdef…nop"),
    ("数数数数数数数数", 10, "数数数…数"), ("\u202eabc", 20, "[U+202E]abc"),
])
def test_a_label_is_cut_in_the_middle_by_its_width(text: str, width: int, wanted: str) -> None:
    assert shorten(text, width) == wanted


def test_ordinary_text_of_any_script_is_left_as_it_is() -> None:
    text = "naïve 数学 می\u200cخواهم 👩\u200d🔬\n\tend"
    assert visible(text) == text
    assert visible("a\r\nb\rc") == "a\nb[U+000D]c"


@pytest.mark.parametrize(("model", "shown"), [
    ("embedded", "SmolLM2-135M-Instruct"), ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"), ("gpt2", "gpt2"),
    ("/srv/models/llama", "llama"), ("/srv/models/llama/", "llama"), ("C:\\models\\llama", "llama"),
    ("~/llama", "llama"), ("runs/mine/model", "mine/model"), ("/srv/run-7/checkpoint-500", "run-7/checkpoint-500"),
    ("/root/.cache/huggingface/hub/models--Qwen--Qwen2.5-0.5B/snapshots/0a1b2c3d", "Qwen/Qwen2.5-0.5B"),
])
def test_a_model_is_called_what_people_call_it(model: str, shown: str) -> None:
    assert formats.model_name(model) == shown


@pytest.mark.parametrize(("shares", "shown"), [
    ((-0.02, -0.08, 0.04), ["−2.0%", "−8.0%", "+4.0%"]), ((0.0002, -0.0006, 0.0004), ["+0.020%", "−0.060%", "+0.040%"]),
    ((0.0, 0.0, 0.0), ["0.0%", "0.0%", "0.0%"]), ((-0.5, -1.0, 0.0), ["−50.0%", "−100.0%", "0.0%"]),
])
def test_an_interval_has_the_digits_that_tell_its_ends_apart(shares: tuple[float, ...], shown: list[str]) -> None:
    assert formats.signed_percents(shares) == shown


@pytest.mark.parametrize(("time", "shown"), [
    ("2026-03-01T10:00:00Z", "2026-03-01 10:00 UTC"), ("2026-03-01T10:00:59.123+00:00", "2026-03-01 10:00 UTC"),
    ("2026-03-01T10:00:00", "2026-03-01 10:00"), ("2026-03-01T10:00:00+02:00", "2026-03-01T10:00:00+02:00"),
    ("yesterday", "yesterday"),
])
def test_a_time_is_told_to_the_minute(time: str, shown: str) -> None:
    assert formats.day(time) == shown


@pytest.mark.parametrize(("shown", "wanted"), [
    (formats.number(1234567), "1,234,567"), (formats.number(-2.5), "−2.5"), (formats.number(None), "–"),
    (formats.percent(0.0001), "< 0.1%"), (formats.percent(0.0), "0.0%"), (formats.percent(0.1234), "12.3%"),
    (formats.signed_percent(-0.0001), "−0.01%"), (formats.signed(0.0001), "+0.0001"),
    (formats.signed_percent(0.0), "0.0%"), (formats.signed(0.0), "0"), (formats.signed(-3e-9), "−3e-09"),
    (formats.signed(-0.25), "−0.250"),
    (formats.p_value(0.0002), "< 0.001"), (formats.score(0.00001234), "1.234e-05"), (formats.score(0.5), "0.5000"),
    (formats.duration(3.14), "3.1 s"), (formats.duration(60), "1 min"), (formats.duration(3599.9), "1 h"),
    (formats.duration(7500), "2 h 5 min"), (formats.size(999), "999 bytes"), (formats.size(4_200_000), "4.2 MB"),
    (formats.rough_percent(0.05), "5%"), (formats.rough_percent(0.0416), "4.2%"), (formats.rough_percent(0.123), "12%"),
    (formats.count(1, "row"), "1 row"), (formats.count(1200, "row"), "1,200 rows"),
])
def test_numbers_read_as_people_write_them(shown: str, wanted: str) -> None:
    assert shown == wanted
