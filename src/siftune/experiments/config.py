"""`siftune study study.yaml`: what a study is, read and checked before anything is computed.

What belongs to all of its runs (pool, model, training, output folder) is written as for `siftune compare`; targets,
methods, budgets and numbers of trainings are the study's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.config.catalogue import METHODS, owner_named, owners
from siftune.config.earlier import HINTS
from siftune.config.settings import CompareConfig, from_mapping, read_yaml
from siftune.config.shared import shared_names
from siftune.experiments.ablations import Ablation, read_ablations
from siftune.experiments.entries import named_entries
from siftune.experiments.grid import read_grid
from siftune.pipeline.recipes import resolve
from siftune.selectors.core.budget import Budget

BASELINES = ("random", "length-matched-random", "longest", "full")
ELSEWHERE = {
    "target": "write it under targets", "test": "write it under targets", "method": "write them under methods",
    "representation": "write METHOD:SELECTOR under methods", "selector": "write METHOD:SELECTOR under methods",
    "budget": "write them under budgets",
    "collect": "a study reads all that its methods need of one forward pass by itself",
}
"""Settings of `compare` that a study has no use for, and what to do instead."""


@dataclass(frozen=True)
class TargetFiles:
    """One thing that the model is to learn.

    Attributes:
        name: as in the tables.
        target: files with the examples that choose.
        test: files with the held-out rows that measure.
    """

    name: str
    target: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class StudyConfig:
    """A study.

    Attributes:
        common: what is shared by all of its runs.
        targets: with distinct names.
        methods: names as for ``--method``, those of ``headline`` first, the others in alphabetical order.
        budgets: in rows, shares or tokens, in the order written.
        seeds: trainings of each method.
        headline: the methods and ablations that get ``headline_seeds`` trainings.
        headline_seeds: see there.
        baselines: how many subsets (random, length-matched-random) or trainings (longest, full) of each.
        train_models: further models that are trained on the same subsets.
        deciles: methods or representations whose order of the pool is cut into ten.
        ablations: methods with other settings, in the order written, those of the file's ``grid`` last.
        steps: about how many optimizer steps every training has; None for the same epochs for all.
        is_comparison: whether it is what `siftune compare` runs: one target, for which every method chooses, one
            budget, and tests against every baseline.
    """

    common: CompareConfig
    targets: tuple[TargetFiles, ...]
    methods: tuple[str, ...]
    budgets: tuple[str, ...]
    seeds: int = 1
    headline: tuple[str, ...] = ()
    headline_seeds: int = 3
    baselines: Mapping[str, int] = field(default_factory=lambda: {"random": 3})
    train_models: tuple[str, ...] = ()
    deciles: tuple[str, ...] = ()
    steps: int | None = None
    ablations: tuple[Ablation, ...] = ()
    is_comparison: bool = False

    def ablation(self, name: str) -> Ablation | None:
        return next((one for one in self.ablations if one.name == name), None)

    def trainings(self, method: str) -> int:
        return self.headline_seeds if method in self.headline else self.seeds

    @property
    def reference(self) -> str:
        """The method whose subsets length-matched-random matches: the first of the headline, else of all; empty where
        there is none."""
        return self.methods[0] if self.methods else ""

    @property
    def tested_against(self) -> tuple[str, ...]:
        """The baselines that methods are tested against, where they are in."""
        return BASELINES if self.is_comparison else ("random", "length-matched-random", "full")


OWN_KEYS = (*(f.name for f in dataclasses.fields(StudyConfig) if f.name not in ("common", "is_comparison")), "grid")


def load_study(path: str | Path, flags: Mapping[str, Any] | None = None) -> StudyConfig:
    """Read a study file; nothing but the existence of the files it names is looked at besides.

    Args:
        path: of the YAML file.
        flags: settings of ``common`` that win over it, such as ``output_dir``.

    Raises:
        ConfigError: an unknown key, a wrong value, a missing file, two targets of one name.
    """
    where = str(path)
    values = {_key(k, v): v for k, v in read_yaml(path).items()}
    known = set(shared_names(CompareConfig)) - set(ELSEWHERE) | set(OWN_KEYS)
    for key, value in values.items():
        if key in ELSEWHERE:
            raise ConfigError(f"the setting {key!r} is not one of a study", where=where, hint=ELSEWHERE[key])
        block = value is None or (isinstance(value, dict) and owner_named(key) is not None)
        if key not in known and key not in HINTS and not block:
            raise unknown_name("setting", key, [*known, *owners()], flag=where)
    shared = {k: v for k, v in values.items() if k not in OWN_KEYS}
    common = from_mapping(CompareConfig, {**shared, **(flags or {})}, where=where)
    if common.own.get("file", {}).get("target_vectors"):
        raise ConfigError("the setting 'target_vectors' is not one of a study", where=where,
                          hint="it holds vectors of one target's rows only")
    if not common.output_dir:
        raise ConfigError("no folder is named", where="--output-dir", hint="for example output_dir: runs/study")
    _pool_given(common, where)
    methods = _texts(values, "methods", where)
    headline = _texts(values, "headline", where, needed=False)
    for name in methods:
        _check_method(name, common, where)
    # What a method keeps may depend on who selects from it; not on the order in the file.
    common = dataclasses.replace(common, methods=tuple(sorted(methods)))
    taken = (*BASELINES, "zero-shot")
    ablations = read_ablations(values.get("ablations"), methods, taken, common, where)
    ablations += read_grid(values.get("grid"), methods, ablations, taken, OWN_KEYS, common, where)
    known = (*methods, *(one.name for one in ablations))
    for name in headline:
        if name not in known:
            raise unknown_name("method of the headline", name, known, flag=where)
    deciles = _texts(values, "deciles", where, needed=False)
    for name in deciles:
        representation_named(name, common)
    others = _texts(values, "train_models", where, needed=False)
    if common.model in others:
        raise ConfigError(f"{common.model} is the study's own model", where=where,
                          hint="name other models under train_models, or none")
    return StudyConfig(
        common=common,
        targets=_targets(values.get("targets"), where),
        methods=(*(name for name in headline if name in methods), *sorted(set(methods) - set(headline))),
        budgets=_budgets(values, where),
        seeds=_count(values, "seeds", 1, where),
        headline=headline,
        headline_seeds=_count(values, "headline_seeds", 3, where),
        baselines=_baselines(values.get("baselines"), where),
        train_models=others,
        deciles=tuple(sorted(deciles)),
        steps=_steps(values.get("steps", "epochs"), where),
        ablations=ablations,
    )


def _key(key: str, value: Any) -> str:
    """A shared setting or one of a study with underscores; the name of a method or selector as it is."""
    if isinstance(value, dict) and owner_named(key):
        return key
    return "from_run" if key == "from" else key.replace("-", "_")


def representation_named(name: str, common: CompareConfig) -> str:
    """The representation that a method or representation of that name stands for.

    Raises:
        ConfigError: neither is known, or it is a baseline, which knows nothing of the rows.
    """
    found = name if name in METHODS else resolve(name, has_existing=bool(common.existing)).representation
    if found == "none":
        raise ConfigError(f"{name} has no order of the pool to cut into ten", where="deciles",
                          hint="name a method or a representation, such as less or embed")
    return found


def _check_method(name: str, common: CompareConfig, where: str) -> None:
    if name == "auto":
        raise ConfigError("a study compares methods that are named", where=where,
                          hint="name the methods that auto would choose from, such as less-round-robin and less-ot")
    try:
        method = resolve(name, has_existing=bool(common.existing))
    except ConfigError as error:
        error.where = where
        raise
    if method.representation == "none":
        raise ConfigError(f"{name} is a baseline", where=where, hint="say under baselines how many of it: "
                          f"baselines: {{{method.selector if method.selector in BASELINES else 'random'}: 3}}")


def _pool_given(common: CompareConfig, where: str) -> None:
    if not common.pool:
        raise ConfigError("no pool is named", where=where, hint="give a file to choose from: pool: [pool.jsonl]")


def _targets(value: Any, where: str) -> tuple[TargetFiles, ...]:
    form = "write targets: [{name: math, target: [examples.jsonl], test: [held_out.jsonl]}]"
    if not isinstance(value, list) or not value:
        raise ConfigError("a study needs targets", where=where, hint=form)
    found = []
    for name, at, entry in named_entries(value, "target", ("name", "target", "test"), where, form):
        files = {key: _files(entry, key, at) for key in ("target", "test")}
        found.append(TargetFiles(name, files["target"], files["test"]))
    return tuple(found)


def _files(entry: Mapping[str, Any], key: str, at: str) -> tuple[str, ...]:
    from siftune.data.sources import find_sources

    files = _texts(entry, key, at)
    find_sources(files)  # a missing file is refused now, not after the first target's features
    return files


def _texts(values: Mapping[str, Any], key: str, where: str, *, needed: bool = True) -> tuple[str, ...]:
    value = values.get(key, ())
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, Sequence) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError(f"{key} cannot be {value!r}", where=where, hint=f"write {key}: [one, another]")
    if needed and not entries:
        raise ConfigError(f"there is no entry in {key}" if key in values else f"{key} is missing", where=where,
                          hint=f"write {key}: [one, another]")
    twice = sorted({entry for entry in entries if entries.count(entry) > 1})
    if twice:
        raise ConfigError(f"{twice[0]!r} stands twice in {key}", where=where, hint="take one of them out")
    return tuple(entries)


def _budgets(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    given = values.get("budgets")
    if isinstance(given, int | float | str):
        given = [given]
    if isinstance(given, list):  # YAML reads 500 as a number
        given = [str(b) if isinstance(b, int | float) and not isinstance(b, bool) else b for b in given]
    found = _texts({"budgets": given} if given is not None else {}, "budgets", where)
    for budget in found:
        try:
            Budget.parse(budget)
        except ConfigError as error:
            error.where = f"{where}: budgets"
            raise
    return found


def _count(values: Mapping[str, Any], key: str, default: int, where: str, least: int = 1) -> int:
    value = values.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{key} cannot be {value!r}", where=where, hint=f"give a whole number, {least} or more")
    return value


def _baselines(value: Any, where: str) -> dict[str, int]:
    if value is None:
        value = {"random": 3}
    if not isinstance(value, dict):
        raise ConfigError(f"baselines cannot be {value!r}", where=where,
                          hint="say how many of each: baselines: {random: 5, length-matched-random: 3, full: 1}")
    for name in value:
        if name not in BASELINES:
            raise unknown_name("baseline", str(name), BASELINES, flag=where)
    counts = {name: _count(value, name, 3 if name == "random" else 0, where, 1 if name == "random" else 0)
              for name in BASELINES}
    return {name: count for name, count in counts.items() if count}


def _steps(value: Any, where: str) -> int | None:
    if value == "epochs":
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"steps cannot be {value!r}", where=where,
                          hint='write steps: epochs (the same epochs for all) or a number of optimizer steps')
    return value
