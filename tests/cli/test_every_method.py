"""Every method of `siftune methods`, from the command line: a whole run folder, and a plan that comes true."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from siftune.config.catalogue import DELIFT_STAGES, RECIPES
from tests.cli.command import siftune
from tests.cli.conftest import Files
from tests.cli.pools import jsonl, records
from tests.cli.runs import check_run_folder

#: The target file and the rows that the model knows, as they are given to each.
CASES = {
    **{name: ("target",) for name in RECIPES if name != "delift"},
    **{f"delift {selector}": tuple(kind for kind, given in zip(("target", "existing"), stage, strict=True) if given)
       for stage, selector in DELIFT_STAGES.items()},
}
SMALL = """
less: {projection_dim: 64, warmup_epochs: 2, warmup_rows: 8, warmup_learning_rate: 1.0e-3}
gist: {warmup_epochs: 2, warmup_rows: 8, warmup_learning_rate: 1.0e-3}
logra: {projection_dim: 64}
learning-percentage: {training_learning_rate: 1.0e-3}
delift: {pairs: sparse, nominees: 2, random_nominees: 1}
mads: {active: 5}
nag: {active: 5}
k-means-balanced: {clusters: 3}
"""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jsonl(tmp_path_factory.mktemp("known") / "old.jsonl", records("messages", range(300, 305), "old"))


@pytest.mark.parametrize("case", CASES)
def test_every_method_leaves_a_whole_run_and_costs_what_was_planned(case: str, files: Files, known: Path,
                                                                    tmp_path: Path) -> None:
    method, _, stage = case.partition(" ")
    given = {"target": ("--target", files.target), "existing": ("--existing", known)}
    parts = [flag for kind in CASES[case] for flag in given[kind]]
    small = tmp_path / "small.yaml"
    small.write_text(SMALL)
    flags = ["--model", files.model, "--pool", files.pool, *parts, "--method", method, "--budget", 8, "--config", small,
             "--lora-rank", 2, "--batch-tokens", 256, "--max-length", 128]
    plan = siftune("plan", *flags, "--output-dir", tmp_path / "run").ok().out
    assert not (tmp_path / "run").exists(), "a plan writes nothing"
    siftune("select", *flags, "--output-dir", tmp_path / "run").ok()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    selected = manifest["budget"]["rows"]
    assert selected == min(8, 40 - manifest["data"]["dropped"]), "less only where a method rules out too many rows"
    check_run_folder(tmp_path / "run", pool_rows=40, selected=selected)
    if stage:
        assert manifest["method"]["selector"] == stage
    said = re.search(r"disk\s+([\d,.]+) MiB", plan)
    if said:
        # Shard headers, fingerprints and norms come on top of the numbers; on 40 rows they weigh something.
        kept = sum(p.stat().st_size for p in (tmp_path / "run" / "store").rglob("*.safetensors"))
        assert float(said[1].replace(",", "")) * 2**20 == pytest.approx(kept, rel=0.2, abs=120_000)
    else:
        assert "no model is run" in plan
