"""The rows that the page of a study shows, ``rows.json`` in its folder: which, what they say, and who chose them.

A page has to stay small however large the pool is. So of a large pool a part is shown: the rows that methods chose,
those ranked best first, then those of the baselines, then a sample by a fixed seed; and texts for as many of them, in
the same order, as a number of bytes allows.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.artefacts.sealed import read_self_sealed, self_sealed
from siftune._common.files import write_text
from siftune._common.seeds import permutation
from siftune._common.text import clip, shorten
from siftune.data.rendered import taken
from siftune.data.rows import Row, column, groups_of
from siftune.experiments.inputs import StudyInputs
from siftune.experiments.results.pool import NAME, TEXT_BYTES, embedded_bytes, seen
from siftune.experiments.subsets import Subset

POINTS = 20_000  # rows that are shown of a larger pool
MOST = 30_000  # where more than POINTS were chosen
MEMBER_BYTES = 800_000  # of all subsets' members: many subsets leave room for fewer rows
ORDERED = 60_000  # rows in the order of their subset, over all subsets
GROUPS = 60  # that are told by name
TURN_CHARACTERS, TURNS = 600, 6  # of a row
_FORM = 1  # of the file


def in_order(rows: int, methods: Sequence[np.ndarray], baselines: Sequence[np.ndarray], seed: int, *,
             points: int = POINTS, most: int = MOST) -> np.ndarray:
    """The rows to show, the most important first: int64, at most ``max(points, most)``.

    No row that was chosen is left out while fewer than ``most`` were; then the rows ranked last are, baselines' first.

    Args:
        rows: of the pool.
        methods, baselines: the rows of their subsets, best first.
        seed: of the sample of all others.
    """
    drawn = permutation(rows, seed, "rows of the page")
    place = np.empty(rows, np.int64)
    place[drawn] = np.arange(rows)
    ranks = []
    for subsets in (methods, baselines):
        best = np.full(rows, rows, np.int64)
        for chosen in subsets:
            best[chosen] = np.minimum(best[chosen], np.arange(len(chosen)))
        ranks.append(best)
    chosen = int(((ranks[0] < rows) | (ranks[1] < rows)).sum())
    count = min(rows, max(points, min(chosen, most)))
    return np.lexsort((place, ranks[1], ranks[0]))[:count]


def study_rows(inputs: StudyInputs, subsets: Sequence[Subset], path: Path) -> np.ndarray:
    """Write the file, unless it is there already for the same rows and subsets.

    The file holds ``rows`` (the pool's, ascending), their ``tokens`` and ``group`` (a place in ``groups``), ``texts``
    (:func:`text_of`) and, of each of the ``subsets``, its ``first`` rows by place, in order, and ``members``, a bit for
    each shown row in base 64 where there are more of them.

    Returns:
        int64, ascending: the rows that are shown.
    """
    pool = inputs.pool
    # The full pool chooses nothing, and the tenths of the pool everything.
    told = [s for s in subsets if not s.error and s.wanted.name != "full" and s.wanted.kind != "decile"]
    digest = hashlib.blake2b(json.dumps([_FORM, inputs.pool_key, inputs.config.common.seed]).encode(), digest_size=16)
    for content, group in zip(column(pool.rows, "content_hash"), groups_of(pool.rows), strict=True):
        digest.update(f"{content} {group}\n".encode())
    for one in told:
        digest.update(one.wanted.id.encode() + one.rows.tobytes())
    key = digest.hexdigest()
    if (kept := read_self_sealed(path)) is not None and kept.get("key") == key:
        return np.array(kept["rows"], np.int64)

    most = MOST if not told else max(1000, min(MOST, MEMBER_BYTES * 6 // len(told)))
    by = in_order(len(pool), [s.rows for s in told if s.wanted.kind != "baseline"],
                  [s.rows for s in told if s.wanted.kind == "baseline"], inputs.config.common.seed,
                  points=min(POINTS, most), most=most)
    shown = np.sort(by)
    groups, of_group = _groups(groups_of(taken(pool.rows, shown)))
    write_text(path, json.dumps(self_sealed({
        "key": key, "pool": len(pool), "rows": shown.tolist(), "tokens": pool.tokens[shown].tolist(),
        "groups": groups, "group": of_group, "texts": _texts(pool.rows, by, shown),
        "subsets": [_packed(s, shown, max(10, ORDERED // len(told))) for s in told],
    }), ensure_ascii=False, separators=(",", ":")))
    return shown


def _groups(of_rows: Sequence[str]) -> tuple[list[str], list[int]]:
    """Names, the largest group first, and each row's place among them; small groups of many are one."""
    names = [name for name, _ in sorted(Counter(of_rows).items(), key=lambda pair: (-pair[1], pair[0]))]
    place = {name: min(i, GROUPS) for i, name in enumerate(names)}
    shown = [shorten(name, NAME) for name in names[:GROUPS]]
    return shown + ["all others"] * (len(names) > GROUPS), [place[name] for name in of_rows]


def _texts(rows: Sequence[Row], by: np.ndarray, shown: np.ndarray) -> list[list[Any]]:
    """Of as many rows as the bytes allow, those first in ``by`` first; by place."""
    found, room = [], TEXT_BYTES
    for row, place in zip(by.tolist(), np.searchsorted(shown, by).tolist(), strict=True):
        entry = text_of(rows[row], place)
        room -= embedded_bytes(entry)
        if room < 0:
            break
        found.append(entry)
    return sorted(found, key=lambda entry: entry[0])


def text_of(row: Row, place: int) -> list[Any]:
    """``[place, id, [[role, text, characters left out], ...], turns left out]``, invisible characters spelled out."""
    turns = [[m.role, *clip(m.text, TURN_CHARACTERS)] for m in row.messages[:TURNS]]
    return seen([place, shorten(row.id, NAME), turns, max(0, len(row.messages) - TURNS)])


def _packed(subset: Subset, shown: np.ndarray, ordered: int) -> dict[str, Any]:
    at = np.searchsorted(shown, subset.rows)
    is_shown = shown[np.minimum(at, len(shown) - 1)] == subset.rows
    # A rank is a place in the order, so that the order ends where a row is missing.
    whole = len(at) if is_shown.all() else int(is_shown.argmin())
    first = at[: min(whole, ordered)]
    bits = np.zeros(len(shown), bool)
    bits[at[is_shown]] = True
    members = base64.b64encode(np.packbits(bits, bitorder="little").tobytes()).decode()
    return {"id": subset.wanted.id, "rows": len(subset.rows), "shown": int(is_shown.sum()), "first": first.tolist(),
            "members": members if len(first) < is_shown.sum() else ""}
