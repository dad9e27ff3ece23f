"""Compiled functions work where there is no place to keep their machine code."""

from __future__ import annotations

from typing import Any

import numba
import pytest

from siftune._common.compiled import compiled


def test_what_cannot_be_kept_is_compiled_all_the_same() -> None:
    names: dict[str, Any] = {}
    exec("def twice(x):\n    return 2 * x", names)  # of no file: numba finds no place beside it
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(names["twice"])
    assert compiled()(names["twice"])(4) == 8
