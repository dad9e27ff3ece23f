"""What a reader sees before scrolling: the questions of a run's and of a study's page, each with its answer; and that
everything else is one click away, whole and readable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from siftune.report import build
from tests.report import runs, studies
from tests.report.browser import CHROMIUM, Browser
from tests.report.test_choice_page import choice

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on the PATH"),
]

SCREENS = {"desktop": (1280, 800), "phone": (390, 844)}
RUNS = ("compared", "not compared", "chosen", "untuned", "single", "with warnings")
STUDIES = ("small study", "large study", "one target", "begun")

LOOK = r"""(() => {
    const seen = (e) => { const r = e.getBoundingClientRect(); return {top: r.top, bottom: r.bottom, left: r.left,
        right: r.right, width: r.width, height: r.height}; };
    return [...document.querySelectorAll('.answer')].map(card => ({
        question: card.querySelector('.question').textContent.trim(),
        sentence: card.querySelector('h1, .sentence').textContent.trim(),
        card: seen(card), words: seen(card.querySelector('h1, .sentence')), picture: seen(card.querySelector('svg')),
        shapes: card.querySelectorAll('svg rect, svg circle, svg line').length,
    }));
})()"""

# Every chart that is shown: texts that lie over one another, or over a line at zero, and what leaves its chart.
FAULTS = r"""(() => {
    const found = [], open = (e) => e.checkVisibility() && e.getBoundingClientRect().width > 0;
    const inside = (a, b) => a.left >= b.left - 1.5 && a.right <= b.right + 1.5 && a.top >= b.top - 1.5
        && a.bottom <= b.bottom + 1.5;
    const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2.5;
    for (const svg of [...document.querySelectorAll('svg.chart')].filter(open)) {
        const frame = svg.getBoundingClientRect(), name = svg.querySelector('title').textContent;
        if (frame.left < 0 || frame.right > innerWidth) found.push(`${name}: wider than the window`);
        const texts = [...svg.querySelectorAll('text')].filter(open);
        for (const e of [...texts, ...svg.querySelectorAll('line, circle, rect')])
            if (open(e) && !inside(e.getBoundingClientRect(), frame)) found.push(`${name}: ${e.outerHTML} is cut off`);
        const plain = texts.filter(e => !e.matches('.mean-mark, .dot-mark, .beyond'));
        plain.forEach((a, i) => plain.slice(i + 1).forEach(b => {
            if (meet(a.getBoundingClientRect(), b.getBoundingClientRect()))
                found.push(`${name}: "${a.textContent}" over "${b.textContent}"`);
        }));
        for (const zero of svg.querySelectorAll('line.zero, line.whisker'))
            for (const text of plain.filter(e => !e.matches('.halo'))) {
                const a = zero.getBoundingClientRect(), b = text.getBoundingClientRect();
                if (a.right > b.left + 1 && a.left < b.right - 1 && a.bottom > b.top + 2 && a.top < b.bottom - 2)
                    found.push(`${name}: "${text.textContent}" under a line`);
            }
    }
    return found;
})()"""

# Words that are broken in the middle though a line would hold them. A hyphen or a slash is a place to break at.
BROKEN = r"""(() => {
    const found = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode, parent = node.parentElement;
        if (parent.closest('svg, script, style, select, pre') || !parent.checkVisibility()) continue;
        for (const match of node.data.matchAll(/[^\s\-\/–_.:\u2013]+/g)) {
            const range = document.createRange();
            range.setStart(node, match.index);
            range.setEnd(node, match.index + match[0].length);
            const tops = new Set([...range.getClientRects()].filter(r => r.width > 0).map(r => Math.round(r.top)));
            if (tops.size > 1 && match[0].length < 24) found.add(match[0]);
        }
    }
    return [...found];
})()"""

# Contrast of texts with what is behind them (WCAG 2): the lowest, with its text.
CONTRAST = r"""(() => {
    const parts = (c) => (c.match(/[\d.]+/g) || []).map(
        (v, i) => c.startsWith('color(') && i < 3 ? 255 * v : Number(v));
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const behind = (e) => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor);
        if (c.length && (c.length < 4 || c[3] > 0)) return c; } return [255, 255, 255]; };
    let least = [99, ''];
    const told = '.answer h1, .answer .sentence, .question, .caption, .caption a, .badge, .gist, .fold h2, .facts dt, '
        + '.facts b, .facts small, nav a, .brand, svg.chart text, .notes li, td, th, p, summary, code';
    for (const e of document.querySelectorAll(told)) {
        if (!e.checkVisibility() || !e.textContent.trim() || e.matches('.dot-mark')) continue;
        const style = getComputedStyle(e), drawn = e instanceof SVGElement;
        const [a, b] = [light(parts(drawn ? style.fill : style.color)), light(behind(drawn ? e.ownerSVGElement : e))]
            .sort((x, y) => y - x);
        const ratio = (a + .05) / (b + .05);
        if (ratio < least[0]) least = [ratio, e.outerHTML.slice(0, 200)];
    }
    return least;
})()"""


def single() -> dict[str, Any]:
    told = runs.comparison()
    told["tests"][0] |= {"verdict": "single training", "p_value": None, "n_seeds": 1, "covers": "rows"}
    return told


def write(folder: Path, name: str) -> Path:
    """One of the folders above."""
    if name in RUNS:
        if name == "untuned":
            folder.mkdir()
        else:
            runs.write_run(folder)
        if name in ("compared", "single", "with warnings"):
            runs.write_json(folder / "comparison.json", single() if name == "single" else runs.comparison())
        if name in ("chosen", "untuned"):
            runs.write_json(folder / "choice.json", choice("untuned" if name == "untuned" else "bm25"))
        if name == "with warnings":
            told = json.loads((folder / "manifest.json").read_text())
            told["method"]["name"] = "less:a-selector-of-another-package-with-a-long-name"
            told["warnings"] = [
                "the budget 5% is not met: 340 are near-duplicates of selected rows, 12 are too long for what was "
                "left, and 20 rows (3,118 of 6,000 tokens) are all that may be selected of the rest",
                "1 of 4 targets has no selected row (spell/01): nothing was chosen for this target",
                "59% of the selected rows are of the group family_relationships, which has 4.2% of the pool",
                "3 rows were cut to 512 tokens."]
            told["diagnostics"] |= {"exhausted": True, "budget": {"kind": "tokens", "limit": 6000, "tokens": 3118,
                                                                  "rows": 20}}
            runs.write_json(folder / "manifest.json", told)
        return folder
    folder.mkdir()
    made = {"small study": lambda: studies.with_ablations(studies.study(
                targets=("math", "code"), budgets=("1%", "20%"), test_rows=24,
                methods=("less-round-robin", "rds+", "embed", "bm25", "ifd"))),
            "large study": large,
            "one target": lambda: studies.study(targets=("math",), budgets=("5%",), test_rows=24, other=None,
                                                methods=("less-round-robin", "bm25")),
            "begun": studies.begun}[name]()
    (folder / "study.json").write_text(json.dumps(made), encoding="utf-8")
    return folder


def large() -> dict[str, Any]:
    """15 arms, 12 targets, 2 budgets."""
    names = ["less-round-robin", "rds+", "embed", "bm25", *(f"representation-{i}:a-selector" for i in range(11))]
    return studies.study(targets=[f"target number {i}" for i in range(12)], budgets=("1%", "5%"), test_rows=12,
                         methods=names, other=None, deciles=())


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("screens")
    made = {name: build(write(root / name.replace(" ", "-"), name)) for name in (*RUNS, *STUDIES)}
    return {name: next(path for path in files if path.suffix == ".html") for name, files in made.items()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", [*RUNS, *STUDIES])
def test_every_question_has_its_sentence_and_its_picture_above_the_fold(
        browser: Browser, pages: dict[str, Path], name: str, screen: str) -> None:
    width, height = SCREENS[screen]
    for dark in (False, True):
        browser.open(pages[name], width=width, height=height, dark=dark, script=False)
        found = browser.run(LOOK)
        questions = [one["question"].partition("?")[0] for one in found]
        assert questions == (["Does it help", "What was chosen", "What to watch"] if name in RUNS else
                             ["Does it help", "What to watch"])
        for one in found:
            assert 10 < len(one["sentence"]) < 230
            assert one["shapes"] >= 1
            for part in ("card", "words", "picture"):
                assert one[part]["width"] > 100, (one["question"], part)
                assert one[part]["height"] >= (18 if part != "card" else 80), (one["question"], part)
                assert 0 <= one[part]["top"] < one[part]["bottom"] <= height, (one["question"], part, one[part])
                assert 0 <= one[part]["left"] < one[part]["right"] <= width
        assert not browser.run("[...document.querySelectorAll('details')].some(one => one.open)")
        assert browser.run(FAULTS) == []
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")


def test_the_picture_of_a_study_has_a_line_for_every_arm(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["large study"], width=390, height=844)
    names = browser.run("[...document.querySelectorAll('.answer')[0].querySelectorAll('svg g > title')].map("
                        "t => t.textContent.split(': ').slice(0, -1).join(': '))")
    assert len([name for name in names if name.startswith("representation-")]) == 11
    assert {"less-round-robin", "rds+", "embed", "zero-shot"} <= set(names)
    assert "bm25 (one training, no verdict)" in names
    assert browser.run("document.querySelectorAll('.answer')[0].querySelectorAll('line.zero').length") == 1


@pytest.mark.parametrize(("width", "most"), [(1280, 12_000), (390, 12_000)])
def test_a_study_of_15_arms_12_targets_and_2_budgets_is_short_until_it_is_unfolded(
        browser: Browser, pages: dict[str, Path], width: int, most: int) -> None:
    browser.open(pages["large study"], width=width, height=844)
    assert browser.run("document.documentElement.scrollHeight") < most
    browser.unfold()
    assert browser.run("document.documentElement.scrollHeight") > most, "everything is there"


@pytest.mark.parametrize("name", ["compared", "chosen", "small study"])
def test_every_link_opens_the_section_it_leads_to_without_a_script(
        browser: Browser, pages: dict[str, Path], name: str) -> None:
    width, height = SCREENS["phone"]
    browser.open(pages[name], width=width, height=height, script=False)
    links = browser.run("[...document.querySelectorAll('nav a, .answer a')].map(a => a.hash)")
    assert len(links) > 10
    for index, hash_ in enumerate(links):
        browser.open(pages[name], width=width, height=height, script=False)
        assert not browser.run(f"document.querySelector('{hash_}').checkVisibility()"), hash_
        browser.click("nav a, .answer a", index)
        [is_open, top] = browser.run(f"""(() => {{ const fold = document.querySelector('{hash_}').closest('details');
            return [fold.open, fold.querySelector('h2').getBoundingClientRect().top]; }})()""")
        assert is_open, hash_
        assert 0 <= top < height, hash_


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", ["compared", "chosen", "single", "small study", "large study"])
def test_unfolded_nothing_is_cut_off_broken_or_over_something_else(
        browser: Browser, pages: dict[str, Path], name: str, screen: str) -> None:
    width, height = SCREENS[screen]
    browser.open(pages[name], width=width, height=height)
    browser.unfold()
    assert browser.run("[...document.querySelectorAll('.fold')].every(one => one.open)")
    assert browser.run(FAULTS) == []
    assert browser.run(BROKEN) == []
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    lefts = browser.run("""[...document.querySelectorAll('table')].map(table => [...table.querySelectorAll('.cell-bar')]
        .map(bar => Math.round(bar.getBoundingClientRect().left))).filter(all => all.length)""")
    assert name.endswith("study") or lefts
    assert all(len(set(one)) == 1 for one in lefts), "bars of a column begin at one place"
    for index in range(browser.run("document.querySelectorAll('.fold > summary').length")):
        browser.click(".fold > summary", index)
    assert not browser.run("[...document.querySelectorAll('.fold')].some(one => one.open)")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["compared", "with warnings", "small study"])
def test_texts_stand_out_from_what_is_behind_them(browser: Browser, pages: dict[str, Path], name: str,
                                                  dark: bool) -> None:
    browser.open(pages[name], width=1280, height=800, dark=dark)
    browser.unfold()
    ratio, where = browser.run(CONTRAST)
    assert ratio >= 4.5, where
