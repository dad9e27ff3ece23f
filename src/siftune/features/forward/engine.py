"""Run rows through a model once and show every reader what it asked for.

Hooks on the modules themselves, so that no architecture needs code of its own: the input of the output embedding is
the last hidden state, and the output embedding sees only what some reader wants logits of (nothing, mostly: a
vocabulary of 150,000 would cost more than a small model's blocks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from siftune._common.errors import ModelError
from siftune.data.rows import Rendered
from siftune.evaluation.loss import evaluating
from siftune.features.forward.reader import Reader, Reading
from siftune.models.batching import Batch, collate, run_batches
from siftune.models.supervised_logits import supervised_logits


def forward_features(
    model: Any,
    rendered: Sequence[Rendered],
    readers: Sequence[Reader],
    *,
    pad_id: int,
    batch_tokens: int,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    on_batch: Callable[[list[int]], None] = lambda positions: None,
) -> list[dict[str, np.ndarray]]:
    """The arrays of every reader, one row an example, in the order given, whatever the batches.

    Readers that want other tokens of a row than the row itself (see :meth:`Reader.view`) get passes of their own;
    all others share one.

    Args:
        model: a causal language model, plain or with an adapter.
        rendered: the rows.
        readers: what to read.
        pad_id: any valid token id.
        batch_tokens: padded tokens per batch. A batch that does not fit in the device's memory is halved.
        device: where the model is.
        autocast: run the pass in this type; None for the model's own.
        on_batch: called after each batch of the shared pass with the positions of its rows (of the first pass, where
            no reader shares).

    Raises:
        ModelError: a number that is read is not finite.
    """
    found: list[dict[str, np.ndarray]] = [{} for _ in readers]
    shared = [i for i, reader in enumerate(readers) if reader.views_itself]
    passes = ([shared] if shared else []) + [[i] for i in range(len(readers)) if i not in shared]
    for number, some in enumerate(passes):
        rows = [readers[some[0]].view(row) for row in rendered]
        arrays = _one_pass(model, rows, [readers[i] for i in some], pad_id, batch_tokens, device, autocast,
                           on_batch if number == 0 else lambda positions: None)
        for i, own in zip(some, arrays, strict=True):
            found[i] = own
    return found


def _one_pass(model: Any, rendered: Sequence[Rendered], readers: Sequence[Reader], pad_id: int, batch_tokens: int,
              device: torch.device | str, autocast: torch.dtype | None, on_batch: Callable[[list[int]], None],
              ) -> list[dict[str, np.ndarray]]:
    out: list[dict[str, np.ndarray]] = [{} for _ in readers]

    def run(positions: list[int]) -> None:
        readings = _read(model, collate([rendered[i] for i in positions], pad_id, device), readers, device)
        for kept, reader, reading in zip(out, readers, readings, strict=True):
            for name, tensor in reading.arrays().items():
                values = tensor.cpu().numpy()
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    raise ModelError(f"{name} of {reader.name} is not a finite number for some row",
                                     why="Half precision overflows on some models.", hint="try --dtype float32")
                if name not in kept:
                    kept[name] = np.empty((len(rendered), *values.shape[1:]), values.dtype)
                kept[name][positions] = values
        on_batch(positions)

    cast: Any = torch.autocast(torch.device(device).type, autocast) if autocast else nullcontext()
    with evaluating(model), cast:
        run_batches([len(r) for r in rendered], batch_tokens, device, run)
    return out


def _read(model: Any, batch: Batch, readers: Sequence[Reader], device: torch.device | str) -> list[Reading]:
    readings = [reader.start(batch, device) for reader in readers]
    wanting = {tap: [g for r, g in zip(readers, readings, strict=True) if tap in r.taps]
               for tap in ("hidden", "logits", "gated", "up")}
    with ExitStack() as hooks:
        if wanting["hidden"]:
            hooks.enter_context(hidden_states(model, partial(_show, wanting["hidden"])))
        taps: tuple[Literal["gated", "up"], ...] = ("gated", "up")
        for tap in taps:
            if wanting[tap]:
                hooks.enter_context(_neurons(model, tap, wanting[tap], batch))
        # Last, so that the hook on hidden states runs before this one thins them out.
        seen = batch.supervised if wanting["logits"] else torch.zeros_like(batch.supervised)
        hooks.enter_context(supervised_logits(model, seen))
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    for reading in wanting["logits"]:
        reading.logits(logits[0])
    return readings


def _show(readings: Sequence[Reading], hidden: Tensor) -> None:
    for reading in readings:
        reading.hidden(hidden)


@contextmanager
def hidden_states(model: Any, look: Callable[[Tensor], None]) -> Iterator[None]:
    """Show what enters the output embedding, [B, T, H]; to be opened before the logits are thinned out.

    Raises:
        ModelError: the model has no output embedding.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output embedding", why="Its input is what is read.",
                         hint="give a causal language model with --model")
    handle = head.register_forward_pre_hook(lambda module, args: look(args[0]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _neurons(model: Any, tap: Literal["gated", "up"], readings: Sequence[Reading], batch: Batch) -> Iterator[None]:
    from siftune.features.forward.mlp import watch

    def look(layer: int, values: Tensor) -> None:
        shaped = values.reshape(*batch.input_ids.shape, -1)  # some models flatten rows and positions
        for reading in readings:
            reading.neurons(tap, layer, shaped)

    handles = watch(model, tap, look)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
