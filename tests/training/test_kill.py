"""A run killed at any moment and started again ends with the very bytes of a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from siftune._common import files

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_started_again_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.training.kill_driver", str(tmp_path)], cwd=ROOT,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [o["killed"] for o in outcomes] == [0] + [1] * (len(outcomes) - 1), outcomes
    assert all(o["finished"] for o in outcomes)
    calm = tmp_path / "0"
    for number, outcome in enumerate(outcomes):
        folder = tmp_path / str(number)
        assert (folder / "adapter.safetensors").read_bytes() == (calm / "adapter.safetensors").read_bytes(), outcome
        summaries = [files.read_json(f / "training.json")["content"]["about"] for f in (folder, calm)]
        for summary in summaries:
            del summary["seconds"]
        assert summaries[0] == summaries[1], outcome
        left = [p.name for p in folder.iterdir() if not p.name.endswith(".tmp")]
        assert sorted(left) == ["adapter.safetensors", "training.json"], outcome
