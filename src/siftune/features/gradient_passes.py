"""Passes over rows that write gradient features, checkpoint by checkpoint.

LESS, GIST and LoGra differ in which gradients they take and what they are mapped to; the rest is the same for all of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from siftune._common.artefacts import KeptFile
from siftune._common.errors import SiftuneError
from siftune._common.seeds import derive
from siftune.config.settings import SelectConfig
from siftune.data.rows import Examples
from siftune.features.base import Context
from siftune.features.gradient_settings import (
    choose_linear_weights,
    lora_settings,
    make_engine,
    random_projection,
)
from siftune.features.passes import Job, ShardWorker, fill, keys_and_folder, on_own_device, refuse_other
from siftune.features.remote import for_workers
from siftune.features.store import FeatureStore, Shard

if TYPE_CHECKING:
    from siftune.features.gradients.warmup import Checkpoint
    from siftune.models.loading import LoadedModel


VERSION = 1
"""Of the pass: whoever changes what it computes counts up."""


@dataclass(frozen=True)
class Pass:
    """What one pass takes and what it keeps.

    Attributes:
        checkpoint: where the adapter and Adam's moments come from; None for a base model.
        adam: ``paper``, ``less-code``, ``no-momentum`` or ``none`` (plain gradients).
        basis: a matrix of directions to multiply with (see :class:`siftune.features.gradients.basis.Directions`); None
            for the configured random projection.
        cosines: keep inner products divided by the direction's norm (``similarity``) instead of unit features.
    """

    checkpoint: Checkpoint | None = None
    adam: Literal["paper", "less-code", "no-momentum", "none"] = "none"
    basis: KeptFile | None = None
    cosines: bool = False


class Passes:
    """Runs passes for one run."""

    def __init__(self, context: Context, settings: Any, model: Any, fingerprint: dict[str, Any], root: Path):
        """``settings`` are those of the context with their open choices made, see
        :func:`siftune.features.gradient_settings.settled`."""
        self.context, self.settings, self.model = context, settings, model
        self.fingerprint, self.root = fingerprint, root

    @property
    def head(self) -> Path:
        """The note that tells what all stores are made from."""
        return self.root / "fingerprint.json"

    def over(self, examples: Examples, passes: Sequence[Pass], kind: str, step: str = "") -> list[FeatureStore]:
        """One complete store per pass, timed as ``step``.

        Args:
            examples: the pool, or other rows.
            passes: what to take of them.
            kind: ``pool``, ``target`` or ``existing``: the stores' folder, with the rows' content where it may change.
            step: what the clock calls it; the features of that kind when not given.
        """
        return together([(self, passes)], examples, kind, step)[0]

    def stores(self, examples: Examples, passes: Sequence[Pass], kind: str) -> list[FeatureStore]:
        """The stores of :meth:`over`, with what they hold already."""
        rows, folder = keys_and_folder(self.context, examples, kind)
        config = self.context.config
        return [FeatureStore.open(self.root / folder / (f"epoch-{p.checkpoint.epoch}" if p.checkpoint else "base"),
                                  {**self.fingerprint, "pass": p, "code": VERSION}, rows=rows,
                                  shard_rows=config.shard_rows, recompute=config.recompute)
                for p in passes]


class Owner(Protocol):
    """Whose stores a pass over the pool fills: those of one target."""

    context: Context
    root: Path
    fingerprint: dict[str, Any]

    def prepare(self, model: Any, checkpoints: Sequence[Checkpoint]) -> None: ...


def can_join(one: Owner, model: Any, checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether an owner could be prepared to share another's pass; if not, its own turn will say why."""
    try:
        refuse_other(one.context, one.root, one.fingerprint)
        one.prepare(model, checkpoints)
    except SiftuneError:
        return False
    return True


def together(several: Sequence[tuple[Passes, Sequence[Pass]]], examples: Examples, kind: str, step: str = "",
             ) -> list[list[FeatureStore]]:
    """:meth:`Passes.over` for several owners of stores at once: one backward pass gives all of them their numbers.

    Args:
        several: who keeps what. The first runs the passes and times them; the k-th passes of all differ in their
            ``basis`` alone.
        examples, kind, step: see :meth:`Passes.over`.
    """
    first = several[0][0]
    stores = [passes.stores(examples, wanted, kind) for passes, wanted in several]
    every = [(k, p) for _, wanted in several for k, p in enumerate(wanted)]

    def jobs(which: Sequence[int], some: Sequence[FeatureStore], rows: Examples) -> list[Job]:
        found = []
        for k in range(len(several[0][1])):
            lacking: dict[tuple[int, int], list[tuple[Pass, FeatureStore, Shard]]] = {}
            for (at, wanted), store in zip((every[i] for i in which), some, strict=True):
                for shard in store.missing() if at == k else ():  # of an earlier run they may be of another size
                    lacking.setdefault((shard.start, shard.stop), []).append((wanted, store, shard))
            for _, part in sorted(lacking.items()):
                shard = part[0][2]
                found.append(Job(tuple(p for p, _, _ in part), tuple(store for _, store, _ in part), shard,
                                 rows.rendered[shard.start : shard.stop]))
        return found

    context = first.context
    start = partial(_start_worker, load=context.load, config=for_workers(context.config), settings=first.settings,
                    adapted=first.model is not context.model.model)
    fill(context, step or f"{kind} features", [store for kept in stores for store in kept], jobs,
         lambda which, rows: len({every[i][0] for i in which}) * int(rows.tokens.sum()),
         lambda advance: Worker(context.config, first.settings, context.model, first.model, advance), start,
         examples=examples, title=f"{kind} gradients", over_pool=examples is context.pool)
    return stores


class Worker(ShardWorker):
    """Gradients of the rows of a shard; remembers the pass that it is prepared for."""

    def __init__(self, config: SelectConfig, settings: Any, loaded: LoadedModel, model: Any,
                 advance: Callable[[float], None] = lambda tokens: None):
        super().__init__(config, loaded, advance)
        self.model, self.settings = model, settings
        self.engine = make_engine(config, model)
        self.prepared: tuple[Pass, ...] = ()

    def arrays(self, job: Job) -> list[dict[str, np.ndarray]]:
        from siftune.features.gradients.features import gradient_features

        if self.prepared != job.of:
            self._prepare(job.of)
        arrays = gradient_features(
            self.engine, job.rendered, projection=self.projection, precondition=self.precondition,
            pad_id=self.loaded.pad_id, batch_tokens=self.batch_tokens, device=self.loaded.device,
            on_batch=lambda positions: self.advance(sum(len(job.rendered[i]) for i in positions)),
        )
        places = self.projection.places if len(job.of) > 1 else [slice(None)]
        return [self._kept(p, {**arrays, "projected": arrays["projected"][:, place]})
                for p, place in zip(job.of, places, strict=True)]

    def _kept(self, wanted: Pass, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        from siftune.features.gradients.features import normalised
        from siftune.features.store.codec import encode

        if wanted.cosines:
            arrays["similarity"] = arrays.pop("projected") / arrays["norm"][:, None]
        else:
            arrays = normalised(arrays)
            arrays.update(encode("feature", arrays.pop("feature"), self.config.feature_dtype))
        return arrays

    def _prepare(self, several: tuple[Pass, ...]) -> None:
        from siftune.features.gradients.basis import Basis, Stacked
        from siftune.models.lora import load_adapter_state

        before, self.prepared = self.prepared, several
        wanted = several[0]
        if [p.basis for p in before] != [p.basis for p in several]:
            bases = [Basis.stored(p.basis) for p in several if p.basis]
            self.projection: Any = (Stacked(bases) if len(bases) > 1 else bases[0] if bases
                                    else random_projection(self.settings, self.config))
        checkpoint = wanted.checkpoint
        if checkpoint is not None:
            load_adapter_state(self.model, checkpoint.load_weights())
        self.precondition = preconditioner(checkpoint, wanted.adam, self.loaded.device)


def preconditioner(checkpoint: Checkpoint | None, adam: str, device: Any) -> Any:
    """What makes directions of gradients at a checkpoint; None where they are the gradients themselves."""
    from siftune.features.gradients.adam import AdamDirection

    if adam == "none":
        return None
    assert checkpoint is not None, "Adam's moments belong to a checkpoint"
    first, second = ({n: t.to(device) for n, t in part.items()} for part in checkpoint.load_moments())
    return AdamDirection(first, second, checkpoint.step, checkpoint.betas, checkpoint.eps, adam)  # type: ignore[arg-type]


def _start_worker(number: int, *, load: Callable[[SelectConfig], LoadedModel], config: SelectConfig, settings: Any,
                  adapted: bool) -> Worker:
    """In a worker process: its own model, on its own GPU where there are several."""
    from siftune.models.lora import attach_lora

    config = on_own_device(config, number)
    loaded = load(config)
    if adapted:
        model = attach_lora(loaded.model, lora_settings(config), derive(config.seed, "adapter"))
    else:
        model = choose_linear_weights(loaded.model, config)
    return Worker(config, settings, loaded, model)
