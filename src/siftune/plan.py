"""`siftune plan`: a short measured probe of this model, on these rows, on this machine -> time, memory and disk."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from siftune import api
from siftune.config import SelectConfig
from siftune.methods import representation_of
from siftune.representations.base import Context, GradientRepresentation
from siftune.seeds import permutation
from siftune.selectors import Budget, Problem

PROBE_SECONDS = 15.0


@dataclass
class Plan:
    """What a run will cost.

    Attributes:
        lines: (step, estimate in words).
        seconds: estimated wall time of everything that is not there yet.
        disk: bytes of features.
        memory: estimated peak resident bytes of the process that computes; of each, where there are several.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    disk: int = 0
    memory: int = 0

    def text(self) -> str:
        width = max(len(name) for name, _ in self.lines)
        return "\n".join(f"{name:{width}}  {told}" for name, told in self.lines)


def plan(config: SelectConfig) -> Plan:
    """Probe and estimate. Reads the files and checks everything that ``select`` would check; writes nothing.

    Raises:
        SiftuneError: what ``select`` would refuse.
    """
    api.method_of(config)
    inputs = api.read_inputs(config)
    context = Context(config, inputs.pool, inputs.target, inputs.render, Path(config.output_dir or "."), api.load,
                      existing=inputs.existing)
    method = api.method_of(config, inputs, context)
    made = Plan()
    tokens = int(inputs.pool.tokens.sum())
    bare = api.constrain(config, inputs, Problem(ids=inputs.pool.ids, tokens=inputs.pool.tokens))
    budget = bare.resolve(Budget.parse(config.budget))
    made.lines += [
        ("method", f"{method.representation} + {method.selector}" + (f" ({method.reason})" if method.reason else "")),
        ("pool", f"{len(inputs.pool):,} usable rows of {inputs.pool_rows:,}, {tokens:,} tokens"),
        ("target", f"{len(inputs.target):,} rows"),
        ("budget", f"{config.budget} = {budget.limit:,} {budget.kind}"),
    ]
    representation = representation_of(method.representation)
    if isinstance(representation, GradientRepresentation):
        _probe(config, representation, inputs, made, tokens)
    elif representation.needs_model:
        made.lines.append(("time", f"not known: {method.representation} has no probe"))
    else:
        made.lines.append(("time", "seconds: no model is run"))
    return made


def _probe(config: SelectConfig, representation: GradientRepresentation, inputs: Any, made: Plan, tokens: int) -> None:
    import torch

    from siftune.representations.gradient_settings import settled, warmup_settings
    from siftune.store.codec import bytes_per_row

    config = settled(config, representation)
    threads = torch.get_num_threads()
    if config.workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.workers))
    try:
        probe = _Probe(config, representation, inputs)
        speed, measured = probe.speed()
        if representation.warmup:
            probe.train()
    finally:
        torch.set_num_threads(threads)
    made.memory = _peak_memory()

    warmup = warmup_settings(config)
    passes = warmup.epochs if representation.warmup else 1
    share = min(1.0, max(warmup.share, warmup.min_rows / len(inputs.pool)))
    warmup_seconds = tokens * share * warmup.epochs / speed if representation.warmup else 0.0
    pass_seconds = tokens / speed / config.workers
    numbers = probe.numbers
    kind = config.feature_dtype if representation.keeps_features(config) else "float32"
    made.seconds = warmup_seconds + (pass_seconds + int(inputs.target.tokens.sum()) / speed) * passes
    made.disk = (len(inputs.pool) + len(inputs.target)) * bytes_per_row(numbers, kind) * passes
    each = f" in each of {config.workers} processes" if config.workers > 1 else ""
    made.lines.append(("model", f"{config.model}: {probe.loaded.parameters / 1e6:,.0f}M parameters, gradients of "
                                f"{probe.adapted / 1e6:,.2f}M, {probe.loaded.dtype} on {probe.loaded.device}"))
    made.lines.append(("speed", f"{speed:,.0f} tokens/s{each}, gradients and projection included (measured on "
                                f"{measured:,} tokens)"))
    if representation.warmup:
        made.lines.append(("warmup", f"{_duration(warmup_seconds)}: {share:.1%} of the pool, {warmup.epochs} epochs"))
    made.lines += [
        ("features", f"{_duration(pass_seconds * passes)}: {passes} checkpoint{'s' * (passes > 1)}, "
                     f"{_duration(pass_seconds)} each"),
        ("total", f"{_duration(made.seconds)}, less what an earlier run has left"),
        ("memory", f"{made.memory / 2**30:.2f} GiB{each}, of whatever number of rows (batches of "
                   f"{probe.batch_tokens:,} tokens)"),
        ("disk", f"{made.disk / 2**20:,.1f} MiB of features: {numbers:,} x {kind} x {passes} "
                 f"checkpoint{'s' * (passes > 1)} a row"),
    ]


class _Probe:
    """The passes of a run on a few rows: first the batch that needs most memory, then a sample for the speed."""

    def __init__(self, config: SelectConfig, representation: GradientRepresentation, inputs: Any):
        from siftune.gradients.basis import Basis
        from siftune.gradients.engine import parameter_sizes
        from siftune.models.lora import attach_lora
        from siftune.models.memory import batch_tokens
        from siftune.representations.gradient_settings import (
            choose_linear_weights,
            config_projection,
            lora_settings,
            make_engine,
        )

        self.config, self.inputs, self.loaded = config, inputs, api.load(config)
        self.model = (attach_lora(self.loaded.model, lora_settings(config), seed=0) if representation.warmup
                      else choose_linear_weights(self.loaded.model, config))
        self.engine = make_engine(config, self.model)
        sizes = parameter_sizes(self.model)
        self.adapted = sum(sizes.values())
        self.batch_tokens = batch_tokens(config.batch_tokens, self.loaded)
        self.precondition = _any_moments(sizes, self.loaded.device) if self._adam(representation) else None
        subtasks = len({row.subtask or "all" for row in inputs.target.rows})
        self.numbers = representation.numbers_per_row(config, len(inputs.target), subtasks)
        if config.projection == "none":  # with made-up directions: their values do not matter either
            self.projection: Any = Basis(self.numbers, lambda name, size: np.ones((self.numbers, size), np.float32))
        else:
            self.projection = config_projection(config)

    def _adam(self, representation: GradientRepresentation) -> bool:
        return representation.name == "less" and self.config.adam != "none"

    def features(self, rows: list[Any]) -> None:
        from siftune.gradients.features import gradient_features

        gradient_features(self.engine, rows, precondition=self.precondition, projection=self.projection,
                          pad_id=self.loaded.pad_id, batch_tokens=self.batch_tokens, device=self.loaded.device)

    def speed(self) -> tuple[float, int]:
        """(tokens per second, tokens measured); the largest batch of the run comes first and is not timed."""
        from siftune.gradients.batching import plan_batches

        rendered = self.inputs.pool.rendered
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
        from siftune.gradients.batching import collate, plan_batches
        from siftune.models.supervised_logits import mean_loss_per_row, supervised_logits

        rendered = self.inputs.pool.rendered
        longest = sorted(range(len(rendered)), key=lambda i: -len(rendered[i]))[: self.config.batch_size]
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

    from siftune.gradients.adam import AdamDirection

    first, second = ({name: torch.full((n,), 1e-6, device=device) for name, n in sizes.items()} for _ in range(2))
    return AdamDirection(first, second, step=10)


def _peak_memory() -> int:
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
