"""What the commands say with ``--json``: the same results as :mod:`siftune.cli.printing`, for programs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, get_type_hints

from siftune.cli.methods import needs_of, settings_of, together, values_of
from siftune.config.catalogue import METHODS, RECIPES, SELECTORS, owner_named
from siftune.config.options import OwnSettings, plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from siftune.experiments.choosing.finished import Chosen
    from siftune.experiments.finished import Experiment
    from siftune.export import Exported
    from siftune.pipeline.inspection import Inspection
    from siftune.pipeline.plan import Plan
    from siftune.pipeline.run import Run
    from siftune.pipeline.shares import ShareResult


def run(finished: Run) -> dict[str, Any]:
    """Of `select`."""
    manifest = finished.manifest
    return {"folder": str(finished.folder), "subset": str(finished.folder / "selected.jsonl"),
            "report": str(finished.report), "method": manifest["method"]["representation"],
            "selector": manifest["method"]["selector"], "usable_rows": manifest["data"]["usable_rows"],
            "rows": manifest["budget"]["rows"], "tokens": manifest["budget"]["tokens"], "ids": finished.ids}


def shared(done: ShareResult) -> dict[str, Any]:
    """Of `select --shard`."""
    return done.to_dict()


def experiment(finished: Experiment) -> dict[str, Any]:
    """Of `compare` and `study`."""
    return {"folder": str(finished.folder), "results": str(finished.file), "report": str(finished.report),
            "verdict": finished.verdict, "arms": _records(finished.to_frame()), "failed": finished.failed}


def choice(chosen: Chosen) -> dict[str, Any]:
    """Of `choose`: what to take, and why."""
    return {"folder": str(chosen.folder), "results": str(chosen.file), "report": str(chosen.report),
            "subset": None if chosen.run is None else str(chosen.folder / "selected.jsonl"), "verdict": chosen.verdict,
            "take": chosen.take, "arms": _records(chosen.to_frame())}


def plan(made: Plan) -> dict[str, Any]:
    """Of `plan`: ``seconds`` in all and of each stage, ``disk`` and ``memory`` (bytes; 0 where it was not measured),
    and every line by its name."""
    return {"seconds": made.seconds, "stages": [{"step": one.name, "seconds": one.seconds} for one in made.stages],
            "disk": made.disk, "memory": made.memory, "lines": dict(made.lines)}


def inspection(found: Inspection) -> dict[str, Any]:
    """Of `inspect`."""
    return {"stats": _plain(dataclasses.asdict(found.stats)), "warnings": list(found.warnings),
            "sources": [dataclasses.asdict(source) for source in found.sources],
            "dropped": [{"where": row.where, "id": row.id, "reason": row.reason, "detail": row.detail}
                        for row in found.dropped]}


def files(written: Sequence[Path]) -> dict[str, Any]:
    """Of commands that write files."""
    return {"files": [str(path) for path in written]}


def export(written: Exported) -> dict[str, Any]:
    """Of `export`."""
    return {**files(written.files), "rows": written.rows, "note": written.note, "warnings": list(written.warnings),
            "left_out": [{"id": row.id, "reason": row.reason, "detail": row.detail} for row in written.left_out],
            "checked": None if written.checked is None else str(written.checked),
            "differs": bool(written.checked and written.checked.differences)}


def text(told: str) -> dict[str, Any]:
    """Of what is made for people only."""
    return {"lines": told.splitlines()}


def doctor(lines: Sequence[str], fine: bool) -> dict[str, Any]:
    """Of `doctor`: every check with its status, ``ok``, ``FAIL`` or ``-`` (worth knowing)."""
    checks = [{"status": status, "told": " ".join(told.split())} for status, _, told in
              (line.partition(" ") for line in lines)]
    return {"ok": fine, "checks": checks}


def methods() -> dict[str, Any]:
    """Of `methods`."""
    return {"recipes": [{"name": one.name, "method": one.representation, "selector": one.selector,
                         "summary": one.summary, "paper": one.paper} for one in RECIPES.values()],
            "methods": [_owner(name) for name in METHODS.available()],
            "selectors": [_owner(name) for name in SELECTORS.available()]}


def method(name: str) -> dict[str, Any]:
    """Of `methods NAME`."""
    recipe = RECIPES.get(name)
    if recipe is None:
        return _owner(owner_named(name) or name)
    parts = [_owner(owner) for owner in (recipe.representation, recipe.selector) if owner != "none"]
    return {"name": name, "summary": together(recipe), "paper": recipe.paper, "parts": parts}


def _owner(name: str) -> dict[str, Any]:
    is_method = name in METHODS
    found = METHODS.get(name) if is_method else SELECTORS.get(name)
    facts = found if is_method else found.info
    hints = get_type_hints(getattr(found, "Settings", OwnSettings))
    settings = [{"name": setting, "default": plain(field.default), "help": field.metadata.get("help", ""),
                 "values": values_of(field, hints[setting]), "paper": plain(field.metadata.get("paper"))}
                for setting, field in settings_of(found).items()]
    needs, cost = (needs_of(found), found.cost) if is_method else (facts.needs, facts.complexity)
    return {"name": name, "kind": "method" if is_method else "selector", "summary": facts.summary, "paper": facts.paper,
            "needs": needs, "cost": cost, "settings": settings}


def _records(frame: Any) -> list[dict[str, Any]]:
    """The rows of a frame; what is missing is null."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _plain(value: Any) -> Any:
    """Keys as text, since JSON knows no others."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
