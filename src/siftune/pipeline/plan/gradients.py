"""What gradient features will cost: the run's own passes on a few rows."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from siftune._common.progress import about, pace
from siftune._common.seeds import permutation
from siftune.config.settings import SelectConfig
from siftune.features.base import Context, GradientMethod
from siftune.pipeline.plan.estimate import Plan, peak_memory

PROBE_SECONDS = 15.0


def estimate(config: SelectConfig, representation: GradientMethod, context: Context, made: Plan) -> None:
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
    threads = torch.get_num_threads()
    if config.workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.workers))
    probe = Probe(config, settings, representation, context)
    try:
        speed, measured = probe.speed()
        if representation.warmup:
            probe.train()
    finally:
        probe.close()
        torch.set_num_threads(threads)
    made.memory = peak_memory()

    passes, warmup_seconds, warmup_told = 1, 0.0, ""
    if representation.warmup:
        warmup = warmup_settings(settings, config)
        passes = 1 if settings.checkpoints == "last" else warmup.epochs
        whole = context.whole_pool  # the warmup run is of the whole, also where only some rows are looked at
        share = warmup.rows_of(len(whole)) / len(whole)
        warmup_seconds = int(whole.tokens.sum()) * share * warmup.epochs / speed
        warmup_told = f"{about(warmup_seconds)}: {share:.1%} of the pool, {warmup.epochs} epochs"
        given = own_training(settings)
        if given is not None:
            from siftune.features.gradients.own_warmup import open_checkpoints

            passes, warmup_seconds = len(open_checkpoints(given, lora_settings(config))), 0.0
            warmup_told = f"none: {passes} checkpoints of {given}"
    pass_seconds = tokens / speed / config.workers
    numbers = probe.numbers
    kind = config.feature_dtype if representation.keeps_features(settings) else "float32"
    small = [context.target]
    if needs_reference(settings):
        small.append(reference_rows(context.whole_pool, config.seed))
    made.seconds += warmup_seconds + (pass_seconds + sum(int(rows.tokens.sum()) for rows in small) / speed) * passes
    if getattr(settings, "projection", "") == "none":  # a few floats a row, and the directions themselves
        disk = (len(context.pool) * bytes_per_row(numbers, kind) + 4 * numbers * probe.adapted) * passes
    else:
        disk = (len(context.pool) + sum(map(len, small))) * bytes_per_row(numbers, kind) * passes
    made.disk += disk
    each = f" in each of {config.workers} processes" if config.workers > 1 else ""
    made.lines.append(("model", f"{config.model}: {probe.loaded.parameters / 1e6:,.0f}M parameters, gradients of "
                                f"{probe.adapted / 1e6:,.2f}M, {probe.loaded.dtype} on {probe.loaded.device}"))
    made.lines.append(("speed", f"{pace(speed, 'tokens')}{each}, gradients and projection included (measured on "
                                f"{measured:,} tokens)"))
    if representation.warmup:
        made.lines.append(("warmup", warmup_told))
    made.lines += [
        ("features", f"{about(pass_seconds * passes)}: {passes} checkpoint{'s' * (passes > 1)}, "
                     f"{about(pass_seconds)} each"),
        ("total", f"{about(made.seconds)}, less what an earlier run has left"),
        ("memory", f"{made.memory / 2**30:.2f} GiB{each}, of whatever number of rows (batches of "
                   f"{probe.batch_tokens:,} tokens)"),
        ("disk", f"{made.disk / 2**20:,.1f} MiB of features: {numbers:,} x {kind} x {passes} "
                 f"checkpoint{'s' * (passes > 1)} a row"),
    ]
    made.lines += _otherwise(config, context.settings, settings, representation, len(context.pool) * passes)


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


class Probe:
    """The passes of a run on a few rows: first the batch that needs most memory, then a sample for the speed."""

    def __init__(self, config: SelectConfig, settings: Any, representation: GradientMethod, context: Context):
        from siftune.features.gradient_settings import (
            choose_linear_weights,
            lora_settings,
            make_engine,
            random_projection,
        )
        from siftune.features.gradients.basis import Basis
        from siftune.features.gradients.engine import parameter_sizes
        from siftune.models.lora import attach_lora
        from siftune.models.memory import batch_tokens

        self.config, self.settings, self.context, self.loaded = config, settings, context, context.model
        self.model = (attach_lora(self.loaded.model, lora_settings(config), seed=0) if representation.warmup
                      else choose_linear_weights(self.loaded.model, config))
        self.engine = make_engine(config, self.model)
        sizes = parameter_sizes(self.model)
        self.adapted = sum(sizes.values())
        self.batch_tokens = batch_tokens(config.batch_tokens, self.loaded)
        adam = getattr(settings, "adam", "none") != "none"
        self.precondition = _any_moments(sizes, self.loaded.device) if adam else None
        subtasks = len({row.subtask or "all" for row in context.target.rows})
        self.numbers = representation.numbers_per_row(settings, len(context.target), subtasks)
        if getattr(settings, "projection", "none") == "none":  # with made-up directions: values do not matter either
            self.projection: Any = Basis(self.numbers, lambda name, size: np.ones((self.numbers, size), np.float32))
        else:
            self.projection = random_projection(settings, config)

    def close(self) -> None:
        """Give the model back as it was: the study's next representation adapts it in its own way."""
        from peft import PeftModel

        from siftune.models.lora import detach_lora

        plain = detach_lora(self.model) if isinstance(self.model, PeftModel) else self.model
        plain.requires_grad_(False)

    def features(self, rows: list[Any]) -> None:
        from siftune.features.gradients.features import gradient_features

        gradient_features(self.engine, rows, precondition=self.precondition, projection=self.projection,
                          pad_id=self.loaded.pad_id, batch_tokens=self.batch_tokens, device=self.loaded.device)

    def speed(self) -> tuple[float, int]:
        """(tokens per second, tokens measured); the largest batch of the run comes first and is not timed."""
        from siftune.models.batching import plan_batches

        rendered = self.context.pool.rendered
        lengths = [len(r) for r in rendered]
        batches = plan_batches(lengths, self.batch_tokens)
        widest = max(batches, key=lambda batch: len(batch) * max(lengths[i] for i in batch))
        self.features([rendered[i] for i in widest])
        order = permutation(len(rendered), self.config.seed, "probe").tolist()
        done, seconds = 0, 0.0
        for start in range(0, len(order), 32):
            rows = [rendered[i] for i in order[start : start + 32]]
            before = time.monotonic()
            self.features(rows)
            seconds += time.monotonic() - before
            done += sum(len(r) for r in rows)
            if seconds > PROBE_SECONDS:
                break
        return done / seconds, done

    def train(self) -> None:
        """The micro-batch of the warmup that needs most memory, forward and backward, as the trainer does it."""
        import siftune.training.trainer  # noqa: F401  # what it imports takes memory too
        from siftune.models.batching import collate, plan_batches
        from siftune.models.supervised_logits import mean_loss_per_row, supervised_logits

        rendered = self.context.pool.rendered
        longest = sorted(range(len(rendered)), key=lambda i: -len(rendered[i]))[: self.settings.warmup_batch_size]
        rows = [rendered[longest[i]]
                for i in plan_batches([len(rendered[i]) for i in longest], self.config.micro_batch_tokens)[0]]
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
