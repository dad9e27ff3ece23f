"""Ablations: a method of the study with other settings, run as a method of its own.

What may differ is what the method or its selector reads: their own settings, and those shared ones that the method
says it reads. Where a setting decides the features themselves, they get a folder of their own below ``ablations``, so
that two settings never fight over one store; the warmup run is shared unless it is what differs, and settings that only
read the features in another way take those of the method. Which is which, each setting says itself
(:data:`siftune.config.options.Decides`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.config.catalogue import RECIPES, Recipe, owner_of
from siftune.config.owned import Blocks, blocks_of, own_fields, unqualified
from siftune.config.settings import CompareConfig, SelectConfig, from_mapping
from siftune.config.shared import shared_names
from siftune.experiments.entries import named_entries
from siftune.features.base import deciding_features
from siftune.features.gradient_settings import WarmedUp
from siftune.pipeline.recipes import representation_of, resolve

C = TypeVar("C", bound=SelectConfig)

SHARED = ("autocast", "feature_dtype")
"""Shared settings that an ablation may change, where its method does not say which it reads."""

_FORM = "write ablations: [{name: less-plain-gradients, method: less-round-robin, settings: {adam: none}}]"


@dataclass(frozen=True)
class Ablation:
    """A method with other settings.

    Attributes:
        name: as in the tables.
        method: the method of the study that it varies.
        representation: whose features it is about.
        own: what differs, by owner.
        shared: what differs of the settings that all share.
        base: the settings of ``representation`` in the study, with what differs, and with open choices made.
    """

    name: str
    method: str
    representation: str
    own: Mapping[str, Mapping[str, Any]]
    shared: Mapping[str, Any]
    base: Any

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What differs, by name."""
        names = [name for block in self.own.values() for name in block]
        return {**{name if names.count(name) == 1 else f"{owner}.{name}": value
                   for owner, block in self.own.items() for name, value in block.items()}, **self.shared}

    def of(self, config: C) -> C:
        """A configuration with these settings."""
        return dataclasses.replace(config.with_own(self.own), **self.shared)

    @property
    def computed(self) -> dict[str, Any]:
        """The settings that change what the method knows of the rows."""
        return {**self.own.get(owner_of(self.representation), {}), **self.shared}

    @property
    def features(self) -> dict[str, Any]:
        """The settings that change the features themselves."""
        deciding = deciding_features(representation_of(self.representation), self.base)
        return {k: v for k, v in self.computed.items() if k in deciding or k in self.shared}

    @property
    def words(self) -> str:
        return in_words(self.settings)

    @property
    def retrains(self) -> bool:
        """Whether it needs a warmup run of its own."""
        trained = {f.name for f in dataclasses.fields(WarmedUp) if f.metadata["decides"] == "features"}
        return bool(trained & set(self.features))

    @property
    def folder(self) -> str:
        """Of its features, below the run folder; empty where they are the method's own."""
        if not self.features:
            return ""
        return f"ablations/{hashlib.blake2b(settings_key(self.features).encode(), digest_size=6).hexdigest()}"

    def label(self, representation: str) -> str:
        """A representation with the settings that change its features, as costs and previews call it."""
        return f"{representation} ({in_words(self.features)})" if self.features else representation


def in_words(settings: Mapping[str, Any]) -> str:
    """``adam: none, projection_dim: 512``."""
    return ", ".join(f"{name}: {' '.join(value) if isinstance(value, tuple | list) else value}"
                     for name, value in sorted(settings.items()))


def settings_key(settings: Mapping[str, Any]) -> str:
    """Settings as the keys of what depends on them hold them."""
    return json.dumps(dict(settings), sort_keys=True)


def read_ablations(value: Any, methods: Sequence[str], taken: Sequence[str], common: CompareConfig, where: str,
                   ) -> tuple[Ablation, ...]:
    """The ablations of a study file, checked.

    Args:
        value: of the key ``ablations``.
        methods: of the study.
        taken: further names that stand for something else in the tables.
        common: the study's own settings.
        where: the file.

    Raises:
        ConfigError: an entry of another form, a name that is taken, a method that is not in the study, or a setting
            that is unknown, shared by all, not read by the method, or as it is without the ablation.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ConfigError(f"ablations cannot be {value!r}", where=where, hint=_FORM)
    found: list[Ablation] = []
    for name, at, entry in named_entries(value, "ablation", ("name", "method", "settings"), where, _FORM):
        if name in (*methods, *RECIPES, *taken):
            raise ConfigError(f"{name!r} is the name of a method or baseline", where=at,
                              hint="give the ablation a name of its own")
        method = entry.get("method")
        if not isinstance(method, str) or method not in methods:
            raise _other_method(method, methods, at)
        found.append(read_ablation(name, method, entry.get("settings"), common, at))
    return tuple(found)


def _other_method(method: Any, methods: Sequence[str], at: str) -> ConfigError:
    if not isinstance(method, str):
        return ConfigError("an ablation names no method", where=at, hint=_FORM)
    if method in RECIPES or ":" in method:
        return ConfigError(f"{method} is not among the methods of the study", where=at,
                           why="An ablation is held against the method that it varies.",
                           hint=f"add {method} to methods")
    return unknown_name("method of the study", method, methods, flag=at)


def read_ablation(name: str, method: str, value: Any, common: CompareConfig, at: str) -> Ablation:
    """A method with the settings that ``value`` names, as blocks of their owners or without them, checked.

    Raises:
        ConfigError: no setting, or one that is unknown, shared by all, not read by the method, or as it is without the
            ablation.
    """
    from siftune.features.base import GradientMethod
    from siftune.features.gradient_settings import needs_features, settled_settings

    if not isinstance(value, dict) or not value:
        raise ConfigError("an ablation changes no setting", where=at, hint=_FORM)
    recipe = resolve(method, has_existing=bool(common.existing))
    representation = representation_of(recipe.representation)
    owner = owner_of(recipe.representation)
    own, shared = _parts(value, recipe, at)
    made = from_mapping(CompareConfig, shared, where=at)
    found = {key: getattr(made, key) for key in shared}
    varied = common.with_own(own)
    changed = {**{key: (new, getattr(common.settings_of(one), key)) for one, block in own.items()
                  for key, new in block.items()},
               **{key: (new, getattr(common, key)) for key, new in found.items()}}
    for key, (new, before) in changed.items():
        if new == before:
            raise ConfigError(f"{key}: {new} is what the study has without this ablation", where=at,
                              hint="give it another value, or take it out")
    try:
        base = varied.settings_of(owner)
        if isinstance(representation, GradientMethod):
            # A projection that does not fit it is refused now.
            base = settled_settings(base, representation, needed=lambda: needs_features(common, owner))
    except ConfigError as error:
        error.where = at
        raise
    return Ablation(name, method, recipe.representation, own, found, base)


def owners_in_use(recipe: Recipe) -> list[str]:
    """The method and the selector whose settings a recipe reads."""
    return [owner_of(recipe.representation), recipe.selector]


def reads_shared(name: str, recipe: Recipe) -> bool:
    """Whether a method's features depend on a setting that all share."""
    return name in _reads(recipe)


def _reads(recipe: Recipe) -> Sequence[str]:
    return getattr(representation_of(recipe.representation), "reads", SHARED)


def _parts(value: Mapping[Any, Any], recipe: Recipe, at: str) -> tuple[Blocks, dict[str, Any]]:
    """The settings of method and selector by owner, and those that all share."""
    in_use = owners_in_use(recipe)
    own: Blocks = {}
    shared: dict[str, Any] = {}
    for key, new in value.items():
        name = str(key).replace("-", "_")
        if isinstance(new, dict):
            part = blocks_of({str(key): new}, at)
            for owner in part:
                if owner not in in_use:
                    raise ConfigError(f"{recipe.name} does not read settings of {owner}", where=at,
                                      hint=f"it reads those of {' and of '.join(in_use)}")
        elif name in shared_names(CompareConfig):
            _check_shared(name, recipe, at)
            shared[name] = new
            continue
        else:
            part = _unqualified(name, new, recipe, in_use, at)
        for owner, block in part.items():
            own.setdefault(owner, {}).update(block)
    return own, shared


def _unqualified(name: str, value: Any, recipe: Recipe, in_use: Sequence[str], at: str) -> Blocks:
    try:
        return unqualified(name, value, in_use, at)
    except ConfigError as error:
        if error.why and "It is one of" in error.why:
            own = [one for owner in in_use for one in own_fields(owner)]
            raise ConfigError(f"{recipe.name} does not read {name}", where=at, why=error.why,
                              hint=f"it reads {', '.join(own)}" if own else "vary another method") from error
        raise


def _check_shared(name: str, recipe: Recipe, at: str) -> None:
    reads = _reads(recipe)
    if name in reads:
        return
    if name in SHARED:
        own = [one for owner in owners_in_use(recipe) for one in own_fields(owner)]
        raise ConfigError(f"{recipe.name} does not read {name}", where=at,
                          hint=f"it reads {', '.join([*own, *reads])}" if own or reads else "vary another method")
    raise same_for_all(name, at)


def same_for_all(name: str, at: str) -> ConfigError:
    """The error for a setting that does not differ between the arms of a study."""
    hint = {"representation": "write METHOD:SELECTOR under methods", "selector": "write METHOD:SELECTOR under methods",
            "method": "write it beside settings", "budget": "write it under budgets",
            }.get(name, "set it for the study as a whole, and run one study for each of its values")
    return ConfigError(f"the setting {name!r} is the same for all of a study", where=at,
                       why="Its arms differ in how rows are chosen, never in how they are trained on.", hint=hint)
