"""A stranger's first steps: the wheel in a clean environment, then README and docs/start.md word for word.

    python -m tests.packaging.five_minutes                    # packages from the index, the whole demo: an hour
    python -m tests.packaging.five_minutes --few              # few short rows under the names that the pages use
    python -m tests.packaging.five_minutes --few --offline    # and packages of this environment: minutes

builds the distributions, makes a virtual environment and a working folder for each page outside the repository, and
types there what the pages say, in their order, until something fails. The commands are read from the pages, and cannot
drift from them. What cannot be typed as it stands is in :data:`NOT_TYPED` and :data:`OTHERWISE`, and printed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import Command, blocks, commands
from tests.packaging.building import ROOT, build

PAGES = ("docs/start.md", "README.md")
NOT_TYPED = {
    "make demo": "needs a clone; its settings file takes a quarter of an hour",
    "make test": "needs a clone; these are the tests themselves",
    "make docs": "needs a clone; tests/docs/test_site.py builds the site",
    "siftune choose  --pool pool.jsonl --target examples.jsonl --model Qwen/Qwen2.5-0.5B --budget 5% --within 2h "
    "--output-dir runs/best": "dozens of trainings, up to two hours of them; tests/cli/test_choose.py runs one",
    "siftune choose": "the name of a command, in a sentence without its arguments",
    "siftune plan": "the same",
    "siftune inspect": "the same",
}
OTHERWISE = {
    r"(pip install) \.$": (r"\1 ./{wheel}", "the wheel, which a clone would build"),
    r"(pip install) '\.(\[[a-z,-]+\])'": (r"\1 './{wheel}\2'", "the wheel, which a clone would build"),
    r"Qwen/Qwen2\.5-0\.5B": ("embedded", "its weights are downloaded; the embedded model is installed"),
}
"""Parts of commands, what is typed in their place, and why."""

PREAMBLE = """
import json
from pathlib import Path

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

from siftune.models.embedded import embedded_model

rows, examples = ([json.loads(line) for line in Path(name).read_text().splitlines()]
                  for name in ("pool.jsonl", "examples.jsonl"))
model, tokenizer = (kind.from_pretrained(embedded_model()) for kind in (AutoModelForCausalLM, AutoTokenizer))
pool_vectors, target_vectors = np.random.default_rng(0).normal(size=(600, 8)), np.eye(8)
"""
"""The names that the README's blocks of Python leave open."""

STUDY = """
pool: [pool.jsonl]
output_dir: runs/study
targets: [{name: mine, target: [examples.jsonl], test: [held_out.jsonl]}]
methods: [bm25]
budgets: [4]
baselines: {random: 1}
epochs: 1
"""
"""The study file that the README leaves to its reader."""

CPU_TORCH = "torch==2.13.0"
"""Installed first, where an index would send a build for a GPU, which is gigabytes."""

_INLINE = re.compile(r"`((?:siftune|pip|python|make|git)\b[^`]*)`")


def written(page: str) -> list[Command]:
    """The commands of a page in their order: lines in blocks, and those within sentences."""
    path = ROOT / page
    found = list(commands(path))
    text = re.sub(r"^```.*?^```", lambda m: "\n" * m[0].count("\n"), path.read_text(encoding="utf-8"),
                  flags=re.MULTILINE | re.DOTALL)
    for match in _INLINE.finditer(text):
        words = " ".join(match[1].split())
        if all(words != other.text for other in found):
            found.append(Command(page, text[:match.start()].count("\n") + 1, words))
    return sorted(found, key=lambda command: command.line)


def typed(text: str, wheel: str) -> tuple[str, list[str]]:
    """What is typed for a command, and why where that is another text."""
    reasons = []
    for part, (instead, why) in OTHERWISE.items():
        other = re.sub(part, instead.format(wheel=wheel), text)
        if other != text:
            reasons.append(why)
        text = other
    return text, reasons


@dataclass(frozen=True)
class Place:
    """An environment, and a working folder for each page.

    Attributes:
        folder: everything is below.
        wheel, sdist: file names, lying in every working folder.
    """

    folder: Path
    wheel: str
    sdist: str

    def working(self, page: str) -> Path:
        return self.folder / Path(page).stem.lower()

    def environment(self) -> dict[str, str]:
        """That of a shell in which the environment is activated, without what this project's tests set."""
        kept = {name: value for name, value in os.environ.items()
                if not re.match(r"PYTHON|PYTEST|HF_|TRANSFORMERS_|TOKENIZERS_|VIRTUAL_ENV|MAKE|MFLAGS", name)}
        home = self.folder / "user"
        home.mkdir(exist_ok=True)
        cache = os.environ.get("PIP_CACHE_DIR") or str(Path.home() / ".cache/pip")
        return {**kept, "PATH": f"{self.folder / 'venv/bin'}:/usr/bin:/bin", "HOME": str(home), "PIP_CACHE_DIR": cache,
                "VIRTUAL_ENV": str(self.folder / "venv")}

    def run(self, command: str, page: str) -> tuple[int, str]:
        """Exit code and output of a command in a page's working folder."""
        done = subprocess.run(["bash", "-c", command], cwd=self.working(page), env=self.environment(), text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return done.returncode, done.stdout


def _rows(name: str) -> list[str]:
    return (ROOT / "examples/demo" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)


def _few(lines: list[str], count: int) -> list[str]:
    """The shortest rows in the file's order."""
    chosen = set(sorted(lines, key=len)[:count])
    return [line for line in lines if line in chosen]


def place(folder: Path, few: bool, offline: bool) -> Place:
    """Build, make the environment, and lay files where the pages look for them."""
    dist = build(folder)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    made = Place(folder, wheel.name, sdist.name)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    for page in PAGES:
        working = made.working(page)
        demo = working / "examples/demo"
        demo.mkdir(parents=True)
        for built in (wheel, sdist):
            (working / built.name).symlink_to(built)
        for name, own, count in (("pool", "pool", 20), ("target", "examples", 4), ("test", "held_out", 3)):
            every = _rows(name)
            short = _few(every, count)
            (demo / f"{name}.jsonl").write_text("".join(short if few else every), encoding="utf-8")
            (working / f"{own}.jsonl").write_text("".join(short), encoding="utf-8")
        (working / "grown.jsonl").write_text("".join(_few(_rows("pool"), 22)), encoding="utf-8")
        (working / "study.yaml").write_text(STUDY, encoding="utf-8")
        shutil.copy(ROOT / "examples/demo/choose.yaml", demo)
    if offline:
        # Behind the new environment's own packages: what is installed here counts as installed there. An old setuptools
        # that came with it would stand before the one that builds.
        python = folder / "venv/bin/python"
        subprocess.run([str(python), "-m", "pip", "uninstall", "-y", "-q", "setuptools"], check=True)
        site = next((folder / "venv/lib").glob("python*/site-packages"))
        here = [path for path in sys.path if path.endswith("site-packages")]
        (site / "here.pth").write_text("\n".join(here) + "\n", encoding="utf-8")
    return made


def steps(made: Place, offline: bool) -> Iterator[tuple[str, str, list[str]]]:
    """Page, command and reasons for another wording, in the order in which they are typed: installing first."""
    if not offline:
        yield PAGES[0], f"pip install {CPU_TORCH}", ["not of the pages: a build for CPUs, before siftune asks for one"]
    every = [command for page in PAGES for command in written(page) if command.text not in NOT_TYPED]
    for command in sorted(every, key=lambda command: not command.text.startswith("pip ")):
        text, reasons = typed(command.text, made.wheel)
        if offline and text.startswith("pip "):
            again = "--force-reinstall " if made.sdist in text or made.wheel in text else ""
            text = re.sub(r"pip install (--no-deps )?", "pip install --no-index --no-build-isolation --no-deps ", text)
            text = text.replace("pip install ", f"pip install {again}", 1)
            reasons.append("from this environment's packages, without an index")
        yield command.page, text, reasons
    for number, block in enumerate(blocks(ROOT / "README.md", "python"), 1):
        script = made.working("README.md") / f"block_{number}.py"
        script.write_text(PREAMBLE + "import siftune\n" * (number > 1) + block, encoding="utf-8")
        yield "README.md", f"python {script.name}", ["a block of Python, with the names that it leaves open"]


def follow(folder: Path, *, few: bool, offline: bool) -> str:
    """Type everything, until a command fails: that one and what it printed, or nothing."""
    for text, why in NOT_TYPED.items():
        print(f"not typed: {text} ({why})", flush=True)
    made = place(folder, few, offline)
    return type_all(made, steps(made, offline))


def type_all(made: Place, lines: Iterable[tuple[str, str, list[str]]]) -> str:
    """Type what :func:`steps` gives; see :func:`follow`."""
    for page, text, reasons in lines:
        print(f"{page}$ {text}" + "".join(f"\n    ({why})" for why in reasons), flush=True)
        started = time.monotonic()
        code, output = made.run(text, page)
        last = "\n".join(f"    | {line}" for line in output.rstrip().splitlines()[-12:])
        print(f"{last}\n    exit {code} after {time.monotonic() - started:.0f} s", flush=True)
        if code:
            return f"{page}: {text}: exit {code}\n{output[-4000:]}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Follow the pages in a clean environment.")
    parser.add_argument("--few", action="store_true", help="few short rows under the names that the pages use")
    parser.add_argument("--offline", action="store_true", help="packages of this environment, from no index")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in, which is kept")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (given.folder or Path(scratch)).absolute()
        if folder.is_relative_to(ROOT):
            sys.exit("the folder is to lie outside of the repository")
        failed = follow(folder, few=given.few, offline=given.offline)
    print(failed or "every command did what it should")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
