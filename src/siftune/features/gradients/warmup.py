"""The warmup run of LESS (arXiv 2402.04333, section 4.1, appendix B): checkpoints to take gradients at.

A LoRA run on a small random share of the pool. After every epoch it leaves a checkpoint: the adapter weights and
Adam's two moments of every adapter parameter, *by parameter name*, with what it takes to form Adam's next update from
them (step, betas, eps) and the epoch's mean learning rate, which weighs the checkpoint in the score.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from siftune._common import files, progress, seeds
from siftune._common.artefacts import Damaged, KeptFile, Unusable, digest, keep_file, kept_file
from siftune._common.artefacts.payload import payload_of_bytes
from siftune._common.artefacts.sealed import tell_damage
from siftune._common.errors import ConfigError, DataError, StoreCorrupt
from siftune.data.rows import Rendered
from siftune.features.gradients.warmup_runs import KIND, SUMMARY, TENSORS, WarmupRun, taken_over
from siftune.models.lora import adapter_parameters, adapter_state, load_adapter_state
from siftune.training.settings import TrainSettings
from siftune.training.sft import train_lora, training_key

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import Tensor

_TOLD = {"decides": "nothing"}  # by itself: the file's note tells it, and so the file's key

VERSION = 1
"""Of the run: whoever changes which rows it trains on, or what it keeps, counts up."""


@dataclass(frozen=True)
class WarmupSettings:
    """How the warmup is run.

    Attributes:
        share: Share of the pool's rows to train on; the paper finds 5% about as good as the whole pool.
        min_rows: At least so many rows, as far as the pool has them.
        epochs: Passes over these rows, and so the number of checkpoints.
        train: Everything else about the training; its ``epochs`` and ``seed`` are replaced.
    """

    share: float = 0.05
    min_rows: int = 100
    epochs: int = 4
    train: TrainSettings = field(default_factory=TrainSettings)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"a warmup share of {self.share} is not in (0, 1]", where="--set warmup_share",
                              hint="give a share, for example 0.05")

    def rows_of(self, pool: int) -> int:
        """How many rows of a pool of that size are trained on."""
        return min(pool, max(self.min_rows, math.ceil(self.share * pool)))


@dataclass(frozen=True)
class Checkpoint:
    """A finished epoch of the warmup run, on disk.

    Attributes:
        file: The tensors, by their checksum; a note stands beside them.
        epoch: From 1.
        step: Optimizer steps so far; the ``t`` of Adam's bias correction.
        betas: Adam's decay rates.
        eps: Adam's epsilon.
        mean_learning_rate: Over the steps of this epoch.
    """

    file: KeptFile
    epoch: int = field(metadata=_TOLD)
    step: int = field(metadata=_TOLD)
    betas: tuple[float, float] = field(metadata=_TOLD)
    eps: float = field(metadata=_TOLD)
    mean_learning_rate: float = field(metadata=_TOLD)

    @property
    def folder(self) -> str:
        """What a store of features at this checkpoint is called."""
        return f"epoch-{self.epoch}"

    @property
    def checksum(self) -> str:
        """Of the tensors and of all the rest."""
        return self.file.artefact

    def load_weights(self) -> dict[str, Tensor]:
        """Adapter weights by full parameter name, float32 on the CPU; for ``load_adapter_state``.

        Raises:
            StoreCorrupt: the file is missing or its bytes have changed.
        """
        return self._load("w.")

    def load_moments(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Adam's ``exp_avg`` and ``exp_avg_sq`` by full parameter name, without bias correction, float32 on the CPU.

        Raises:
            StoreCorrupt: the file is missing or its bytes have changed.
        """
        return self._load("m."), self._load("v.")

    def _load(self, prefix: str) -> dict[str, Tensor]:
        path = self.file.path
        data = path.read_bytes() if path.is_file() else b""
        if payload_of_bytes(data) != self.file.payload:
            raise StoreCorrupt(f"the warmup checkpoint of epoch {self.epoch} is damaged", where=str(path),
                               why="Its bytes do not match their checksum.",
                               hint="run the same command again: it is trained again")
        tensors = load_tensors(data)
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def run_warmup(model: PeftModel, rendered_pool: Sequence[Rendered], ids: Sequence[str], settings: WarmupSettings,
               folder: str | Path, seed: int, *, pad_id: int, device: str | torch.device,
               base_key: str = "", stop_after: int | None = None, title: str = "warmup", render: Any = None,
               earlier: Sequence[Path] = (), before: Callable[[], object] = lambda: None) -> list[Checkpoint]:
    """Train the adapter on a random share of the pool and keep a checkpoint of every epoch.

    Where an earlier run, of another pool, has such checkpoints, they are taken: with new ones, no feature of a row
    would be what it was. Of that, ``run.json`` in the folder tells (:class:`WarmupRun`).

    Resumable like :func:`siftune.training.sft.train_lora`; once every checkpoint of this very run is there, it
    returns at once. The model ends with the weights of the last checkpoint, in eval mode.

    Args:
        model: With fresh adapters, from :func:`siftune.models.lora.attach_lora`.
        rendered_pool: The pool's rows.
        ids: Their ids, in the same order. The chosen rows depend on the set of ids, not on their order.
        settings: How many rows and epochs, how to train.
        folder: Gets ``rows.json`` (ids of the chosen rows), ``epoch-1`` ... and the training run's own folder.
        seed: Decides which rows, their order and the dropout.
        pad_id, device, base_key: As for ``train_lora``.
        stop_after: Only the first so many epochs are wanted, of a run that is planned for all of them: the learning
            rates are those of the whole run, and a later call for more of it goes on.
        title: Of the progress bar.
        render: What the renderer is made of: part of what must be alike for checkpoints to be taken.
        earlier: Such folders of earlier runs, the nearest first.
        before: Called before anything is trained.

    Returns:
        One checkpoint for every epoch wanted, in order.

    Raises:
        DataError, ModelError, ConfigError, SiftuneError: as ``train_lora``.
    """
    folder = files.make_folder(folder)
    chosen = warmup_rows(ids, settings, seed)
    rows = [rendered_pool[i] for i in chosen]
    train = replace(settings.train, epochs=settings.epochs, seed=seeds.derive(seed, "warmup training"))
    own = f"{training_key(model, rows, train, base_key)} {VERSION}"
    wanted = min(stop_after or settings.epochs, settings.epochs)
    made_from = digest({"training": training_key(model, (), train, base_key), "share": settings.share,
                        "min_rows": settings.min_rows, "render": render, "code": VERSION})  # all but the rows
    run = taken_over(folder, made_from, own, earlier, wanted) or WarmupRun(own, own, len(rows), len(ids))
    key = run.key

    def keep(epoch: int, model: Any, optimizer: Any, mean_learning_rate: float) -> None:
        # Trained again for the sake of another epoch, on this machine the bits are the same; on another they may not
        # be, and then all checkpoints must come from the one run.
        _write(folder, epoch, key, model, optimizer, mean_learning_rate)

    def kept() -> list[Checkpoint]:
        found = (_open(folder, epoch, key) for epoch in range(1, wanted + 1))
        return [checkpoint for checkpoint in found if checkpoint is not None]

    start = adapter_state(model)
    # A second round happens only where a checkpoint was lost after its epoch: training anew brings it back.
    while len(kept()) < wanted:
        before()
        files.write_json(folder / "rows.json", {"seed": seed, "share": settings.share, "pool": len(ids),
                                                "rows": [ids[i] for i in chosen]})
        load_adapter_state(model, start)
        train_lora(model, rows, train, folder / "training", pad_id=pad_id, device=device, base_key=base_key,
                   on_epoch=keep, title=title, stop_after=stop_after)
        if len(kept()) < wanted:
            progress.log(f"{title}: an earlier checkpoint is gone; training anew")
            shutil.rmtree(folder / "training", ignore_errors=True)
    run.keep(folder, made_from)
    checkpoints = kept()
    load_adapter_state(model, checkpoints[-1].load_weights())
    model.to(device).eval()  # type: ignore[arg-type]
    return checkpoints


def warmup_rows(ids: Sequence[str], settings: WarmupSettings, seed: int) -> list[int]:
    """Positions of the rows to train on: a random share of the ids, the same for every order of the pool.

    Raises:
        DataError: the pool is empty.
    """
    if not ids:
        raise DataError("the pool has no usable row to warm up on", hint="look at dropped.jsonl for the reasons")
    return seeds.shuffled(ids, seed, "warmup rows")[: settings.rows_of(len(ids))]


def score_weights(checkpoints: Sequence[Checkpoint]) -> np.ndarray:
    """float64 [C]: ``w_i = eta_i / sum(eta)``, the weight of each checkpoint in the score (section 2)."""
    rates = np.array([checkpoint.mean_learning_rate for checkpoint in checkpoints], dtype=np.float64)
    return rates / rates.sum()


def _write(folder: Path, epoch: int, key: str, model: Any, optimizer: Any, mean_learning_rate: float) -> None:
    """Write the live adapter and optimizer as the checkpoint of an epoch; the JSON, written last, completes it."""
    tensors: dict[str, Tensor] = {}
    steps = set()
    for name, parameter in adapter_parameters(model).items():
        state = optimizer.state[parameter]  # by the parameter itself: an index could mean another one
        steps.add(int(state["step"]))
        for prefix, value in (("w", parameter), ("m", state["exp_avg"]), ("v", state["exp_avg_sq"])):
            tensors[f"{prefix}.{name}"] = value.detach().to("cpu", copy=True).contiguous()
    data = save_tensors(tensors)
    target = folder / f"epoch-{epoch}"
    group = optimizer.param_groups[0]
    about = {"epoch": epoch, "step": max(steps), "betas": list(group["betas"]), "eps": group["eps"],
             "mean_learning_rate": mean_learning_rate}
    try:
        before = kept_file(target / TENSORS, KIND, key, note=target / SUMMARY)
    except Unusable:
        before = None
    if before is not None and before.payload == payload_of_bytes(data) and before.about == about:
        return
    keep_file(target / TENSORS, KIND, key, about, note=target / SUMMARY, write=lambda path: path.write_bytes(data))


def _open(folder: Path, epoch: int, key: str) -> Checkpoint | None:
    """The checkpoint of an epoch, if it is complete, of this run, and every bit of it is as it was written."""
    target = folder / f"epoch-{epoch}"
    try:
        file = kept_file(target / TENSORS, KIND, key, note=target / SUMMARY)
        return Checkpoint(file, **{**file.about, "betas": tuple(file.about["betas"])})
    except Damaged as error:
        tell_damage(target, str(error))
    except (Unusable, TypeError, KeyError):
        pass
    return None
