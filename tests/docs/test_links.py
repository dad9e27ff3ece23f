"""Every link of a page leads somewhere: to a file that is there, and to a heading that it has."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import ROOT, pages

LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)", re.DOTALL)


@cache
def anchors(page: Path) -> set[str]:
    """The names that headings get, on a site of mkdocs and on the usual forges."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in plain}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_internal_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for match in LINK.finditer(text):
        target = match["target"]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (heading and heading not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_headings_become_the_anchors_that_links_use() -> None:
    assert {"exit-codes", "settings-files"} <= anchors(ROOT / "docs/commands.md")
    assert "what-all-rows-share" in anchors(ROOT / "docs/representations.md")


def test_the_site_names_pages_that_there_are_and_every_page_is_linked_from_another() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = [page for section in navigation for found in section.values() for page in found]
    assert [page for page in named if not (ROOT / "docs" / page).is_file()] == []
    linked = {(page.parent / match["target"].partition("#")[0]).resolve() for page in pages()
              for match in LINK.finditer(page.read_text(encoding="utf-8"))}
    listed = linked | {ROOT / "docs" / page for page in named}
    assert [page.name for page in (ROOT / "docs").glob("*.md") if page not in listed] == []
