"""What gradient methods have in common: settings, adapter, warmup, projection, engine, and the fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from siftune._common.artefacts import described
from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune._common.seeds import derive
from siftune.config.catalogue import SELECTORS, owner_of
from siftune.config.options import COUNT, COUNT_OR_NONE, NOT_NEGATIVE, POSITIVE, SHARE, OwnSettings, option
from siftune.config.settings import SelectConfig
from siftune.features.base import Context, GradientMethod, deciding_features

if TYPE_CHECKING:
    import torch

    from siftune.features.gradients.engine import GradientEngine


@dataclass(frozen=True)
class WarmedUp(OwnSettings):
    """Of methods that take gradients at the checkpoints of a warmup run (LESS, section 4.1)."""

    warmup_share: float = option(0.05, "Share of the pool that the warmup run trains on.", rule=SHARE)
    warmup_rows: int = option(100, "At least so many warmup rows.", rule=COUNT_OR_NONE, paper="only a share")
    warmup_epochs: int = option(4, "Epochs of the warmup run; each leaves a checkpoint to take gradients at.",
                                rule=COUNT)
    warmup_learning_rate: float = option(3e-4, "Peak learning rate of the warmup run.", rule=POSITIVE, paper=2e-5)
    warmup_batch_size: int = option(8, "Rows per optimizer step of the warmup run.", rule=COUNT, paper=128)
    checkpoints: str = option("all", "At which checkpoints gradients are taken: all of the warmup run, weighed by "
                              "their learning rate; the last alone; or those of a training of your own, by the folder "
                              "that siftune.LessCheckpoints kept them in.", decides="selection")


@dataclass(frozen=True)
class Compared(OwnSettings):
    """How kept gradient features are compared with the targets'."""

    target_mean: Literal["gradient", "cosine"] = option("gradient", "What stands for a subtask: its mean target "
                                                        "gradient (LESS, the paper), or the mean of the cosines to its "
                                                        "targets (LESS, the code).", decides="selection")
    gradient_score: Literal["cosine", "dot"] = option("cosine", "How a row's gradient is held against the targets': by "
                                                      "its cosine (LESS), or by the inner product, which longer "
                                                      "gradients win, so shorter responses.", decides="selection")
    center: bool = option(False, "Take what all rows of the pool share out of their gradients before they are "
                          "compared. No paper does.", decides="selection")
    damping: float = option(0.0, "Precondition with the damped inverse of the pool's projected Gram matrix (TRAK, "
                            "LoGra): damping in mean eigenvalues, for example 0.1; 0 for off.", decides="selection",
                            rule=NOT_NEGATIVE)


@dataclass(frozen=True)
class Projected(OwnSettings):
    """How gradients are made small enough to be kept."""

    projection: str = option("auto", "auto (the method's own; of LESS none, unless its features are needed), "
                             "sparse-jl, countsketch, srht, rademacher (dense, slow), grass, logra, factgrass, or "
                             "none, where the method can: score against the unprojected targets, exact, but for "
                             "these targets only.", paper="LESS: rademacher")
    projection_dim: int = option(8192, "Numbers per row and checkpoint.", rule=COUNT)


def settled(context: Context, method: GradientMethod) -> Any:
    """The settings with ``auto`` replaced by the projection that it stands for in this run, see
    :func:`own_projection`, and what then plays no part as by default.

    Raises:
        ConfigError: a projection that does not fit the method, or damping or a score that does not fit the
            projection.
    """
    return settled_settings(context.settings, method, needed=lambda: needs_features(context.config, method.name))


def needs_features(config: SelectConfig, method: str) -> bool:
    """Whether a run needs features of a method by gradients, and not only its scores: rows that the model knows are
    given, or one of the selectors compares rows of the pool with each other."""
    if config.existing:
        return True
    used = {selector for name, selector in config.recipes() if owner_of(name) == method} | {config.selector} - {""}
    return any(SELECTORS.get(name).info.needs in ("vectors", "kernel", "sets") for name in used)


def own_projection(settings: Any, method: GradientMethod, needed: Callable[[], bool]) -> str:
    """What ``auto`` stands for: nothing but scores is kept where the targets' directions can be had first and no
    features are asked for, be it by ``keep_features``, by another number of dimensions, or by a way of comparing that
    takes features."""
    kept = getattr(method, "projection_of_features", "")
    if not kept:
        return method.projection
    dimensions = type(settings).__dataclass_fields__["projection_dim"].default
    asked = (settings.keep_features or settings.projection_dim != dimensions or settings.damping
             or settings.gradient_score == "dot")
    return kept if asked or needed() else method.projection


def settled_settings(settings: Any, method: GradientMethod, *, needed: Callable[[], bool] = lambda: False) -> Any:
    """:func:`settled` for settings that belong to no run yet.

    Args:
        settings, method: the method's.
        needed: whether features are needed in any case, see :func:`needs_features`; asked only where that decides.
    """
    asked = getattr(settings, "projection", "auto")
    kind = own_projection(settings, method, needed) if asked == "auto" else asked
    if kind not in method.projections:
        from siftune.features.gradients.projections import KINDS

        if kind not in (*KINDS, "none"):
            raise unknown_name("projection", kind, [*KINDS, "none", "auto"], flag="--set projection")
        raise ConfigError(f"the method {method.name} does not work with the projection {kind}",
                          where="--set projection", why=_WHY.get(kind, ""),
                          hint=f"choose one of {', '.join(method.projections)}, or leave it out")
    if asked != kind and hasattr(settings, "projection"):
        settings = replace(settings, projection=kind)
    kept = method.keeps_features(settings)
    if settings.damping and not kept:
        raise ConfigError("there is nothing to precondition without features", where="--set damping",
                          why="With projection=none only scores are kept, and the Gram matrix is of features.",
                          hint="leave damping out, or choose --set projection=sparse-jl")
    if settings.center and not kept and settings.directions == "subtasks":
        raise ConfigError("too little is kept to centre", where="--set center",
                          why="With directions=subtasks there are no cosines with single targets, whose gradients are "
                              "centred one by one.",
                          hint="leave center out, or choose --set directions=targets")
    if settings.gradient_score == "dot" and (settings.damping or settings.center or not kept):
        given = "damping" if settings.damping else "center" if settings.center else "projection=none"
        raise ConfigError("inner products take projected gradients as they are", where="--set gradient_score",
                          why=f"With {given} what is kept of a row is a cosine.",
                          hint=f"leave {given} out, or choose --set gradient_score=cosine")
    # What is kept is now said by the projection alone.
    idle = ["keep_features", "directions" if kept else "projection_dim"]
    return replace(settings, **{name: type(settings).__dataclass_fields__[name].default for name in idle
                                if hasattr(settings, name)})


_WHY = {
    "logra": "It never forms the gradient, so Adam's direction cannot be taken of it.",
    "factgrass": "It never forms the gradient, so Adam's direction cannot be taken of it.",
    "none": "Full weights have too many directions to keep unprojected.",
}


def lora_settings(config: SelectConfig) -> Any:
    from siftune.models.lora import LoraSettings

    return LoraSettings(rank=config.lora_rank, alpha=config.lora_alpha, dropout=config.lora_dropout,
                        targets=config.lora_targets or "auto", layers=config.lora_layers or "all")


def warmup_settings(settings: WarmedUp, config: SelectConfig) -> Any:
    """How the warmup run of a method's own settings is trained."""
    from siftune.features.gradients.warmup import WarmupSettings
    from siftune.training.settings import TrainSettings

    train = TrainSettings(learning_rate=settings.warmup_learning_rate, batch_size=settings.warmup_batch_size,
                          micro_batch_tokens=config.micro_batch_tokens)
    return WarmupSettings(share=settings.warmup_share, min_rows=settings.warmup_rows, epochs=settings.warmup_epochs,
                          train=train)


def own_training(settings: Any) -> str | None:
    """The folder with checkpoints of a training of the user's, where those are used; each decides its features."""
    return None if settings.checkpoints in ("all", "last") else settings.checkpoints


def needs_reference(settings: Any) -> bool:
    """Whether gradients of some pool rows are taken besides for a mean, see :mod:`siftune.features.centring`."""
    exact = getattr(settings, "projection", "") == "none"
    return settings.center and (exact or getattr(settings, "adam", "none") != "none")


def random_projection(settings: Projected, config: SelectConfig) -> Any:
    """The random projection of settings that are settled."""
    from siftune.features.gradients.projections import projection

    return projection(settings.projection, settings.projection_dim, derive(config.seed, "projection"))


def make_engine(config: SelectConfig, model: Any) -> GradientEngine:
    """The gradient engine that the settings ask for."""
    from siftune.features.gradients.engine import GradientEngine

    return GradientEngine(model, checkpointing=config.checkpointing, autocast=autocast_type(config))


def autocast_type(config: SelectConfig) -> torch.dtype | None:
    """In which type feature passes run; None for the model's own."""
    import torch

    return None if config.autocast == "none" else getattr(torch, config.autocast)


def choose_linear_weights(model: Any, config: SelectConfig) -> Any:
    """Make the weights of a base model's linear layers its only trainable parameters (all blocks, unless named)."""
    from siftune.features.gradients.engine import train_linear_weights
    from siftune.models.lora import LoraSettings, block_modules, target_modules

    layers = config.lora_layers or "all"
    if config.lora_targets:
        names = target_modules(model, LoraSettings(targets=config.lora_targets, layers=layers))
    else:
        names = block_modules(model, layers)
    train_linear_weights(model, names)
    return model


def gradient_fingerprint(context: Context, method: GradientMethod, settings: Any) -> dict[str, Any]:
    """What every gradient feature of the pool depends on, the telling fields first.

    Args:
        context: of the run.
        method: whose features they are.
        settings: the method's, settled.
    """
    if method.warmup and own_training(settings) is not None:
        from siftune.features.gradients.own_warmup import existing_folder

        existing_folder(settings.checkpoints)  # before a model is loaded
    config, loaded = context.config, context.model
    made: dict[str, Any] = {
        "model": loaded.identity,
        "dtype": loaded.dtype,
        "autocast": config.autocast,
        "render": context.render,
        "pool": context.pool_key,
        "feature_dtype": config.feature_dtype,
        "seed": config.seed,
        # Whether features are kept is said by the projection, and was before there was a setting for it.
        "settings": {k: v for k, v in deciding_features(method, settings).items() if k != "keep_features"},
    }
    if method.warmup:
        made["lora"] = described(lora_settings(config))
        made["warmup"] = described(warmup_settings(settings, config)) if own_training(settings) is None else "given"
    else:
        made["weights"], made["layers"] = list(config.lora_targets) or "all", config.lora_layers
    if getattr(settings, "projection", "none") != "none":
        made["projection"] = random_projection(settings, config).fingerprint()
    return made
