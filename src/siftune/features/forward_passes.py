"""Passes over rows that write what readers read of a forward pass, each into a store of its own.

Whatever several readers lack of a shard is read in one pass; so features that a later run will want are collected for
next to nothing (``--collect``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from siftune._common.seeds import derive
from siftune.config.settings import SelectConfig
from siftune.data.rows import Examples
from siftune.features.base import Context
from siftune.features.collect import further_readers
from siftune.features.forward.reader import Reader
from siftune.features.gradient_settings import autocast_type, lora_settings
from siftune.features.passes import Job, ShardWorker, fill, keys_and_folder, on_own_device
from siftune.features.remote import for_workers
from siftune.features.store import FeatureStore, Shard

if TYPE_CHECKING:
    from siftune.features.adapters import TrainedAdapter
    from siftune.features.gradients.warmup import Checkpoint
    from siftune.models.loading import LoadedModel


VERSION = 1
"""Of the pass: whoever changes what it computes counts up."""


def forward_stores(context: Context, examples: Examples, readers: Sequence[Reader], kind: str, *, step: str = "",
                   adapted: Any = None, checkpoint: Checkpoint | TrainedAdapter | None = None) -> list[FeatureStore]:
    """One complete store per reader, made in as few passes as possible.

    A pass of the plain model over the pool keeps what ``--collect`` names as well, in stores that are not returned.

    Args:
        context: of the run.
        examples: the pool, or other rows.
        readers: what to read; distinct names.
        kind: ``pool``, ``target`` or ``existing``.
        step: what the clock calls it; ``{kind} forward pass`` when not given.
        adapted: the model with an adapter (see :func:`siftune.features.warmed_up.warmed_up`), which is read at
            ``checkpoint``; the plain model when not given.
        checkpoint: of the adapter: one of a warmup run, or the end of a training.

    Raises:
        StoreMismatch: a store holds something else, and ``--recompute`` was not given.
    """
    config, loaded = context.config, context.model
    own = len(readers)
    if examples is context.pool and adapted is None:
        readers = [*readers, *further_readers(context, readers)]
    if kind != "pool":  # what the pool is compared with keeps its precision
        config = replace(config, feature_dtype="float32")
    rows, folder = keys_and_folder(context, examples, kind)
    stores = []
    for reader in readers:
        path = context.folder / "store" / reader.name / folder
        stores.append(FeatureStore.open(path / checkpoint.folder if checkpoint else path / "base",
                                        made_from(context, reader, config.feature_dtype, checkpoint), rows=rows,
                                        shard_rows=config.shard_rows, recompute=config.recompute))

    def jobs(which: Sequence[int], some: Sequence[FeatureStore], rows: Examples) -> list[Job]:
        lacking: dict[Shard, list[tuple[Reader, FeatureStore]]] = {}
        for i, store in zip(which, some, strict=True):
            for shard in store.missing():
                lacking.setdefault(shard, []).append((readers[i], store))
        return [Job((tuple(reader for reader, _ in part), checkpoint), tuple(store for _, store in part), shard,
                    rows.rendered[shard.start : shard.stop])
                for shard, part in sorted(lacking.items(), key=lambda item: (item[0].start, item[0].stop))]

    here = adapted if adapted is not None else loaded.model
    start = partial(_start_worker, load=context.load, config=for_workers(config), adapted=adapted is not None)
    fill(context, step or f"{kind} forward pass", stores, jobs, lambda which, rows: int(rows.tokens.sum()),
         lambda advance: ForwardWorker(config, loaded, here, advance), start, examples=examples,
         over_pool=examples is context.pool)
    return stores[:own]


def made_from(context: Context, reader: Reader, feature_dtype: str,
              checkpoint: Checkpoint | TrainedAdapter | None) -> dict[str, Any]:
    """What a reader's numbers depend on beside the rows, the telling fields first.

    Args:
        context: of the run.
        reader: with all its fields.
        feature_dtype: how its features are stored, where it has any.
        checkpoint: of the adapter that the model has; None for the plain model.
    """
    loaded = context.model
    return {
        "model": loaded.identity, "dtype": loaded.dtype, "autocast": context.config.autocast, "render": context.render,
        "reader": reader, "code": [VERSION, reader.version],
        **({"feature_dtype": feature_dtype} if reader.features else {}),
        **({"lora": lora_settings(context.config), "checkpoint": checkpoint} if checkpoint else {}),
    }


class ForwardWorker(ShardWorker):
    """What readers read of the rows of a shard."""

    def __init__(self, config: SelectConfig, loaded: LoadedModel, model: Any,
                 advance: Callable[[float], None] = lambda tokens: None):
        super().__init__(config, loaded, advance)
        self.model = model
        self.prepared: Checkpoint | TrainedAdapter | None = None

    def arrays(self, job: Job) -> list[dict[str, np.ndarray]]:
        from siftune.features.forward.engine import forward_features
        from siftune.features.store.codec import encode
        from siftune.models.lora import load_adapter_state

        readers, checkpoint = job.of
        if checkpoint is not None and checkpoint != self.prepared:
            load_adapter_state(self.model, checkpoint.load_weights())
            self.prepared = checkpoint
        found = forward_features(
            self.model, job.rendered, readers, pad_id=self.loaded.pad_id, batch_tokens=self.batch_tokens,
            device=self.loaded.device, autocast=autocast_type(self.config),
            on_batch=lambda positions: self.advance(sum(len(job.rendered[i]) for i in positions)),
        )
        for reader, arrays in zip(readers, found, strict=True):
            for name in reader.features:
                arrays.update(encode(name, arrays.pop(name), self.config.feature_dtype))
        return found


def _start_worker(number: int, *, load: Callable[[SelectConfig], LoadedModel], config: SelectConfig,
                  adapted: bool) -> ForwardWorker:
    from siftune.models.lora import attach_lora

    config = on_own_device(config, number)
    loaded = load(config)
    model = loaded.model
    if adapted:
        model = attach_lora(model, lora_settings(config), derive(config.seed, "adapter"))
    return ForwardWorker(config, loaded, model)
