"""docs/choosing.md is true of the command: what stands there can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from siftune.config.choosing import DEFAULT_ARMS
from tests.cli.command import siftune
from tests.experiments.choices import write_files

PAGE = (Path(__file__).parents[2] / "docs" / "choosing.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## The command"):PAGE.index("## To take and to claim")]
COMMANDS = [shlex.split(line) for line in re.findall(r"^    (siftune .*)", SECTION, re.MULTILINE)]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the page names, and the model as a flag."""
    folder = tmp_path_factory.mktemp("page")
    write_files(folder)
    (folder / "validation.jsonl").rename(folder / "labelled.jsonl")
    [yaml] = re.findall(r"^```yaml\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
    (folder / "choose.yaml").write_text(yaml)
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_the_page_can_be_typed(here: Path, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    small = ["--model", "model", "--lora-rank", "2", "--max-length", "64", "--epochs", "1", "--budget", "4"]
    told = ["choose" if word == "select" else word for word in command[1:] if word != "--choose"]
    told = siftune(*told, *small, *([] if "--dry-run" in command else ["--dry-run"])).ok().out
    assert re.search(r"in all +at most \d+ trainings", told)
    if "--arms" not in command and "--config" not in command:
        for arm in DEFAULT_ARMS:
            assert re.search(rf"^{re.escape(arm)} +(features: |not tried: )", told, re.MULTILINE), arm


def test_the_page_has_a_command_of_every_kind() -> None:
    assert len(COMMANDS) == 4
    words = {word for command in COMMANDS for word in command}
    assert words >= {"choose", "select", "--choose", "--dry-run", "--within", "--validation", "--arms", "--config"}


def test_the_code_of_the_page_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import siftune as package

    monkeypatch.chdir(here)
    [code] = re.findall(r"^```python\n(chosen.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
    small = ('budget=4, model="model", lora_rank=2, max_length=64, epochs=1, folds=2, random_trainings=1, '
             'metric="loss", output_dir="run"')
    names = {"siftune": package}
    exec(compile(code.replace("budget=100", small), "choosing.md", "exec", dont_inherit=True), names)
    chosen = names["chosen"]
    assert (chosen.run is None) == (chosen.take == "untuned")  # type: ignore[attr-defined]
