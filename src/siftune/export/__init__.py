"""Hand a selected subset over: to TRL, LLaMA-Factory or Axolotl, as plain JSONL, or as a data set of the hub."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from siftune.export.check import Checked
from siftune.export.export import FORMS, TARGETS, Exported, export
from siftune.export.hub import Publication

__all__ = ["FORMS", "TARGETS", "Checked", "Exported", "Publication", "export"]


class _Callable(ModuleType):
    """``siftune.export`` is a function of the public interface and, once it is imported, this package, which Python
    then puts in the function's place. So that both mean the same, the package can be called."""

    def __call__(self, *arguments: Any, **named: Any) -> Exported:
        return export(*arguments, **named)


sys.modules[__name__].__class__ = _Callable
