"""A grid of settings in a study file: every combination becomes an ablation of each method that reads them.

``grid: {less.projection_dim: [1024, 8192], adam: [paper, none]}`` varies each method of the study by the product of the
values of those settings that the method, or its selector, reads. A combination of the study's own values is the method
itself and no arm of its own. What a setting may be is what an ablation may change, see
:mod:`siftune.experiments.ablations`: the trainings of a study are all alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.config.catalogue import RECIPES, Recipe, owner_named
from siftune.config.options import shown
from siftune.config.owned import checked, own_fields, owner_of_block, owners_of, plainly
from siftune.config.settings import CompareConfig, from_mapping
from siftune.config.shared import shared_names
from siftune.experiments.ablations import SHARED, Ablation, owners_in_use, read_ablation, reads_shared, same_for_all
from siftune.pipeline.recipes import resolve

MOST_ARMS = 32
"""A grid makes at most so many: each is trained for every target and budget, and tested beside all others."""

_FORM = "write grid: {less.projection_dim: [1024, 8192], adam: [paper, none]}"


@dataclass(frozen=True)
class _Axis:
    """A setting and its values.

    Attributes:
        owner: the method or selector whose it is; empty for a setting that all share.
        name: of the setting.
        values: with their types right, in the order written.
        own: what the study has without the grid.
    """

    owner: str
    name: str
    values: tuple[Any, ...]
    own: Any


def read_grid(value: Any, methods: Sequence[str], ablations: Sequence[Ablation], taken: Sequence[str],
              keys: Sequence[str], common: CompareConfig, where: str) -> tuple[Ablation, ...]:
    """The arms of a study file's grid, method by method, the last setting running fastest.

    Args:
        value: of the key ``grid``.
        methods: of the study.
        ablations: those that the file names one by one.
        taken: further names that stand for something else in the tables.
        keys: of a study file, which are no settings.
        common: the study's own settings.
        where: the file.

    Raises:
        ConfigError: another form, a setting that is unknown, that all trainings of a study share or that no method of
            the study reads, a value of the wrong type, more than :data:`MOST_ARMS` arms or none, or an arm that an
            ablation is already.
    """
    if value is None:
        return ()
    where = f"{where}: grid"
    written = _written(value, where)
    recipes = {name: resolve(name, has_existing=bool(common.existing)) for name in methods}
    axes: dict[str, list[_Axis]] = {name: [] for name in methods}
    for key, values in written.items():
        if key in keys:
            raise ConfigError(f"{key!r} is a key of the study itself", where=where, hint="write it beside grid")
        readers = _readers(key, recipes, where)
        for method, (owner, name) in readers.items():
            if any((owner, name) == (axis.owner, axis.name) for axis in axes[method]):
                raise ConfigError(f"{name} of {owner} stands twice", where=where, hint="take one of them out")
            axes[method].append(_axis(key, owner, name, values, common, where))
    count = sum(_arms(of) for of in axes.values())
    if count > MOST_ARMS:
        told = ", ".join(f"{_arms(of)} of {name}" for name, of in axes.items() if of)
        raise ConfigError(f"the grid makes {count:,} arms, more than {MOST_ARMS}", where=where, why=f"{told}.",
                          hint="take values out, or write the arms that matter under ablations")
    if not count:
        raise ConfigError("the grid changes nothing", where=where,
                          why="All of its values are those that the study has without it.",
                          hint="give other values, or take it out")
    found = [_arm(method, of, values, common, where) for method, of in axes.items()
             for values in itertools.product(*(axis.values for axis in of))
             if any(value != axis.own for axis, value in zip(of, values, strict=True))]
    _check_distinct(found, ablations, (*methods, *RECIPES, *taken), where)
    return tuple(found)


def _written(value: Any, where: str) -> dict[str, list[Any]]:
    """Lists of values by setting: a block ``less: {adam: [...]}`` says ``less.adam: [...]``."""
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"a grid cannot be {shown(value)}", where=where, hint=_FORM)
    found: dict[str, list[Any]] = {}
    for key, values in value.items():
        inside = values.items() if isinstance(values, dict) else [("", values)]
        for name, given in inside:
            full = f"{key}.{name}" if name else str(key)
            owner, dot, last = full.rpartition(".")
            full = f"{owner}{dot}{last.replace('-', '_')}"
            if not isinstance(given, list) or not given:
                raise ConfigError(f"{full} is not a list of values: {shown(given)}", where=where,
                                  hint=f"write {full}: [{'...' if isinstance(given, list) else plainly(given)}]")
            if len(given) > MOST_ARMS + 1:  # of which one may be the study's own; checking thousands takes minutes
                raise ConfigError(f"{full} has {len(given):,} values, and a grid makes {MOST_ARMS} arms at most",
                                  where=where, hint="take values out")
            if full in found:
                raise ConfigError(f"{full} stands twice", where=where, hint="take one of them out")
            found[full] = given
    if not found:
        raise ConfigError("a grid names no setting", where=where, hint=_FORM)
    return found


def _readers(key: str, recipes: Mapping[str, Recipe], where: str) -> dict[str, tuple[str, str]]:
    """The methods of the study that read a setting, each with the setting's owner and name."""
    owner, _, name = key.rpartition(".")
    if owner:
        owner = owner_of_block(owner, where)
        checked(owner, {name: None}, where) if name not in own_fields(owner) else None
        found = {method: (owner, name) for method, recipe in recipes.items() if owner in owners_in_use(recipe)}
        if not found:
            raise ConfigError(f"no method of the study reads settings of {owner}", where=where,
                              hint=f"add one to methods, or vary one of {', '.join(_known(recipes))}")
        return found
    if name in shared_names(CompareConfig):
        found = {method: ("", name) for method, recipe in recipes.items() if reads_shared(name, recipe)}
        if not found and name not in SHARED:
            raise same_for_all(name, where)
    else:
        found = {method: (_owner(name, recipe, where), name) for method, recipe in recipes.items()
                 if owners_of(name, owners_in_use(recipe))}
    if found:
        return found
    if owner_named(name):
        raise ConfigError(f"{name} is a method or selector, not a setting", where=where,
                          hint=f"write {name}: {{NAME: [VALUE, ANOTHER]}}; `siftune methods {name}` lists its settings")
    others = owners_of(name)
    if name in SHARED or others:
        why = f"It is one of {', '.join(others)}." if others else None
        raise ConfigError(f"no method of the study reads {name}", where=where, why=why,
                          hint=f"the methods read {', '.join(_known(recipes)) or 'no settings'}")
    raise unknown_name("setting of the grid", name, _known(recipes), flag=where)


def _owner(name: str, recipe: Recipe, where: str) -> str:
    found = owners_of(name, owners_in_use(recipe))
    if len(found) > 1:
        raise ConfigError(f"{name!r} is a setting of {' and of '.join(found)}", where=where,
                          hint=f"name the owner: {' or '.join(f'{owner}.{name}' for owner in found)}")
    return found[0]


def _known(recipes: Mapping[str, Recipe]) -> list[str]:
    own = (name for recipe in recipes.values() for owner in owners_in_use(recipe) for name in own_fields(owner))
    shared = (name for recipe in recipes.values() for name in SHARED if reads_shared(name, recipe))
    return sorted({*own, *shared})


def _axis(key: str, owner: str, name: str, values: Sequence[Any], common: CompareConfig, where: str) -> _Axis:
    at = f"{where}: {key}"
    found = []
    for value in values:
        one = (checked(owner, {name: value}, at)[name] if owner
               else getattr(from_mapping(CompareConfig, {name: value}, where=at), name))
        if one in found:
            raise ConfigError(f"{plainly(one)} stands twice", where=at, hint="take one of them out")
        found.append(one)
    own = getattr(common.settings_of(owner) if owner else common, name)
    return _Axis(owner, name, tuple(found), own)


def _arms(axes: Sequence[_Axis]) -> int:
    """How many combinations there are but for the study's own."""
    count = 1
    for axis in axes:
        count *= len(axis.values)
    return count - all(axis.own in axis.values for axis in axes)


def _arm(method: str, axes: Sequence[_Axis], values: Sequence[Any], common: CompareConfig, where: str) -> Ablation:
    settings: dict[str, Any] = {}
    words = []
    names = [axis.name for axis in axes]
    for axis, value in zip(axes, values, strict=True):
        if value == axis.own:
            continue
        (settings.setdefault(axis.owner, {}) if axis.owner else settings)[axis.name] = value
        label = axis.name if names.count(axis.name) == 1 else f"{axis.owner}.{axis.name}"
        words.append(f"{label}={plainly(value).replace(', ', ',')}")
    name = " ".join([method, *words])
    return read_ablation(name, method, settings, common, f"{where} ({name})")


def _check_distinct(found: Sequence[Ablation], ablations: Sequence[Ablation], taken: Sequence[str], where: str) -> None:
    for arm in found:
        for other in ablations:
            if arm.name == other.name or (arm.method, arm.own, arm.shared) == (other.method, other.own, other.shared):
                raise ConfigError(f"the ablation {other.name!r} is an arm of the grid already", where=where,
                                  why=f"The grid calls it {arm.name!r}.", hint="take it out of ablations")
        if arm.name in taken:
            raise ConfigError(f"{arm.name!r} is the name of a method or baseline", where=where,
                              hint="write the arm under ablations, with a name of its own")
