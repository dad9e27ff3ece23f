"""The model with an adapter that a warmup run trains, and the run's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftune._common.progress import log
from siftune._common.seeds import derive
from siftune.features.base import Context
from siftune.features.gradient_settings import lora_settings, own_training, warmup_settings

if TYPE_CHECKING:
    from siftune.features.gradients.warmup import Checkpoint, WarmupSettings


def warmup_folder(context: Context) -> str:
    """Where the warmup run of a method is kept, below the run folder: one for all methods that want the same run as
    LESS, and one of its own for one that does not."""
    config = context.config
    own, common = (warmup_settings(s, config) for s in (context.settings, config.settings_of("less")))
    return "warmup" if own == common else f"warmup-{context.owner}"


@contextmanager
def warmed_up(context: Context, *, settings: WarmupSettings | None = None, folder: str = "",
              stop_after: int | None = None) -> Iterator[tuple[Any, list[Checkpoint]]]:
    """The model with its adapter, and the checkpoints of its warmup run (LESS, section 4.1), trained where missing.

    With ``checkpoints = "last"`` it is the last of them alone, of the very same run; with a folder they are those of a
    training of the user's, see :mod:`siftune.features.gradients.own_warmup`.

    Args:
        context: of the run.
        settings: of another training run, all of whose checkpoints are wanted; the warmup run's when not given.
        folder: where the checkpoints of that other run are kept, below the run folder; also the name of the step.
        stop_after: only the first so many epochs are wanted; see :func:`siftune.features.gradients.warmup.run_warmup`.
    """
    from siftune.features.gradients.warmup import run_warmup
    from siftune.features.gradients.warmup_runs import warmup_run
    from siftune.models.lora import attach_lora, detach_lora

    config, loaded = context.config, context.model
    given = own_training(context.settings) if settings is None else None
    model = attach_lora(loaded.model, lora_settings(config), derive(config.seed, "adapter"))
    path = (context.trained or context.folder) / (folder or warmup_folder(context))
    how = settings or warmup_settings(context.settings, config)
    step = folder or "warmup"
    try:
        if given is not None:
            from siftune.features.gradients.own_warmup import open_checkpoints
            from siftune.models.lora import load_adapter_state

            checkpoints = open_checkpoints(given, lora_settings(config))
            load_adapter_state(model, checkpoints[-1].load_weights())  # one of another model is refused before any pass
            yield model.to(loaded.device).eval(), checkpoints  # type: ignore[arg-type]
            return
        with context.clock.measure(step) as entry:
            before = _newest(path)
            checkpoints = run_warmup(
                model, context.whole_pool.rendered, context.whole_pool.ids, how, path,
                derive(config.seed, "warmup"), pad_id=loaded.pad_id, device=loaded.device,
                base_key=loaded.base_key, stop_after=stop_after, title=step.replace("-", " "), render=context.render,
                earlier=context.in_earlier(path.name) if settings is None else (),
                before=lambda: context.computes_alone(f"the training run {step}"),
            )
            run = warmup_run(path)
            taken = run is not None and run.key != run.instead_of
            entry["reused"] = taken or before == _newest(path)
        if run is not None and taken:
            if before != _newest(path):
                log(f"{step}: the checkpoints of {run.trained_in} are used, trained on {run.rows:,} of the "
                    f"{run.pool:,} rows of its pool; with new ones (without --from) every feature would be another one")
            context.taken[step] = {"from": run.trained_in, "rows": run.rows, "pool_rows": run.pool}
        yield model, checkpoints[-1:] if settings is None and context.settings.checkpoints == "last" else checkpoints
    finally:
        detach_lora(model)


def _newest(folder: Path) -> int:
    """When the newest checkpoint in a folder was written, in ns; 0 where there is none."""
    return max((p.stat().st_mtime_ns for p in folder.glob("epoch-*/*") if p.is_file()), default=0)
