"""`siftune plan`: a short measured probe of this model, on these rows, on this machine -> time, memory and disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftune._common.text import counted
from siftune.config.settings import SelectConfig
from siftune.features.base import Context, GradientMethod
from siftune.features.work import PlannedMethod
from siftune.pipeline.plan.estimate import MEASURED, Plan, Speeds
from siftune.pipeline.recipes import representation_of
from siftune.pipeline.select import constrain, load, method_of, read_inputs
from siftune.selectors import SELECTORS, Budget, Problem, SelectorInfo

__all__ = ["Plan", "Speeds", "estimate_method", "plan"]

if TYPE_CHECKING:
    from siftune.models.loading import LoadedModel


def plan(config: SelectConfig, speeds: Speeds = MEASURED) -> Plan:
    """Probe and estimate. Reads the files and checks everything that ``select`` would check; writes nothing.

    Args:
        config: of the run.
        speeds: those that are known; where they are of all that runs the model, its weights are not loaded.

    Raises:
        SiftuneError: what ``select`` would refuse.
    """
    method_of(config)
    made = Plan()

    with made.fixed("reading"):
        inputs = read_inputs(config)

    def loaded_model(config: SelectConfig) -> LoadedModel:
        with made.fixed("loading"):
            return (_outline if speeds.spare_the_model else load)(config)

    context = Context(config, inputs.pool, inputs.target, inputs.render, Path(config.output_dir or "."), loaded_model,
                      existing=inputs.existing)
    method = method_of(config, inputs, context)
    constrained = constrain(config, inputs, Problem(ids=inputs.pool.ids, tokens=inputs.pool.tokens))
    budget = constrained.resolve(Budget.parse(config.budget))
    made.lines += [
        ("method", f"{method.representation} + {method.selector}" + (f" ({method.reason})" if method.reason else "")),
        ("pool", f"{counted(len(inputs.pool), 'usable row')} of {inputs.pool_rows:,}, "
                 f"{counted(int(inputs.pool.tokens.sum()), 'token')}"),
        ("target", f"{counted(len(inputs.target))}"),
        ("budget", f"{config.budget} = {counted(budget.limit, budget.kind[:-1])}"),
    ]
    representation = representation_of(method.representation)
    estimate_method(representation, context.of(method.representation), SELECTORS.get(method.selector).info, made,
                    speeds)
    made.finish(context.loaded.device if context.loaded else "cpu", config.workers)
    if (loaded := context.loaded) is not None and not speeds.spare_the_model:
        from siftune.models.half_precision import warning

        asked = (warning("--dtype", loaded.dtype, loaded.device), warning("--autocast", config.autocast, loaded.device))
        made.lines += [("warning", told) for told in asked if told]
    return made


def estimate_method(representation: Any, context: Context, selector: SelectorInfo, made: Plan,
                    speeds: Speeds = MEASURED) -> None:
    """Add to a plan what a method takes, with those that it is made of.

    Args:
        representation: the method.
        context: that it would be computed in.
        selector: what is made of it; some steps are for certain selectors alone.
        made: the plan.
        speeds: those that are known.
    """
    parts = getattr(representation, "gradient_parts", None)  # of a method that is made of others
    for part, inside in parts(context) if parts else ():
        from siftune.pipeline.plan.gradients import estimate

        if inside.whole is not None:
            made.add(representation.part, f"{part.name} on {len(inside.pool):,} of {counted(len(inside.whole))}")
            lines = part.name
        else:
            made.add(representation.signal, part.name)
            lines = f"{representation.signal}, {part.name}"
        with made.within(lines):
            estimate(inside.config, part, inside, made, speeds)
    if isinstance(representation, GradientMethod):
        from siftune.pipeline.plan.gradients import estimate

        estimate(context.config, representation, context, made, speeds)
    elif isinstance(representation, PlannedMethod):
        from siftune.pipeline.plan.work import estimate as estimate_work

        estimate_work(representation.work(context), context, selector, made, speeds)
    elif representation.needs_model:
        made.add("time", f"not known: {representation.name} does not say what it takes")
    else:
        made.add("time", "seconds: no model is run")


def _outline(config: SelectConfig) -> LoadedModel:
    from siftune.models.loading import load_outline

    return load_outline(config.model, device=config.device, dtype=config.dtype,
                        trust_remote_code=config.trust_remote_code)
