"""What the settings of a run mean for gradient features: adapter, warmup, projection, engine, and the fingerprint."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from siftune._common.artefacts import described
from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune._common.seeds import derive
from siftune.config.settings import SelectConfig
from siftune.features.base import Context, GradientRepresentation

if TYPE_CHECKING:
    import torch

    from siftune.features.gradients.engine import GradientEngine


def settled(config: SelectConfig, representation: GradientRepresentation) -> SelectConfig:
    """The settings with ``auto`` replaced by the representation's own projection.

    Raises:
        ConfigError: a projection that does not fit the representation, or damping or a score that does not fit the
            projection.
    """
    kind = representation.projection if config.projection == "auto" else config.projection
    if kind not in representation.projections:
        from siftune.features.gradients.projections import KINDS

        if kind not in (*KINDS, "none"):
            raise unknown_name("projection", kind, [*KINDS, "none", "auto"], flag="--projection")
        raise ConfigError(f"the representation {representation.name} does not work with the projection {kind}",
                          where="--projection", why=_WHY.get(kind, ""),
                          hint=f"choose one of {', '.join(representation.projections)}, or leave the flag out")
    kept = representation.keeps_features(replace(config, projection=kind))
    if config.damping and not kept:
        raise ConfigError("there is nothing to precondition without features", where="--damping",
                          why="With --projection none only scores are kept, and the Gram matrix is of features.",
                          hint="leave --damping out, or choose --projection sparse-jl")
    if config.center and not kept:
        raise ConfigError("there is nothing to centre without features", where="--center",
                          why="With --projection none only cosines are kept, and the mean is one of features.",
                          hint="leave --center out, or choose --projection sparse-jl")
    if config.gradient_score == "dot" and (config.damping or config.center or not kept):
        given = "--damping" if config.damping else "--center" if config.center else "--projection none"
        raise ConfigError("inner products take projected gradients as they are", where="--gradient-score",
                          why=f"With {given} what is kept of a row is a cosine.",
                          hint=f"leave {given} out, or choose --gradient-score cosine")
    return replace(config, projection=kind)


_WHY = {
    "logra": "It never forms the gradient, so Adam's direction cannot be taken of it.",
    "factgrass": "It never forms the gradient, so Adam's direction cannot be taken of it.",
    "none": "Full weights have too many directions to keep unprojected.",
}


def lora_settings(config: SelectConfig) -> Any:
    from siftune.models.lora import LoraSettings

    return LoraSettings(rank=config.lora_rank, alpha=config.lora_alpha, dropout=config.lora_dropout,
                        targets=config.lora_targets or "auto", layers=config.lora_layers or "all")


def warmup_settings(config: SelectConfig) -> Any:
    from siftune.features.gradients.warmup import WarmupSettings
    from siftune.training.settings import TrainSettings

    train = TrainSettings(learning_rate=config.learning_rate, batch_size=config.batch_size,
                          micro_batch_tokens=config.micro_batch_tokens)
    return WarmupSettings(share=config.warmup_share, min_rows=config.warmup_rows, epochs=config.warmup_epochs,
                          train=train)


def needs_reference(config: SelectConfig, representation: str) -> bool:
    """Whether plain gradients of some pool rows are taken besides, see :mod:`siftune.features.centring`."""
    return config.center and representation == "less" and config.adam != "none"


def config_projection(config: SelectConfig) -> Any:
    """The random projection of settings that are settled."""
    from siftune.features.gradients.projections import projection

    return projection(config.projection, config.projection_dim, derive(config.seed, "projection"))


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


def base_fingerprint(context: Context) -> dict[str, Any]:
    """What every gradient feature of the pool depends on, the telling fields first."""
    config, loaded = context.config, context.model
    return {
        "model": loaded.identity,
        "dtype": loaded.dtype,
        "autocast": config.autocast,
        "render": context.render,
        "pool": context.pool_key,
        "feature_dtype": config.feature_dtype,
        "seed": config.seed,
    }


def warmup_fingerprint(context: Context) -> dict[str, Any]:
    """The part of a fingerprint that the warmup run decides."""
    config = context.config
    return {"lora": described(lora_settings(config)), "warmup": described(warmup_settings(config))}
