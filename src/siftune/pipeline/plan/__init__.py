"""`siftune plan`: a short measured probe of this model, on these rows, on this machine -> time, memory and disk."""

from __future__ import annotations

from pathlib import Path

from siftune.config.settings import SelectConfig
from siftune.features.base import Context, GradientMethod
from siftune.features.work import PlannedMethod
from siftune.pipeline.plan.estimate import Plan
from siftune.pipeline.recipes import representation_of
from siftune.pipeline.select import constrain, load, method_of, read_inputs
from siftune.selectors import SELECTORS, Budget, Problem

__all__ = ["Plan", "plan"]


def plan(config: SelectConfig) -> Plan:
    """Probe and estimate. Reads the files and checks everything that ``select`` would check; writes nothing.

    Raises:
        SiftuneError: what ``select`` would refuse.
    """
    method_of(config)
    inputs = read_inputs(config)
    context = Context(config, inputs.pool, inputs.target, inputs.render, Path(config.output_dir or "."), load,
                      existing=inputs.existing)
    method = method_of(config, inputs, context)
    made = Plan()
    bare = constrain(config, inputs, Problem(ids=inputs.pool.ids, tokens=inputs.pool.tokens))
    budget = bare.resolve(Budget.parse(config.budget))
    made.lines += [
        ("method", f"{method.representation} + {method.selector}" + (f" ({method.reason})" if method.reason else "")),
        ("pool", f"{len(inputs.pool):,} usable rows of {inputs.pool_rows:,}, {int(inputs.pool.tokens.sum()):,} tokens"),
        ("target", f"{len(inputs.target):,} rows"),
        ("budget", f"{config.budget} = {budget.limit:,} {budget.kind}"),
    ]
    representation = representation_of(method.representation)
    context = context.of(method.representation)
    parts = getattr(representation, "gradient_parts", None)  # a fusion of several
    for part, inside in parts(context) if parts else ():
        from siftune.pipeline.plan.gradients import estimate

        made.lines.append(("signal", part.name))
        estimate(inside.config, part, inside, made)
    if isinstance(representation, GradientMethod):
        from siftune.pipeline.plan.gradients import estimate

        estimate(config, representation, context, made)
    elif isinstance(representation, PlannedMethod):
        from siftune.pipeline.plan.work import estimate

        estimate(representation.work(context), context, SELECTORS.get(method.selector).info, made)
    elif representation.needs_model:
        made.lines.append(("time", f"not known: {method.representation} does not say what it takes"))
    else:
        made.lines.append(("time", "seconds: no model is run"))
    return made
