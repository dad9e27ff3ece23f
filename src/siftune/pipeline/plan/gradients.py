"""What gradient features will cost: the run's own passes on a few rows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from siftune._common.progress import about, pace
from siftune._common.seeds import permutation
from siftune._common.text import counted
from siftune.config.settings import SelectConfig
from siftune.features.base import Context, GradientMethod
from siftune.pipeline.plan.estimate import MEASURED, PROBE_SHARE, Plan, Speeds, peak_memory, resident_memory, timed

PROBE_SECONDS = 15.0


def estimate(config: SelectConfig, representation: GradientMethod, context: Context, made: Plan,
             speeds: Speeds = MEASURED) -> None:
    """Add to a plan what a representation by gradients takes."""
    import torch

    from siftune.features.centring import reference_rows
    from siftune.features.gradient_settings import (
        lora_settings,
        needs_reference,
        own_training,
        settled,
        warmup_settings,
    )
    from siftune.features.store.codec import bytes_per_row

    settings, tokens = settled(context, representation), int(context.pool.tokens.sum())
    passes, warmup_tokens, warmup_told = 1, 0.0, ""
    if representation.warmup:
        warmup = warmup_settings(settings, config)
        passes = 1 if settings.checkpoints == "last" else warmup.epochs
        whole = context.whole_pool  # the warmup run is of the whole, also where only some rows are looked at
        share = warmup.rows_of(len(whole)) / len(whole)
        warmup_tokens = int(whole.tokens.sum()) * share * warmup.epochs
        warmup_told = f"{share:.1%} of the pool, {warmup.epochs} epochs"
        given = own_training(settings)
        if given is not None:
            from siftune.features.gradients.own_warmup import open_checkpoints

            passes, warmup_tokens = len(open_checkpoints(given, lora_settings(config))), 0.0
            warmup_told = f"none: {passes} checkpoints of {given}"
        elif warmup in made.warmups:
            warmup_tokens, warmup_told = 0.0, "the one that is told of already"
        else:
            made.warmups.append(warmup)
    small = [context.target]
    if needs_reference(settings):
        small.append(reference_rows(context.whole_pool, config.seed))
    around = sum(int(rows.tokens.sum()) for rows in small)

    threads = torch.get_num_threads()
    if config.workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.workers))
    probe = Probe(config, settings, representation, context)
    try:
        enough = PROBE_SHARE * (warmup_tokens + (tokens / config.workers + around) * passes)
        measured = Measured(speeds.gradients) if speeds.gradients else probe.measure(enough)
    finally:
        probe.close()
        torch.set_num_threads(threads)

    speed, made.memory = measured.speed, max(made.memory, measured.memory)
    warmup_seconds, pass_seconds = warmup_tokens / (speeds.training or speed), tokens / speed / config.workers
    numbers = probe.numbers
    kind = config.feature_dtype if representation.keeps_features(settings) else "float32"
    if getattr(settings, "projection", "") == "none":  # a few floats a row, and the directions themselves
        disk = (len(context.pool) * bytes_per_row(numbers, kind) + 4 * numbers * probe.adapted) * passes
    else:
        disk = (len(context.pool) + sum(map(len, small))) * bytes_per_row(numbers, kind) * passes
    made.disk += disk
    each = f" in each of {config.workers} processes" if config.workers > 1 else ""
    made.add("model", f"{config.model}: {probe.loaded.parameters / 1e6:,.0f}M parameters, gradients of "
                      f"{probe.adapted / 1e6:,.2f}M, {probe.loaded.dtype} on {probe.loaded.device}")
    made.add("speed", f"{pace(speed, 'tokens')}{each}, gradients and projection included ("
                      + (f"measured on {measured.tokens:,} tokens)" if measured.tokens else "as given)"))
    if representation.warmup:
        made.add("warmup", f"{about(warmup_seconds)}: {warmup_told}" if warmup_seconds else warmup_told, warmup_seconds,
                 cheaper="fewer rows (warmup_share, warmup_rows) or epochs (warmup_epochs)")
    made.add("features", f"{about(pass_seconds * passes)}: {counted(passes, 'checkpoint')}, {about(pass_seconds)} each",
             (pass_seconds + around / speed) * passes, cheaper=_cheaper(passes, config.method, representation.name))
    if measured.memory:
        told = "" if measured.is_whole else f", by extrapolation from a batch of {measured.batch:,} tokens"
        made.add("memory", f"{measured.memory / 2**30:.2f} GiB{each}, of whatever number of rows (batches of "
                           f"{probe.batch_tokens:,} tokens{told})")
    made.add("disk", f"{disk / 2**20:,.1f} MiB of features: {numbers:,} x {kind} x {counted(passes, 'checkpoint')} a "
                     "row")
    for name, told in _otherwise(config, context.settings, settings, representation, len(context.pool) * passes):
        made.add(name, told)


def _cheaper(passes: int, method: str, representation: str) -> str:
    """Which setting makes the passes cheaper, in words.

    Args:
        passes: how many there are.
        method: as it was typed.
        representation: whose passes they are.
    """
    if passes > 1 and representation == "less" and method in ("auto", "less"):
        return f"--method two-stage takes 1 of {passes} passes over all rows, the others over what that finds"
    return (f"--set checkpoints=last takes 1 pass instead of {passes}" if passes > 1
            else "--method rds+ takes forward passes alone, about a third of the time")


def _otherwise(config: SelectConfig, given: Any, settings: Any, representation: GradientMethod,
               rows: int) -> list[tuple[str, str]]:
    """What ``auto`` would keep instead, and what that is good for.

    Args:
        given, settings: the settings as they are written, and settled.
        rows: of the pool, once for every checkpoint.
    """
    from siftune.features.gradient_settings import needs_features
    from siftune.features.store.codec import bytes_per_row

    kind = getattr(representation, "projection_of_features", "")
    if not kind or getattr(given, "projection", "") != "auto":
        return []
    if settings.projection == "none":
        disk = rows * bytes_per_row(given.projection_dim, config.feature_dtype) / 2**20
        return [("scores", "exact, for these targets only; other targets (--from) take another pass"),
                ("or", f"--set keep_features=true: projected features ({kind}, {given.projection_dim:,} numbers), "
                       f"about as long and {disk:,.1f} MiB, of which any targets are scored without a pass")]
    why = "the selector or the rows that the model knows need them" if needs_features(
        config, representation.name) else "they are asked for"
    return [("features", f"projected ({kind}, {settings.projection_dim:,} numbers), since {why}; any targets are "
                         "scored of them without a pass"),
            ("or", "exact scores (--set projection=none): about as long and a few floats a row, for these targets "
                   "only")]


@dataclass(frozen=True)
class Measured:
    """What a probe found, or a speed that was given.

    Attributes:
        speed: tokens a second.
        tokens: that this was measured on; 0 where it was not.
        memory: peak resident bytes of a run, likewise.
        batch: tokens of the largest batch that was tried, padding included.
        is_whole: whether it is the largest of the run.
    """

    speed: float
    tokens: int = 0
    memory: int = 0
    batch: int = 0
    is_whole: bool = True


class Probe:
    """The passes of a run on a few rows: first the batch that needs most memory, then a sample for the speed."""

    def __init__(self, config: SelectConfig, settings: Any, representation: GradientMethod, context: Context):
        from siftune.features.gradient_settings import choose_linear_weights, lora_settings
        from siftune.features.gradients.engine import parameter_sizes
        from siftune.models.lora import attach_lora

        self.config, self.settings, self.context, self.loaded = config, settings, context, context.model
        self.has_warmup = representation.warmup
        self.model = (attach_lora(self.loaded.model, lora_settings(config), seed=0) if representation.warmup
                      else choose_linear_weights(self.loaded.model, config))
        self.sizes = parameter_sizes(self.model)
        self.adapted = sum(self.sizes.values())
        subtasks = len({row.subtask or "all" for row in context.target.rows})
        self.numbers = representation.numbers_per_row(settings, len(context.target), subtasks)

    def close(self) -> None:
        """Give the model back as it was: the study's next representation adapts it in its own way."""
        from peft import PeftModel

        from siftune.models.lora import detach_lora

        plain = detach_lora(self.model) if isinstance(self.model, PeftModel) else self.model
        plain.requires_grad_(False)

    @cached_property
    def batch_tokens(self) -> int:
        from siftune.models.memory import batch_tokens

        return batch_tokens(self.config.batch_tokens, self.loaded)

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        """Engine, Adam's direction and projection, with made-up values, which matter to neither time nor memory."""
        from siftune.features.gradient_settings import make_engine, random_projection
        from siftune.features.gradients.basis import Basis

        adam = getattr(self.settings, "adam", "none") != "none"
        exact = getattr(self.settings, "projection", "none") == "none"
        projection: Any = (Basis(self.numbers, lambda name, size: np.ones((self.numbers, size), np.float32)) if exact
                           else random_projection(self.settings, self.config))
        return (make_engine(self.config, self.model), _any_moments(self.sizes, self.loaded.device) if adam else None,
                projection)

    def features(self, rows: list[Any]) -> None:
        from siftune.features.gradients.features import gradient_features

        engine, precondition, projection = self._parts
        gradient_features(engine, rows, precondition=precondition, projection=projection,
                          pad_id=self.loaded.pad_id, batch_tokens=self.batch_tokens, device=self.loaded.device)

    def measure(self, enough: float) -> Measured:
        """Speed and memory. The largest batch of the run, or what may be tried of it, comes first and is not timed.

        Args:
            enough: tokens after which to stop, though a row is always tried.
        """
        from siftune.models.batching import plan_batches

        rendered, lengths = self.context.pool.rendered, self.context.pool.tokens
        batches = plan_batches(lengths.tolist(), self.batch_tokens)
        widest = max(batches, key=lambda batch: len(batch) * int(lengths[list(batch)].max()))
        width = int(lengths[list(widest)].max())
        some = list(widest)[: max(1, int(enough / width))]
        before = resident_memory()
        self.features([rendered[i] for i in some])
        if self.has_warmup:
            self.train(enough)
        memory, is_whole = peak_memory(), len(some) == len(widest)
        if not is_whole:
            memory = max(memory, before + int((memory - before) * len(widest) / len(some)))
        order = permutation(len(rendered), self.config.seed, "probe").tolist()
        done, seconds = timed(lambda rows: self.features([rendered[i] for i in rows]), order, lengths, enough,
                              PROBE_SECONDS)
        return Measured(done / seconds, done, memory, len(some) * width, is_whole)

    def train(self, enough: float) -> None:
        """The micro-batch of the warmup that needs most memory, forward and backward, as the trainer does it; nothing
        where it has more tokens than may be tried."""
        import siftune.training.trainer  # noqa: F401  # what it imports takes memory too
        from siftune.models.batching import collate, plan_batches
        from siftune.models.supervised_logits import mean_loss_per_row, supervised_logits

        rendered = self.context.pool.rendered
        longest = np.argsort(-self.context.pool.tokens, kind="stable")[: self.settings.warmup_batch_size].tolist()
        rows = [rendered[longest[i]]
                for i in plan_batches([len(rendered[i]) for i in longest], self.config.micro_batch_tokens)[0]]
        if len(rows) * max(map(len, rows)) > enough:
            return
        batch = collate(rows, self.loaded.pad_id, self.loaded.device)
        self.model.train()
        with supervised_logits(self.model, batch.supervised):
            logits = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask,
                                use_cache=False).logits[0]
        mean_loss_per_row(logits, batch.input_ids, batch.supervised).sum().backward()
        self.model.zero_grad()
        self.model.eval()


def _any_moments(sizes: dict[str, int], device: str) -> Any:
    """Adam's direction with made-up moments: their values matter to neither time nor memory."""
    import torch

    from siftune.features.gradients.adam import AdamDirection

    first, second = ({name: torch.full((n,), 1e-6, device=device) for name, n in sizes.items()} for _ in range(2))
    return AdamDirection(first, second, step=10)
