"""`siftune plan`: a short measured probe of this model, on these rows, on this machine -> time, memory and disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siftune.config.settings import SelectConfig
from siftune.features.base import Context, GradientMethod
from siftune.features.work import PlannedMethod
from siftune.pipeline.plan.estimate import Plan
from siftune.pipeline.recipes import representation_of
from siftune.pipeline.select import constrain, load, method_of, read_inputs
from siftune.selectors import SELECTORS, Budget, Problem, SelectorInfo

__all__ = ["Plan", "estimate_method", "plan"]


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
    constrained = constrain(config, inputs, Problem(ids=inputs.pool.ids, tokens=inputs.pool.tokens))
    budget = constrained.resolve(Budget.parse(config.budget))
    made.lines += [
        ("method", f"{method.representation} + {method.selector}" + (f" ({method.reason})" if method.reason else "")),
        ("pool", f"{len(inputs.pool):,} usable rows of {inputs.pool_rows:,}, {int(inputs.pool.tokens.sum()):,} tokens"),
        ("target", f"{len(inputs.target):,} rows"),
        ("budget", f"{config.budget} = {budget.limit:,} {budget.kind}"),
    ]
    representation = representation_of(method.representation)
    estimate_method(representation, context.of(method.representation), SELECTORS.get(method.selector).info, made)
    if (loaded := context.loaded) is not None:
        from siftune.models.half_precision import warning

        asked = (warning("--dtype", loaded.dtype, loaded.device), warning("--autocast", config.autocast, loaded.device))
        made.lines += [("warning", told) for told in asked if told]
    return made


def estimate_method(representation: Any, context: Context, selector: SelectorInfo, made: Plan) -> None:
    """Add to a plan what a method takes, with those that it is made of.

    Args:
        representation: the method.
        context: that it would be computed in.
        selector: what is made of it; some steps are for certain selectors alone.
    """
    parts = getattr(representation, "gradient_parts", None)  # of a method that is made of others
    for part, inside in parts(context) if parts else ():
        from siftune.pipeline.plan.gradients import estimate

        on = "" if inside.whole is None else f" on {len(inside.pool):,} of {len(inside.whole):,} rows"
        made.lines.append((getattr(representation, "part", "signal"), f"{part.name}{on}"))
        estimate(inside.config, part, inside, made)
    if isinstance(representation, GradientMethod):
        from siftune.pipeline.plan.gradients import estimate

        estimate(context.config, representation, context, made)
    elif isinstance(representation, PlannedMethod):
        from siftune.pipeline.plan.work import estimate as estimate_work

        estimate_work(representation.work(context), context, selector, made)
    elif representation.needs_model:
        made.lines.append(("time", f"not known: {representation.name} does not say what it takes"))
    else:
        made.lines.append(("time", "seconds: no model is run"))
