from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def table() -> Iterator[ModuleType]:
    """The benchmark that makes the table of docs/models.md: its tiny models and its checks serve here too."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("model_families")
    finally:
        sys.path.remove(str(BENCHMARKS))
        sys.modules.pop("model_families", None)
