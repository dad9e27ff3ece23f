"""Makes the subsets of a study: each representation once per target, each subset once, failures told and passed over.

A finished subset is a file (``selections/*.json``) that names what it was made from. Run again, the study reads it
back; only what was made from something else, or is missing, is selected again, on features that are in the store.
"""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.artefacts import digest, payload_of
from siftune._common.artefacts.sealed import make_way, read_self_sealed, self_sealed
from siftune._common.errors import DataError, SiftuneError
from siftune._common.files import write_json
from siftune._common.progress import log
from siftune._common.seeds import derive, permutation
from siftune._common.version import __version__
from siftune.config.catalogue import Recipe, owner_of
from siftune.config.options import deciding, plain
from siftune.config.settings import SelectConfig
from siftune.data.rows import column
from siftune.experiments.ablations import Ablation, settings_key
from siftune.experiments.config import representation_named
from siftune.experiments.costs import Costs, Step
from siftune.experiments.inputs import StudyInputs
from siftune.experiments.subsets import BINS, Subset, SubsetSpec, wanted_subsets
from siftune.experiments.variants import varied_context
from siftune.features.base import Computed, Context, content_key
from siftune.pipeline.findings import shortfall
from siftune.pipeline.outcome import Outcome
from siftune.pipeline.recipes import representation_of, resolve
from siftune.pipeline.select import choose, constrain, to_problem
from siftune.selectors import Problem, Selection
from siftune.selectors import select as run_selector

TOLD = ("pool", "target", "test", "existing", "method", "budget", "own")
"""Settings that decide a subset, but that its key tells in another way."""

FILES = ("must_include", "must_exclude")
"""Settings that name files whose content decides a subset."""

OWN_FILES = ("target_vectors", "embedding_model")
"""Settings of methods that may name files or folders whose content decides a subset."""

VERSION = 1
"""Of what is kept of a subset: whoever changes how it is made counts up."""


class Selecting:
    """Makes what is wanted; keeps what several subsets share.

    Args:
        inputs: of the study.
        folder: of the study; ``selections`` and ``costs.json`` go there.
        after: is given each method's outcome. With it nothing is read back: every subset is selected again, on the
            features that are in the store, and the first that fails ends the others.
    """

    def __init__(self, inputs: StudyInputs, folder: Path, *,
                 after: Callable[[SubsetSpec, Outcome], None] | None = None):
        self.after = after
        self.matched: np.ndarray | None = None  # rows whose lengths are matched where no method is there to be
        self.inputs, self.folder, self.config = inputs, folder, inputs.config
        self.costs = Costs(folder / "costs.json")
        self.wanted = wanted_subsets(self.config)
        self.made: dict[SubsetSpec, Subset] = {}

        self._outputs: dict[tuple[str, str | None, str], tuple[Computed, list[Step]] | Exception] = {}
        self._asked: dict[tuple[str, str | None, str], list[Step]] = {}
        self._keys: dict[SubsetSpec, str] = {}
        self._orders: dict[tuple[str, str | None], np.ndarray] = {}
        self._place = {row_id: i for i, row_id in enumerate(inputs.pool.ids)}

    def kept(self) -> list[Subset]:
        """The subsets that are there, without making any."""
        found = [self._read(wanted) for wanted in self.wanted]
        return [subset for subset in found if subset is not None]

    def all(self) -> list[Subset]:
        """Every subset, in the order wanted; those that failed carry their error."""
        # Length-matched rows and deciles look at other subsets, so they come last.
        later = ("length-matched-random",)
        for wanted in sorted(self.wanted, key=lambda w: (w.kind == "decile", w.name in later)):
            self.made[wanted] = self._one(wanted)
        return [self.made[wanted] for wanted in self.wanted]

    def output(self, representation: str, target: str | None, ablation: Ablation | None = None,
               budget: str | None = None) -> tuple[Computed, list[Step]]:
        """What a representation knows for a target, and what that takes; computed once.

        Args:
            representation, target: which.
            ablation: whose settings it is to have; the study's own when not given.
            budget: for which it is asked, where that decides what it looks at.

        Raises:
            Exception: what computing it raised, each time it is asked for.
        """
        varied = ablation if ablation and ablation.computed else None
        by_budget = budget if getattr(representation_of(representation), "by_budget", False) else None
        key = representation, target, f"{by_budget or ''} {settings_key(varied.computed) if varied else ''}"
        if key not in self._outputs:
            clock, before = self.inputs.clock, len(self.inputs.clock.steps)
            try:
                context = self.context(target, representation, varied)
                if by_budget:
                    context.config = dataclasses.replace(context.config, budget=by_budget)
                found: Computed | Exception = representation_of(representation).compute(context)
            except Exception as error:  # it is told with each subset that needs it, and the others go on
                found = error
            label = varied.label(representation) if varied else representation
            steps = self.costs.charge(f"{label} at {by_budget}" if by_budget else label, target,
                                      clock.steps[before:], () if varied else self.inputs.collected_by(representation))
            self._outputs[key] = found if isinstance(found, Exception) else (found, steps)
        known = self._outputs[key]
        if isinstance(known, Exception):
            raise known
        return known

    def context(self, target: str | None, owner: str, ablation: Ablation | None) -> Context:
        """What a method, the ``owner``, is computed in, with the settings and the stores of an ablation where one is
        given."""
        return (varied_context(self.inputs, target, owner, ablation) if ablation
                else self.inputs.context(target, owner))

    def _one(self, wanted: SubsetSpec) -> Subset:
        kept = None if self.after else self._read(wanted)
        if kept is not None:
            return kept
        try:
            if wanted.kind in ("method", "ablation"):
                subset = self._by_method(wanted)
            elif wanted.kind == "decile":
                subset = self._bin(wanted)
            else:
                subset = self._baseline(wanted)
        except Exception as error:
            if self.after:
                raise
            told = str(error) if isinstance(error, SiftuneError) else f"{type(error).__name__}: {error}"
            log(f"warning: no subset for {wanted.title}: {told.splitlines()[0]}")
            return Subset(wanted, error=told, traceback=traceback.format_exc())
        self._write(subset)
        return subset

    def _by_method(self, wanted: SubsetSpec) -> Subset:
        ablation = self.config.ablation(wanted.name)
        config = dataclasses.replace(self.inputs.config_of(wanted.target), method=wanted.method,
                                     budget=wanted.budget or "")
        config = ablation.of(config) if ablation else config
        method = self._method(wanted)
        output, steps = self.output(method.representation, wanted.target, ablation, wanted.budget)
        clock, before = self.inputs.clock, len(self.inputs.clock.steps)
        context = self.context(wanted.target, method.representation, ablation)
        outcome = choose(config, inputs=self.inputs.of(wanted.target), context=context, output=output)
        # Some features (pairwise utilities, vectors to cluster) are computed when a selector first asks for them.
        inside = [e for e in clock.steps[before:] if not e["step"].startswith("select")]
        seconds = sum(e["seconds"] for e in clock.steps[before:] if e["step"].startswith("select"))
        label = ablation.label(method.representation) if ablation else method.representation
        asked = self._asked.setdefault((label, wanted.target, method.selector), [])
        asked += self.costs.charge(label, wanted.target, inside)
        told = shortfall(outcome)
        notes = {"shortfall": told} if told else {}
        if self.after:
            self.after(wanted, outcome)
        return _told(wanted, outcome.selection, seconds, [*steps, *asked], notes)

    def _method(self, wanted: SubsetSpec) -> Recipe:
        return resolve(wanted.method, has_target=bool(self.inputs.config_of(wanted.target).target),
                       has_existing=bool(self.config.common.existing))

    def _baseline(self, wanted: SubsetSpec) -> Subset:
        constrained, common = self.constrained, self.config.common
        if wanted.name == "full":
            rows = np.flatnonzero(~constrained.exclude)
            return Subset(wanted, rows, diagnostics={"budget": {"rows": len(rows)}})
        lengths = self.inputs.pool.supervised
        problem = dataclasses.replace(constrained, lengths=lengths)
        if wanted.name == "length-matched-random":
            problem = dataclasses.replace(problem, reference_lengths=lengths[self._reference(wanted)])
        start = time.monotonic()
        seed = derive(common.seed, "baseline", wanted.name, wanted.draw or 0)
        selection = run_selector(problem, wanted.budget or "", wanted.name, seed=seed)
        return _told(wanted, selection, time.monotonic() - start, [])

    def _reference(self, wanted: SubsetSpec) -> np.ndarray:
        """Rows whose lengths a length-matched subset has."""
        if self.matched is not None:
            return self.matched
        name = self.config.reference
        found = next(s for w, s in self.made.items() if w.kind == "method" and w.name == name
                     and w.target in (None, wanted.target) and w.budget == wanted.budget)
        if found.error:
            raise DataError(f"there are no lengths to match: {name} has no subset", where=wanted.title,
                            why=found.error.splitlines()[0], hint="mend that first")
        return found.rows

    def _bin(self, wanted: SubsetSpec) -> Subset:
        """Random rows of one tenth of the pool in a representation's order, as many in each as the budget has rows."""
        random = next(s for w, s in self.made.items() if w.name == "random" and w.budget == wanted.budget)
        order, steps = self._order(wanted)
        bins = np.array_split(order, BINS)
        assert wanted.draw is not None, "a bin has a number"
        members = bins[wanted.draw]
        size = min(len(random.rows), *map(len, bins))
        if not size:
            raise DataError(f"{len(order)} rows are too few to be cut into {BINS} bins", where=wanted.title,
                            hint="leave deciles out for a pool as small as this")
        drawn = permutation(len(members), self.config.common.seed, "decile", wanted.name, wanted.target or "",
                            wanted.draw)[:size]
        return Subset(wanted, members[np.sort(drawn)], features=steps,
                      diagnostics={"bin": wanted.draw, "of": BINS, "bin_rows": len(members)})

    def _order(self, wanted: SubsetSpec) -> tuple[np.ndarray, list[Step]]:
        """The usable pool by round-robin over the targets, or by score where there are no similarities."""
        representation = representation_named(wanted.name, self.config.common)
        output, steps = self.output(representation, wanted.target)
        key = representation, wanted.target
        if key not in self._orders:
            problem = to_problem(self.constrained, self.inputs.of(wanted.target), output)
            by = "top-k" if output.blocks is None else "round-robin"
            self._orders[key] = run_selector(problem, "100%", by, seed=self.config.common.seed).indices
        return self._orders[key], steps

    @cached_property
    def constrained(self) -> Problem:
        """The pool under the user's constraints alone: baselines draw from it."""
        pool = self.inputs.pool
        return constrain(self.config.common, self.inputs.free, Problem(ids=pool.ids, tokens=pool.tokens))

    def _path(self, wanted: SubsetSpec) -> Path:
        return self.folder / "selections" / f"{wanted.id}.json"

    def _read(self, wanted: SubsetSpec) -> Subset | None:
        told = read_self_sealed(self._path(wanted))
        if told is None or told.get("key") != self._key(wanted):
            return None
        return Subset(wanted, np.array([self._place[row_id] for row_id in told["ids"]], np.int64), told["scores"],
                      told["seconds"], told["features"], told["diagnostics"])

    def _write(self, subset: Subset) -> None:
        wanted, pool = subset.wanted, self.inputs.pool
        make_way(self._path(wanted))
        write_json(self._path(wanted), self_sealed({
            "key": self._key(wanted), "kind": wanted.kind, "name": wanted.name, "target": wanted.target,
            "budget": wanted.budget, "draw": wanted.draw, "rows": len(subset.rows),
            "tokens": int(pool.tokens[subset.rows].sum()), "seconds": subset.seconds, "features": subset.features,
            "scores": subset.scores, "diagnostics": subset.diagnostics,
            "ids": pool.take(subset.rows).ids,
        }))

    def _key(self, wanted: SubsetSpec) -> str:
        if wanted not in self._keys:
            self._keys[wanted] = self._key_of(wanted)
        return self._keys[wanted]

    def _key_of(self, wanted: SubsetSpec) -> str:
        """Hash of everything that decides a subset."""
        config = self.config.common
        told: dict[str, Any] = {"wanted": [wanted.kind, wanted.name, wanted.target, wanted.budget, wanted.draw],
                                "pool": self._pool_told}
        if wanted.kind != "baseline":
            told["evidence"] = self.output_key(representation_named(wanted.method, config), wanted.target)
        if ablation := self.config.ablation(wanted.name):
            told["ablation"] = [ablation.method, plain(ablation.own), plain(ablation.shared), {
                name: _content(str(value)) for name, value in ablation.settings.items() if name in OWN_FILES}]
        if wanted.kind in ("method", "ablation"):
            selector = self._method(wanted).selector
            told["selector"] = [selector, deciding(config.settings_of(selector), "features", "selection")]
        if wanted.kind == "decile":
            told["size"] = self._key(next(w for w in self.wanted if w.name == "random" and w.budget == wanted.budget))
        if wanted.name == "length-matched-random":
            told["reference"] = self.matched.tolist() if self.matched is not None else self._key(next(
                w for w in self.wanted if w.kind == "method" and w.name == self.config.reference
                and w.target in (None, wanted.target) and w.budget == wanted.budget))
        return digest(told)

    def output_key(self, representation: str, target: str | None) -> str:
        """Hash of everything that decides what a representation knows for a target."""
        inputs = self.inputs.of(target)
        path = representation.removeprefix("file:") if representation.startswith("file:") else ""
        common = self.config.common
        own = common.settings_of(representation)
        parts = {one: common.settings_of(one) for one in common.parts_of(owner_of(representation))}
        told = {"parts": {one: [deciding(settings, "features", "selection"), _files(settings)]
                          for one, settings in parts.items()}} if parts else {}
        return digest({
            "pool": self._pool_told, "representation": [representation, _content(path)],
            "settings": deciding(own, "features", "selection"),
            "files": _files(own), **told,
            "model": self.inputs.load(self.config.common).base_key, "target": content_key(inputs.target),
            "subtasks": [row.subtask for row in inputs.target.rows], "existing": content_key(inputs.existing)})

    @cached_property
    def _pool_told(self) -> str:
        config, rows = self.config.common, self.inputs.pool.rows
        return digest({
            "siftune": __version__, "code": VERSION, "rows": self.inputs.pool_key, "render": self.inputs.free.render,
            "groups": list(zip(column(rows, "group"), column(rows, "source"), strict=True)),
            "settings": shared_settings(config),
            "files": {name: _content(getattr(config, name)) for name in FILES}})


def shared_settings(config: SelectConfig) -> dict[str, Any]:
    """The settings that all share, as far as a subset's key tells them."""
    known = {f.name for f in dataclasses.fields(SelectConfig)} - set(TOLD)
    return {name: value for name, value in deciding(config, "features", "selection").items() if name in known}


def _told(wanted: SubsetSpec, selection: Selection, seconds: float, steps: list[Step],
          notes: dict[str, Any] | None = None) -> Subset:
    score = selection.score
    told = {"mean": float(score.mean()), "least": float(score.min()), "largest": float(score.max())}
    return Subset(wanted, selection.indices, told if score.any() else {}, round(seconds, 3), steps,
                  {**selection.diagnostics, **(notes or {})})


def _files(settings: Any) -> dict[str, Any]:
    """The content of what a method's settings name, and of the files among its signals."""
    found = {name: _content(getattr(settings, name)) for name in OWN_FILES if hasattr(settings, name)}
    return found | {name: _content(name.removeprefix("file:")) for name in getattr(settings, "parts", ())
                    if name.startswith("file:")}


def _content(path: str) -> Any:
    """What stands in a file, or in the files of a folder, as checksums; None where there is neither."""
    if not path:
        return None
    place = Path(path).expanduser()
    if place.is_dir():
        return {file.relative_to(place).as_posix(): payload_of(file.resolve())
                for file in sorted(place.rglob("*")) if file.is_file()}
    return payload_of(place.resolve())
