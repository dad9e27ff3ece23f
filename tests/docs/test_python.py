"""Every block of Python in the documentation runs, page by page, with small data under the names that it leaves open.

docs/python.md leaves none open and has a test of its own, tests/api/test_python_page.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests import tiny
from tests.cli.command import siftune
from tests.cli.pools import jsonl, records
from tests.docs.pages import ROOT, blocks, pages

ELSEWHERE = {"docs/python.md": "tests/api/test_python_page.py", "docs/trainers.md": "the last test here"}


def run(page: str, names: dict[str, Any], *, first: int | None = None, **replaced: str) -> dict[str, Any]:
    """Run the blocks of a page in one namespace, or the first ones alone."""
    for number, block in enumerate(blocks(ROOT / page, "python")[:first], 1):
        for name, other in replaced.items():
            block = block.replace(name, other)
        exec(compile(block, f"{page}, block {number}", "exec", dont_inherit=True), names)
    return names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("python")
    tiny.save(made / "tiny")
    jsonl(made / "pool.jsonl", records("messages", range(40)))
    jsonl(made / "few.jsonl", records("messages", range(100, 104), "few"))
    jsonl(made / "test.jsonl", records("messages", range(200, 204), "test"))
    return made


def test_the_readme(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(folder)
    rng = np.random.default_rng(0)
    read = {name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
            for name in ("pool", "few")}
    run("README.md", {
        "rows": read["pool"], "examples": read["few"], "model": AutoModelForCausalLM.from_pretrained(folder / "tiny"),
        "tokenizer": AutoTokenizer.from_pretrained(folder / "tiny"),
        "pool_vectors": rng.normal(size=(600, 8)), "target_vectors": rng.normal(size=(5, 8))})
    assert "selected; rank 1 of 2" in capsys.readouterr().out


def test_the_page_of_choosing() -> None:
    rng = np.random.default_rng(0)
    names = {f"scores_{arm}": rng.random(40) for arm in "abc0"} | {f"loss_{arm}": 1.0 for arm in "abc0"}
    # The second block trains: tests/cli/test_choosing_page.py.
    assert len(blocks(ROOT / "docs/choosing.md", "python")) == 2
    assert run("docs/choosing.md", names, first=1)["found"].take in ("random", "bm25", "less", "untuned")


def test_the_page_of_selectors() -> None:
    rng = np.random.default_rng(0)
    names = {"S": rng.random((3, 40)), "ids": [f"row-{i}" for i in range(40)], "X": rng.normal(size=(40, 6))}
    assert len(run("docs/selectors.md", names)["selection"].indices) == 2


def test_the_page_of_studies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    target = {"name": "sums", "target": ["few.jsonl"], "test": ["test.jsonl"]}
    study = {"pool": ["pool.jsonl"], "model": "tiny", "output_dir": "runs/study", "lora_rank": 2, "epochs": 1,
             "exact_match_tokens": 0, "targets": [target], "methods": ["bm25"], "budgets": [4],
             "baselines": {"random": 1}}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    assert not run("docs/study.md", {})["done"].failed


def test_the_page_of_plugins() -> None:
    names = run("docs/plugin.md", {})
    assert names["Shortest"].Settings().power == 1.0


def test_every_page_with_python_has_a_test() -> None:
    found = {page.relative_to(ROOT).as_posix() for page in pages() if blocks(page, "python")}
    tested = {"README.md", "docs/choosing.md", "docs/selectors.md", "docs/study.md", "docs/plugin.md"}
    assert found == tested | set(ELSEWHERE)


@pytest.mark.slow
def test_a_training_script_and_a_warmup_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    monkeypatch.chdir(folder)
    names = run("docs/trainers.md", {}, **{"Qwen/Qwen2.5-0.5B": "tiny", "SFTConfig(output_dir":
                                           "SFTConfig(use_cpu=True, bf16=False, max_length=128, output_dir"})
    assert len(names["run"].rows) == 2
    assert names["trainer"].state.global_step == 4
    page = (ROOT / "docs/trainers.md").read_text(encoding="utf-8")
    typed = next(line for line in page.splitlines() if line.startswith("    siftune select")).split()[1:]
    siftune(*typed, "--model", "tiny", "--budget", 4, "--max-length", 128).ok()
    manifest = json.loads((folder / "runs/a/manifest.json").read_text())
    assert sum(manifest["diagnostics"]["checkpoint_weights"]) == pytest.approx(1, abs=1e-5)
