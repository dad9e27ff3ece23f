"""Trains in forked children that kill themselves (SIGKILL) at chosen moments; one start of Python for all of them.

``python -m tests.training.kill_driver FOLDER`` prints one line of JSON per moment: how often the run was killed.
The children share what was imported before the fork and nothing else; the parent never runs a model.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from siftune._common.artefacts import kept
from siftune.models.lora import LoraSettings, attach_lora
from siftune.training import checkpoints, sft, trainer
from siftune.training.settings import TrainSettings
from siftune.training.sft import train_lora
from tests import tiny
from tests.training.rows import random_rows

SETTINGS = TrainSettings(epochs=2, batch_size=3, learning_rate=1e-2, save_steps=2, seed=4)


def run(folder: Path) -> None:
    model = attach_lora(tiny.model("llama"), LoraSettings(rank=2, dropout=0.3), seed=1)
    train_lora(model, random_rows(8), SETTINGS, folder, pad_id=0, device="cpu")


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(module: Any, name: str, call: int) -> None:
    """Die when ``module.name`` is called for the ``call``-th time, before it does anything."""
    original, count = getattr(module, name), 0

    def replaced(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            die()
        return original(*args, **kwargs)

    setattr(module, name, replaced)


def half_a_file(call: int) -> None:
    """Die in the middle of the ``call``-th ``torch.save``: half of its bytes are on disk."""
    original, count = torch.save, 0

    def replaced(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        original(value, path, *args, **kwargs)
        if count == call:
            with Path(path).open("r+b") as half:
                half.truncate(Path(path).stat().st_size // 2)
            die()

    torch.save = replaced


MOMENTS = {
    "a step before any checkpoint": lambda: before(trainer, "mean_loss_per_row", 2),
    "inside the first checkpoint": lambda: half_a_file(1),
    "between a checkpoint's last file and its marker": lambda: before(trainer, "mark_complete", 2),
    "while older checkpoints are removed": lambda: before(checkpoints.shutil, "rmtree", 1),
    "a step of the second epoch": lambda: before(trainer, "mean_loss_per_row", 5),
    "before the finished adapter is written": lambda: before(sft, "keep_file", 1),
    "between the adapter and its summary": lambda: before(kept, "write_sealed", 1),
}


def main(root: Path) -> None:
    for number, (moment, arrange) in enumerate([("never", lambda: None), *MOMENTS.items()]):
        killed = 0
        for attempt in range(3):
            child = os.fork()
            if child == 0:
                if attempt == 0:
                    arrange()
                run(root / str(number))
                os._exit(0)
            _, status = os.waitpid(child, 0)
            killed += os.WIFSIGNALED(status)
            if status == 0:
                break
        print(json.dumps({"moment": moment, "killed": killed, "finished": status == 0}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
