"""A real browser opens the page: nothing in it runs, nothing in it asks for anything."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from siftune.report import build
from tests.report.pages import Page
from tests.report.test_hostile import INVISIBLE, PAYLOADS, SHOWN, write_hostile_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on the PATH"),
]

EVIL = "".join(PAYLOADS) + INVISIBLE
INJECTED = ("<script>document.title='owned'</script><img src='http://siftune.invalid/image' "
            "onerror=\"document.body.append('owned')\"><link rel=stylesheet href='http://siftune.invalid/style'>")


@dataclass(frozen=True)
class Visit:
    """The page after it was loaded, and every http(s) address that was asked for on behalf of it."""

    title: str
    text: str
    tags: set[str]
    requests: list[str]


def visit(path: Path, work: Path) -> Visit:
    log = work / "net.json"
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-quic", "--disable-dev-shm-usage",
         "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={work / 'profile'}", f"--log-net-log={log}",
         "--net-log-capture-mode=Everything", "--dump-dom", path.as_uri()],
        capture_output=True, encoding="utf-8", timeout=180, check=True,
    )
    shown = Page(done.stdout)
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    return Visit(title, shown.text, shown.tags, _requests(log))


def _requests(log: Path) -> list[str]:
    """From Chromium's own log; requests that no page initiated are the browser's housekeeping."""
    found = json.loads(log.read_text(encoding="utf-8"))
    start = found["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [event["params"] for event in found["events"] if event["type"] == start and "params" in event]
    return [one["url"] for one in asked if one.get("url", "").startswith("http")
            and one.get("initiator") not in (None, "not an origin")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(write_hostile_run(tmp_path_factory.mktemp("browser") / "run", EVIL))[0]


def test_a_hostile_run_runs_nothing_asks_for_nothing_and_reads_as_text(page: Path, tmp_path: Path) -> None:
    seen = visit(page, tmp_path)
    assert seen.title == "siftune report: run"
    assert seen.requests == []
    assert not seen.tags & {"script", "iframe", "img"}
    assert seen.text.count("".join(PAYLOADS) + SHOWN) >= 60


def test_the_policy_stops_even_markup_that_had_slipped_through(page: Path, tmp_path: Path) -> None:
    html = page.read_text(encoding="utf-8")
    pierced = tmp_path / "pierced.html"
    pierced.write_text(html.replace("<main", INJECTED + "<main"), encoding="utf-8")
    seen = visit(pierced, tmp_path)
    assert {"script", "img"} <= seen.tags
    assert seen.title == "siftune report: run"
    assert seen.requests == []


def test_without_the_policy_the_same_markup_would_be_caught_by_this_test(page: Path, tmp_path: Path) -> None:
    html = page.read_text(encoding="utf-8")
    unguarded = tmp_path / "unguarded.html"
    unguarded.write_text(html.replace("Content-Security-Policy", "nothing").replace("<main", INJECTED + "<main"),
                         encoding="utf-8")
    seen = visit(unguarded, tmp_path)
    assert seen.title == "owned"
    assert set(seen.requests) == {"http://siftune.invalid/image", "http://siftune.invalid/style"}
