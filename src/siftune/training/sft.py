"""Supervised fine-tuning of a LoRA adapter on rendered rows, resumable after being killed at any moment."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch

from siftune._common import files, progress
from siftune._common.artefacts import Absent, KeptFile, Unusable, described, keep_file, kept_file
from siftune._common.artefacts.key import canonical
from siftune._common.artefacts.sealed import remove
from siftune._common.errors import DataError
from siftune.data.rows import Rendered
from siftune.models.lora import adapter_state, load_adapter_state
from siftune.training.checkpoints import Record, folder_of, newest_complete
from siftune.training.settings import TrainSettings

if TYPE_CHECKING:
    from peft import PeftModel

    from siftune.training.trainer import EpochHook

_ADAPTER = "adapter.safetensors"
_SUMMARY = "training.json"
_CHECKPOINTS = "checkpoints"
_KIND = "training"

VERSION = 1
"""Of the training: whoever changes what it computes from the same settings and rows counts up."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves.

    Attributes:
        steps: Optimizer steps.
        loss_history: Loss of every step (mean over the batch's rows of their mean token loss), nats per token.
        learning_rates: Learning rate of every step.
        seconds: Wall time over all resumptions, from start to the last checkpoint of each.
        key: Content key of the run, see :func:`training_key`.
        adapter: The file of the trained adapter weights, by full parameter name (safetensors). Of a run that left off
            early it is part of its checkpoint.
    """

    steps: int
    loss_history: list[float]
    learning_rates: list[float]
    seconds: float
    key: str
    adapter: Path


def training_key(model: PeftModel, rendered: Sequence[Rendered], settings: TrainSettings, base_key: str) -> str:
    """Hex BLAKE2 of everything that decides the result of a run.

    The rows' ids and masks in order, the settings, the adapter as it is now (names, shapes, weights) with its scale
    and dropout, and ``base_key``, the caller's name for the frozen base model (its path, revision and dtype).
    """
    config = model.peft_config["default"]
    told = described({"settings": settings, "base": base_key, "code": VERSION,
                      "lora": [getattr(config, name) for name in ("r", "lora_alpha", "lora_dropout")]})
    digest = hashlib.blake2b(canonical(told), digest_size=16)
    digest.update(safetensors.torch.save(adapter_state(model)))
    for row in rendered:
        digest.update(len(row).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(row.ids, dtype="<i4").tobytes())
        digest.update(np.ascontiguousarray(row.mask, dtype=np.bool_).tobytes())
    return digest.hexdigest()


def train_lora(model: PeftModel, rendered: Sequence[Rendered], settings: TrainSettings, folder: str | Path, *,
               pad_id: int, device: str | torch.device, base_key: str = "", on_epoch: EpochHook | None = None,
               title: str = "training", stop_after: int | None = None) -> TrainResult:
    """Train the adapter of ``model`` in place; the loss of a step is the mean over rows of each row's mean token loss.

    Interrupted at any moment, even by SIGKILL, calling again with the same starting model, rows, settings and folder
    continues from the newest complete checkpoint (one an epoch, or more with ``settings.save_steps``) and ends with
    the very bits of an undisturbed run on the same machine and thread count. Called after it has finished, it loads
    the adapter and returns at once. A folder that holds another run (other rows, settings, model) is emptied.

    While running, ``folder/checkpoints`` holds the Trainer's own files, among them the optimizer's state as a torch
    file that the Trainer writes and reads with ``weights_only``; they are gone in the end, when ``adapter.safetensors``
    and ``training.json`` remain.

    Args:
        model: From :func:`siftune.models.lora.attach_lora`, with fresh or previously trained weights; ends in eval
            mode with the trained weights.
        rendered: The rows; each must have a supervised token.
        settings: How to train.
        folder: Where this run lives; nothing is written elsewhere.
        pad_id: Token id to pad with on the right (masked out, so any valid id).
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        base_key: Names the frozen base model (path, revision, dtype), so that another one is noticed.
        on_epoch: ``on_epoch(epoch, model, optimizer, mean_learning_rate)`` at the end of every epoch, from 1. After an
            interruption it may be called again for the same epoch, with the same values.
        title: Of the progress bar.
        stop_after: Leave off after so many epochs, in the middle of the learning rate's schedule; the checkpoint stays,
            and a later call with more of them, or None, goes on from there.

    Raises:
        DataError: no rows, or one without a supervised token.
        ModelError: the loss became NaN or infinite.
        ConfigError: the device is not available to the Trainer.
        SiftuneError: the operating system refused a write.
    """
    _check(rendered)
    folder = files.make_folder(folder)
    key = training_key(model, rendered, settings, base_key)
    finished = _finished(folder, key)
    if finished is not None:
        load_adapter_state(model, safetensors.torch.load_file(finished.adapter))
        model.to(device).eval()  # type: ignore[arg-type]
        return finished
    root = folder / _CHECKPOINTS
    resume = newest_complete(root, key)
    record = resume[1] if resume else Record(key)

    # Imported here since it takes seconds, and a finished run does not need it.
    from siftune.training.trainer import ADAPTER_FILE, Bookkeeping, RowMeanTrainer

    total = min(stop_after or settings.epochs, settings.epochs) * settings.steps_per_epoch(len(rendered))
    with (_caller_keeps_random_state(), _start_restored_on_error(model),
          progress.bar(title, total, "steps") as bar):
        if resume:
            progress.log(f"{title}: continuing after step {len(record.losses)} of {total}")
            bar.skip(len(record.losses))
        trainer = RowMeanTrainer(model, rendered, settings, root, pad_id=pad_id, device=torch.device(device),
                                 record=record)
        trainer.add_callback(Bookkeeping(trainer, root, bar, on_epoch, stop_after))
        trainer.train(resume_from_checkpoint=str(resume[0]) if resume else None)
    model.eval()
    if len(record.losses) < settings.epochs * settings.steps_per_epoch(len(rendered)):
        return TrainResult(len(record.losses), record.losses, record.learning_rates, record.seconds, key,
                           folder_of(root, len(record.losses)) / ADAPTER_FILE)
    if trainer.sum_of_last:
        load_adapter_state(model, trainer.mean_of_last())

    content = safetensors.torch.save(adapter_state(model))
    about = {
        "base": base_key,
        "settings": asdict(settings),
        "rows": len(rendered),
        "steps": len(record.losses),
        "seconds": record.seconds,
        "loss_history": record.losses,
        "learning_rates": record.learning_rates,
    }
    keep_file(folder / _ADAPTER, _KIND, key, about, note=folder / _SUMMARY,
              write=lambda path: path.write_bytes(content))
    shutil.rmtree(root)
    return TrainResult(len(record.losses), record.losses, record.learning_rates, record.seconds, key,
                       folder / ADAPTER_FILE)


def kept_adapter(result: TrainResult) -> KeptFile:
    """The file of a finished run as an artefact.

    Raises:
        Unusable: it is gone or has changed.
    """
    return kept_file(result.adapter, _KIND, result.key, note=result.adapter.with_name(_SUMMARY))


def _finished(folder: Path, key: str) -> TrainResult | None:
    """The finished run in the folder, if it is this one and whole; the remains of another are removed."""
    path, adapter = folder / _SUMMARY, folder / _ADAPTER
    try:
        told = kept_file(adapter, _KIND, key, note=path).about
        found = TrainResult(told["steps"], told["loss_history"], told["learning_rates"], told["seconds"], key, adapter)
    except Absent:
        return None
    except (Unusable, KeyError, TypeError) as error:
        progress.log(f"{folder}: holds another or a damaged training run ({error}); training anew")
        remove(path)
        remove(adapter)
        return None
    shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)  # a kill may have come just before they were removed
    return found


def _check(rendered: Sequence[Rendered]) -> None:
    if not rendered:
        raise DataError("there is nothing to train on", hint="choose more rows with --budget")
    for i, row in enumerate(rendered):
        if not row.supervised:
            raise DataError(f"row {i} of the training rows has no supervised token",
                            why="Its loss is undefined.", hint="raise --max-length, so that its response is kept")


@contextmanager
def _start_restored_on_error(model: PeftModel) -> Iterator[None]:
    """Interrupted within a living process, the model goes back to its start, so that calling again continues."""
    start = adapter_state(model)
    try:
        yield
    except BaseException:
        load_adapter_state(model, start)
        model.zero_grad()
        model.eval()
        raise


@contextmanager
def _caller_keeps_random_state() -> Iterator[None]:
    """The Trainer seeds every global generator; give the caller theirs back."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
