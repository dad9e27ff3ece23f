"""Features that were made from something else: where that is told, and the refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siftune._common.errors import StoreMismatch

METHOD = "features of a method"
"""Kind of the note above a method's stores."""


def mismatch(folder: Path, field: str, stored: Any, wanted: Any) -> StoreMismatch:
    """The refusal to mix features: which field differs, and what to type."""
    return StoreMismatch(
        f"the stored features were made with another {field}",
        field=field,
        where=str(folder),
        why=f"stored: {_short(stored)}; now: {_short(wanted)}",
        hint="choose another --output-dir, or pass --recompute to replace them; with --from they are another run's: "
             "leave it out to keep them",
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
