"""Everything the report says, as one dictionary: ``report.json``, and the only thing the page is made from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siftune._common.text import clip, counted, shorten, strict
from siftune.report import choice as choices
from siftune.report import composition, turns
from siftune.report.comparison import comparison_section
from siftune.report.runfolder import PURPOSE, RunFolder
from siftune.report.verdict import verdict

if TYPE_CHECKING:
    import pyarrow as pa

    from siftune.report.manifest import Manifest

SCHEMA = 1
BEST = NEARLY = 10
DROPPED = OVERLAPS = 50
TARGET_TEXTS = 200
CONFIG_CHARACTERS = 200_000


@dataclass(frozen=True)
class _Tables:
    """The pool's scores and the selection, as columns; what a file lacks is ``None``."""

    pool: pa.Table | None
    selection: pa.Table | None

    @property
    def selected(self) -> np.ndarray:
        """bool [N]: which rows of the pool were selected; empty without a pool."""
        return np.zeros(0, dtype=bool) if self.pool is None else composition.flags(self.pool, "selected")


def build_report(run: str | Path) -> dict[str, Any]:
    """Read a run folder and return all that its report says, as strict JSON values.

    Raises:
        DataError: the folder is missing, is not a run folder, or one of its files cannot be read.
    """
    folder = RunFolder(Path(run))
    manifest, comparison, choice = folder.manifest(), folder.comparison(), folder.choice()
    pool = folder.table("scores.parquet", ("id", "selected"))
    selection = folder.table("selection.parquet", ("id", "rank"))
    if selection is None and pool is not None:
        selection = pool.filter(pool.column("selected"))
    if selection is not None and "rank" in selection.column_names:
        selection = selection.sort_by("rank")
    tables = _Tables(pool, selection)
    targets = folder.records("targets.jsonl")
    config = folder.text("config.yaml")
    return strict({
        "schema": SCHEMA,
        "siftune": manifest.siftune,
        "run": folder.path.resolve().name,
        "verdict": choices.verdict(choice) if choice and not comparison else verdict(comparison, manifest),
        "warnings": manifest.warnings + _findings(tables),
        "missing": [{"file": name, "shows": PURPOSE[name]} for name in folder.missing],
        "summary": _summary(manifest, tables, targets),
        "has_selection": folder.has_selection,
        "choice": choices.choice_section(choice) if choice else None,
        "comparison": comparison_section(comparison) if comparison else None,
        "composition": _composition(tables),
        "scores": _scores(tables, manifest),
        "targets": _targets(targets, tables),
        "coverage": _coverage(manifest.diagnostics),
        "rows": {"best": _best(folder, tables, targets), "nearly": _nearly(folder, targets)},
        "dropped": _dropped(folder),
        "overlaps": _overlaps(manifest),
        "cost": {
            "steps": [step.model_dump() for step in manifest.times],
            # What was taken from an earlier run has cost this one nothing but a look at it.
            "seconds": sum(step.seconds or 0.0 for step in manifest.times if not step.reused)
            if manifest.times else None,
            "store": manifest.store.model_dump() if manifest.store else None,
        },
        "diagnostics": manifest.diagnostics,
        "config": None if config is None else clip(config, CONFIG_CHARACTERS)[0],
        "command": manifest.command,
    })


def _summary(manifest: Manifest, tables: _Tables, targets: list[dict[str, Any]]) -> dict[str, Any]:
    usable = len(tables.pool) if tables.pool is not None else manifest.data.usable_rows
    tokens = None if tables.selection is None else composition.floats(tables.selection, "tokens")
    return {
        "created": manifest.created,
        "seed": manifest.seed,
        "method": manifest.method.model_dump(),
        "model": manifest.model.model_dump(by_alias=True) if manifest.model else None,
        "budget": manifest.budget.model_dump(),
        "pool_rows": manifest.data.pool_rows,
        "usable_rows": usable,
        "truncated_rows": manifest.data.truncated,
        "target_rows": manifest.data.target_rows if manifest.data.target_rows is not None else len(targets) or None,
        "selected_rows": manifest.budget.rows if tables.selection is None else len(tables.selection),
        "selected_tokens": manifest.budget.tokens if tokens is None else int(np.nansum(tokens)),
    }


def _findings(tables: _Tables) -> list[str]:
    """What the report itself finds wrong with the numbers it was given."""
    found = []
    if tables.pool is not None:
        scores = composition.floats(tables.pool, "score")
        if scores is not None:
            nulls = tables.pool.column("score").null_count
            broken = int((~np.isfinite(scores)).sum()) - nulls
            if broken:
                found.append(f"{counted(broken)} with a score that is not a finite number: left out of the "
                             "distribution, and should not have been ranked.")
        if tables.selection is not None and tables.pool is not tables.selection:
            marked = int(tables.selected.sum())
            if marked != len(tables.selection):
                found.append(f"scores.parquet marks {counted(marked)} as selected, selection.parquet lists "
                             f"{len(tables.selection):,}: the two files are not of the same run.")
    return found


def _composition(tables: _Tables) -> dict[str, Any] | None:
    if tables.pool is None or not len(tables.pool):
        return None
    pool, selected = tables.pool, tables.selected
    tokens, supervised = composition.floats(pool, "tokens"), composition.floats(pool, "supervised")
    sources = composition.shares(pool, "source", selected, tokens)
    groups = composition.shares(pool, "group", selected, tokens)
    lengths = {
        name: {"pool": composition.summary(values), "selected": composition.summary(values[selected])}
        for name, values in (("tokens", tokens), ("supervised", supervised)) if values is not None
    }
    return {
        "sources": sources,
        "groups": None if groups == sources else groups,  # a row without a group counts as its source
        "lengths": lengths,
        "histogram": None if tokens is None else composition.length_histogram(tokens, tokens[selected]),
    }


def _scores(tables: _Tables, manifest: Manifest) -> dict[str, Any] | None:
    """The distribution of what the selector ranked all rows by; where it gave them a score only as it took them, of
    their best similarities, or the method's scores. ``of`` says of which column."""
    if tables.pool is None:
        return None
    ranked = manifest.diagnostics.get("ranked")
    columns = ("score", "similarity", "method_score") if ranked != "when taken" else ("similarity", "method_score")
    for column in columns:
        scores = composition.floats(tables.pool, column)
        histogram = None if scores is None else composition.score_histogram(scores, tables.selected)
        if scores is not None and histogram is not None:
            break
    else:
        return None
    if column != "score":
        histogram["cut"] = histogram["passed_over"] = None  # the selector has not cut there
    elif "constraint" in tables.pool.column_names and histogram["cut"] is not None:
        free = np.array([reason is None for reason in tables.pool.column("constraint").to_pylist()], dtype=bool)
        own = scores[free & tables.selected]
        if len(own):
            cut = float(np.nanmin(own))
            histogram["cut"], histogram["passed_over"] = cut, int((free & ~tables.selected & (scores > cut)).sum())
    return {**histogram, "of": column, "ranked": ranked if isinstance(ranked, str) else None,
            "summary": {"pool": composition.summary(scores),
                        "selected": composition.summary(scores[tables.selected])}}


def _targets(targets: list[dict[str, Any]], tables: _Tables) -> dict[str, Any] | None:
    """Coverage by target; counted from the selection where there is no ``targets.jsonl``."""
    if not targets:
        if tables.selection is None or "nearest_target" not in tables.selection.column_names:
            return None
        counts = Counter(name for name in tables.selection.column("nearest_target").to_pylist() if name is not None)
        targets = [{"id": name, "selected": taken} for name, taken in sorted(counts.items())]
        if not targets:
            return None
    listed = [{"id": target.get("id"), "subtask": target.get("subtask"), "selected": target.get("selected"),
               "best_similarity": target.get("best_similarity")} for target in targets]
    order = sorted(range(len(listed)), key=lambda index: (listed[index]["selected"] or 0, index))
    shown = sorted(order[:TARGET_TEXTS])  # the least covered where there are too many, in the file's order
    if not any(entry["selected"] for entry in listed) and not _is_matched(tables):
        listed = [{**entry, "selected": None} for entry in listed]  # nothing was chosen for any target in particular
    known = [entry["selected"] for entry in listed if entry["selected"] is not None]
    return {
        "count": len(listed),
        "without_rows": sum(taken == 0 for taken in known) if known else None,
        "listed": listed,
        "shown": [{**listed[index], "gist": _gist(targets[index]), "view": turns.view(targets[index])}
                  if "messages" in targets[index] else listed[index] for index in shown],
    }


def _is_matched(tables: _Tables) -> bool:
    """Whether the selection says of any row which target it was taken for; true where that is not known."""
    if tables.selection is None or "nearest_target" not in tables.selection.column_names:
        return True
    column = tables.selection.column("nearest_target")
    return column.null_count < len(column)


def _coverage(diagnostics: dict[str, Any]) -> dict[str, Any] | None:
    """Of a selector that covers feature sets; ``None`` where there is none, or what it says is not a curve."""
    curve, features = diagnostics.get("coverage_curve"), diagnostics.get("features")
    if not isinstance(curve, list) or not curve or not _count(features):
        return None
    if not all(isinstance(point, list) and len(point) == 2 and all(map(_count, point)) for point in curve):
        return None
    return {"features": features, "covered": curve[-1][1], "curve": curve,
            "told": [curve[round(place * (len(curve) - 1) / 9)] for place in range(10)] if len(curve) > 10 else curve}


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _gist(row: Any) -> str:
    return shorten(turns.gist(row), 140)


def _best(folder: RunFolder, tables: _Tables, targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if tables.selection is None:
        return []
    rows = folder.lines("selected.jsonl", BEST)
    texts = _target_texts(targets)
    best = []
    for position, entry in enumerate(tables.selection.slice(0, BEST).to_pylist()):
        row = rows[position] if position < len(rows) else None
        best.append(_row(entry, row, texts, has_row=position < len(rows)))
    return best


def _nearly(folder: RunFolder, targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    texts = _target_texts(targets)
    return [_row(entry, entry.get("row"), texts, has_row="row" in entry)
            for entry in folder.records("rejected_sample.jsonl", NEARLY)]


def _target_texts(targets: list[dict[str, Any]]) -> dict[str, str]:
    return {str(target.get("id")): _gist(target) for target in targets if "messages" in target}


def _row(entry: dict[str, Any], row: Any, texts: dict[str, str], *, has_row: bool) -> dict[str, Any]:
    target = entry.get("nearest_target")
    return {
        **{key: entry.get(key) for key in ("rank", "id", "source", "score", "gain", "tokens")},
        "target": target,
        "target_gist": texts.get(str(target)),
        "gist": _gist(row) if has_row else None,
        "view": turns.view(row) if has_row else None,
    }


def _dropped(folder: RunFolder) -> dict[str, Any] | None:
    if not folder.has("dropped.jsonl"):
        return None
    rows = folder.records("dropped.jsonl")
    reasons = Counter(str(row.get("reason")) for row in rows)
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return {
        "count": len(rows),
        "reasons": [{"reason": reason, "rows": rows} for reason, rows in ordered],
        "first": [{key: row.get(key) for key in ("id", "source", "where", "reason", "detail")}
                  for row in rows[:DROPPED]],
    }


def _overlaps(manifest: Manifest) -> dict[str, Any]:
    overlaps = manifest.data.overlaps
    kinds = Counter((str(overlap.other), overlap.kind) for overlap in overlaps)
    return {
        "count": len(overlaps),
        "kinds": [{"other": other, "kind": kind, "rows": rows} for (other, kind), rows in sorted(kinds.items())],
        "first": [overlap.model_dump() for overlap in overlaps[:OVERLAPS]],
    }
