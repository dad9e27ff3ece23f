"""Ablations: a method of the study with other settings, run as a method of its own.

What may differ is what a representation or a selector reads. Where a setting changes the features themselves, they get
a folder of their own below ``ablations``, so that two settings never fight over one store; the warmup run is shared
unless it is what differs, and settings that only read the features in another way take those of the method.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.config.settings import CompareConfig, from_mapping
from siftune.experiments.entries import named_entries
from siftune.pipeline.recipes import METHODS, Method, representation_of, resolve
from siftune.selectors import SELECTORS

_GRADIENTS, _WARMED_UP, _PROJECTED = ("less", "gist", "logra"), ("less", "gist"), ("less", "logra")
_FORWARD, _NEURONS, _ACTIVE = ("rds", "mads", "nag", "nait", "loss", "ifd"), ("mads", "nag", "nait"), ("mads", "nag")
READ_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("warmup_share", "warmup_rows", "warmup_epochs", "checkpoints"), _WARMED_UP),
    **dict.fromkeys(("target_mean", "gradient_score", "damping"), _GRADIENTS),
    **dict.fromkeys(("projection", "projection_dim"), _PROJECTED),
    **dict.fromkeys(("adam", "directions"), ("less",)),
    "target_rank": ("gist",),
    "autocast": (*_GRADIENTS, *_FORWARD),
    **dict.fromkeys(("feature_dtype", "center"), (*_GRADIENTS, "rds", "embed")),
    **dict.fromkeys(("neurons", "span"), _NEURONS),
    **dict.fromkeys(("aggregate", "active", "threshold"), _ACTIVE),
    "nait_score": ("nait",),
    "embedding_model": ("embed", "learning-percentage", "utility"),
    **dict.fromkeys(("utility", "pairs", "nominees", "random_nominees"), ("utility",)),
    "learning_percentage": ("learning-percentage",),
    "ngram_buckets": ("dsir",),
}
"""Settings that an ablation may change, and the representations that read them. Representations of other packages may
read any of them."""

SELECTORS_OWN = ("on_taken", "options")
"""Settings of the selector: what a representation knows stays the same."""

READINGS = ("target_mean", "gradient_score", "damping", "center", "checkpoints", "nait_score")
"""Settings by which a representation reads the same features in another way."""

TRAINED = ("warmup_share", "warmup_rows", "warmup_epochs")
"""Settings of the warmup run."""

_KNOWN = frozenset(name for names in READ_BY.values() for name in names) | {"bm25"}
_FORM = "write ablations: [{name: less-plain-gradients, method: less-round-robin, settings: {adam: none}}]"


@dataclass(frozen=True)
class Ablation:
    """A method with other settings.

    Attributes:
        name: as in the tables.
        method: the method of the study that it varies.
        settings: what differs from the study's own settings, as a configuration holds it.
    """

    name: str
    method: str
    settings: Mapping[str, Any]

    @property
    def evidence(self) -> dict[str, Any]:
        """The settings that change what the representation knows."""
        return {k: v for k, v in self.settings.items() if k not in SELECTORS_OWN}

    @property
    def features(self) -> dict[str, Any]:
        """The settings that change the features themselves."""
        # Without a projection the targets' directions are in the store, and the mean decides them.
        stored = ("target_mean",) if self.settings.get("projection") == "none" else ()
        return {k: v for k, v in self.evidence.items() if k not in READINGS or k in stored}

    @property
    def words(self) -> str:
        return in_words(self.settings)

    @property
    def retrains(self) -> bool:
        """Whether it needs a warmup run of its own."""
        return any(name in self.settings for name in TRAINED)

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
        if name in (*methods, *METHODS, *taken):
            raise ConfigError(f"{name!r} is the name of a method or baseline", where=at,
                              hint="give the ablation a name of its own")
        method = entry.get("method")
        if not isinstance(method, str) or method not in methods:
            raise _other_method(method, methods, at)
        found.append(Ablation(name, method, _settings(entry.get("settings"), method, common, at)))
    return tuple(found)


def _other_method(method: Any, methods: Sequence[str], at: str) -> ConfigError:
    if not isinstance(method, str):
        return ConfigError("an ablation names no method", where=at, hint=_FORM)
    if method in METHODS or ":" in method:
        return ConfigError(f"{method} is not among the methods of the study", where=at,
                           why="An ablation is held against the method that it varies.",
                           hint=f"add {method} to methods")
    return unknown_name("method of the study", method, methods, flag=at)


def _settings(value: Any, method: str, common: CompareConfig, at: str) -> dict[str, Any]:
    from siftune.features.base import GradientRepresentation
    from siftune.features.gradient_settings import settled
    from siftune.pipeline.select import selector_options

    if not isinstance(value, dict) or not value:
        raise ConfigError("an ablation changes no setting", where=at, hint=_FORM)
    values = {str(key).replace("-", "_"): v for key, v in value.items()}
    recipe = resolve(method, has_existing=bool(common.existing))
    for name in values:
        _check_name(name, recipe, at)
    made = from_mapping(CompareConfig, values, where=at)
    settings = {name: getattr(made, name) for name in values}
    for name, new in settings.items():
        if new == getattr(common, name):
            raise ConfigError(f"{name}: {new} is what the study has without this ablation", where=at,
                              hint="give it another value, or take it out")
    varied, representation = dataclasses.replace(common, **settings), representation_of(recipe.representation)
    try:
        selector_options(varied, recipe.selector)
        if isinstance(representation, GradientRepresentation):
            settled(varied, representation)  # a projection that does not fit it is refused now
    except ConfigError as error:
        error.where = at
        raise
    return settings


def _check_name(name: str, recipe: Method, at: str) -> None:
    allowed = (*READ_BY, *SELECTORS_OWN)
    if name not in allowed:
        if name in {f.name for f in dataclasses.fields(CompareConfig)}:
            hint = {"representation": "write REPRESENTATION:SELECTOR under methods",
                    "selector": "write REPRESENTATION:SELECTOR under methods", "method": "write it beside settings",
                    "budget": "write it under budgets"}.get(name, "set it for the study as a whole")
            raise ConfigError(f"the setting {name!r} is the same for all of a study", where=at, hint=hint)
        raise unknown_name("setting", name, allowed, flag=at)
    if name == "on_taken" and name not in SELECTORS.get(recipe.selector).options:
        raise ConfigError(f"{recipe.name} does not read {name}", where=at,
                          why=f"It is an option of other selectors than {recipe.selector}.",
                          hint="vary a method with round-robin")
    readers = READ_BY.get(name, ())
    if readers and recipe.representation.partition(":")[0] in (_KNOWN | {"file"}) - set(readers):
        own = [n for n, some in READ_BY.items() if recipe.representation in some]
        raise ConfigError(f"{recipe.name} does not read {name}", where=at,
                          why=f"It belongs to {', '.join(readers)}, and this is {recipe.representation}.",
                          hint=f"it reads {', '.join(own)}" if own else "vary another method")
