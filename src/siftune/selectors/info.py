"""What is known about each selector, for the front door and for ``siftune methods``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from siftune.selectors.selection import Selection


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
    """A function ``run(problem, budget, *, options...) -> Selection`` under a registered name.

    Attributes:
        info: its description.
        run: the function; its keyword-only parameters are the selector's options.
        preset: options that the name itself decides, not open to the user.
    """

    info: SelectorInfo
    run: Callable[..., Selection]
    preset: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> list[str]:
        """Names of the options a user may give."""
        parameters = inspect.signature(self.run).parameters.values()
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in self.preset]
