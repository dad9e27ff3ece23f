"""The main job from top to bottom: read, compute, constrain, choose. Writing is the next step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from siftune._common.errors import ConfigError, DataError
from siftune._common.nearest import did_you_mean
from siftune._common.progress import log
from siftune.config.catalogue import Recipe, owner_of
from siftune.config.options import shown
from siftune.config.settings import SelectConfig
from siftune.data.load import Inputs, load_inputs
from siftune.execution import check_storage
from siftune.features.base import Clock, Computed, Context
from siftune.features.centring import SHARED
from siftune.features.collect import check as check_collect
from siftune.features.gradient_settings import warmup_settings
from siftune.features.once import similarities_once
from siftune.features.shares import Share
from siftune.features.similarity import largest_coordinates
from siftune.pipeline.auto import Situation, speed
from siftune.pipeline.features_home import features_home, run_folders
from siftune.pipeline.findings import shortfall
from siftune.pipeline.outcome import Outcome
from siftune.pipeline.recipes import representation_of, resolve
from siftune.pipeline.runfolder import prepare, row_scores
from siftune.pipeline.strata import by_score, strata_of
from siftune.selectors import SELECTORS, Budget, Problem
from siftune.selectors import select as run_selector

if TYPE_CHECKING:
    from siftune.models.loading import LoadedModel


C = TypeVar("C", bound=SelectConfig)


def complete(config: C, name: str = "") -> C:
    """Name the run folder where only ``from_run`` is named: beside it, after what is different.

    Args:
        config: of the command.
        name: of what is different; the selector when not given.

    Raises:
        ConfigError: no output folder is named and none can be derived.
    """
    if config.output_dir:
        return config
    if not config.from_run:
        raise ConfigError("no run folder is named", where="--output-dir", hint="for example --output-dir runs/a")
    name = name or config.selector or ("auto" if config.method == "auto" else method_of(config).selector)
    suffix = f"{name}-{config.budget}".replace("%", "pct").replace(" ", "")
    return dataclasses.replace(config, output_dir=f"{config.from_run.rstrip('/')}-{suffix}")


def method_of(config: SelectConfig, inputs: Inputs | None = None, context: Context | None = None) -> Recipe:
    """The recipe that a configuration names.

    Args:
        config: of the run.
        inputs, context: what ``--method auto`` looks at: pool, target, and the model. Without them it answers as for a
            small pool.

    Raises:
        ConfigError: an unknown name, or a method that needs a target and has none.
    """
    situation = None
    decided = config.representation and config.selector  # nothing is left to choose: the model need not be loaded
    if config.method == "auto" and not decided and inputs is not None and context is not None:
        tokens = int(inputs.pool.tokens.sum())
        warmup, pairs = warmup_settings(config.settings_of("less"), config), config.settings_of("utility")
        limit = Budget.parse(config.budget).resolve(len(inputs.pool), tokens)
        kept = config.settings_of("two-stage").keep * limit.limit / (
            tokens if limit.kind == "tokens" else len(inputs.pool))
        situation = Situation(
            bool(config.target), bool(config.existing), tokens, context.model.parameters,
            speed(context.model.device), warmup.epochs, warmup.rows_of(len(inputs.pool)) / len(inputs.pool),
            pairs.nominees + pairs.random_nominees,
            min(1.0, kept) if config.settings_of("less").checkpoints == "all" else 1.0)
    return resolve(config.method, config.representation, config.selector, has_target=bool(config.target),
                   has_existing=bool(config.existing), situation=situation)


def load(config: SelectConfig) -> LoadedModel:
    """The model of a configuration."""
    from siftune.models.loading import load_model

    return load_model(config.model, device=config.device, dtype=config.dtype,
                      trust_remote_code=config.trust_remote_code)


def read_inputs(config: SelectConfig) -> Inputs:
    """Pool, target and test of a configuration, rendered with its model's tokenizer."""
    from siftune.models.loading import load_tokenizer
    from siftune.models.shape import model_shape

    return load_inputs(config, load_tokenizer(config.model, trust_remote_code=config.trust_remote_code),
                       model_shape(config.model, trust_remote_code=config.trust_remote_code),
                       run_folders(config) if config.output_dir else ())


def choose(config: SelectConfig, *, inputs: Inputs | None = None, context: Context | None = None,
           output: Computed | None = None, command: str = "", share: Share | None = None) -> Outcome:
    """Everything of :func:`select` but the writing.

    Args:
        config: complete, see :func:`complete`.
        inputs, context: those of an earlier call with the same data and model settings, to save reading them again.
        output: that of an earlier call with the same representation.
        share: compute that share of the passes only.

    Raises:
        ShareDone: it is done; other shares, or what comes after them, are not.
    """
    method_of(config)  # a misspelt name fails now, not after reading a large pool
    check_collect(config)
    if context is None:
        check_storage(config)
    budget = Budget.parse(config.budget)
    if share is None:
        prepare(config.output_dir)
    clock = context.clock if context else Clock()
    if inputs is None:
        with clock.measure("read and render"):
            inputs = read_inputs(config)
    budget.resolve(len(inputs.pool), int(inputs.pool.tokens.sum()))  # a wrong budget fails now, not after hours
    if context is None:
        home = features_home(config, inputs.pool)
        context = home.told(Context(config, inputs.pool, inputs.target, inputs.render, home.folder, load, clock,
                                    inputs.existing, share=share, earlier=home.earlier))
    method = method_of(config, inputs, context)
    representation, context = representation_of(method.representation), context.of(method.representation)
    check_collect(config, representation)
    constrained = constrain(config, inputs, Problem(ids=inputs.pool.ids, tokens=inputs.pool.tokens))
    resolved = constrained.resolve(budget)  # a share is one of the pool, whatever the method itself rules out later
    check_own(config, method)
    if method.reason:
        log(f"method auto: {method.representation} with {method.selector} ({method.reason})")
    found: Computed = output or similarities_once(
        representation.compute(dataclasses.replace(context, limits=constrained)), context.folder / "store")
    if getattr(context.settings, "center", False) and SHARED not in found.notes:
        log(f"center changes nothing here: {method.representation} has no vectors to take a mean of")
    problem = with_pairs(to_problem(constrained, inputs, found), found, SELECTORS.get(method.selector).info.needs)
    if by_score(config.strata):
        problem = _stratified(config, inputs, problem, row_scores(problem))
    with context.clock.measure(f"select ({method.selector})"):
        selection = run_selector(problem, resolved, method.selector, seed=config.seed,
                                 **config.own.get(method.selector, {}))
    outcome = Outcome(config, method, inputs, context, found, constrained, problem, selection, command)
    if told := shortfall(outcome):
        log(told)
    return outcome


def to_problem(constrained: Problem, inputs: Inputs, output: Computed) -> Problem:
    """What the selector sees: the constrained pool (:func:`constrain`) with the output of a representation."""
    target = inputs.target
    comparing = output.blocks is not None
    exclude = constrained.exclude.copy()
    for rows in output.excluded.values():
        exclude[rows] = True
    exclude[constrained.include] = False  # what the user wants stays
    if output.excluded and exclude.all():
        told = ", ".join(f"{reason}: {len(rows):,}" for reason, rows in output.excluded.items())
        raise DataError("the method rules out every row that may be selected", where="--method",
                        why=f"Rows ruled out: {told}.",
                        hint="choose another method or model, or look at a few rows with `siftune inspect`")
    return dataclasses.replace(
        constrained, exclude=exclude, blocks=output.blocks,
        targets=output.lines or target.ids if comparing else (),
        subtasks=output.lines or [row.subtask or "all" for row in target.rows] if comparing else (),
        subtask_blocks=output.subtask_blocks, scores=output.scores, vectors=output.vectors,
        existing=output.existing,
        lengths=inputs.pool.supervised, reference_lengths=target.supervised if len(target) else None,
    )


def with_pairs(problem: Problem, output: Computed, needs: str) -> Problem:
    """The problem with what only some selectors need, and what can be costly to make: a kernel, or feature sets."""
    if needs == "kernel" and output.kernel is not None:
        return dataclasses.replace(problem, kernel=output.kernel())
    if needs == "sets" and output.sets is not None:
        return dataclasses.replace(problem, sets=output.sets())
    if needs == "sets" and output.vectors is not None:
        return dataclasses.replace(problem, sets=largest_coordinates(output.vectors, len(problem)))
    return problem


def check_own(config: SelectConfig, method: Recipe) -> None:
    """Build the settings of method and selector now, so that a wrong one is told before hours of work; tell which ones
    ``auto`` has left no use for."""
    owner = owner_of(method.representation)
    used = (owner, *config.parts_of(owner), method.selector, *config.collect)
    for owner in used:
        config.settings_of(owner)
    unread = [f"{owner}.{name}" for owner, block in config.own.items() if owner not in used for name in block]
    if config.method == "auto" and unread:
        log(f"not read: {', '.join(unread)} (auto chose {method.representation} with {method.selector})")


def read_quota_texts(entries: Sequence[str]) -> dict[str, tuple[str | None, str | None]]:
    """``GROUP=FLOOR..CEILING`` of every ``--quota``; either side may be empty.

    Raises:
        ConfigError: not of that form, or a group twice.
    """
    found: dict[str, tuple[str | None, str | None]] = {}
    for entry in entries:
        group, _, limits = entry.strip().rpartition("=")  # a group may have a sign of equality in its name, limits not
        floor, dots, ceiling = (part.strip() for part in limits.partition(".."))
        if not group or not dots or not (floor or ceiling):
            raise ConfigError(f"{shown(entry)} is not of the form GROUP=FLOOR..CEILING", where="--quota",
                              hint='for example --quota "math=10%..40%", or "chat=..200" for a ceiling alone')
        if group in found:
            raise ConfigError(f"two quotas are given for {shown(group)}", where="--quota", hint="give one")
        found[group] = (floor or None, ceiling or None)
    return found


def constrain(config: SelectConfig, inputs: Inputs, problem: Problem) -> Problem:
    """The problem under the user's constraints: ids to include and exclude, near-duplicates, quotas."""
    groups: list[list[int]] = []
    if config.near_duplicates:
        from siftune.data.near_duplicates import near_duplicate_groups

        groups = near_duplicate_groups(inputs.pool.rows, config.near_duplicates)
    if not by_score(config.strata):  # of those there are no scores yet, see choose
        problem = _stratified(config, inputs, problem)
    return problem.constrained(must_include=_id_file(config.must_include, "--must-include"),
                               must_exclude=_id_file(config.must_exclude, "--must-exclude"), duplicate_groups=groups)


def _stratified(config: SelectConfig, inputs: Inputs, problem: Problem, scores: np.ndarray | None = None) -> Problem:
    """The problem with the stratum of every row, and the quotas that speak of them."""
    return dataclasses.replace(problem, groups=strata_of(config.strata, inputs, scores)
                               ).constrained(quotas=read_quota_texts(config.quotas))


def _id_file(path: str, flag: str) -> list[str]:
    if not path:
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the ids of {flag}", where=path, why=str(error),
                        hint=did_you_mean(path) or "give a text file with one id a line") from error
    return [line.strip() for line in lines if line.strip()]
