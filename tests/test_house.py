"""How the code is laid out: few rooms in one order, imports that go one way, and one idea a folder.

A room is a file or folder directly below ``src/siftune``. docs/architecture.md has the picture of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "siftune"

ROOMS = ("_common", "config", "data", "models", "selectors", "training", "execution", "evaluation", "features",
         "methods", "pipeline", "experiments", "report", "export", "api", "cli")
"""Lowest first: a room imports from rooms before it and from no other."""

WITHOUT_A_NAME = {"methods.from_file"}
"""A user's own file is asked for by its path (``--representation file:PATH``), so no registry names its method."""

MOST_ROOMS, LONGEST_CHAIN, LONGEST_FILE = 16, 11, 400

# Imports that still go up and files that still import each other. Both lists only ever become shorter.
STILL_UPWARD: list[str] = []
STILL_CIRCULAR: list[list[str]] = []


@cache
def files() -> dict[str, Path]:
    """Every module below siftune by its name without the package's own: ``data.rows``, ``data`` for its ``__init__``.

    The package itself and ``__main__`` stand outside of all rooms: one gives the public names, one calls the command.
    """
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name not in ("", "__main__"):
            found[name] = path
    return found


def imported(tree: ast.AST, name: str, is_package: bool, known: Iterable[str]) -> Iterator[str]:
    """The modules of siftune that a module imports, at its head, for types alone or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "siftune":
                    yield alias.name.partition(".")[2]
        elif isinstance(node, ast.ImportFrom):
            if node.level:  # relative
                parts = ["siftune", *name.split(".")]
                base = ".".join([*parts[:len(parts) - node.level + is_package], *filter(None, [node.module])])
            else:
                base = node.module or ""
            if base.partition(".")[0] != "siftune":
                continue
            inside = base.partition(".")[2]
            for alias in node.names:
                whole = f"{inside}.{alias.name}".strip(".")
                yield whole if whole in known else inside


@cache
def imports() -> dict[str, set[str]]:
    """Which modules each module imports; the package itself, which gives the public names, is ``""``."""
    return {name: {other for other in imported(ast.parse(path.read_text()), name, path.name == "__init__.py", files())
                   if other != name}
            for name, path in files().items()}


def room(module: str) -> str:
    return module.partition(".")[0]


@cache
def room_imports() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {name: set() for name in ROOMS}
    for module, others in imports().items():
        graph.setdefault(room(module), set()).update({room(other) for other in others} - {room(module)})
    return graph


def cycles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other, in order: small graphs, so straight from the definition."""
    def reached(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            for other in graph.get(waiting.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return seen

    reach = {node: reached(node) for node in graph}
    groups = {tuple(sorted({node} | {other for other in reach[node] if node in reach.get(other, ())}))
              for node in graph if node in reach[node]}
    return sorted(map(list, groups))


def longest_chain(graph: Mapping[str, Iterable[str]]) -> int:
    """How many nodes the longest chain of imports has; the graph has no cycle."""
    @cache
    def length(node: str) -> int:
        return 1 + max(map(length, graph.get(node, ())), default=0)

    return max(map(length, graph))


def upward(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Imports from a room to one that stands above it, as ``module -> room``.

    The package itself (``""``), whose names are those of ``api``, is for the command line alone.
    """
    rank = {name: at for at, name in enumerate((*ROOMS[:-1], "", ROOMS[-1]))}
    return sorted({f"{module} -> {room(other) or 'siftune'}" for module, others in graph.items() for other in others
                   if rank.get(room(other), len(rank)) > rank[room(module)]})


def test_the_rooms_are_these_and_no_more():
    rooms = {path.stem for path in SOURCE.iterdir()
             if (path.is_dir() or path.suffix == ".py") and not path.name.startswith("__")}
    assert rooms == set(ROOMS)
    assert len(rooms) <= MOST_ROOMS


def test_no_room_imports_from_one_above_it():
    assert upward(imports()) == STILL_UPWARD


def test_neither_rooms_nor_files_import_in_circles():
    assert cycles(room_imports()) == []
    assert cycles(imports()) == STILL_CIRCULAR


def test_the_longest_chain_of_rooms_is_short():
    assert longest_chain(room_imports()) <= LONGEST_CHAIN


def defined(path: Path) -> set[str]:
    """The classes, functions and values that a module defines itself."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def registered() -> set[tuple[str, str]]:
    """(module, attribute) of everything that a registry names: registries name by ``"package.module:attribute"``."""
    name = re.compile(r"siftune\.([\w.]+):(\w+)")
    strings = {node.value for path in SOURCE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))
               if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {(found[1], found[2]) for found in map(name.fullmatch, strings) if found}


@pytest.mark.parametrize("folder", ["methods", "selectors"])
def test_methods_and_selectors_hold_nothing_else(folder: str):
    """Helpers live in ``features/`` and ``selectors/core/``."""
    modules = {name for name in files()
               if name.startswith(f"{folder}.") and not name.startswith("selectors.core")} - WITHOUT_A_NAME
    assert {path.name for path in (SOURCE / folder).iterdir() if path.is_dir()} - {"__pycache__"} <= {"core"}
    assert modules - {module for module, _ in registered()} == set(), "these define no registered method or selector"


def test_everything_registered_is_defined_in_a_module_of_methods_or_selectors():
    names = registered()
    assert len([module for module, _ in names if room(module) == "methods"]) >= 10
    assert len([module for module, _ in names if room(module) == "selectors"]) >= 20
    for module, attribute in sorted(names):
        assert re.fullmatch(r"methods\.\w+|selectors\.(?!core\b)\w+", module), module
        assert attribute in defined(files()[module]), f"{module} does not define {attribute}"


def test_a_long_file_says_why_it_is_long():
    """With a comment or a line of the docstring among its first 15 that begins with ``Long:``."""
    for path in files().values():
        text = path.read_text().splitlines()
        if len(text) > LONGEST_FILE:
            assert any(re.match(r"(# )?Long: \w+", line) for line in text[:15]), (
                f"{path.relative_to(ROOT)} has {len(text)} lines and no line 'Long: ...' at its head that says why")


def test_the_picture_in_the_docs_shows_every_room_in_its_order():
    """One line a room, highest first: each may import from those below it."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    [picture] = re.findall(r"^```text\n(cli .*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.split(maxsplit=1) for line in picture.splitlines()]
    assert [words[0] for words in lines] == list(reversed(ROOMS))
    assert all(len(words) == 2 for words in lines), "each room has a line that says what it is"


# What the tests above look with.

def test_imports_are_seen_wherever_they_stand():
    tree = ast.parse("""
from typing import TYPE_CHECKING
import numpy, siftune.data.rows
from siftune.report import page, draw_all
from siftuned import nothing
if TYPE_CHECKING:
    from siftune.api import Run
def later():
    from siftune import cli
    from . import near
    from ..models.lora import attach
""")
    known = ("report.page", "cli", "data.near", "models.lora")
    assert sorted(imported(tree, "data.text", False, known)) == [
        "api", "cli", "data.near", "data.rows", "models.lora", "report", "report.page"]
    assert list(imported(ast.parse("from .rows import Row"), "data", True, ["data.rows"])) == ["data.rows"]


def test_cycles_chains_and_steps_upward_are_found():
    graph = {"data.a": {"data.b"}, "data.b": {"data.c"}, "data.c": {"data.a", "config"}, "config": {"_common.files"},
             "_common.files": {"cli.app"}, "data.d": {"data.a"}}
    assert cycles(graph) == [["data.a", "data.b", "data.c"]]
    assert cycles({"a": {"a"}, "b": ()}) == [["a"]]
    assert longest_chain({"a": {"b", "c"}, "b": {"c"}, "c": {"d"}, "d": ()}) == 4
    assert upward(graph) == ["_common.files -> cli"]
    assert upward({"cli.app": {""}, "api": {""}, "data": {"nowhere.else"}}) == ["api -> siftune", "data -> nowhere"]
