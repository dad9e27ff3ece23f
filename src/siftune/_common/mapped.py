"""A file as memory that the system maps: read where it is looked at, and given back as one goes on."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

_KEPT = 64_000_000  # bytes that may have been looked at before they are given back


class Mapped:
    """The bytes of a file, read only.

    Pages that were looked at count as memory of the process until the system needs them for something else, so that
    whoever walks through a large file would seem to need as much. :meth:`used` gives them back; they are read again,
    from the system's own cache as a rule, where they are looked at again.

    Args:
        path: of a file that is replaced as a whole or not at all, never written to.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb") as file:
            size = file.seek(0, 2)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None
        self._looked_at = 0

    @property
    def bytes(self) -> Any:
        """All of them, as an object with the buffer protocol."""
        return b"" if self._map is None else self._map

    def array(self, dtype: Any, count: int = -1, offset: int = 0) -> np.ndarray:
        """Some of them as an array, of ``count`` items from a byte on; not copied."""
        if count == 0 or self._map is None:
            return np.zeros(0, dtype=dtype)
        return np.frombuffer(self._map, dtype=dtype, count=count, offset=offset)

    def used(self, count: int) -> None:
        """So many bytes more were looked at."""
        self._looked_at += count
        if self._looked_at > _KEPT:
            self._looked_at = 0
            if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED)
