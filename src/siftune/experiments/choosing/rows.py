"""The rows of a choice: the pool, the targets that select, and the rows that score, which no arm sees.

Without validation rows the targets do both, by cross-fitting: each fold of them is left out in turn, the arms select
with the others, and what is trained on their choice is scored on the fold. A random subset depends on no target, so
that one training serves all folds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from siftune._common.errors import ConfigError, DataError
from siftune._common.progress import log
from siftune._common.seeds import permutation
from siftune._common.text import counted
from siftune.config.choosing import ChooseConfig
from siftune.data.load import Inputs, read
from siftune.data.overlap import find_overlaps, normalised_key
from siftune.data.render import Renderer
from siftune.data.rendering import render_rows
from siftune.data.rows import Dropped, Examples, Row
from siftune.experiments.inputs import LoadedOnce, StudyInputs
from siftune.experiments.results import TARGET
from siftune.features.base import Clock
from siftune.pipeline.select import read_inputs

LEAST = 4
"""Target rows without which folds say nothing at all."""

_MOST_FOLDS = 4


@dataclass
class ChoiceRows:
    """What a choice works on.

    Attributes:
        config: its settings.
        inputs: the pool and all targets: what the winner selects from and with.
        validation: rows that score; None where folds of the target do.
        notes: what was left out of them, in words.
        load: loads models.
        clock: where steps are timed.
        replay: settings that `siftune select` needs to see the same pool.
    """

    config: ChooseConfig
    inputs: Inputs
    validation: Examples | None
    notes: list[str]
    load: LoadedOnce = field(default_factory=LoadedOnce)
    clock: Clock = field(default_factory=Clock)
    replay: dict[str, Any] = field(default_factory=dict)

    @property
    def most_folds(self) -> int:
        """As many as the settings ask for, or as the targets bear; 1 where there are validation rows."""
        if self.validation is not None:
            return 1
        return self.config.folds or min(_MOST_FOLDS, len(self.inputs.target) // 2)

    def split(self, folds: int, most: int) -> Split:
        """The rows that score, by fold, and what selects for each.

        Args:
            folds: 1 where there are validation rows.
            most: rows that score, in all.
        """
        if self.validation is not None:
            scored = _drawn(len(self.validation), most, self.config.seed)
            return Split((TARGET,), self.validation, (scored,), (np.arange(len(self.inputs.target)),))
        rows = self.inputs.target.rows
        members = folds_of(rows, folds, self.config.seed)
        share = -(-most // folds)
        scored = tuple(np.sort(fold[_drawn(len(fold), share, self.config.seed, k)]) for k, fold in enumerate(members))
        others = tuple(np.setdiff1d(np.arange(len(rows)), fold) for fold in members)
        return Split(tuple(f"fold-{k + 1}" for k in range(folds)), self.inputs.target, scored, others)


@dataclass(frozen=True, eq=False)
class Split:
    """Which rows score and which select.

    Attributes:
        names: of the folds.
        examples: the rows that positions in ``scored`` speak of: validation rows, or the targets.
        scored: int64 positions of each fold's rows that score.
        select: int64 positions of the target rows that select for each fold.
    """

    names: tuple[str, ...]
    examples: Examples
    scored: tuple[np.ndarray, ...]
    select: tuple[np.ndarray, ...]

    @property
    def measured(self) -> Examples:
        """The rows that score, fold after fold."""
        return taken(self.examples, np.concatenate(self.scored))

    def inputs(self, rows: ChoiceRows) -> dict[str, Inputs]:
        """Pool, target and scored rows of each fold."""
        return {name: dataclasses.replace(rows.inputs, target=taken(rows.inputs.target, chosen),
                                          test=taken(self.examples, scored))
                for name, chosen, scored in zip(self.names, self.select, self.scored, strict=True)}

    def study_inputs(self, rows: ChoiceRows, study: Any) -> StudyInputs:
        """As the rows of a study with the folds as its targets."""
        nothing = Examples([], [])
        free = dataclasses.replace(rows.inputs, target=nothing, test=nothing)
        return StudyInputs(study, free, self.inputs(rows), load=rows.load, clock=rows.clock)


def taken(examples: Examples, places: np.ndarray) -> Examples:
    """Some of the rows, in that order."""
    return examples.take(places)


def folds_of(rows: Sequence[Row], folds: int, seed: int) -> list[np.ndarray]:
    """int64 positions of each fold: of every subtask as many rows in each as can be, the same rows together."""
    same: dict[str, list[int]] = {}
    for place in permutation(len(rows), seed, "folds").tolist():
        same.setdefault(normalised_key(rows[place]), []).append(place)
    by_subtask: dict[str, list[list[int]]] = {}
    for places in same.values():
        by_subtask.setdefault(rows[places[0]].subtask or "", []).append(places)
    found: list[list[int]] = [[] for _ in range(folds)]
    for name in sorted(by_subtask):
        here = [0] * folds
        for places in by_subtask[name]:
            k = min(range(folds), key=lambda k: (here[k], len(found[k]), k))
            here[k] += len(places)
            found[k] += places
    if not all(found):
        raise DataError(f"the target has {len(same)} different rows, too few for {folds} folds", where="--target",
                        hint="give more target rows, or labelled rows to score on with --validation")
    return [np.array(sorted(fold), dtype=np.int64) for fold in found]


def _drawn(count: int, most: int, seed: int, *names: int) -> np.ndarray:
    return np.sort(permutation(count, seed, "scored rows", *names)[:most])


def read_rows(config: ChooseConfig) -> ChoiceRows:
    """Read all rows and check them against each other.

    A pool row that also stands in the rows that score would be trained on what scores it: those of the target are left
    out of the pool, those of the validation file are refused or left out as ``overlap`` says. A validation row that
    also stands in the target is left out; one that stands in the test file is refused, since a choice that has seen
    test rows cannot be tested on them.

    Raises:
        ConfigError: no target.
        DataError: whatever is wrong with a file or a row; too few rows to score on.
    """
    if not config.target:
        raise ConfigError("there is nothing to choose for", where="--target",
                          hint="give a file with a few examples of what the model must learn")
    clock, notes, replay = Clock(), [], {}
    with clock.measure("read and render"):
        inputs = read_inputs(config)
        if not config.validation and inputs.overlaps.in_target and config.overlap != "drop":
            replay["overlap"] = "drop"
            inputs = read_inputs(dataclasses.replace(config, overlap="drop"))
        if not config.validation and inputs.overlaps.in_target:
            notes.append(f"{counted(len(inputs.overlaps.in_target))} of the pool also in the target file: left out, "
                         "since the targets score what is trained on it")
        validation = None
        if config.validation:
            inputs, validation, told, replay = _validation(config, inputs)
            notes += told
    for note in notes:
        log(note)
    if validation is None and len(inputs.target) < LEAST:
        raise DataError(f"{counted(len(inputs.target))} of the target cannot tell one arm from another",
                        where="--target",
                        why=f"Each fold has to be left out in turn, which takes {LEAST} rows or more.",
                        hint="give more target rows, or labelled rows to score on with --validation")
    if validation is not None and len(validation) < 2:
        raise DataError("there are fewer than 2 validation rows to score on", where="--validation",
                        hint="give at least 2, better 100, that are not target rows; or none, for folds of the target")
    return ChoiceRows(config, inputs, validation, notes, clock=clock, replay=replay)


def _validation(config: ChooseConfig, inputs: Inputs) -> tuple[Inputs, Examples, list[str], dict[str, Any]]:
    from siftune.models.loading import load_tokenizer
    from siftune.models.shape import model_shape

    found = read(config, list(config.validation), "test")
    if seen := find_overlaps(found.rows, inputs.test.rows):
        raise DataError(f"{counted(len(seen))} of the validation file also in the test file", where=seen[0].a_where,
                        why="A choice that has seen test rows cannot be tested on them.",
                        hint="take these rows out of one of the two files")
    notes, replay = [], {}
    in_target = {overlap.a_id for overlap in find_overlaps(found.rows, inputs.target.rows)}
    if in_target:
        notes.append(f"{counted(len(in_target))} of the validation file also in the target file: not scored on")
    else:
        replay = {"test": (*config.test, *config.validation)}
    rows = [row for row in found.rows if row.id not in in_target]
    in_pool = find_overlaps(inputs.pool.rows, rows)
    if in_pool and config.overlap != "drop":
        raise DataError(f"{counted(len(in_pool))} of the pool also in the validation file", where=in_pool[0].a_where,
                        hint="pass --overlap drop to leave these rows out of the pool")
    if in_pool:
        out = {overlap.a_id: overlap for overlap in in_pool}
        leaves = np.array([row_id in out for row_id in inputs.pool.ids], dtype=bool)
        dropped = [Dropped(row.id, row.source, row.where, "in-validation",
                           f"{out[row.id].kind} match of {out[row.id].b_where}")
                   for row in inputs.pool.take(np.flatnonzero(leaves)).rows]
        kept = np.flatnonzero(~leaves)
        inputs = dataclasses.replace(inputs, pool=taken(inputs.pool, kept), dropped=[*inputs.dropped, *dropped])
        notes.append(f"{counted(len(in_pool))} of the pool also in the validation file: left out of the pool")
    renderer = Renderer(load_tokenizer(config.model, trust_remote_code=config.trust_remote_code),
                        max_length=config.max_length,
                        shape=model_shape(config.model, trust_remote_code=config.trust_remote_code))
    made = render_rows(rows, renderer, role="test", bad_rows=config.bad_rows)
    if left := [*found.dropped, *made.dropped]:
        notes.append(f"{counted(len(left))} of the validation file cannot be used: not scored on")
    return inputs, made, notes, replay
