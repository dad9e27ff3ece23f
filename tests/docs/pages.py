"""The pages that a reader sees, and what stands in them: links, commands, blocks of Python."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_COMMAND = re.compile(r"(?:\$ )?(?P<command>(?:siftune|pip|python|make|git|ray)\b.*)")
_FENCE = re.compile(r"^```(?P<kind>\w*)")


def pages() -> list[Path]:
    """README, the pages for contributors, docs, and the README of every example and benchmark."""
    found = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")),
             *sorted((ROOT / "examples").rglob("*.md")), *sorted((ROOT / "benchmarks").rglob("*.md"))]
    assert len(found) > 20
    return found


@dataclass(frozen=True)
class Command:
    """A line that a reader is to type."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def commands(page: Path) -> Iterator[Command]:
    """The commands of a page: in indented blocks, and in fences of a shell; lines that end with a backslash go on."""
    lines, fence = page.read_text(encoding="utf-8").split("\n"), None
    after_list = False
    at = 0
    while at < len(lines):
        line = lines[at]
        opened = _FENCE.match(line)
        if opened:
            fence = None if fence is not None else opened["kind"]
        indented = line.startswith("    ") and not after_list
        shell = indented if fence is None else fence in ("", "console", "bash", "sh")
        if fence is None and line.strip() and not line.startswith(" "):
            after_list = bool(re.match(r"[*-] |\d+\. ", line))
        found = _COMMAND.match(line.strip()) if shell else None
        start, text = at + 1, found["command"] if found else ""
        while text.endswith("\\"):
            at += 1
            text = text[:-1] + lines[at].strip()
        if text:
            yield Command(page.relative_to(ROOT).as_posix(), start, re.sub(r"\s{2,}#.*$", "", text).strip())
        at += 1


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of a kind: ``python``, ``yaml``."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
