"""The sdist holds the whole project and the wheel the whole package, built offline by the build backend itself."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import tarfile
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

import pytest
import yaml

from siftune._common.version import __version__
from tests.packaging.building import LEFT, ROOT, build


def project_files(folder: Path) -> set[str]:
    """Those that git knows; in an sdist, which git does not know, those that are there."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z", "--", "."], cwd=folder, capture_output=True, text=True,
                                check=True).stdout.split("\0")
        return {name for name in listed if name and (folder / name).exists()}
    return files_of(folder)


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
            and not any(fnmatch.fnmatch(part, left) for part in path.relative_to(folder).parts for left in LEFT)}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("distributions"))


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, bytes]:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> Message:
    return HeaderParser().parsestr(wheel[f"siftune-{__version__}.dist-info/METADATA"].decode())


def test_the_sdist_holds_every_file_of_the_project(built: Path):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert len(project_files(ROOT)) > 300
    assert sorted(project_files(ROOT) - names) == []
    made = {name for name in names - files_of(ROOT) if PurePosixPath(name).suffix}
    assert all(name in ("PKG-INFO", "setup.cfg") or ".egg-info" in name for name in made), made


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: dict[str, bytes]):
    package = {f"siftune/{name}" for name in project_files(ROOT / "src/siftune")}
    assert sorted(package - set(wheel)) == []
    there = {f"siftune/{name}" for name in files_of(ROOT / "src/siftune")}
    assert {name for name in set(wheel) - there if ".dist-info/" not in name} == set()
    licences = {name.rpartition("/licenses/")[2] for name in wheel if "/licenses/" in name}
    assert licences == {"LICENSE", "src/siftune/data/chat_templates/NOTICE"}


def test_the_metadata_is_what_an_index_shows(wheel: dict[str, bytes], metadata: Message):
    assert (metadata["Name"], metadata["Version"]) == ("siftune", __version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "The siftune authors"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Requires-Python"] == ">=3.10"
    assert any(line.startswith("Topic ::") for line in metadata.get_all("Classifier", []))
    assert b"siftune = siftune.cli:main" in wheel[f"siftune-{__version__}.dist-info/entry_points.txt"]


def test_the_readme_of_an_index_page_has_no_links_that_lead_nowhere(metadata: Message):
    """Without a public address, links are paths inside the sdist; with one, an index needs absolute links."""
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", str(metadata.get_payload())) if ":" not in link]
    if metadata.get_all("Project-URL"):
        assert links == []
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_licence_of_every_dependency_is_listed(metadata: Message):
    page = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\|(?: [a-z-]+ \|)? ([A-Za-z0-9-]+)(?: \([^|]*\))? \| [^|]+ \|$", page, re.MULTILINE))
    needed = {re.split(r"[^A-Za-z0-9-]", requirement)[0] for requirement in metadata.get_all("Requires-Dist", [])
              if not re.search(r"extra == ['\"](dev|docs)['\"]", requirement)}
    assert len(needed) > 20
    assert needed - listed == set()


def test_the_pages_for_contributors_say_this_version_and_parse():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"], citation["cff-version"]) == (__version__, "Apache-2.0", "1.2.0")
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) >= 3
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name == "config.yml":
            continue
        assert all(form[key] for key in ("name", "description", "body")), path
        assert all(part["type"] in ("textarea", "input", "markdown", "dropdown") for part in form["body"]), path
        ids = [part["id"] for part in form["body"]]
        assert len(set(ids)) == len(ids), path
