"""The documentation builds as a site, without a warning and without anything from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT


def test_links_out_of_the_docs_become_paths() -> None:
    names: dict[str, object] = {}
    exec((ROOT / "docs/site_hooks.py").read_text(encoding="utf-8"), names)
    written = names["on_page_markdown"]("see [the file](../src/a.py), [`b/c.md`](../b/c.md) and [here](data.md#x)")  # type: ignore[operator]
    assert written == "see the file (`src/a.py`), `b/c.md` and [here](data.md#x)"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
                          cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    made = sorted((tmp_path / "site").rglob("*.html"))
    assert len(made) >= len(list((ROOT / "docs").glob("*.md")))
    loaded = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"?(https?:)?//[^\s\">]+")
    assert {match.group(0) for page in made for match in loaded.finditer(page.read_text(encoding="utf-8"))} == set()
    assert "LessCheckpoints" in (tmp_path / "site/api/index.html").read_text(encoding="utf-8")
