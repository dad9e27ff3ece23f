"""siftune: choose the part of an instruction pool that teaches a model *your* task, and prove that it helps.

The names below are the library's front door; each is imported when it is first used, so ``import siftune`` is
instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time __getattr__ imports what is asked for
    from siftune.api import compare, select
    from siftune.config import CompareConfig, SelectConfig
    from siftune.errors import SiftuneError
    from siftune.selectors.budget import Budget
    from siftune.selectors.problem import Problem
    from siftune.selectors.selection import Selection

__version__ = "0.1.0"

_EXPORTS = {
    "select": "siftune.api",
    "compare": "siftune.api",
    "SelectConfig": "siftune.config",
    "CompareConfig": "siftune.config",
    "SiftuneError": "siftune.errors",
    "Problem": "siftune.selectors.problem",
    "Selection": "siftune.selectors.selection",
    "Budget": "siftune.selectors.budget",
}

__all__ = [
    "Budget",
    "CompareConfig",
    "Problem",
    "SelectConfig",
    "Selection",
    "SiftuneError",
    "__version__",
    "compare",
    "select",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'siftune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
