"""The targets' plain gradients, whole: what LESS's exact directions and GIST's subspace are made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftune.features.base import Context
from siftune.features.gradient_passes import Passes
from siftune.features.gradient_settings import make_engine

if TYPE_CHECKING:
    from siftune.features.gradients.warmup import Checkpoint


def target_gradients(context: Context, passes: Passes, checkpoint: Checkpoint, path: Path) -> Any:
    """The targets' plain gradients at a checkpoint, [M, D]: see :mod:`siftune.features.gradients.basis`."""
    from siftune._common.progress import bar
    from siftune.features.gradients.basis import collect
    from siftune.models.lora import load_adapter_state
    from siftune.models.memory import batch_tokens

    context.computes_alone("target gradients")
    config, loaded = context.config, context.model
    load_adapter_state(passes.model, checkpoint.load_weights())
    rendered = context.target.rendered
    with bar("target gradients", int(context.target.tokens.sum()), "tokens") as progress:
        return collect(make_engine(config, passes.model), rendered, path, pad_id=loaded.pad_id,
                       batch_tokens=batch_tokens(config.batch_tokens, loaded), device=loaded.device,
                       on_batch=lambda rows: progress.advance(sum(len(rendered[i]) for i in rows)))
