"""What stands in rows, ids, names and files is shown as text and can do nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from siftune.report import build
from tests.report import runs
from tests.report.pages import Page

SCRIPT = "<script>document.title='owned'</script>"
PAYLOADS = [
    SCRIPT,
    "\"><img src=x onerror=\"document.title='owned'\">",
    "</style><script>document.title='owned'</script>",
    "</title></pre></svg><svg onload=document.title='owned'>",
    "{{ 7*7 }}{% raw %}${7*7}",
    "javascript:document.title='owned'",
    "<iframe src=//example.org></iframe><a href=//example.org style='background:url(//example.org)'>",
    "]]><!-- --!><![CDATA[",
]
INVISIBLE = "safe\u202etxt.exe\u2066\x00\x1b[31m\x7f\ufeff"
SHOWN = "safe[U+202E]txt.exe[U+2066][U+0000][U+001B][31m[U+007F][U+FEFF]"


def write_hostile_run(folder: Path, evil: str) -> Path:
    """A run in which every text that can come from outside is ``evil``."""
    run = runs.write_run(folder, n=6, selected=3)
    runs.write_scores(run, {"id": [f"{evil}{i}" for i in range(6)], "source": [evil] * 6,
                            "group": [f"{evil}{i}" for i in range(6)], "score": [0.1 * i for i in range(6)],
                            "nearest_target": [evil] * 6, "tokens": [5, 6, 7, 8, 9, 10],
                            "selected": [True] * 3 + [False] * 3})
    runs.write_selection(run, {"id": [f"{evil}{i}" for i in range(3)], "rank": [1, 2, 3], "score": [0.3, 0.2, 0.1],
                               "nearest_target": [evil] * 3, "tokens": [5, 6, 7], "source": [evil] * 3})
    odd = {evil: [evil, {"deep": evil}]}
    rows = [runs.chat(evil, evil), odd, {"messages": [{"role": evil, "content": evil, evil: evil}]}]
    runs.write_jsonl(run / "selected.jsonl", rows)
    runs.write_jsonl(run / "rejected_sample.jsonl",
                     [{"rank": 4, "id": evil, "score": 0.0, "nearest_target": evil, "row": row} for row in rows])
    runs.write_jsonl(run / "dropped.jsonl",
                     [{"id": evil, "source": evil, "where": evil, "reason": evil, "detail": evil}])
    runs.write_jsonl(run / "targets.jsonl", [{"id": evil, "subtask": evil, "best_similarity": 0.5, "selected": 2,
                                              "messages": [{"role": evil, "content": evil}]}])
    (run / "config.yaml").write_text(f"pool: {evil}\n", encoding="utf-8")
    told = runs.manifest(6, 3, 18)
    told |= {"siftune": evil, "created": evil, "command": evil, "warnings": [evil], "diagnostics": {evil: evil},
             "times": [{"step": evil, "seconds": 1.0}], "store": {"folder": evil, "bytes": 1,
                                                                "fingerprint": {evil: evil}},
             "method": dict.fromkeys(("name", "representation", "selector", "paper", "reason"), evil),
             "model": {"name": evil, "class": evil, "parameters": 1, "dtype": evil, "device": evil}}
    told["budget"]["asked"] = evil
    told["data"]["overlaps"] = [{"kind": evil, "pool_id": evil, "other_id": evil, "other": evil}]
    runs.write_json(run / "manifest.json", told)
    compared = runs.comparison(notes=[evil])
    for arm in compared["arms"]:
        arm["subtasks"][evil] = arm["subtasks"]["gcd"]
    compared["arms"][0]["name"] = evil
    for test in compared["tests"]:
        test["method"] = evil
    for test in compared["analyses"]["subtasks"]:
        test["name"] = evil
    compared["analyses"]["subtasks"][0] |= {"subtask": evil, "verdict": "worse"}
    runs.write_json(run / "comparison.json", compared)
    return run


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Page:
    page, _ = build(write_hostile_run(tmp_path_factory.mktemp("harmless") / "run", "word"))
    return Page(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("evil", PAYLOADS)
def test_markup_and_template_code_show_as_plain_text(tmp_path: Path, harmless: Page, evil: str) -> None:
    page, numbers = build(write_hostile_run(tmp_path / "run", evil))
    html = page.read_text(encoding="utf-8")
    shown = Page(html)
    assert shown.tags == harmless.tags
    assert {name for _, attributes in shown.elements for name in attributes} == \
        {name for _, attributes in harmless.elements for name in attributes}
    assert shown.text.count(evil) >= 60
    assert json.loads(numbers.read_text(encoding="utf-8"))["dropped"]["first"][0]["id"] == evil


@pytest.mark.parametrize("evil", PAYLOADS)
def test_the_page_has_no_script_and_refers_to_nothing_outside(tmp_path: Path, evil: str) -> None:
    page, _ = build(write_hostile_run(tmp_path / "run", evil))
    shown = Page(page.read_text(encoding="utf-8"))
    assert not shown.tags & {"script", "iframe", "img", "object", "embed", "form", "base", "video", "audio", "image"}
    for tag, attributes in shown.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "srcset")], tag
        for name in ("href", "xlink:href", "action", "data"):
            value = attributes.get(name)
            assert value is None or value == "data:," or re.fullmatch(r"#[a-z]+", value), (tag, value)


def test_the_policy_allows_the_page_s_own_style_sheet_and_nothing_else(tmp_path: Path) -> None:
    page, _ = build(runs.write_run(tmp_path / "run"))
    html = page.read_text(encoding="utf-8")
    css = html.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = next(attributes["content"] for tag, attributes in Page(html).elements
                  if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy == (f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
                      "form-action 'none'")
    assert html.index("Content-Security-Policy") < html.index("<title>")
    assert not re.search(r"url\(|@import|expression", css)


def test_invisible_and_reordering_characters_are_spelled_out(tmp_path: Path) -> None:
    page, numbers = build(write_hostile_run(tmp_path / "run", INVISIBLE))
    html = page.read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]", html)
    assert Page(html).text.count(SHOWN) >= 60
    assert json.loads(numbers.read_text(encoding="utf-8"))["dropped"]["first"][0]["id"] == INVISIBLE


def test_half_a_surrogate_pair_neither_stops_the_report_nor_reaches_it(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path / "run")
    (run / "selected.jsonl").write_text('{"prompt": "half \\ud83d", "completion": "a"}\n', encoding="utf-8")
    page, numbers = build(run)
    assert "half \\ud83d" in page.read_text(encoding="utf-8")
    assert "half \\\\ud83d" in numbers.read_text(encoding="utf-8")
