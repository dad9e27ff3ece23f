"""Small adapters that a method trains by itself, kept by what they were trained on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftune._common.artefacts import KeptFile, described, digest
from siftune._common.artefacts.payload import payload_of_bytes
from siftune._common.errors import StoreCorrupt
from siftune._common.files import make_folder
from siftune._common.seeds import derive
from siftune.data.rows import Examples
from siftune.features.base import Context, content_key
from siftune.features.gradient_settings import lora_settings

if TYPE_CHECKING:
    from torch import Tensor

    from siftune.training.settings import TrainSettings


@dataclass(frozen=True)
class TrainedAdapter:
    """The end of a training, to read rows with, see :func:`siftune.features.forward_passes.forward_stores`.

    Attributes:
        file: the weights.
        name: of what they were trained on, by content.
        losses: of every optimizer step, nats per token.
    """

    file: KeptFile
    name: str = field(metadata={"decides": "nothing"})
    losses: tuple[float, ...] = field(metadata={"decides": "nothing"})

    @property
    def folder(self) -> str:
        """What a store of features with this adapter is called."""
        return f"adapter-{self.name}"

    def load_weights(self) -> dict[str, Tensor]:
        """Adapter weights by full parameter name, float32 on the CPU.

        Raises:
            StoreCorrupt: the file is missing or its bytes have changed.
        """
        from safetensors.torch import load

        path = self.file.path
        data = path.read_bytes() if path.is_file() else b""
        if payload_of_bytes(data) != self.file.payload:
            raise StoreCorrupt("a trained adapter is damaged", where=str(path),
                               why="Its bytes do not match their checksum.",
                               hint="run the same command again: it is trained again")
        return load(data)


Train = Callable[[Examples, str], TrainedAdapter]
"""Trains on some rows; a step of that name."""


@contextmanager
def adapters(context: Context, settings: TrainSettings, folder: str) -> Iterator[tuple[Any, Train]]:
    """The model with a fresh adapter, and what trains it on some rows, each time from the same start.

    A finished training is read, one that was interrupted goes on, see :func:`siftune.training.sft.train_lora`.

    Args:
        context: of the run.
        settings: how to train.
        folder: of the trainings, below the run folder.
    """
    from siftune.models.lora import adapter_state, attach_lora, detach_lora, load_adapter_state
    from siftune.training.sft import kept_adapter, train_lora

    config, loaded = context.config, context.model
    model = attach_lora(loaded.model, lora_settings(config), derive(config.seed, "adapter"))
    start = adapter_state(model)
    root = (context.trained or context.folder) / folder
    how = described({"settings": settings, "lora": lora_settings(config), "seed": config.seed,
                     "model": loaded.base_key})

    def train(rows: Examples, step: str) -> TrainedAdapter:
        name = digest({"rows": content_key(rows), **how})[:12]
        with context.clock.measure(step) as entry:
            _take(context.in_earlier(folder), root, name)
            before = _finished(root / name)
            if before is None:
                context.computes_alone(f"the training {step}")
            load_adapter_state(model, start)
            result = train_lora(model, rows.rendered, settings, root / name, pad_id=loaded.pad_id,
                                device=loaded.device, base_key=loaded.base_key, title=step)
            entry["reused"] = before is not None and before == _finished(root / name)
        return TrainedAdapter(kept_adapter(result), name, tuple(result.loss_history))

    try:
        yield model, train
    finally:
        detach_lora(model)


def _take(earlier: Iterable[Path], root: Path, name: str) -> None:
    """Copy a finished training that an earlier run has kept: it is named by its content, and verified when it is read.
    """
    there = next((path / name for path in earlier if _finished(path / name) is not None), None)
    if there is not None and not (root / name).exists():
        make_folder(root)
        copy = root / f".{name}.tmp"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(there, copy)
        copy.replace(root / name)


def _finished(folder: Path) -> int | None:
    """When the training in a folder ended, in ns."""
    note = folder / "training.json"
    return note.stat().st_mtime_ns if note.is_file() else None
