"""Quotas over groups, sources, lengths and scores, from flags and from YAML."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tests.cli.command import siftune
from tests.cli.conftest import Files
from tests.cli.runs import table


def _parts(scores: dict[str, list[object]], column: str, parts: int) -> dict[str, int]:
    """Row id -> part (1 is the lowest), by plain sorting with ids deciding ties."""
    order = sorted(zip(scores[column], scores["id"], strict=True))  # type: ignore[type-var]
    return {row: 1 + place * parts // len(order) for place, (_, row) in enumerate(order)}  # type: ignore[misc]


def test_strata_of_scores_and_lengths_bound_what_is_taken(finished: Path, tmp_path: Path) -> None:
    for column, strata, quotas in (
            ("similarity", "score:4", {1: (2, None), 4: (None, 3)}),
            ("supervised", "length:3", {1: (3, 4), 3: (None, 1)})):
        by = strata.partition(":")[0]
        run = tmp_path / by
        flags = [part for k, (low, high) in quotas.items()
                 for part in ("--quota", f"{by}-{k}={low or ''}..{high or ''}")]
        siftune("select", "--from", finished, "--strata", strata, *flags, "--budget", 8, "--output-dir", run).ok()
        scores = table(run / "scores.parquet")
        parts = _parts(scores, column, int(strata[-1]))
        taken = Counter(parts[row] for row, selected in zip(scores["id"], scores["selected"], strict=True) if selected)
        assert sum(taken.values()) == 8
        for k, (low, high) in quotas.items():
            assert (low or 0) <= taken[k] <= (8 if high is None else high), (strata, k, taken)
        assert max(Counter(parts.values()).values()) - min(Counter(parts.values()).values()) <= 1


def test_quotas_and_strata_are_read_from_yaml(files: Files, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "goal.yaml").write_text("from: " + json.dumps(str(finished)) + "\nstrata: source\nbudget: 6\n"
                                        "quotas: [pool=6..6]\noutput_dir: " + json.dumps(str(tmp_path / "run")) + "\n")
    siftune("select", "--config", tmp_path / "goal.yaml", "--from", finished).ok()
    assert len(pq.read_table(tmp_path / "run" / "selection.parquet")) == 6


def test_wrong_strata_are_refused(files: Files, finished: Path, tmp_path: Path) -> None:
    run = ("select", "--from", finished, "--output-dir", tmp_path / "run", "--budget", 5)
    siftune(*run, "--strata", "size:4").refused("size:4", "--strata", "length:4")
    siftune(*run, "--strata", "score:1").refused("--strata")
    siftune(*run, "--strata", "score:4", "--quota", "score-9=1..").refused("score-9")
    siftune("select", "--model", files.model, "--pool", files.pool, "--method", "random", "--budget", 5, "--strata",
            "score:4", "--quota", "score-1=1..", "--output-dir", tmp_path / "other").refused("--strata", "length:4")


def test_a_stratum_does_not_depend_on_the_order_of_the_pool() -> None:
    from siftune.data.load import Inputs
    from siftune.data.overlap import Disjoint
    from siftune.pipeline.strata import strata_of
    from tests.methods.contexts import examples

    pool = examples(12, 3)
    values = np.array([1.0, 1, 2, 2, 2, 0, 0, 5, 5, 5, 5, 1])

    def parts(order: list[int]) -> dict[str, str]:
        rows = type(pool)([pool.rows[i] for i in order], [pool.rendered[i] for i in order])
        inputs = Inputs(rows, rows, rows, 12, [], Disjoint([], [], [], [], []), {})
        return dict(zip(rows.ids, strata_of("score:4", inputs, values[order]), strict=True))

    assert parts(list(range(12))) == parts([5, 3, 1, 0, 2, 4, 11, 10, 9, 8, 7, 6])
