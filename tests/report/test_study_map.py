"""The map and the rows on the page of a study: small however large the pool, text whatever the rows hold."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siftune._common.errors import DataError
from siftune.experiments.config import BASELINES
from siftune.experiments.pool.rows import MOST
from siftune.experiments.results.pool import TEXT_BYTES, embedded_bytes
from siftune.report.study import build
from tests.report import studies, study_pools
from tests.report.pages import Page
from tests.report.test_hostile import INVISIBLE, PAYLOADS, SHOWN

LARGEST = 5_000_000  # bytes of a page


def embedded(html: str) -> dict[str, Any]:
    """What the page holds for its script; nothing inside can end the element."""
    [found] = re.findall(r'<script type="application/json" id="pool-data">(.*?)</script>', html, re.S)
    assert not re.search("[<>&]", found)
    return json.loads(found)


def members(subset: dict[str, Any], rows: int) -> set[int]:
    """Places of the shown rows of a subset, as the script reads them."""
    bits = base64.b64decode(subset["members"])
    there = {i for i in range(rows) if bits[i >> 3] >> (i & 7) & 1} if bits else set()
    return there | set(subset["first"])


def test_a_pool_of_a_hundred_thousand_rows_makes_a_page_below_five_megabytes(tmp_path: Path) -> None:
    rows = 100_000
    told = study_pools.result(targets=("math", "code", "prose"), budgets=("1%", "5%", "20%"),
                              methods=tuple(studies.GAINS), other=None)
    pool = study_pools.inputs(rows, lambda i: ("<b>" + f"{i} & more \u202e" * 40, "é<" * 350), ids="a" * 90)
    made = study_pools.write(tmp_path, told, pool)
    page = build(tmp_path)
    size = page.stat().st_size
    assert 2_500_000 < size < LARGEST
    html = page.read_text(encoding="utf-8")
    data = embedded(html)
    shown = np.array(data["rows"])
    assert len(shown) == MOST, "more were chosen than the page has room for"
    assert embedded_bytes(data["texts"]) <= TEXT_BYTES
    assert len(data["texts"]) > 300
    of = {s["title"]: s for s in data["subsets"]}
    for subset in made:
        if subset.wanted.name in BASELINES:
            continue
        wanted = subset.wanted
        packed = of[f"{wanted.name} · {wanted.target} · {wanted.budget} · draw {wanted.draw}"]
        there = set(np.flatnonzero(np.isin(shown, subset.rows)).tolist())
        assert members(packed, len(shown)) == there
        assert packed["shown"] == len(there)
        assert packed["rows"] == len(subset.rows)
        assert shown[packed["first"]].tolist() == subset.rows[: len(packed["first"])].tolist(), "ranks are places"
    text = Page(html).text
    assert "30,000 of 100,000: of those that were chosen as many as the page has room for" in text
    assert f"{len(data['texts']):,} of them with their text" in text


def test_a_page_is_bounded_whatever_the_files_hold(tmp_path: Path) -> None:
    study_pools.write(tmp_path, study_pools.brief(), study_pools.inputs(300))
    told = json.loads((tmp_path / "rows.json").read_text())
    told["texts"] = [[i % 300, "x", [["user", "<\u202e" * 4000, 0]], 0] for i in range(3000)]
    (tmp_path / "rows.json").write_text(json.dumps(told))
    page = build(tmp_path)
    assert TEXT_BYTES * 0.9 < page.stat().st_size < LARGEST


def test_every_subset_row_and_coordinate_is_on_the_page(tmp_path: Path) -> None:
    told = study_pools.result()
    made = study_pools.write(tmp_path, told, study_pools.inputs(400))
    html = build(tmp_path).read_text(encoding="utf-8")
    data, drawn = embedded(html), json.loads((tmp_path / "map.json").read_text())
    assert data["rows"] == list(range(400))
    assert data["tokens"] == [10 + i % 90 for i in range(400)]
    assert [data["groups"][g] for g in data["group"]] == [f"group{i % 3}" for i in range(400)]
    assert [entry[2][1][1] for entry in data["texts"]] == [f"Answer {i}." for i in range(400)]
    wanted = [s for s in made if s.wanted.name != "full"]
    assert len(data["subsets"]) == len(wanted)
    for subset, packed in zip(wanted, data["subsets"], strict=True):
        assert packed["first"] == subset.rows.tolist()
        assert packed["kind"] == subset.wanted.kind
    xy = np.frombuffer(base64.b64decode(data["map"]["xy"]), "<u2").reshape(-1, 2)
    assert xy.T.tolist() == [drawn["x"], drawn["y"]]
    assert [t["name"] for t in data["map"]["targets"]] == ["math", "code"]
    options = re.findall(r'<optgroup label="([^"]*)">(.*?)</optgroup>', html)
    assert [name for name, _ in options] == ["math · 1%", "math · 20%", "code · 1%", "code · 20%",
                                             "for all targets · 1%", "for all targets · 20%"]
    for _, inside in options:
        for place, title in re.findall(r'<option value="(\d+)">([^<]*)</option>', inside):
            assert data["subsets"][int(place)]["title"] == title
    text = Page(html).text
    for words in ("12.0% and 7.0% of the variance of 384 dimensions: most of what tells rows apart is not on this map",
                  "All 400 rows", "400 of 400"):
        assert words in text, words


def test_without_a_script_there_is_a_picture_and_some_rows(tmp_path: Path) -> None:
    study_pools.write(tmp_path, study_pools.brief(), study_pools.inputs(400))
    shown = Page(build(tmp_path).read_text(encoding="utf-8"))
    paths = [a["d"] or "" for tag, a in shown.elements if tag == "path" and a.get("class") in ("c0", "c1", "c2")]
    assert sum(path.count("h0") for path in paths) == 400
    [crosses] = [a["d"] or "" for tag, a in shown.elements if tag == "path" and a.get("class") == "cross"]
    assert crosses.count("M") == 10
    assert shown.texts.count("Read the row") == 8


def test_older_studies_and_those_without_vectors_say_why_there_is_no_map(tmp_path: Path) -> None:
    study_pools.write(tmp_path, study_pools.brief(), study_pools.inputs(60), has_map=False)
    html = build(tmp_path).read_text(encoding="utf-8")
    assert "There is no map: no vectors." in Page(html).text
    assert embedded(html)["map"] is None
    assert "<canvas" not in html
    assert html.count('name="subset"') == 1
    (tmp_path / "map.json").unlink()  # interrupted before it was made
    assert "it has not been made for the study as it is now" in Page(build(tmp_path).read_text("utf-8")).text
    (tmp_path / "rows.json").unlink()
    html = build(tmp_path).read_text(encoding="utf-8")
    assert "made by an older version" in Page(html).text
    assert "pool-data" not in re.sub(r"<script>.*</script>", "", html, flags=re.S)


def test_a_map_of_other_rows_is_not_drawn(tmp_path: Path) -> None:
    study_pools.write(tmp_path, study_pools.brief(), study_pools.inputs(60))
    told = json.loads((tmp_path / "map.json").read_text())
    for name in ("rows", "x", "y"):
        told[name] = told[name][1:]
    (tmp_path / "map.json").write_text(json.dumps(told))
    assert "it has not been made for the study as it is now" in Page(build(tmp_path).read_text("utf-8")).text


def page_of(folder: Path, text: str) -> Page:
    """Of a study in whose rows every text is, or begins with, ``text``."""
    pool = study_pools.inputs(30, lambda i: (text, f"{text}{i}"), ids=text, groups=text)
    study_pools.write(folder, study_pools.brief(), pool)
    return Page(build(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(tmp_path_factory.mktemp("harmless"), "word")


@pytest.mark.parametrize("evil", [*PAYLOADS, INVISIBLE, "</script><script>alert(1)</script>", "<!--<script>", "\u2028"])
def test_hostile_rows_are_text(tmp_path: Path, harmless: Page, evil: str) -> None:
    shown = page_of(tmp_path / "evil", evil)
    assert [tag for tag, _ in shown.elements] == [tag for tag, _ in harmless.elements]
    assert {n for _, a in shown.elements for n in a} == {n for _, a in harmless.elements for n in a}
    data = embedded((tmp_path / "evil" / "study.html").read_text(encoding="utf-8"))
    told = {INVISIBLE: SHOWN, "\u2028": "[U+2028]"}.get(evil, evil)
    assert [entry[2][0][1] for entry in data["texts"]] == [told] * 30
    assert shown.text.count(told) >= 16, "in the list that needs no script"


@pytest.mark.parametrize(("file", "change", "where", "why"), [
    ("map.json", {"x": [4096] * 60}, "map.json", "x.0"),
    ("map.json", {"x": [1]}, "map.json", "as many x and y"),
    ("map.json", {"variance": "most"}, "map.json", "variance"),
    ("rows.json", {"group": [9] * 60}, "rows.json", "without a name"),
    ("rows.json", {"tokens": [1]}, "rows.json", "as many tokens"),
    ("rows.json", {"texts": [[60, "id", [], 0]]}, "rows.json", "none of a shown row"),
    ("rows.json", {"texts": [["id"]]}, "rows.json", "texts.0"),
    ("rows.json", {"subsets": [{"id": "s", "rows": 1, "shown": 1, "members": "%%"}]}, "rows.json", "base 64"),
    ("rows.json", {"subsets": [{"id": "s", "rows": 1, "shown": 1, "members": "AAAA"}]}, "rows.json", "of 60 rows"),
    ("rows.json", None, "rows.json:1", "Expecting"),
])
def test_a_broken_file_is_named_with_its_place(tmp_path: Path, file: str, change: dict[str, Any] | None, where: str,
                                               why: str) -> None:
    study_pools.write(tmp_path, study_pools.brief(), study_pools.inputs(60))
    told = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text("{" if change is None else json.dumps({**told, **change}))
    with pytest.raises(DataError) as refused:
        build(tmp_path)
    assert (refused.value.where or "").endswith(where)
    assert why in (refused.value.why or "")
    assert f"delete {file}" in (refused.value.hint or "")
