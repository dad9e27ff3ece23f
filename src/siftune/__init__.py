"""siftune: choose the part of an instruction pool that teaches a model *your* task, and prove that it helps.

The names below are the library's front door; each is imported when it is first used, so ``import siftune`` is
instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from siftune._common.version import __version__

if TYPE_CHECKING:  # for editors and type checkers; at run time __getattr__ imports what is asked for
    from siftune._common.errors import SiftuneError
    from siftune.api import choose, compare, encode, export, inspect, load_run, plan, select, study
    from siftune.config.settings import CompareConfig, SelectConfig
    from siftune.features.gradients.own_warmup import LessCheckpoints
    from siftune.selectors.core.budget import Budget
    from siftune.selectors.core.problem import Problem
    from siftune.selectors.core.selection import Selection

_EXPORTS = {
    "select": "siftune.api",
    "encode": "siftune.api",
    "choose": "siftune.api",
    "compare": "siftune.api",
    "study": "siftune.api",
    "plan": "siftune.api",
    "inspect": "siftune.api",
    "export": "siftune.api",
    "load_run": "siftune.api",
    "LessCheckpoints": "siftune.features.gradients.own_warmup",
    "SelectConfig": "siftune.config.settings",
    "CompareConfig": "siftune.config.settings",
    "SiftuneError": "siftune._common.errors",
    "Problem": "siftune.selectors.core.problem",
    "Selection": "siftune.selectors.core.selection",
    "Budget": "siftune.selectors.core.budget",
}

__all__ = [
    "Budget",
    "CompareConfig",
    "LessCheckpoints",
    "Problem",
    "SelectConfig",
    "Selection",
    "SiftuneError",
    "__version__",
    "choose",
    "compare",
    "encode",
    "export",
    "inspect",
    "load_run",
    "plan",
    "select",
    "study",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'siftune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
