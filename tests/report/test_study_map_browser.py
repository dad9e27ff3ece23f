"""A real browser shows the map and the rows of a study, and uses every control of theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siftune.experiments.subsets import Subset
from siftune.report.study import build
from tests.report import study_pools
from tests.report.browser import CHROMIUM, Browser
from tests.report.test_hostile import PAYLOADS

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on the PATH"),
]

LISTED = "[...document.querySelectorAll('#list tr')].map(row => Number(row.querySelector('.meta b').textContent) - 1)"
FITS = "document.documentElement.scrollWidth <= innerWidth"
ROWS = 400


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Subset]]:
    """The page and the subsets of a study of ``ROWS`` rows; the first says something long."""
    folder = tmp_path_factory.mktemp("study")

    def texts(i: int) -> tuple[str, str]:
        return (PAYLOADS[i % len(PAYLOADS)] * 30, "\u05d0" * 700) if i < 8 else study_pools.plain_texts(i)

    told = study_pools.result()
    chosen = study_pools.write(folder, told, study_pools.inputs(ROWS, texts))
    return build(folder), chosen


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser("Network.enable")
        yield browser


def choose(browser: Browser, name: str, value: str, event: str = "change") -> None:
    browser.run(f"""(() => {{
        const control = document.querySelector('.tools [name={name}]');
        control.value = {json.dumps(value)};
        control.dispatchEvent(new Event({json.dumps(event)}));
    }})()""")


def option(browser: Browser, title: str) -> str:
    """The value of the subset of that title."""
    return browser.run(f"[...document.querySelectorAll('[name=subset] option')].find(o => o.textContent === "
                       f"{json.dumps(title)}).value")


def listed(browser: Browser) -> list[int]:
    """Rows of all pages of the list, in order."""
    found = list(browser.run(LISTED))
    while not browser.run("document.getElementById('next').disabled"):
        browser.click("#next")
        found += browser.run(LISTED)
    return found


def click_point(browser: Browser, x: int, y: int, drawn: dict[str, Any]) -> None:
    """A mouse click where a point of the map lies, as the proportions of the canvas have it."""
    left, top, width, height = browser.run("""(() => {
        const canvas = document.getElementById('plane');
        canvas.scrollIntoView({block: 'center'});
        const r = canvas.getBoundingClientRect();
        return [r.left, r.top, r.width, r.height];
    })()""")
    scale = min((width - 28) / drawn["width"], (min(max(width * 0.62, 260), 560) - 28) / drawn["height"])
    across = left + (width - drawn["width"] * scale) / 2 + x * scale
    down = top + (height - drawn["height"] * scale) / 2 + (drawn["height"] - y) * scale
    for kind in ("mousePressed", "mouseReleased"):
        browser("Input.dispatchMouseEvent", type=kind, x=across, y=down, button="left", clickCount=1)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_map_and_the_rows_can_be_used_without_an_error_or_a_request(
        browser: Browser, made: tuple[Path, list[Subset]], width: int, dark: bool) -> None:
    page, subsets = made
    drawn = json.loads(page.with_name("map.json").read_text())
    browser.errors.clear()
    browser.open(page, width=width, dark=dark)
    browser.unfold()
    assert browser.run(FITS)
    assert browser.run(LISTED) == list(range(20))
    assert browser.run("document.querySelectorAll('.still').length") > 0
    assert browser.run("[...document.querySelectorAll('.still')].every(e => getComputedStyle(e).display === 'none')")

    one = next(s for s in subsets if (s.wanted.name, s.wanted.target, s.wanted.budget) == ("rds+", "code", "20%"))
    before = browser.run("document.getElementById('plane').toDataURL()")
    choose(browser, "subset", option(browser, f"rds+ · code · 20% · draw {one.wanted.draw}"))
    assert browser.run("document.getElementById('plane').toDataURL()") != before
    assert listed(browser) == one.rows.tolist(), "in the order of the subset"
    assert "80 rows of rds+ · code · 20%" in browser.run("document.getElementById('listed').textContent")
    assert "target rows of code" in browser.run("document.getElementById('legend').textContent")

    # A point where no other is near.
    places = np.array([drawn["x"], drawn["y"]]).T
    apart = np.sort(np.linalg.norm(places[:, None] - places, axis=2) + 9999 * np.eye(ROWS), axis=1)[:, 0]
    point = int(np.where(np.arange(ROWS) >= 8, apart, 0).argmax())
    click_point(browser, *places[point].tolist(), drawn)
    told = browser.run("document.getElementById('picked').textContent")
    assert f"row {point + 1}id row{point}" in told
    assert f"Question number {point}," in told
    assert f"Answer {point}." in told
    by = [s for s in subsets if point in s.rows and s.wanted.name != "full"]
    assert all(f"{s.wanted.name} · " in told for s in by)
    assert ("Chosen by none." in told) == (not by)

    for colour, words in (("tokens", "more than"), ("methods", "by none"), ("group", "group0")):
        choose(browser, "colour", colour)
        assert words in browser.run("document.getElementById('legend').textContent")
    for mark in ("none", "0", ""):
        choose(browser, "mark", mark)
    assert browser.run(FITS)
    choose(browser, "subset", "")
    browser.click("#list summary")
    assert browser.run("document.querySelector('#list details .turn .said').textContent") == (PAYLOADS[0] * 30)[:600]
    assert browser.run("document.querySelectorAll('#list img, #list iframe, #list script').length") == 0
    browser.click("#list button")
    assert "row 1id row0" in browser.run("document.getElementById('picked').textContent")
    browser.click("#picked button")
    assert browser.run("document.getElementById('picked').childElementCount") == 0
    assert browser.run(FITS)
    assert browser.run("document.title").startswith("siftune study")
    assert browser.errors == []
    asked = {e["params"]["request"]["url"] for e in browser._events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:,")} == {page.as_uri()}


def test_filters_search_and_order_leave_what_they_say(browser: Browser, made: tuple[Path, list[Subset]]) -> None:
    page, subsets = made
    browser.open(page, width=1280)
    browser.unfold()
    methods = [s for s in subsets if s.wanted.kind == "method"]
    times = np.array([sum(i in s.rows for s in methods) for i in range(ROWS)])
    names = {s.wanted.name for s in methods}
    by = np.array([sum(any(i in s.rows for s in methods if s.wanted.name == n) for n in names) for i in range(ROWS)])
    assert 0 < (by == 0).sum() < ROWS
    choose(browser, "which", "0")
    assert listed(browser) == np.flatnonzero(by == 0).tolist()
    choose(browser, "which", "2")
    assert listed(browser) == np.flatnonzero(by >= 2).tolist()
    choose(browser, "group", "1")
    assert listed(browser) == [i for i in np.flatnonzero(by >= 2).tolist() if i % 3 == 1]
    choose(browser, "order", "times")
    found = listed(browser)
    assert times[found].tolist() == sorted(times[found].tolist(), reverse=True)
    choose(browser, "which", "")
    choose(browser, "group", "")
    choose(browser, "order", "shortest")
    assert listed(browser) == sorted(range(ROWS), key=lambda i: (i % 90, i))
    choose(browser, "order", "longest")
    assert listed(browser) == sorted(range(ROWS), key=lambda i: (-(i % 90), i))
    choose(browser, "search", "  NUMBER 39", "input")
    assert sorted(listed(browser)) == [39, *range(390, 400)]
    choose(browser, "search", "no such words", "input")
    assert listed(browser) == []
    assert browser.run("document.getElementById('page').textContent") == "no row"


def test_pages_go_forward_and_back(browser: Browser, made: tuple[Path, list[Subset]]) -> None:
    browser.open(made[0], width=1280)
    browser.unfold()
    told = "document.getElementById('page').textContent"
    assert browser.run("[document.getElementById('back').disabled, document.getElementById('next').disabled]") == [
        True, False]
    browser.click("#next")
    assert browser.run(LISTED) == list(range(20, 40))
    assert browser.run(told) == "21 to 40 of 400"
    browser.click("#back")
    assert browser.run(LISTED) == list(range(20))
    assert listed(browser) == list(range(ROWS))
    assert browser.run(told) == "381 to 400 of 400"


def test_rows_without_a_map_can_still_be_chosen_by_subset(browser: Browser, tmp_path: Path) -> None:
    [*subsets] = study_pools.write(tmp_path, study_pools.brief(), study_pools.inputs(50), has_map=False)
    browser.errors.clear()
    browser.open(build(tmp_path), width=390)
    browser.unfold()
    one = next(s for s in subsets if s.wanted.kind == "method")
    choose(browser, "subset", option(browser, f"bm25 · {one.wanted.target} · 1% · draw 0"))
    assert listed(browser) == one.rows.tolist()
    assert browser.run(FITS)
    assert browser.errors == []


def test_a_row_is_shown_on_the_map_though_the_map_is_folded(browser: Browser, made: tuple[Path, list[Subset]]) -> None:
    browser.open(made[0], width=1280)
    browser.click("nav a[href='#rows']")
    shown = "document.getElementById('plane').checkVisibility() && document.getElementById('plane').width > 300"
    assert not browser.run(shown)
    browser.click("#list button")
    assert browser.run(shown)
    assert "row 1id row0" in browser.run("document.getElementById('picked').textContent")
