"""Names, messages and settings of a study are shown as text and can do nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from siftune.report.study import build
from tests.report import studies
from tests.report.pages import Page
from tests.report.test_hostile import INVISIBLE, PAYLOADS, SHOWN


def hostile_study(evil: str) -> dict[str, Any]:
    """A study in which every text that can come from outside is, or begins with, ``evil``."""
    result = studies.study(targets=("TARGET",), methods=("METHOD", "ANOTHER"), budgets=("1%", "5%"), test_rows=4,
                           singles=("ANOTHER",), model="MODEL", other="OTHER", deciles=("METHOD",))
    result = studies.with_failures(result)
    text = json.dumps(result)
    names = [*("TARGET", "METHOD", "ANOTHER", "MODEL", "OTHER"), '"embed"', '"nearest"', '"0.1.0"', "out of memory",
             "less-ot for math", "failures/1.txt", "Test rows were not used", "pool.jsonl", "Each method is charged"]
    for i, name in enumerate(names):
        assert name in text
        text = text.replace(name, json.dumps(evil + str(i)) if name[0] == '"' else json.dumps(evil + str(i))[1:-1])
    told = json.loads(text)
    told["settings"][evil] = {evil: [evil]}
    told["targets"][0] |= {"target_files": [evil], "test_files": [evil]}
    return told


def build_page(folder: Path, evil: str) -> str:
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps(hostile_study(evil)), encoding="utf-8")
    return build(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(build_page(tmp_path_factory.mktemp("harmless") / "run", "word"))


@pytest.mark.parametrize("evil", PAYLOADS)
def test_markup_and_template_code_show_as_plain_text(tmp_path: Path, harmless: Page, evil: str) -> None:
    shown = Page(build_page(tmp_path / "run", evil))
    assert [tag for tag, _ in shown.elements] == [tag for tag, _ in harmless.elements]
    assert {name for _, attributes in shown.elements for name in attributes} == \
        {name for _, attributes in harmless.elements for name in attributes}
    assert shown.text.count(evil) > 100
    for tag, attributes in shown.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "srcset")], tag
        for name in ("href", "xlink:href", "action", "data"):
            value = attributes.get(name)
            assert value is None or value == "data:," or re.fullmatch(r"#[a-z]+", value), (tag, value)
    assert [tag for tag, _ in shown.elements].count("script") == 1


def test_the_policy_allows_the_page_s_own_style_sheet_and_script_and_nothing_else(tmp_path: Path) -> None:
    html = build_page(tmp_path / "run", "word")
    css = html.partition("<style>")[2].partition("</style>")[0]
    script = html.partition("<script>")[2].partition("</script>")[0]
    of_css, of_script = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in (css, script))
    policy = next(attributes["content"] for _, attributes in Page(html).elements
                  if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy == (f"default-src 'none'; style-src 'sha256-{of_css}'; script-src 'sha256-{of_script}'; "
                      "img-src data:; base-uri 'none'; form-action 'none'")
    assert html.index("Content-Security-Policy") < html.index("<title>")
    assert not re.search(r"url\(|@import|expression", css)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval|fetch|XMLHttp|import\(", script)


def test_invisible_and_reordering_characters_are_spelled_out(tmp_path: Path) -> None:
    html = build_page(tmp_path / "run", INVISIBLE)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]", html)
    assert Page(html).text.count(SHOWN) > 100
