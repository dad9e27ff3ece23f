"""A warmup of one's own: the checkpoints that LESS takes gradients at, of an ordinary training with LoRA.

:class:`LessCheckpoints` is a callback of transformers' Trainer, and so of TRL's trainers. After every epoch it keeps
what the warmup run of LESS keeps (arXiv 2402.04333, section 4.1, appendix B; see
:mod:`siftune.features.gradients.warmup`): the adapter weights, Adam's two moments of every adapter parameter by its
*name*, and the mean learning rate of the epoch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save as save_tensors
from transformers import TrainerCallback

from siftune._common import files, progress
from siftune._common.artefacts import Absent, Unusable, keep_file, kept_file, read_sealed, write_sealed
from siftune._common.artefacts.sealed import remove
from siftune._common.errors import ConfigError, DataError, StoreCorrupt
from siftune._common.nearest import did_you_mean
from siftune.features.gradients.warmup import Checkpoint
from siftune.features.gradients.warmup_runs import KIND, SUMMARY, TENSORS

if TYPE_CHECKING:
    from torch import Tensor

    from siftune.models.lora import LoraSettings

_KEY = "a training of one's own"
_ADAPTER = "adapter.json"
_PREFIX = re.compile(r"^(?:module\.|_orig_mod\.)+")  # of DistributedDataParallel and torch.compile
_PART = re.compile(r"\.(lora_[A-Za-z_]+)\.([^.]+)(\.weight)?$")


class LessCheckpoints(TrainerCallback):
    """Keeps what LESS needs of a training, for ``siftune select --method less --set checkpoints=FOLDER``.

    The model must be trained with LoRA adapters alone, by an optimizer that holds Adam's moments in full
    (``adamw_torch``, ``adamw_torch_fused``; not the 8-bit ones). A training that goes on from a checkpoint of the
    Trainer's keeps the epochs before; the learning rate of an epoch that is taken up in its middle is the mean of the
    steps since, which is said.

    Args:
        folder: to keep the checkpoints in; those of an earlier training there are replaced.

    Example:
        >>> trainer = SFTTrainer(model, train_dataset=rows, peft_config=LoraConfig(),
        ...                      callbacks=[siftune.LessCheckpoints("checkpoints")])  # doctest: +SKIP

    Raises:
        ConfigError: from the training: the model has no adapter, trains more than the adapter, or its optimizer has no
            moments as Adam's.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._rates: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trained_parameters(kwargs["model"])
        self._rates = []
        if not state.is_world_process_zero:
            return
        files.make_folder(self.folder)
        earlier = _epochs(self.folder)
        if state.global_step == 0 and earlier:
            progress.log(f"{self.folder}: the {len(earlier)} checkpoints of an earlier training are replaced")
            for folder in earlier:
                remove(folder / SUMMARY)
                remove(folder / TENSORS)
        write_sealed(self.folder / _ADAPTER, KIND, _KEY, _adapter_facts(kwargs["model"]))
        if state.global_step and state.epoch and abs(state.epoch - round(state.epoch)) > 1e-6:
            progress.log("warning: the training goes on in the middle of an epoch: that epoch's learning rate is the "
                         "mean of the steps from here")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._rates.append(float(kwargs["optimizer"].param_groups[0]["lr"]))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        rates, self._rates = self._rates, []
        if state.is_world_process_zero and rates:
            epoch = math.ceil(state.epoch - 1e-6)
            keep(self.folder, epoch, kwargs["model"], kwargs["optimizer"], math.fsum(rates) / len(rates))


def trained_parameters(model: Any) -> dict[str, Any]:
    """The parameters of the adapter that is trained, by the names that siftune's own adapter has.

    Raises:
        ConfigError: there is none, there are several, or others are trained too.
    """
    trained = {_PREFIX.sub("", name): parameter for name, parameter in model.named_parameters()
               if parameter.requires_grad}
    others = [name for name in trained if not _PART.search(name)]
    if not trained or others:
        raise ConfigError("LESS takes gradients of a LoRA adapter", where="LessCheckpoints",
                          why=f"The training moves other parameters: {', '.join(others[:3])}" if others
                          else "The training moves no parameter.",
                          hint="give the trainer a peft_config (LoraConfig), without modules_to_save")
    named = {_PART.sub(r".\1.default\3", name): parameter for name, parameter in trained.items()}
    if len(named) != len(trained):
        raise ConfigError("several adapters are trained at once", where="LessCheckpoints",
                          hint="train one at a time")
    return named


def keep(folder: Path, epoch: int, model: Any, optimizer: Any, mean_learning_rate: float) -> None:
    """Write the adapter and its moments as the checkpoint of an epoch.

    Raises:
        ConfigError: the optimizer has no moments as Adam's.
        SiftuneError: the operating system refused a write.
    """
    tensors: dict[str, Tensor] = {}
    steps = set()
    for name, parameter in trained_parameters(model).items():
        state = optimizer.state.get(parameter, {})
        moments = [state.get(key) for key in ("exp_avg", "exp_avg_sq")]
        if any(moment is None or moment.shape != parameter.shape for moment in moments):
            kind = type(getattr(optimizer, "optimizer", optimizer)).__name__
            raise ConfigError(f"the optimizer holds no moments of {name} as Adam's", where="LessCheckpoints",
                              why=f"It is {kind}; LESS needs exp_avg and exp_avg_sq in the shape of the parameter.",
                              hint="train with optim='adamw_torch', unsharded")
        steps.add(int(state.get("step", optimizer.param_groups[0].get("step", 0))))
        for prefix, value in zip("wmv", (parameter, *moments), strict=True):
            tensors[f"{prefix}.{name}"] = value.detach().to("cpu", copy=True).float().contiguous()
    group = optimizer.param_groups[0]
    about = {"epoch": epoch, "step": max(steps), "betas": list(group["betas"]), "eps": group["eps"],
             "mean_learning_rate": mean_learning_rate}
    data = save_tensors(tensors)
    target = folder / f"epoch-{epoch}"
    keep_file(target / TENSORS, KIND, _KEY, about, note=target / SUMMARY, write=lambda path: path.write_bytes(data))


def open_checkpoints(folder: str | Path, lora: LoraSettings) -> list[Checkpoint]:
    """The checkpoints that :class:`LessCheckpoints` has kept, verified, in the order of their epochs.

    Args:
        folder: that it was given.
        lora: the adapter that gradients will be taken of.

    Raises:
        ConfigError: there is no such folder, or the adapter of the training has another scale.
        DataError: there are no checkpoints in it.
        StoreCorrupt: one is damaged.
    """
    folder = existing_folder(folder)
    found: list[Checkpoint] = []
    for epoch in _epochs(folder):
        try:
            file = kept_file(epoch / TENSORS, KIND, _KEY, note=epoch / SUMMARY)
            found.append(Checkpoint(file, **{**file.about, "betas": tuple(file.about["betas"])}))
        except Absent:
            continue
        except (Unusable, TypeError, KeyError) as error:
            raise StoreCorrupt("a checkpoint is damaged, or was kept by something else", where=str(epoch),
                               why=str(error), hint="train again with siftune.LessCheckpoints") from error
    if not found:
        raise DataError("there are no checkpoints in this folder", where=str(folder),
                        hint="name the folder that siftune.LessCheckpoints was given, after a training")
    _check_scale(folder, lora)
    return found


def existing_folder(folder: str | Path) -> Path:
    """The folder that ``--set checkpoints`` names.

    Raises:
        ConfigError: there is no such folder.
    """
    if not Path(folder).is_dir():
        raise ConfigError(f"checkpoints cannot be {str(folder)!r}", where="--set checkpoints",
                          why="There is no folder of that name.",
                          hint=did_you_mean(folder) or "give all, last, or the folder of siftune.LessCheckpoints")
    return Path(folder)


def _check_scale(folder: Path, lora: LoraSettings) -> None:
    """Weights do not tell the factor that they are multiplied with, and gradients depend on it."""
    try:
        facts = read_sealed(folder / _ADAPTER, KIND, _KEY)
        rank, scale = int(facts["rank"]), float(facts["scale"])
    except (Unusable, TypeError, KeyError, ValueError) as error:
        raise StoreCorrupt("what is kept of the adapter is damaged", where=str(folder / _ADAPTER), why=str(error),
                           hint="train again with siftune.LessCheckpoints") from error
    if rank != lora.rank or not math.isclose(scale, lora.alpha / lora.rank, rel_tol=1e-9):
        raise ConfigError("the adapter of the training is another one", where="--set checkpoints",
                          why=f"Its rank is {rank} and its scale {scale:g}; here they are {lora.rank} and "
                          f"{lora.alpha / lora.rank:g}.",
                          hint=f"type --lora-rank {rank} --lora-alpha {scale * rank:g}")


def _adapter_facts(model: Any) -> Mapping[str, Any]:
    """Rank and scale of the adapter, the same everywhere.

    Raises:
        ConfigError: they differ between modules.
    """
    facts = {(int(rank), float(module.scaling[name])) for module in model.modules()
             if isinstance(getattr(module, "scaling", None), dict) and hasattr(module, "lora_A")
             for name, rank in module.r.items() if name in module.lora_A}
    if len(facts) != 1:
        raise ConfigError("the adapter has no single rank and scale", where="LessCheckpoints",
                          why=f"There are {len(facts)} pairs of them.", hint="leave out rank_pattern and alpha_pattern")
    rank, scale = next(iter(facts))
    return {"rank": rank, "scale": scale}


def _epochs(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("epoch-*") if path.name.removeprefix("epoch-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("epoch-")))
