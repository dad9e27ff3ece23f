"""Tasks of EleutherAI's lm-evaluation-harness (Gao et al., https://github.com/EleutherAI/lm-evaluation-harness), scored
on a model that is already loaded, with each example's score where a metric has one.

Prompts go through the tokenizer's chat template where it has one, since that is how siftune trains. A task file of the
user's own is data: functions that it names, metrics that the harness would download and tasks marked unsafe are refused
unless asked for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.errors import ConfigError, SiftuneError, first_line
from siftune.evaluation.harness_files import task_of_rows, task_of_yaml

WHERE = "lm_eval"
SEED = 1234  # the harness's own default, of few-shot examples and of sampling where a task asks for it
CODE_HINT = "set lm_eval_code: true (--lm-eval-code) if you trust that code"


@dataclass(frozen=True)
class HarnessTask:
    """A task, or a group of them, that can be scored.

    Attributes:
        name: as the user wrote it: a name of the harness, or the path of a task YAML or of a JSON(L) file.
        code: run the code that comes with it.
        key: hash of everything that decides its scores but for the model.
    """

    name: str
    code: bool
    key: str


def harness_tasks(names: Sequence[str], *, code: bool, tokenizer: Any) -> tuple[HarnessTask, ...]:
    """Load the tasks with their data, so that what is missing is told now.

    Args:
        names: see :class:`HarnessTask`.
        code: run the code that comes with a task.
        tokenizer: whose chat template is used.

    Raises:
        ConfigError: the harness is not installed, a task is not known, brings code, or its data cannot be had.
    """
    if not names:
        return ()
    template = getattr(tokenizer, "chat_template", None)
    made: list[HarnessTask] = []
    seen: dict[str, str] = {}
    for name in names:
        loaded = _loaded(name, code)
        for leaf in loaded:
            if leaf in seen:
                raise ConfigError(f"two tasks are called {leaf!r}", where=WHERE,
                                  hint=f"take {seen[leaf]} or {name} out, or call one of them otherwise")
            seen[leaf] = name
        told = [_lm_eval().__version__, template, {leaf: _content(task) for leaf, task in sorted(loaded.items())}]
        made.append(HarnessTask(name, code, _hash(told)))
    return tuple(made)


def harness_scores(model: Any, tokenizer: Any, task: HarnessTask, *, batch_size: int = 8) -> dict[str, Any]:
    """Score a model on a task, or on each task of a group.

    Args:
        model: a causal language model on its device, plain or with adapters.
        tokenizer: its tokenizer; a copy of it is used.
        task: from :func:`harness_tasks`.
        batch_size: prompts in a batch.

    Returns:
        task -> ``n`` (examples) and ``metrics``: name -> ``value``, ``stderr`` (None where there is none),
        ``higher_is_better`` and ``examples``, the float score of each example in order, whose mean is the value; None
        where the metric is no such mean. A metric behind a filter is called ``metric,filter``.

    Raises:
        SiftuneError: the harness cannot score this model.
    """
    import copy

    lm_eval = _lm_eval()
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    class Quiet(HFLM):
        """Without progress bars: siftune's own stand for it."""

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().generate_until(requests, disable_tqdm=True)

    was_training, tasks = model.training, _loaded(task.name, task.code)
    with _random_state():
        try:
            wrapped = Quiet(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
            # What `simple_evaluate` does, without its report on the machine, which takes seconds for each model.
            found = lm_eval.evaluate(
                wrapped, {"tasks": tasks}, log_samples=True, bootstrap_iters=1000,
                apply_chat_template=getattr(tokenizer, "chat_template", None) is not None, fewshot_as_multiturn=True,
                confirm_run_unsafe_code=task.code)
        # The harness has no errors of its own. A task that the model cannot take (images, a longer answer than its
        # window, no log-likelihoods) is one of these; anything else is a defect and comes through as it is.
        except (ValueError, AssertionError, NotImplementedError) as error:
            raise SiftuneError(f"cannot score {task.name}", where=WHERE, why=first_line(error),
                               hint="try the task with the `lm_eval` command on the same model") from error
        finally:
            model.train(was_training)
    return {leaf: _task_scores(found, leaf) for leaf in tasks}


def example_scores(kept: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """``task:metric`` -> float64 [trainings, examples], of the metrics that have a score for each example and are the
    better the higher.

    Args:
        kept: what :func:`harness_scores` told of each training, for all tasks.
    """
    found: dict[str, np.ndarray] = {}
    for task, told in kept[0].items() if kept else ():
        for metric, one in told["metrics"].items():
            scores = [other.get(task, {}).get("metrics", {}).get(metric, {}).get("examples") for other in kept]
            if one["higher_is_better"] and None not in scores:
                found[f"{task}:{metric}"] = np.array(scores, dtype=np.float64)
    return found


def _ready(tasks: dict[str, Any]) -> dict[str, Any]:
    for one in tasks.values():
        if one.get_config("num_fewshot") is None:
            one.set_config(key="num_fewshot", value=0)
        one.set_fewshot_seed(seed=SEED)
    return tasks


def _task_scores(found: Mapping[str, Any], leaf: str) -> dict[str, Any]:
    results, samples = found["results"][leaf], found["samples"][leaf]
    directions = found.get("higher_is_better", {}).get(leaf, {})
    metrics = {}
    for label, value in results.items():
        metric, _, filter_name = label.partition(",")
        if not filter_name or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = results.get(f"{metric}_stderr,{filter_name}")
        scores = [one.get(metric) for one in samples if one["filter"] == filter_name]
        name = metric if filter_name == "none" else f"{metric},{filter_name}"
        metrics[name] = {"value": float(value), "stderr": float(stderr) if _number(stderr) else None,
                         "higher_is_better": directions.get(metric), "examples": _examples(scores, float(value))}
    return {"n": len({one["doc_id"] for one in samples}), "metrics": metrics}


def _examples(scores: Sequence[Any], value: float) -> list[float] | None:
    if not scores or not all(map(_number, scores)):
        return None
    examples = [float(s) for s in scores]
    return examples if math.isclose(float(np.mean(examples)), value, rel_tol=1e-6, abs_tol=1e-9) else None


def _number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number) and math.isfinite(value)


def _lm_eval() -> Any:
    try:
        import lm_eval.api.task  # pyright: ignore[reportMissingImports]
        from lm_eval.tasks import TaskManager  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("the lm-evaluation-harness is not installed", where=WHERE, why=first_line(error),
                          hint='pip install "siftune[lm-eval]", or take lm_eval out') from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = _no_bar
    return lm_eval


@functools.cache
def _loaded(name: str, code: bool) -> dict[str, Any]:
    """The harness's task objects by name, with their data; once in a process."""
    _lm_eval()
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    path = Path(name).expanduser()
    spec: Any = name
    if path.suffix in (".jsonl", ".json"):
        spec = task_of_rows(path)
    elif path.suffix in (".yaml", ".yml"):
        spec = task_of_yaml(path, code=code, hint=CODE_HINT)
    manager = TaskManager(include_defaults=not isinstance(spec, dict))
    if isinstance(spec, str):
        if spec not in manager.task_index:
            from siftune._common.registry import unknown_name

            raise unknown_name("lm-eval task", spec, manager.all_tasks, flag=WHERE)
        if not code:
            _refuse_unsafe(manager, spec, set())
    try:
        tasks = manager.load([spec])["tasks"]
        for task in _ready(tasks).values():
            len(task.eval_docs)
    except SiftuneError:
        raise
    except Exception as error:  # of the harness, of datasets, of a task's own code: all say that it cannot be used
        raise ConfigError(f"cannot load the lm-eval task {name}", where=WHERE,
                          why=f"{type(error).__name__}: {first_line(error)}",
                          hint="its data comes from a hub: check the connection (and HF_HUB_OFFLINE), or give a task "
                               "file over local data" if isinstance(spec, str) else "see docs/study.md for what a "
                               "task file looks like") from error
    for leaf, task in tasks.items():
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(f"the task {leaf} needs more than text", where=WHERE, hint="take it out")
    return tasks


def _refuse_unsafe(manager: Any, name: str, seen: set[str]) -> None:
    """Before its modules are imported: what they import may be downloaded."""
    from lm_eval.tasks._yaml_loader import load_yaml  # pyright: ignore[reportMissingImports]

    seen.add(name)
    entry = manager.task_index.get(name)
    inside = list(entry.tags or ()) if entry else []
    if entry and entry.yaml_path:
        settings = load_yaml(entry.yaml_path, resolve_func=False)
        if settings.get("unsafe_code"):
            raise ConfigError(f"the task {name} runs what the model writes", where=WHERE, hint=CODE_HINT)
        members = settings.get("task")
        inside += members if isinstance(members, list) else []
    for one in inside:
        found = one if isinstance(one, str) else one.get("group") or one.get("task")
        if isinstance(found, str) and found not in seen:
            _refuse_unsafe(manager, found, seen)


def _content(task: Any) -> list[Any]:
    """What decides a task's scores: its settings, without where they lie, and its examples."""
    settings = task.config.to_dict() if hasattr(task, "config") else {"class": type(task).__qualname__}
    for place in ("metadata", "dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset"):
        settings.pop(place, None)
    shots = list(task.fewshot_docs() or ()) if settings.get("num_fewshot") else []
    return [settings, [_hash(doc) for doc in task.eval_docs], [_hash(doc) for doc in shots]]


def _no_bar(rows: Any, *args: Any, **kwargs: Any) -> Any:
    return rows


def _hash(told: Any) -> str:
    def plain(value: Any) -> str:
        return getattr(value, "__qualname__", None) or type(value).__qualname__

    return hashlib.blake2b(json.dumps(told, sort_keys=True, default=plain).encode(), digest_size=8).hexdigest()


@contextmanager
def _random_state() -> Iterator[None]:
    """The harness seeds all generators of the process; afterwards they are as they were."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(SEED)
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
