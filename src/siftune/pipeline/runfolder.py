"""Writing a run folder: the files that `select` leaves, each atomic, the manifest last."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.errors import SiftuneError
from siftune._common.files import make_folder, write_json, write_lines, write_text, write_with
from siftune._common.version import __version__
from siftune.config.settings import to_yaml
from siftune.data.rows import column
from siftune.data.write import write_dropped, write_rows
from siftune.pipeline.findings import findings
from siftune.pipeline.outcome import Outcome
from siftune.selectors import Problem, Selection
from siftune.selectors.core.constraints import CEILING, DUPLICATE, KEPT_FOR_FLOORS, TOO_LONG

NEARLY = 100  # rows of rejected_sample.jsonl


def prepare(folder: str | Path) -> Path:
    """Create the run folder and make sure that it can be written to, before any work is done.

    Raises:
        SiftuneError: it cannot be written to.
    """
    path = make_folder(folder)
    if not os.access(path, os.W_OK):
        raise SiftuneError("cannot write to the run folder", where=str(path),
                           hint="choose an --output-dir that you may write to")
    write_text(path / ".writable", "")  # what the permission bits say is not always what the file system does
    (path / ".writable").unlink()
    return path


def write_run(folder: Path, outcome: Outcome) -> None:
    """Write every file of the run folder but the report."""
    problem, selection = outcome.problem, outcome.selection
    selected = outcome.inputs.pool.take(selection.indices)
    chosen = selection.indices.tolist()
    taken = set(chosen)
    nearly = list(islice((i for i in ranking(problem, selection) if i not in taken and not problem.exclude[i]), NEARLY))

    if _selected_before(folder) != selected.ids:
        for name in ("comparison.json", "choice.json"):  # they speak of another subset
            (folder / name).unlink(missing_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)  # until all is written, the folder is not a finished run
    write_rows(folder / "selected.jsonl", selected.rows)
    write_with(folder / "selection.parquet", lambda path: _write_selection(path, outcome))
    write_with(folder / "scores.parquet", lambda path: _write_scores(path, outcome))
    write_lines(folder / "rejected_sample.jsonl", _nearly(outcome, nearly))
    write_lines(folder / "targets.jsonl", _targets(outcome))
    write_dropped(folder / "dropped.jsonl", outcome.dropped)
    write_text(folder / "config.yaml", to_yaml(outcome.config, outcome.owners))
    write_json(folder / "manifest.json", _manifest(outcome))


def clear_selection(folder: Path) -> bool:
    """Take away what an earlier run has written of its selection; features, trainings and results of trainings stay.

    Returns:
        Whether there was a selection.
    """
    there = (folder / "selected.jsonl").exists()
    for name in ("manifest.json", "selected.jsonl", "selection.parquet", "scores.parquet", "rejected_sample.jsonl",
                 "targets.jsonl", "dropped.jsonl", "config.yaml", "comparison.json"):
        (folder / name).unlink(missing_ok=True)
    return there


def _selected_before(folder: Path) -> list[str] | None:
    """The ids of the selection that is there; None where there is none, or none that can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(folder / "selection.parquet", columns=["id"])["id"].to_pylist()
    except (pa.ArrowException, OSError):
        return None


def ranking(problem: Problem, selection: Selection) -> list[int]:
    """All pool rows, the likeliest first: by what the selector ranked them by, or, where it gives rows a score only
    as it takes them, by best similarity or the method's score; ties as everywhere in siftune."""
    score = row_scores(problem) if selection.row_scores is None else selection.row_scores
    if score is None:
        return []
    return np.lexsort((problem.tiebreak, -score)).tolist()


def row_scores(problem: Problem) -> np.ndarray | None:
    """float64 [N]: the best similarity of each row, or its score; None where there is neither."""
    if problem.blocks is not None:
        return problem.summary().best
    return problem.scores


def _nearest_names(problem: Problem, nearest: np.ndarray) -> list[str | None]:
    targets: list[str] = list(problem.targets)
    return [targets[int(t)] if t >= 0 else None for t in nearest]


def _write_selection(path: Path, outcome: Outcome) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    selection = outcome.selection
    selected = outcome.inputs.pool.take(selection.indices)
    pq.write_table(pa.table({
        "id": pa.array(selected.ids, pa.string()),
        "rank": pa.array(range(1, len(selected) + 1), pa.int64()),
        "score": pa.array(selection.score, pa.float64()),
        "nearest_target": pa.array(_nearest_names(outcome.problem, selection.nearest_target), pa.string()),
        "gain": pa.array(selection.gain, pa.float64()),
        "tokens": pa.array(selected.tokens, pa.int64()),
        "source": pa.array(column(selected.rows, "source"), pa.string()),
        "group": pa.array(column(selected.rows, "group"), pa.string()),
    }), path)


def _write_scores(path: Path, outcome: Outcome) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pool, problem = outcome.inputs.pool, outcome.problem
    n = len(pool)
    rank: list[int | None] = [None] * n
    for place, row in enumerate(outcome.selection.indices.tolist(), start=1):
        rank[row] = place
    selection = outcome.selection
    nothing = pa.nulls(n, pa.float64())
    similar = problem.blocks is not None
    score = selection.row_scores
    if score is None and selection.diagnostics.get("ranked") != "no rows":
        score = np.full(n, np.nan)
        score[selection.indices] = selection.score
    pq.write_table(pa.table({
        "id": pa.array(pool.ids, pa.string()),
        "source": pa.array(column(pool.rows, "source"), pa.string()),
        "group": pa.array(column(pool.rows, "group"), pa.string()),
        "score": nothing if score is None else pa.array(score, pa.float64(), mask=~np.isfinite(score)),
        "nearest_target": pa.array(_nearest_names(problem, problem.summary().nearest) if similar else [None] * n,
                                   pa.string()),
        "similarity": pa.array(problem.summary().best, pa.float64()) if similar else nothing,
        "mean_similarity": pa.array(problem.summary().mean, pa.float64()) if similar else nothing,
        "method_score": nothing if problem.scores is None else pa.array(problem.scores, pa.float64()),
        "tokens": pa.array(pool.tokens, pa.int64()),
        "supervised": pa.array(pool.supervised, pa.int64()),
        "selected": pa.array([place is not None for place in rank], pa.bool_()),
        "rank": pa.array(rank, pa.int64()),
        "constraint": pa.array(_constraints(outcome), pa.string()),
    }), path)


def _constraints(outcome: Outcome) -> list[str | None]:
    """Why each row had to be selected, or could not be, whatever its score; None where nothing but that decided."""
    problem, state = outcome.problem, outcome.selection.state
    found: list[str | None] = [None] * len(problem)
    if state is not None:
        for reason, word in _CLOSED.items():
            for row in np.flatnonzero(state == reason).tolist():
                found[row] = word
    for row in np.flatnonzero(problem.exclude).tolist():
        found[row] = "must-exclude" if outcome.constrained.exclude[row] else "ruled-out"
    for row in problem.include.tolist():
        found[row] = "must-include"
    return found


_CLOSED = {DUPLICATE: "near-duplicate", TOO_LONG: "too-long", CEILING: "ceiling", KEPT_FOR_FLOORS: "floors"}


def _nearly(outcome: Outcome, rows: Sequence[int]) -> list[str]:
    problem = outcome.problem
    score, by = outcome.selection.row_scores, "score"
    if score is None:
        score, by = row_scores(problem), "similarity" if problem.blocks is not None else "method_score"
    nearest = problem.summary().nearest if problem.blocks is not None else np.full(len(problem), -1)
    names = _nearest_names(problem, nearest)
    lines = []
    for rank, i in enumerate(rows, start=len(outcome.selection) + 1):
        row = outcome.inputs.pool.rows[i]
        head = json.dumps({"rank": rank, "id": row.id, "score": None if score is None else float(score[i]), "by": by,
                           "nearest_target": names[i]}, ensure_ascii=False)
        lines.append(f'{head[:-1]}, "row": {row.raw}}}')  # the raw text goes in untouched
    return lines


def _targets(outcome: Outcome) -> list[str]:
    """The target rows with their best similarity and the rows selected for them.

    Where similarities are to whole subtasks, a row stands for its subtask; what was selected for it is told once.
    """
    problem, target = outcome.problem, outcome.inputs.target
    lines = {name: i for i, name in enumerate(problem.targets)}
    highest = np.full(len(lines), -np.inf)
    if problem.blocks is not None:
        for _, block in problem.stream():
            np.maximum(highest, block.max(axis=1), out=highest)
    nearest = outcome.selection.nearest_target
    taken = np.bincount(nearest[nearest >= 0], minlength=len(lines)).tolist()
    told = []
    for row in target.rows:
        line = lines.get(row.id, lines.get(row.subtask or "all"))
        best = None if line is None else float(highest[line])
        selected = 0 if line is None else taken[line]
        if line is not None and row.id not in lines:
            taken[line] = 0
        told.append(json.dumps({"id": row.id, "subtask": row.subtask,
                                "messages": [{"role": m.role, "content": m.text} for m in row.messages],
                                "best_similarity": best, "selected": selected}, ensure_ascii=False))
    return told


def _manifest(outcome: Outcome) -> dict[str, Any]:
    config, inputs, method, output = outcome.config, outcome.inputs, outcome.method, outcome.output
    loaded, store = outcome.context.loaded, outcome.context.folder / "store"
    counts = dict(Counter(column(inputs.pool.rows, "source")))
    dropped = {d.id for d in inputs.overlaps.dropped}
    overlaps = [{"kind": o.kind, "pool_id": o.a_id, "other_id": o.b_id, "other": other, "dropped": o.a_id in dropped}
                for other, found in (("test", inputs.overlaps.in_test), ("target", inputs.overlaps.in_target),
                                     ("test", inputs.overlaps.same_prompt)) for o in found]
    given = outcome.selection.diagnostics["budget"]
    return {
        "siftune": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": outcome.command,
        "seed": config.seed,
        "method": {"name": method.name, "representation": method.representation, "selector": method.selector,
                   "paper": method.paper, "reason": method.reason},
        "model": {"name": config.model, **({"class": type(loaded.model).__name__, "parameters": loaded.parameters,
                                            "dtype": loaded.dtype, "device": loaded.device} if loaded else {})},
        "data": {"pool": outcome.context.pool_key if store.is_dir() else None, "pool_rows": inputs.pool_rows,
                 "usable_rows": len(inputs.pool), "target_rows": len(inputs.target), "test_rows": len(inputs.test),
                 "sources": [{"name": k, "rows": v} for k, v in counts.items()],
                 "overlaps": overlaps, "truncated": inputs.pool.truncated, "dropped": len(outcome.dropped)},
        "budget": {"asked": config.budget, "rows": given["rows"], "tokens": given["tokens"]},
        "diagnostics": {**outcome.selection.diagnostics, **output.notes},
        "times": outcome.context.clock.steps,
        "store": {"folder": str(store), "bytes": sum(p.stat().st_size for p in store.rglob("*") if p.is_file()),
                  "fingerprint": output.fingerprint},
        "from_earlier_pools": outcome.context.taken,
        "warnings": [*inputs.warnings, *findings(outcome)],
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "peft", "numpy", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
