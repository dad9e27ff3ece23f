"""Hand a selected subset to a trainer: TRL, LLaMA-Factory, Axolotl, or plain JSONL."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from siftune.export.export import TARGETS, Exported, export

__all__ = ["TARGETS", "Exported", "export"]


class _Callable(ModuleType):
    """``siftune.export`` is a function of the public interface and, once it is imported, this package, which Python
    then puts in the function's place. So that both mean the same, the package can be called."""

    def __call__(self, *arguments: Any, **named: Any) -> Exported:
        return export(*arguments, **named)


sys.modules[__name__].__class__ = _Callable
