"""Strata: the parts of a pool that quotas speak of.

Goal-driven data optimisation (GDO, arXiv 2603.12478) holds that a subset should be shaped by what it is for: so much of
each source, of each length, of each difficulty, and the best rows within these bounds. Here that is a constraint on any
method: `--strata` says what the parts are, `--quota` how much of each is taken at least and at most.
"""

from __future__ import annotations

import re

import numpy as np

from siftune._common.errors import ConfigError
from siftune.data.load import Inputs
from siftune.data.rows import column, groups_of
from siftune.selectors.core import ordering

_FORM = re.compile(r"(group|source|format|(?P<by>length|score):(?P<bins>\d{1,9}))", re.ASCII)
_HINT = 'give group, source, format, length:4 or score:4 (as many parts of equal size as you like)'


def by_score(strata: str) -> bool:
    """Whether the strata are known only once the method has scored the rows.

    Raises:
        ConfigError: not a stratification.
    """
    match = _FORM.fullmatch(strata)
    if match is None or (match["bins"] and int(match["bins"]) < 2):
        raise ConfigError(f"{strata!r} is not a way to cut the pool into parts", where="--strata", hint=_HINT)
    return match["by"] == "score"


def strata_of(strata: str, inputs: Inputs, scores: np.ndarray | None = None) -> list[str]:
    """The stratum of every pool row.

    Args:
        strata: ``group`` (the row's group, else its source), ``source``, ``format``, ``length:K`` or ``score:K``: K
            parts of equal size by response length or by score, named ``length-1`` (the shortest) to ``length-K``.
        inputs: of the run.
        scores: float64 [N], for ``score:K``.

    Raises:
        ConfigError: strata by score of a method that scores nothing.
    """
    rows = inputs.pool.rows
    if strata == "group":
        return groups_of(rows)
    if strata in ("source", "format"):
        return column(rows, strata)
    by, _, bins = strata.partition(":")
    values = scores if by == "score" else inputs.pool.supervised.astype(np.float64)
    if values is None:
        raise ConfigError("there are no scores to make strata of", where="--strata",
                          why="The method neither scores rows nor compares them with targets.",
                          hint="choose --strata length:4, or a method that scores rows")
    # Equal values are told apart by id, so that the parts are of equal size and no order of the pool matters.
    order = np.lexsort((ordering.id_rank(inputs.pool.ids), values))
    place = np.empty(len(rows), dtype=np.int64)
    place[order] = np.arange(len(rows))
    return [f"{by}-{part + 1}" for part in (place * int(bins) // len(rows)).tolist()]
