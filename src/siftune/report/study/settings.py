"""What a setting changes, and how the subtasks of a target fare, as the page shows them."""

from __future__ import annotations

from typing import Any

from siftune.experiments.results import Results


def ablations(study: Results) -> list[dict[str, Any]]:
    """Each ablation by target and budget, its settings in words; those that have no subset yet are left out."""
    return [{**a.model_dump(), "words": ", ".join(f"{name}: {_shown(value)}" for name, value in a.settings.items())}
            for a in study.analyses.ablations if a.rows is not None]


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def subtasks(study: Results) -> list[dict[str, Any]]:
    """Each arm on each subtask, in the order of the file."""
    return [t.model_dump() for t in study.analyses.subtasks]
