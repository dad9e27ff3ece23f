"""What a path that is not there was probably meant to be."""

from __future__ import annotations

import difflib
from itertools import islice
from pathlib import Path

_MOST = 10_000  # names of a folder that are looked at


def did_you_mean(path: str | Path) -> str:
    """``did you mean PATH?``, by the nearest name where the path leaves what is there; empty where none is near, and
    where the path is there."""
    path = Path(path)
    try:
        if path.exists():
            return ""
        place, rest = path.parent, [path.name]
        while not place.is_dir():
            if place == place.parent:
                return ""
            place, rest = place.parent, [place.name, *rest]
        names = sorted(item.name for item in islice(place.iterdir(), _MOST))
    except (OSError, ValueError):  # not ours to read, or a name that no file can have
        return ""
    for near in difflib.get_close_matches(rest[0][:300], names, n=3, cutoff=0.5):
        found = place.joinpath(near, *rest[1:])
        if found.exists():
            return f"did you mean {found}?"
    return ""
