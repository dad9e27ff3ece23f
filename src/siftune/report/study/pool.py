"""The map of the pool and its rows, as the page embeds them, out of ``map.json`` and ``rows.json``.

They go into the page as JSON that its script reads and shows as text. Their size is bounded here too, whatever the
files hold, so that a page stays small.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from markupsafe import Markup
from pydantic import BaseModel

from siftune._common.reading import read_as
from siftune._common.text import strict
from siftune.experiments.results import Results, Subset
from siftune.experiments.results.pool import (
    MAP,
    ROWS,
    TEXT_BYTES,
    MapFile,
    PackedSubset,
    RowsFile,
    embedded_bytes,
    escaped,
    seen,
)

STILL_POINTS = 3000  # of the map that is there without a script
FIRST_ROWS = 8  # of the list that is there without a script
COLOURS = 6  # groups with a colour of their own

_File = TypeVar("_File", bound=BaseModel)


def pool_view(folder: Path, study: Results, name_of: Callable[[str], str] = str) -> dict[str, Any]:
    """``pool_map``, ``pool_rows`` and ``pool_data``: what the template says of them, and what it embeds for the script.

    Without ``rows.json`` there is nothing but None; without a map there is ``pool_map.none``, the reason. ``name_of``
    makes of names of groups and rows what may be shown.

    Raises:
        DataError: a file is not as ``siftune study`` writes it.
    """
    rows = _read(folder / ROWS, RowsFile)
    if rows is None:
        return {"pool_map": None, "pool_rows": None, "pool_data": None}
    rows.groups = [name_of(name) for name in rows.groups]
    drawn = _read(folder / MAP, MapFile)
    if drawn is not None and not drawn.none and drawn.rows != rows.rows:
        drawn = None  # the study has been changed since, and has not got as far as its map
    kept, room = [], TEXT_BYTES
    for entry in rows.texts:
        entry = seen([entry.place, name_of(entry.id), [list(turn) for turn in entry.turns], entry.more])
        room -= embedded_bytes(entry)
        if room < 0:
            break
        kept.append(entry)
    by_id = {subset.id: subset for subset in study.subsets}
    subsets = [(by_id[packed.id], packed) for packed in rows.subsets if packed.id in by_id]
    has_map = drawn is not None and not drawn.none
    data = {
        "pool": rows.pool, "rows": rows.rows, "tokens": rows.tokens, "groups": rows.groups, "group": rows.group,
        "texts": kept, "subsets": [_subset(told, packed) for told, packed in subsets],
        "map": {"width": drawn.width, "height": drawn.height, "xy": _packed(drawn.x, drawn.y),
                "targets": [{"name": t.name, "xy": _packed(t.x, t.y)} for t in drawn.targets]}
        if drawn is not None and has_map else None,
    }
    return {
        "pool_map": {"none": drawn.none if drawn else "", "still": _still(drawn, rows) if drawn and has_map else None,
                     **(drawn.model_dump(exclude={"rows", "x", "y", "none"}) if drawn else {})},
        "pool_rows": {"pool": rows.pool, "shown": len(rows.rows), "texts": len(kept), "groups": rows.groups,
                      "all_chosen": all(packed.shown == packed.rows for _, packed in subsets),
                      "subsets": _choices(study, subsets),
                      "first": [_first(entry, rows) for entry in _often_chosen(kept, subsets)]},
        "pool_data": embedded(data),
    }


def embedded(value: Any) -> Markup:
    """JSON that stands in an element ``script`` as it is: nothing in it can end the element."""
    return Markup(escaped(seen(value)))


def _read(path: Path, form: type[_File]) -> _File | None:
    if not path.is_file():
        return None
    again = f"delete {path.name} and run `siftune study` again: finished trainings are not repeated"
    return read_as(path, form, again, clean=strict)


def _subset(told: Subset, packed: PackedSubset) -> dict[str, Any]:
    return {"kind": told.kind, "name": told.name, "target": told.target, "title": _title(told), "rows": packed.rows,
            "shown": packed.shown, "first": packed.first, "members": packed.members}


def _title(told: Subset) -> str:
    draw = None if told.draw is None else f"draw {told.draw}"
    return " · ".join(part for part in (told.name, told.target, told.budget, draw) if part is not None)


def _choices(study: Results, subsets: Sequence[tuple[Subset, PackedSubset]]) -> list[dict[str, Any]]:
    """By target and budget, in the order of the study: title and place of each subset, methods first."""
    found: dict[tuple[str | None, str | None], list[tuple[bool, int, str]]] = {}
    for target in (*(t.name for t in study.targets), None):
        for budget in (*study.budgets, None):
            found[target, budget] = []
    for place, (told, _) in enumerate(subsets):
        found.setdefault((told.target, told.budget), []).append((told.kind != "method", place, _title(told)))
    return [{"group": " · ".join(filter(None, (target or "for all targets", budget))),
             "subsets": [{"place": place, "name": name} for _, place, name in sorted(ones)]}
            for (target, budget), ones in found.items() if ones]


def _packed(x: Sequence[int], y: Sequence[int]) -> str:
    """Little-endian uint16, x and y in turns, in base 64."""
    return base64.b64encode(np.stack([x, y], axis=1).astype("<u2").tobytes()).decode("ascii")


def _often_chosen(entries: Sequence[list[Any]], subsets: Sequence[tuple[Subset, PackedSubset]]) -> list[list[Any]]:
    """A few of the rows that methods chose most often."""
    times = Counter(place for told, packed in subsets if told.kind == "method" for place in packed.first)
    return sorted(entries, key=lambda entry: (-times[entry[0]], entry[0]))[:FIRST_ROWS]


def _first(entry: list[Any], rows: RowsFile) -> dict[str, Any]:
    place, row_id, told, more = entry
    return {"number": rows.rows[place] + 1, "id": row_id, "tokens": rows.tokens[place],
            "group": rows.groups[rows.group[place]],
            "view": {"turns": [{"role": r, "text": t, "cut": c} for r, t, c in told], "more_turns": more}}


def _still(drawn: MapFile, rows: RowsFile) -> dict[str, Any]:
    """Points as paths of an SVG, by colour: a picture of the map without its controls."""
    places = np.unique(np.linspace(0, len(drawn.x) - 1, min(STILL_POINTS, len(drawn.x))).astype(int)).tolist()
    paths: list[list[str]] = [[] for _ in range(COLOURS + 1)]
    for place in places:
        colour = rows.group[place]
        paths[colour if colour < COLOURS else COLOURS].append(f"M{drawn.x[place]} {drawn.height - drawn.y[place]}h0")
    crosses = [f"M{x - 40} {drawn.height - y - 40}l80 80m0-80l-80 80" for t in drawn.targets
               for x, y in zip(t.x[:100], t.y[:100], strict=True)]
    names = [*rows.groups[:COLOURS], "all others"]
    return {"points": len(places), "targets": "".join(crosses),
            "groups": [{"colour": i, "name": names[i] if i < len(names) else "", "path": "".join(path)}
                       for i, path in enumerate(paths) if path]}
