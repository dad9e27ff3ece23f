"""The arms of a choice: methods by name or with settings of their own, and which of them cannot be tried here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from siftune._common.errors import ConfigError, SiftuneError
from siftune.config.catalogue import owner_of
from siftune.config.choosing import ALWAYS, CENTRED, NOT_HERE, ChooseConfig
from siftune.experiments.ablations import Ablation, read_ablations
from siftune.experiments.config import BASELINES, StudyConfig, TargetFiles
from siftune.pipeline.recipes import resolve

_PACKAGES = {"bm25": ("bm25s", "pip install 'siftune[lexical]'")}
"""Packages that methods need which do not come with siftune."""


@dataclass(frozen=True)
class Arms:
    """What is tried beside random rows and the untuned model.

    Attributes:
        config: the settings, with what the arms have by default.
        methods: arms that are methods by name, in the user's order.
        variants: arms that are methods with other settings.
        left_out: name -> why an arm is not tried.
    """

    config: ChooseConfig
    methods: tuple[str, ...]
    variants: tuple[Ablation, ...]
    left_out: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.methods, *(one.name for one in self.variants))

    def variant(self, name: str) -> Ablation | None:
        return next((one for one in self.variants if one.name == name), None)

    def method_of(self, name: str) -> str:
        """The recipe by which an arm selects."""
        variant = self.variant(name)
        return variant.method if variant else name

    def representation(self, name: str) -> str:
        """The method whose features an arm looks at."""
        return resolve(self.method_of(name), has_existing=bool(self.config.existing)).representation

    def without(self, reasons: Mapping[str, str]) -> Arms:
        """The same without some arms, and why."""
        return dataclasses.replace(self, methods=tuple(m for m in self.methods if m not in reasons),
                                   variants=tuple(v for v in self.variants if v.name not in reasons),
                                   left_out={**self.left_out, **reasons})

    def study(self, targets: Sequence[str], budget: str, random: int, going_on: Sequence[str]) -> StudyConfig:
        """A round as the study that it is.

        Args:
            targets: names of the folds.
            budget: of the round.
            random: how many random subsets.
            going_on: the arms that are trained.
        """
        # What the arms say already, and what belongs to the folds.
        common = dataclasses.replace(self.config, target=(), test=(), arms=())
        files = [TargetFiles(name, self.config.target, ()) for name in targets]
        return StudyConfig(
            common=common, targets=tuple(files), methods=tuple(m for m in self.methods if m in going_on),
            ablations=tuple(v for v in self.variants if v.name in going_on), budgets=(budget,),
            seeds=self.config.seeds, headline=(), baselines={"random": random})


def read_arms(config: ChooseConfig) -> Arms:
    """The arms that a configuration names, each checked, and those left out whose packages are missing.

    Raises:
        ConfigError: an unknown arm, a baseline, or settings that an arm does not have.
    """
    config = _checked(config)
    named = [arm for arm in config.named_arms if isinstance(arm, str)]
    varied = [arm for arm in config.named_arms if not isinstance(arm, str)]
    for name in named:
        _check_method(name, config)
    of = list(dict.fromkeys(str(entry["method"]) for entry in varied if isinstance(entry.get("method"), str)))
    for name in of:
        _check_method(name, config)
    taken = (*BASELINES, *ALWAYS, "zero-shot")
    variants = read_ablations(varied or None, of, taken, config, "arms")
    arms = Arms(config, tuple(named), variants, {})
    missing = {name: why for name in arms.names if (why := _missing(arms, name))}
    return arms.without(missing)


def _checked(config: ChooseConfig) -> ChooseConfig:
    """The settings without those of an earlier run that say how it selected, and with what arms have by default."""
    standard = ChooseConfig()
    for name, hint in NOT_HERE.items():
        if getattr(config, name) == getattr(standard, name):
            continue
        if not config.from_run:
            raise ConfigError(f"the setting {name!r} is not one of a choice", where=f"--{name.replace('_', '-')}",
                              hint=hint)
        config = dataclasses.replace(config, **{name: getattr(standard, name)})
    own = {owner: {"center": True} for owner in CENTRED if "center" not in config.own.get(owner, {})}
    return config.with_own(own)


def _check_method(name: str, config: ChooseConfig) -> None:
    if name == "auto":
        raise ConfigError("auto cannot be an arm", where="--arms", why="It stands for one of several methods.",
                          hint="name these: less-round-robin, rds+")
    found = resolve(name, has_target=bool(config.target), has_existing=bool(config.existing))
    if found.representation == "none":
        raise ConfigError(f"{name} is a baseline", where="--arms", why="It knows nothing of the targets.",
                          hint="random rows are always measured; name methods that look at rows")


def _missing(arms: Arms, name: str) -> str:
    """Why an arm cannot be computed here: what it needs is not installed."""
    from importlib.util import find_spec

    variant, config = arms.variant(name), arms.config
    if variant:
        config = variant.of(config)
    owner = owner_of(arms.representation(name))
    for part in (owner, *config.parts_of(owner)):
        package, hint = _PACKAGES.get(part, ("", ""))
        if package and find_spec(package) is None:
            return f"it needs the package {package}: {hint}"
        model = getattr(config.settings_of(part), "embedding_model", "")
        if model and (why := _no_sentence_model(model)):
            return why
    return ""


def _no_sentence_model(name: str) -> str:
    from importlib.util import find_spec

    from siftune.models.sentence_embedding import minilm_folder

    if find_spec("sentence_transformers") is None:
        return "it needs the package sentence-transformers: pip install 'siftune[embed]'"
    try:
        _ = minilm_folder() if name == "minilm" else None
    except SiftuneError as error:
        return f"{error.what}: {error.hint}"
    return ""

