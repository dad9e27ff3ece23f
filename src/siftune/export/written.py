"""What a writer of an export gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Written:
    """Files of an export.

    Attributes:
        files: The data file first, then what belongs to it.
        note: How to train on it.
        settings: The file with the trainer's settings, where there is one.
        warnings: What is not as the user would expect, such as rows that the trainer leaves out.
    """

    files: list[Path]
    note: str
    settings: Path | None = None
    warnings: list[str] = field(default_factory=list)
