"""Every method that reads a forward pass from the command line, on a tiny model; and collecting in one pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from siftune.features.forward import engine
from siftune.features.store import FeatureStore
from tests.cli.command import siftune
from tests.cli.conftest import Files
from tests.cli.pools import jsonl, records
from tests.cli.runs import check_run_folder, ids_of
from tests.interrupt import stopped_after

METHODS = {
    "rds+": ("--method", "rds+"),
    "rds+, subtasks": ("--method", "rds+", "--selector", "round-robin-subtask", "--feature-dtype", "int8"),
    "mads": ("--method", "mads", "--set", "active=3"),
    "mads, threshold": ("--method", "mads", "--set", "threshold=0.2", "--set", "weights=idf"),
    "nag": ("--method", "nag"),
    "nait": ("--method", "nait", "--set", "nait_score=cosine"),
    "loss": ("--method", "loss"),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_runs_and_selects_the_same_whatever_the_batches(method: str, files: Files, tmp_path: Path) -> None:
    for name, more in (("wide", ("--batch-tokens", 4096)), ("narrow", ("--batch-tokens", 1, "--shard-rows", 3))):
        siftune(*files.select, *METHODS[method], *more, "--output-dir", tmp_path / name).ok()
        check_targets = "nag" not in method and "nait" not in method  # their lines are subtasks
        if check_targets:
            check_run_folder(tmp_path / name, pool_rows=40, selected=8)
    assert ids_of(tmp_path / "wide") == ids_of(tmp_path / "narrow")
    report = json.loads((tmp_path / "wide/report.json").read_text())
    assert report["summary"]["selected_rows"] == 8
    siftune("doctor", tmp_path / "wide", "--model", "none").ok()


def test_mads_needs_no_target(files: Files, tmp_path: Path) -> None:
    arguments = ("--model", files.model, "--pool", files.pool, "--budget", 4, "--output-dir", tmp_path / "run")
    siftune("select", *arguments, "--method", "mads").ok()
    notes = json.loads((tmp_path / "run/manifest.json").read_text())["diagnostics"]
    assert notes["set_size"]["least"] == notes["set_size"]["most"] == 3 * 20
    assert notes["features_covered"] <= notes["features"] <= 3 * 64
    page = (tmp_path / "run/report.html").read_text()
    assert "Neurons covered" in page or "Features covered" in page
    siftune("select", *arguments[:-1], tmp_path / "other", "--method", "nag").refused("compares with targets")


@pytest.mark.slow
def test_two_workers_read_the_same(files: Files, tmp_path: Path) -> None:
    arguments = (*files.select, "--method", "nait", "--collect", "rds", "--collect", "mads")
    siftune(*arguments, "--output-dir", tmp_path / "one").ok()
    siftune(*arguments, "--workers", 2, "--output-dir", tmp_path / "two").ok()
    assert ids_of(tmp_path / "one") == ids_of(tmp_path / "two")
    heads = list((tmp_path / "one/store").rglob("fingerprint.json"))
    assert len(heads) == 4, "three of the pool, one of the targets"
    for head in heads:
        one, two = (FeatureStore.load(tmp_path / run / head.parent.relative_to(tmp_path / "one"))
                    for run in ("one", "two"))
        for shard in one.shards():
            with one._open(shard) as file:
                names = list(file.keys())
            for name in names:
                np.testing.assert_allclose(two.read(shard, name), one.read(shard, name), atol=1e-6)


@pytest.mark.parametrize("method", ["rds+", "mads", "nait"])
def test_an_interrupted_pass_continues_to_the_same_selection(method: str, files: Files, tmp_path: Path) -> None:
    arguments = (*files.select, *METHODS[method], "--collect", "loss")
    siftune(*arguments, "--output-dir", tmp_path / "whole").ok()
    with stopped_after(4):
        assert siftune(*arguments, "--output-dir", tmp_path / "part").code == 130
    siftune(*arguments, "--output-dir", tmp_path / "part").ok()
    assert ids_of(tmp_path / "part") == ids_of(tmp_path / "whole")
    for path in (tmp_path / "whole/store").rglob("*.safetensors"):
        other = tmp_path / "part/store" / path.relative_to(tmp_path / "whole/store")
        assert path.stat().st_size == other.stat().st_size


def test_one_pass_collects_what_later_methods_read(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   ) -> None:
    collected = [part for name in ("mads", "nag", "nait", "loss", "ifd") for part in ("--collect", name)]
    siftune(*files.select, "--method", "rds+", *collected, "--output-dir", tmp_path / "run").ok()
    real, passes = engine.forward_features, []

    def counted(model: object, rendered: list[object], *arguments: object, **more: object) -> object:
        passes.append(len(rendered))
        return real(model, rendered, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "forward_features", counted)
    for method in ("rds+", "mads", "nag", "nait", "loss"):
        alone, later = tmp_path / f"alone-{method}", tmp_path / f"later-{method}"
        siftune("select", "--from", tmp_path / "run", "--method", method, "--output-dir", later).ok()
        # Targets of nag are read for the first time: the six of them, never the pool.
        assert passes == ([6] if method == "nag" else []), method
        siftune(*files.select, "--method", method, "--output-dir", alone).ok()
        assert ids_of(later) == ids_of(alone)
        passes.clear()
    siftune("select", "--from", tmp_path / "run", "--method", "ifd", "--output-dir", tmp_path / "ifd").ok()
    assert passes == []


def test_what_was_collected_stays_out_of_methods_that_cannot(files: Files, tmp_path: Path) -> None:
    siftune(*files.select, "--method", "rds+", "--collect", "loss", "--output-dir", tmp_path / "run").ok()
    siftune("select", "--from", tmp_path / "run", "--method", "random", "--output-dir", tmp_path / "other").ok()


@pytest.mark.parametrize(("arguments", "parts"), [
    (("--method", "rds+", "--collect", "rdss"), ("unknown feature to collect", "--collect", "did you mean 'rds'?")),
    (("--method", "less", "--collect", "rds"), ("less runs no forward pass", "--collect")),
    (("--method", "mads", "--set", "active=65"), ("64 neurons, of which 65", "active")),
    (("--method", "mads", "--set", "active=0"), ("--set active=0",)),
    (("--method", "nag", "--set", "threshold=nan"), ("threshold",)),
    (("--method", "mads", "--selector", "round-robin"), ("needs similarities to targets",)),
    (("--method", "loss", "--selector", "coverage"), ("needs the features",)),
])
def test_what_does_not_fit_is_refused(arguments: tuple[object, ...], parts: tuple[str, ...], files: Files,
                                      tmp_path: Path) -> None:
    siftune(*files.select, *arguments, "--output-dir", tmp_path / "run").refused(*parts)


def test_directions_need_targets_with_responses(files: Files, tmp_path: Path) -> None:
    arguments = ("select", "--model", files.model, "--pool", files.pool, "--output-dir", tmp_path / "run")
    siftune(*arguments, "--method", "mads", "--collect", "nait").refused("no targets", "--collect")
    siftune(*arguments, "--method", "nait").refused("compares with targets")


def test_other_weights_are_not_mixed_with_stored_features(files: Files, tmp_path: Path) -> None:
    from tests import tiny

    siftune(*files.select, "--method", "mads", "--output-dir", tmp_path / "run").ok()
    other = tiny.save(tmp_path / "model", seed=5)
    again = (*files.select, "--method", "mads", "--model", other, "--output-dir", tmp_path / "run")
    siftune(*again).refused("another model", "--recompute")
    siftune(*again, "--recompute").ok()


@pytest.mark.parametrize("representation", ["rds", "embed"])
def test_vectors_serve_selectors_that_need_no_target(representation: str, files: Files, tmp_path: Path) -> None:
    """Diversity of the pool, and what rows that the model knows lack: no target is needed for either."""
    known = jsonl(tmp_path / "old.jsonl", records("messages", range(300, 304), "old"))
    base = ("select", "--model", files.model, "--pool", files.pool, "--budget", 7)
    siftune(*base, "--method", f"{representation}:k-center", "--output-dir", tmp_path / "run").ok()
    shown = siftune(*base, "--from", tmp_path / "run", "--method", f"{representation}:flcg", "--existing", known,
                    "--output-dir", tmp_path / "continual").ok()
    assert "pool forward pass" not in shown.err
    assert len(ids_of(tmp_path / "run")) == len(ids_of(tmp_path / "continual")) == 7
    assert ids_of(tmp_path / "run") != ids_of(tmp_path / "continual")
