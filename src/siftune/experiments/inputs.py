"""The rows of a study, read and rendered once: one pool for all targets, and each target with its held-out rows.

Every target's test rows are kept out of the one pool, so that any subset may be scored on any of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftune._common.progress import log
from siftune._common.text import counted
from siftune.data.load import Inputs, load_inputs, read
from siftune.data.model_shape import ModelShape
from siftune.data.overlap import check_disjoint
from siftune.data.readers import Role
from siftune.data.render import Renderer
from siftune.data.rendering import render_rows
from siftune.data.rows import Examples, column
from siftune.experiments.config import StudyConfig, representation_named
from siftune.features.base import Clock, Context, row_keys
from siftune.features.collect import COLLECTABLE, NEEDS_TARGET
from siftune.pipeline.features_home import FeaturesHome, features_home, run_folders
from siftune.pipeline.select import load, read_inputs

if TYPE_CHECKING:
    from siftune.config.settings import CompareConfig, SelectConfig
    from siftune.features.store.row_keys import RowKeys
    from siftune.models.loading import LoadedModel


class LoadedOnce:
    """Loads models, keeping the last one; a copy of it in another process loads its own."""

    def __init__(self) -> None:
        self._kept: tuple[Any, LoadedModel] | None = None

    def __call__(self, config: SelectConfig) -> LoadedModel:
        wanted = (config.model, config.device, config.dtype, config.trust_remote_code)
        if self._kept is None or self._kept[0] != wanted:
            self._kept = None  # let go of it first: two large models need not fit
            self._kept = wanted, load(config)
        return self._kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_kept": None}


@dataclass
class StudyInputs:
    """What a study works on.

    Attributes:
        config: of the study.
        free: pool without targets, for methods that need none.
        by_target: the very same pool with each target and its test rows.
        load: loads models.
        clock: where all steps are timed.
    """

    config: StudyConfig
    free: Inputs
    by_target: dict[str, Inputs]
    load: LoadedOnce = field(default_factory=LoadedOnce)
    clock: Clock = field(default_factory=Clock)

    @property
    def pool(self) -> Examples:
        return self.free.pool

    @property
    def home(self) -> Path:
        """The run folder whose stores, warmup and trainings are used."""
        return self._features.folder

    @cached_property
    def _features(self) -> FeaturesHome:
        return features_home(self.config.common, self.pool)

    @cached_property
    def pool_keys(self) -> RowKeys:
        return self._features.pool_keys or row_keys(self.pool, "pool")

    @property
    def pool_key(self) -> str:
        return self.pool_keys.key

    def of(self, target: str | None) -> Inputs:
        return self.free if target is None else self.by_target[target]

    def config_of(self, target: str | None) -> CompareConfig:
        """The settings of a selection for one target, or for none."""
        files = next((t for t in self.config.targets if t.name == target), None)
        return dataclasses.replace(self.config.common, target=files.target if files else (),
                                   test=files.test if files else ())

    @cached_property
    def _collected(self) -> tuple[str, ...]:
        named = {representation_named(n, self.config.common) for n in (*self.config.methods, *self.config.deciles)}
        shared = sorted(named & set(COLLECTABLE) - set(NEEDS_TARGET))
        return tuple(shared) if len(shared) > 1 else ()

    def collected_by(self, representation: str) -> tuple[str, ...]:
        """Representations whose features a pass of this one keeps as well."""
        return tuple(n for n in self._collected if n != representation) if representation in COLLECTABLE else ()

    def context(self, target: str | None, owner: str = "") -> Context:
        """What a method, the ``owner``, is computed in. Those that read a forward pass share one over the pool."""
        inputs = self.of(target)
        config = self.config_of(target)
        config = dataclasses.replace(config, collect=config.collect or self._collected)
        made = Context(config, inputs.pool, inputs.target, inputs.render, self.home, self.load, self.clock,
                       inputs.existing, lambda: [self.context(name, owner) for name in self.by_target
                                                 if name != target], owner=owner, earlier=self._features.earlier)
        return made.knows(self.pool_keys)  # a hash of the whole pool, the same for all targets


def read_study(config: StudyConfig) -> StudyInputs:
    """Read, check against each other and render all rows.

    Raises:
        DataError: whatever is wrong with a file or a row; a test row stands in its target's file or in the pool.
    """
    from siftune.models.loading import load_tokenizer
    from siftune.models.shape import model_shape

    common = config.common
    clock = Clock()
    if config.is_comparison:
        return _one_target(config, clock)
    with clock.measure("read and render"):
        tokenizer = load_tokenizer(common.model, trust_remote_code=common.trust_remote_code)
        shape = model_shape(common.model, trust_remote_code=common.trust_remote_code)
        free = load_inputs(dataclasses.replace(common, target=(), test=()), tokenizer, shape,
                           run_folders(common) if common.output_dir else ())
        rows, found = free.pool.rows, {}
        for one in config.targets:
            target, left_out = _examples(one.target, "target", common, tokenizer, shape)
            test, left_out_too = _examples(one.test, "test", common, tokenizer, shape)
            overlaps = check_disjoint(rows, target.rows, test.rows, common.overlap)
            rows = overlaps.pool
            found[one.name] = (target, test, overlaps, [*left_out, *left_out_too])
        kept = set(column(rows, "id"))
        pool = _kept(free.pool, kept)
        dropped = [*free.dropped, *(d for *_, overlaps, _ in found.values() for d in overlaps.dropped)]
        by_target = {
            name: Inputs(pool, target, test, free.pool_rows, [*dropped, *left_out],
                         dataclasses.replace(overlaps, pool=rows), free.render, free.warnings, free.existing)
            for name, (target, test, overlaps, left_out) in found.items()
        }
    for name, one in by_target.items():
        if one.overlaps.in_target and common.overlap != "drop":
            log(f"warning: {counted(len(one.overlaps.in_target))} of the pool also in the target file of {name}; they "
                "will look like perfect matches (overlap: drop leaves them out)")
    free = dataclasses.replace(free, pool=pool, dropped=dropped)
    return StudyInputs(config, free, by_target, clock=clock)


def _one_target(config: StudyConfig, clock: Clock) -> StudyInputs:
    """Of a comparison: exactly what `siftune select` reads for its target and test files."""
    [one] = config.targets
    with clock.measure("read and render"):
        inputs = read_inputs(dataclasses.replace(config.common, target=one.target, test=one.test))
    nothing = Examples([], [])
    return StudyInputs(config, dataclasses.replace(inputs, target=nothing, test=nothing), {one.name: inputs},
                       clock=clock)


def _examples(sources: Iterable[str], role: Role, common: CompareConfig, tokenizer: Any,
              shape: ModelShape) -> tuple[Examples, list[Any]]:
    found = read(common, list(sources), role)
    renderer = Renderer(tokenizer, max_length=common.max_length, shape=shape)
    made = render_rows(found.rows, renderer, role=role, bad_rows=common.bad_rows)
    return made, [*found.dropped, *made.dropped]


def _kept(examples: Examples, ids: set[str]) -> Examples:
    if len(ids) == len(examples):
        return examples
    places = [i for i, row_id in enumerate(examples.ids) if row_id in ids]
    return examples.take(places)
