"""A real browser shows a study's page at the widths and in the colours that people read it in, and uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from siftune.report.study import build
from tests.report import studies
from tests.report.browser import CHROMIUM, Browser
from tests.report.test_hostile import PAYLOADS
from tests.report.test_study_hostile import build_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on the PATH"),
]

ROWS = "[...document.querySelectorAll('#arms tbody tr')].filter(row => !row.hidden)"
CHOOSE = """(([name, value]) => {
    const select = document.querySelector(`select[name=${name}]`);
    select.value = value;
    select.dispatchEvent(new Event('change'));
})"""


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return studies.study(targets=("math", "code"), budgets=("1%", "20%"), test_rows=6,
                         methods=("less-round-robin", "rds+", "bm25"))


@pytest.fixture(scope="module")
def page(result: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.json").write_text(json.dumps(studies.with_failures(result)), encoding="utf-8")
    return build(folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def choose(browser: Browser, name: str, value: str) -> None:
    browser.run(f"{CHOOSE}({json.dumps([name, value])})")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_every_control_works_without_an_error_and_nothing_is_wider_than_the_window(
        browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.errors.clear()
    browser.open(page, width=width, dark=dark)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert browser.run(fits)
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 22, 26)" if dark else "rgb(251, 250, 248)")
    for index in range(browser.run("document.querySelectorAll('summary').length")):
        browser.click("summary", index)
    assert browser.run("[...document.querySelectorAll('details')].every(one => one.open)")
    assert browser.run(fits)
    for index in range(browser.run("document.querySelectorAll('button.sort').length")):
        browser.click("button.sort", index)
    assert browser.run("[...document.querySelectorAll('table.sortable')].every("
                       "one => one.querySelectorAll('[aria-sort]').length === 1)")
    for name in ("target", "budget", "method"):
        for value in browser.run(f"[...document.querySelectorAll('select[name={name}] option')].map(o => o.value)"):
            choose(browser, name, value)
            assert browser.run(fits)
    browser.click("#all")
    assert browser.run(f"{ROWS}.length") == browser.run("document.querySelectorAll('#arms tbody tr').length")
    assert browser.errors == []


def test_filters_leave_what_was_chosen_and_what_belongs_to_all(browser: Browser, page: Path,
                                                               result: dict[str, Any]) -> None:
    browser.open(page, width=1280)
    browser.unfold()
    choose(browser, "target", "code")
    choose(browser, "budget", "20%")
    choose(browser, "method", "rds+")
    wanted = [a["name"] for a in result["arms"] if a["target"] == "code" and a["budget"] in (None, "20%")
              and (a["kind"] == "baseline" or a["name"] == "rds+")]
    names = [text.replace(" (baseline)", "") for text in browser.run(f"{ROWS}.map(row => row.cells[0].textContent)")]
    assert names == wanted
    assert browser.run("document.getElementById('shown').textContent") == f"{len(wanted)} of {len(result['arms'])} arms"
    assert browser.run("[...document.querySelectorAll('#differences h3')].filter(h => h.offsetParent).map("
                       "h => h.textContent)") == ["code", "Budget 20%"]
    dim = "[...document.querySelectorAll('#differences [data-budget=\"20%\"] svg g')].map(g => [g.dataset.method, " \
          "g.classList.contains('dim')])"
    assert dict(browser.run(dim)) == {
        "less-round-robin": True, "rds+": False, "bm25": True}


def test_columns_sort_by_number_both_ways_and_put_what_is_missing_last(browser: Browser, page: Path,
                                                                      result: dict[str, Any]) -> None:
    browser.open(page, width=1280)
    browser.unfold()
    heads = browser.run("[...document.querySelectorAll('#arms th button')].map(b => b.textContent)")
    for head, key in (("Rows", "rows"), ("Loss [95% interval]", "loss"), ("Selection", "selection_seconds")):
        told = [a[key]["mean"] if key == "loss" else a[key] for a in result["arms"]]
        there = sorted(value for value in told if value is not None)
        column = heads.index(head)
        values = f"{ROWS}.map(row => row.cells[{column}].dataset.value).map(v => v === '' ? null : Number(v))"
        for wanted in (there, there[::-1]):
            browser.click("#arms th button", column)
            assert browser.run(values) == wanted + [None] * (len(told) - len(there))


def test_the_keyboard_reaches_and_works_the_controls(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.unfold()
    browser.run("document.querySelector('nav a:last-child').focus()")
    reached: list[str] = []
    for _ in range(40):
        browser.press("Tab")
        reached.append(browser.run("document.activeElement.name || document.activeElement.id || "
                                   "document.activeElement.className"))
        if reached[-1] == "sort":
            break
    assert [name for name in reached if name in ("target", "budget", "method", "all", "sort")] == [
        "target", "budget", "method", "all", "sort"]
    browser.press("Enter")
    assert browser.run("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_without_a_script_everything_is_there_but_filters_and_sorting(browser: Browser, page: Path) -> None:
    browser.open(page, width=390, script=False)
    told = "[document.getElementById('filters').hidden, document.querySelectorAll('button.sort').length, " \
           "document.querySelectorAll('#arms tbody tr[hidden]').length, document.querySelectorAll('svg').length > 10]"
    assert browser.run(told) == [True, 0, 0, True]
    browser.unfold()
    browser.click("#differences summary")
    assert browser.run("document.querySelector('#differences details').open")


def test_a_hostile_study_can_be_filtered_by_its_names_and_runs_nothing(browser: Browser, tmp_path: Path) -> None:
    evil = "".join(PAYLOADS)
    build_page(tmp_path / "run", evil)
    browser.errors.clear()
    browser.open(tmp_path / "run" / "study.html", width=1280)
    browser.unfold()
    for name in browser.run("[...document.querySelectorAll('select[name=method] option')].map(o => o.value)"):
        choose(browser, "method", name)
        shown = browser.run(f"{ROWS}.map(row => row.dataset.method).filter(m => m)")
        assert set(shown) == {name} if name else len(set(shown)) == 2
    assert browser.run("document.title") == "siftune study: run"
    assert browser.errors == []
