"""What is known about each selector, for the front door and for ``siftune methods``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from siftune.config.options import OwnSettings
from siftune.selectors.core.selection import Selection


@dataclass(frozen=True)
class SelectorInfo:
    """A selector in a few words.

    Attributes:
        name: as written after ``--selector``.
        summary: one sentence, what it does.
        paper: where it was published; empty for a folk baseline.
        needs: what the problem must carry. ``scores`` is satisfied by similarities too,
            ``kernel`` by vectors.
        complexity: N pool rows, M targets, B selected rows.
        suits: the sizes it is meant for.
    """

    name: str
    summary: str
    paper: str
    needs: Literal["similarities", "scores", "vectors", "kernel", "sets", "lengths", "nothing"]
    complexity: str
    suits: str


@dataclass(frozen=True)
class Selector:
    """A function ``run(problem, budget, *, settings...) -> Selection`` under a registered name.

    Attributes:
        info: its description.
        run: the function; its keyword-only parameters are the selector's settings, and ``seed`` where it draws.
        preset: keywords that the name itself decides, not open to the user.
        Settings: the dataclass of its settings, with the same names and defaults.
    """

    info: SelectorInfo
    run: Callable[..., Selection]
    preset: Mapping[str, Any] = field(default_factory=dict)
    Settings: type[Any] = OwnSettings

    @property
    def draws(self) -> bool:
        """Whether it takes a seed."""
        return "seed" in inspect.signature(self.run).parameters
