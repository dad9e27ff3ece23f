"""Every command in the documentation works: run on small data, or listed here with the reason why it is not.

What is run is run as it stands, page by page from top to bottom, in a folder with small files of the names that pages
use; only the model is another one (tiny), and passes and trainings are short. Of a command of siftune's that is listed,
the flags at least are those that the command has.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from siftune.cli.output import SHORT_HELP
from tests import tiny
from tests.cli.command import siftune
from tests.cli.pools import conversation, jsonl, records
from tests.docs.pages import ROOT, Command, commands, pages

NOT_RUN = {
    "make ": "the tests themselves, or a demo of a quarter of an hour (`make smoke` runs a short one)",
    "python -m twine": "twine is not among the packages of the tests",
    "python -m tests.packaging.five_minutes": "tests/packaging/test_five_minutes.py runs it with --few and --offline",
    "pip install": "installs packages; tests/packaging builds the wheel, tests/config/test_plugin.py the template",
    "python benchmarks/": "benchmarks take minutes to hours and have tests of their own logic",
    "python examples/build_demo.py": "tests/test_demo_data.py holds the shipped data against the generators",
    "siftune --install-completion": "writes into the shell's start-up file; tests/cli/test_habits.py completes",
    "siftune study benchmarks/study/study.yaml": "two hours; tests/cli/test_study.py runs small ones",
    "siftune study study.yaml": "tests/cli/test_study.py runs one; its --dry-run is run here",
    "siftune methods word-overlap": "tests/config/test_plugin.py runs it with the template installed",
    "siftune select --pool pool.jsonl --target few.jsonl --method word-overlap": "tests/config/test_plugin.py runs it",
    "siftune select --pool pool.jsonl --target few.jsonl --method less --set checkpoints":
        "tests/docs/test_python.py runs it, behind the training that the page shows",
    "siftune choose": "dozens of trainings; tests/cli/test_choose.py runs small ones",
    "siftune select --choose": "the same",
    "siftune compare run.yaml": "trainings; the compare of README.md is run",
    "siftune select --pool pool.csv --columns prompt=question,completion=solution ...":
        "an excerpt; run by the test below",
}
NOT_RUN_PAGES = {
    "docs/export.md": "trainers have environments of their own; tests/export runs every form",
    "docs/results.md": "hours of trainings",
    "docs/scaling.md": "clusters and GPUs; tests/execution and tests/gpu run what can be run here",
    "docs/real-run.md": "its data is downloaded, and it takes hours",
    "docs/claims.md": "its data is downloaded, and it takes hours",
    "benchmarks/skills/README.md": "hours on an accelerator",
    "examples/demo/README.md": "builds the shipped data; tests/test_demo_data.py",
}
SMALL = {"lora_rank": 2, "max_length": 96, "shard_rows": 16, "batch_tokens": 4096}
SHORT = ("less", "gist")
"""Methods whose warmup is shortened."""


def all_commands() -> list[Command]:
    return [command for page in pages() for command in commands(page)]


def reason(command: Command) -> str | None:
    return next((why for start, why in NOT_RUN.items() if command.text.startswith(start)),
                NOT_RUN_PAGES.get(command.page))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small files of the names that pages use."""
    folder = tmp_path_factory.mktemp("pages")
    tiny.save(folder / "tiny")
    rows = records("messages", range(48))
    jsonl(folder / "pool.jsonl", [{**row, "group": ("math", "chat", "code")[i % 3]} for i, row in enumerate(rows)])
    jsonl(folder / "grown.jsonl", [*rows[5:], *records("messages", range(60, 63), "new")])
    for name, first in (("examples", 100), ("few", 100), ("held_out", 200), ("old", 300), ("trained_on", 300)):
        jsonl(folder / f"{name}.jsonl", records("messages", range(first, first + 4), name))
    vectors = np.random.default_rng(0).normal(size=(52, 8)).astype(np.float32)
    np.save(folder / "vectors.npy", vectors[:48])
    np.save(folder / "few.npy", vectors[48:])
    (folder / "scores.csv").write_text("id,score\n" + "".join(f"{row['id']},{i % 7}\n" for i, row in enumerate(rows)))
    questions = [json.dumps(text)[1:-1].replace('"', "'") for i in range(48) for text in conversation(i)]
    pairs = zip(questions[::2], questions[1::2], strict=True)
    (folder / "pool.csv").write_text("question,solution\n" + "".join(f'"{q}","{a}"\n' for q, a in pairs))
    shared = {"pool": ["pool.jsonl"], "model": "tiny", "output_dir": "runs/study", **SMALL}
    target = {"name": "sums", "target": ["examples.jsonl"], "test": ["held_out.jsonl"]}
    (folder / "study.yaml").write_text(yaml.safe_dump({**shared, "targets": [target], "methods": ["bm25"],
                                                       "budgets": [4]}))
    demo = folder / "examples/demo"
    demo.mkdir(parents=True)
    for name, there in (("pool", "pool"), ("target", "examples"), ("test", "held_out")):
        shutil.copy(folder / f"{there}.jsonl", demo / f"{name}.jsonl")
    return folder


def typed(command: Command, used: list[str]) -> list[str]:
    """The words of a command, on the tiny model and with short passes."""
    words = shlex.split(command.text)[1:]
    if ">" in words:
        words = words[:words.index(">")]
    if words[0] == "inspect":
        return [*words, "--model", "tiny"]
    if words[0] not in ("select", "compare", "plan"):
        return words
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    method = next((words[i + 1] for i, word in enumerate(words) if word == "--method"), "auto")
    if "--from" in words:
        flags = []
    else:
        flags += ["--model", "tiny"]
        owners = [owner for owner in SHORT if method.startswith(owner)]
        owners += ["less"] if method == "auto" and "--target" in words and "--representation" not in words else []
        flags += [f"--set={owner}.{setting}" for owner in dict.fromkeys(owners) for setting in
                  ("warmup_epochs=1", "warmup_rows=8", "projection_dim=64")]
    if "--budget" in words and words[words.index("--budget") + 1].isdigit():
        words[words.index("--budget") + 1] = "6"  # rows of a pool of 48
    if words[0] == "compare":
        flags += ["--epochs=1", "--seeds=1", "--exact-match-tokens=0"]
    if "--output-dir" not in words and not any(word.endswith(".yaml") for word in words):
        flags += ["--output-dir", f"runs/own-{len(used)}"]
    return [*words, *flags]


RUN = [page for page in pages() if any(reason(command) is None for command in commands(page))]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_run_in_their_order(page: Path, small: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    for path in small.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    before = NEEDED.get(page.relative_to(ROOT).as_posix())
    used: list[str] = [*([before] if before else []), *(c.text for c in commands(page) if reason(c) is None)]
    for text in used:
        words = typed(Command(page.name, 0, text), used[:used.index(text)])
        done = siftune(*words)
        assert done.code == 0, f"{page.name}: {text}\n{done.err}"
        if " > " in text:
            Path(text.split(" > ")[1]).write_text(done.out)
            json.loads(done.out)


NEEDED = {"docs/selectors.md": "siftune select --pool pool.jsonl --target few.jsonl --method rds+ --output-dir runs/a"}
"""A run that a page takes for given."""


def test_what_is_not_run_has_at_least_the_flags_that_it_names() -> None:
    seen = 0
    for command in all_commands():
        if reason(command) is not None and command.text.startswith("siftune ") and "word-overlap" not in command.text:
            words = [word for word in shlex.split(command.text)[1:] if word != "..."]
            done = siftune(*words, "--help")
            assert done.code == 0, f"{command}\n{done.err}"
            seen += 1
    assert seen >= 5


def test_every_reason_is_still_needed() -> None:
    texts = [command.text for command in all_commands()]
    assert [start for start in NOT_RUN if not any(text.startswith(start) for text in texts)] == []
    assert [page for page in NOT_RUN_PAGES if not (ROOT / page).is_file()] == []
    assert len([command for command in all_commands() if reason(command) is None]) >= 25


def test_columns_of_other_names_as_the_page_says(small: Path, tmp_path: Path) -> None:
    siftune("select", "--pool", small / "pool.csv", "--columns", "prompt=question,completion=solution", "--method",
            "random", "--model", small / "tiny", "--budget", 4, "--output-dir", tmp_path / "run").ok()


def test_the_short_help_names_commands_that_take_what_it_says() -> None:
    for line in SHORT_HELP.splitlines():
        if line.startswith("  siftune "):
            words = shlex.split(line)[1:]
            assert siftune(words[0], "--help").code == 0
