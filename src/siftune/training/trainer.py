"""transformers' Trainer, with siftune's loss, a row order and dropout that need no remembered state, and checkpoints
that survive being killed.

Three things differ from the Trainer as it comes:

* The loss of a step is the mean over the batch's rows of each row's mean token loss, the loss whose gradient was
  scored, instead of the mean over all tokens of the batch.
* Row order is a function of (seed, epoch), dropout one of (seed, step). A resumed run repeats them by arithmetic
  rather than by restoring generator states.
* Adapters are saved by full parameter name, and a checkpoint counts only once it is marked complete.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from siftune._common import files, seeds
from siftune._common.errors import ConfigError, ModelError, SiftuneError
from siftune._common.progress import Bar
from siftune.data.rows import Rendered
from siftune.models.batching import batch_cost, collate, plan_batches
from siftune.models.lora import adapter_state, load_adapter_state
from siftune.models.supervised_logits import mean_loss_per_row, supervised_logits
from siftune.training.checkpoints import Record, folder_of, mark_complete
from siftune.training.settings import SCHEDULES, TrainSettings

ADAPTER_FILE = "adapter.safetensors"
_SUM_FILE = "sum_of_last.safetensors"

#: Called at the end of every epoch with (epoch from 1, model, optimizer, the epoch's mean learning rate).
EpochHook = Callable[[int, Any, Any, float], None]


class RowMeanTrainer(Trainer):
    """Trains an adapter on rendered rows; see the module's description.

    Attributes:
        sum_of_last: float64 by full parameter name: the weights after each of the last ``average_last`` steps so far,
            added up; empty before these, and where the last weights alone count.
    """

    def __init__(self, model: Any, rendered: Sequence[Rendered], settings: TrainSettings, root: Path, *,
                 pad_id: int, device: torch.device, record: Record):
        self._settings, self._record = settings, record
        self._steps_per_epoch = settings.steps_per_epoch(len(rendered))
        self._steps = settings.epochs * self._steps_per_epoch
        self.sum_of_last: dict[str, torch.Tensor] = {}
        args = _arguments(settings, root, self._steps, device)
        super().__init__(model=model, args=args, train_dataset=list(rendered),  # type: ignore[arg-type]
                         data_collator=lambda rows: vars(collate(rows, pad_id)))
        self.remove_callback(PrinterCallback)  # it prints to stdout, which belongs to results
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = str(root.parent / "tracking")  # what lies in root is gone in the end

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        rows = len(self.train_dataset)  # type: ignore[arg-type]
        return _EpochOrder(rows, self._settings.seed, lambda: self.state.global_step // self._steps_per_epoch)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        step = self.state.global_step
        torch.manual_seed(seeds.derive(self._settings.seed, "dropout", step))
        model.train()
        batch = self._prepare_inputs(inputs)
        rows = len(batch["input_ids"])
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        total = torch.zeros((), device=self.args.device)
        cost = batch_cost(self.args.device)
        for positions in plan_batches(lengths, self._settings.micro_batch_tokens, batch_cost=cost):
            width = lengths[positions[0]]  # the longest comes first
            positions.sort()
            ids, attention, mask = (
                batch[name][positions, :width] for name in ("input_ids", "attention_mask", "supervised")
            )
            with supervised_logits(model, mask):
                logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[0]
            loss = mean_loss_per_row(logits, ids, mask).sum() / rows
            self.accelerator.backward(loss)
            total += loss.detach()
        value = total.item()
        if not math.isfinite(value):
            raise ModelError(f"training diverged: the loss is {value} at step {step + 1}",
                             hint="lower --learning-rate, or load the model with --dtype float32")
        self._record.losses.append(value)
        self._record.learning_rates.append(self.optimizer.param_groups[0]["lr"])  # type: ignore[union-attr]
        return total

    def add_to_sum(self) -> None:
        """Called after every step."""
        if self._settings.average_last > 1 and self.state.global_step > self._steps - self._settings.average_last:
            for name, value in adapter_state(self.model).items():
                self.sum_of_last[name] = self.sum_of_last.get(name, 0) + value.double()

    def mean_of_last(self) -> dict[str, torch.Tensor]:
        """The mean over the last steps, by full parameter name; in the end, where it is asked for."""
        return {name: value / min(self._settings.average_last, self._steps) for name, value in self.sum_of_last.items()}

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        write_adapter(folder / ADAPTER_FILE, self.model)
        if self.sum_of_last:
            files.write_bytes(folder / _SUM_FILE, safetensors.torch.save(self.sum_of_last))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_adapter_state(self.model, safetensors.torch.load_file(folder / ADAPTER_FILE))
        if (folder / _SUM_FILE).is_file():
            self.sum_of_last = safetensors.torch.load_file(folder / _SUM_FILE)

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing to save: every step seeds its own dropout."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing to restore: every step seeds its own dropout."""

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = folder_of(Path(str(self.args.output_dir)), self.state.global_step)
        try:
            super()._save_checkpoint(*args, **kwargs)
        except OSError as error:
            raise files.write_error(folder, error) from error
        except RuntimeError as error:  # how torch.save reports a full disk
            raise SiftuneError("cannot write a training checkpoint", where=str(folder), why=str(error),
                               hint="free some space, or choose another --output-dir") from error


class Bookkeeping(TrainerCallback):
    """Progress, the epoch hook, and when to checkpoint.

    At the end of an epoch the hook runs before the checkpoint is written: killed in between, the epoch is trained
    again and the hook runs again with the same values. So it is never skipped, and must be idempotent.
    """

    def __init__(self, trainer: RowMeanTrainer, root: Path, bar: Bar, on_epoch: EpochHook | None,
                 stop_after: int | None = None):
        self._trainer, self._root, self._bar, self._on_epoch = trainer, root, bar, on_epoch
        self._stop_after = stop_after
        self._since = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.advance()
        self._trainer.add_to_sum()
        every = self._trainer._settings.save_steps
        epoch_ends = state.global_step % self._trainer._steps_per_epoch == 0
        control.should_save = every is not None and state.global_step % every == 0 and not epoch_ends

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps = self._trainer._steps_per_epoch
        epoch = state.global_step // steps
        if self._on_epoch is not None:
            rates = self._trainer._record.learning_rates[(epoch - 1) * steps:epoch * steps]
            self._on_epoch(epoch, kwargs["model"], kwargs["optimizer"], math.fsum(rates) / len(rates))
        control.should_save = True
        if self._stop_after is not None and epoch >= self._stop_after:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        self._trainer._record.seconds += now - self._since
        self._since = now
        mark_complete(self._root, self._trainer._record)


class _EpochOrder(Sampler[int]):
    """The rows of the current epoch in random order; the epoch is asked for when iteration starts."""

    def __init__(self, rows: int, seed: int, epoch: Callable[[], int]):
        self._rows, self._seed, self._epoch = rows, seed, epoch

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[int]:
        return iter(seeds.permutation(self._rows, self._seed, "epoch", self._epoch()).tolist())


def write_adapter(path: Path, model: Any) -> None:
    """Write the adapter weights by full parameter name (safetensors)."""
    files.write_bytes(path, safetensors.torch.save(adapter_state(model)))


def _arguments(settings: TrainSettings, root: Path, total_steps: int, device: torch.device) -> TrainingArguments:
    args = TrainingArguments(
        output_dir=str(root),
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=SCHEDULES[settings.schedule],
        warmup_steps=settings.warmup_steps(total_steps),
        weight_decay=settings.weight_decay,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        adam_epsilon=settings.eps,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch",
        seed=seeds.derive(settings.seed, "trainer") % 2**32,
        use_cpu=device.type == "cpu",
        logging_strategy="no" if settings.report_to == "none" else "steps",
        logging_steps=1,
        save_strategy="no",  # Bookkeeping says when
        report_to=settings.report_to,
        run_name=root.parent.name,
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["supervised"],
        dataloader_pin_memory=False,
    )
    if args.device.type != device.type or (device.index or 0) != (args.device.index or 0):
        raise ConfigError(f"training runs on {args.device}, not on {device}", where="--device",
                          hint="choose the GPU with CUDA_VISIBLE_DEVICES and give --device cuda")
    args._n_gpu = min(args.n_gpu, 1)  # several would split batches, and with them the hook on the logits
    return args
