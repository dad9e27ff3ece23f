"""`siftune plan`: a short measured probe of this model, on these rows, on this machine -> time, memory and disk."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from siftune import api
from siftune.config import SelectConfig
from siftune.methods import REPRESENTATIONS, resolve
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
        memory: peak resident bytes seen in the probe.
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
    method = resolve(config.method, config.representation, config.selector, has_target=bool(config.target))
    inputs = api.read_inputs(config)
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
    if REPRESENTATIONS.get(method.representation).needs_model:
        _probe(config, inputs, made, tokens)
    else:
        made.lines.append(("time", "seconds: no model is run"))
    return made


def _probe(config: SelectConfig, inputs: Any, made: Plan, tokens: int) -> None:
    from siftune.gradients.adam import AdamDirection
    from siftune.gradients.engine import GradientEngine, parameter_sizes
    from siftune.gradients.features import gradient_features
    from siftune.models.lora import attach_lora
    from siftune.representations.less import less_projection, lora_settings, warmup_settings

    loaded = api.load(config)
    model = attach_lora(loaded.model, lora_settings(config), seed=0)
    engine = GradientEngine(model)
    sizes = parameter_sizes(model)
    import torch

    moments = {name: torch.full((n,), 1e-6) for name, n in sizes.items()}  # values do not matter for the time
    direction = AdamDirection(moments, moments, step=10)
    order = permutation(len(inputs.pool), config.seed, "probe").tolist()
    done, seconds, rows = 0, 0.0, []
    warm = False
    for start in range(0, len(order), 16):
        rows = [inputs.pool.rendered[i] for i in order[start : start + 16]]
        before = time.monotonic()
        gradient_features(engine, rows, precondition=direction, projection=less_projection(config),
                          pad_id=loaded.pad_id, batch_tokens=config.batch_tokens, device=loaded.device)
        if warm:  # the first batch also makes the projection and warms the caches
            seconds += time.monotonic() - before
            done += sum(len(r) for r in rows)
        warm = True
        if seconds > PROBE_SECONDS:
            break
    speed = done / seconds if seconds else float("nan")
    warmup = warmup_settings(config)
    share = min(1.0, max(warmup.share, warmup.min_rows / len(inputs.pool)))
    warmup_seconds = tokens * share * warmup.epochs / speed
    pass_seconds = tokens / speed
    target_tokens = int(inputs.target.tokens.sum())
    total = warmup_seconds + (pass_seconds + target_tokens / speed) * warmup.epochs
    width = np.dtype(config.feature_dtype).itemsize
    made.seconds = total
    made.disk = (len(inputs.pool) + len(inputs.target)) * config.projection_dim * width * warmup.epochs
    made.memory = _peak_memory()
    made.lines += [
        ("model", f"{config.model}: {loaded.parameters / 1e6:,.0f}M parameters, {sum(sizes.values()) / 1e6:,.2f}M "
                  f"adapted, {loaded.dtype} on {loaded.device}"),
        ("speed", f"{speed:,.0f} tokens/s, gradients and projection included (measured on {done:,} tokens)"),
        ("warmup", f"{_duration(warmup_seconds)}: {share:.1%} of the pool, {warmup.epochs} epochs"),
        ("features", f"{_duration(pass_seconds * warmup.epochs)}: {warmup.epochs} checkpoints, "
                     f"{_duration(pass_seconds)} each"),
        ("total", f"{_duration(total)}, less what an earlier run has left"),
        ("memory", f"{made.memory / 2**30:.1f} GiB at the peak of the probe (--batch-tokens {config.batch_tokens})"),
        ("disk", f"{made.disk / 2**20:,.0f} MiB of features: {config.projection_dim} x {config.feature_dtype} x "
                 f"{warmup.epochs} checkpoints a row"),
    ]


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
