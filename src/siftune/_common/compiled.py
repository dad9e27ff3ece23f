"""Functions compiled by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit``, with the machine code kept on disk where there is a place for it.

    There is none where the package is installed read-only and the user has no folder of their own that can be written
    to: then it is compiled anew in each process, which takes seconds, instead of failing.

    Args:
        options: of ``numba.njit``, but for ``cache``.
    """
    import numba

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # "no locator available"
            return numba.njit(**options)(function)

    return decorate
