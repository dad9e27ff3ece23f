"""Tasks for the lm-evaluation-harness out of files on this machine: its own task YAML, or plain JSON(L) rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from siftune._common.errors import ConfigError, DataError, at, first_line
from siftune._common.nearest import did_you_mean
from siftune.config.plain_yaml import read_yaml_file

ROW_HINT = ('write {"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 1} (the right one by place, from 0, or as it '
            'stands in choices) or {"prompt": "2 + 2 =", "answer": "4"}, in all rows alike')
NEW_TOKENS = 64


def task_of_rows(path: Path) -> dict[str, Any]:
    """A task made of rows with ``prompt`` and ``answer``.

    Multiple choice where they have ``choices``, scored by ``acc`` (the choice with the greatest log-likelihood) and
    ``acc_norm`` (per character); else greedy generation up to a line break or 64 tokens, scored by ``exact_match``
    without regard to case and leading white space.

    Raises:
        ConfigError: there is no such file.
        DataError: a row is not as it should be.
    """
    from datasets import Dataset

    rows = list(_rows(path))
    if not rows:
        raise DataError("there is no row in the file", where=str(path), hint=ROW_HINT)
    choices = "choices" in rows[0][1]
    docs = [_choice(row, where) if choices else _answer(row, where) for where, row in rows]
    shared = {"task": path.stem, "custom_dataset": lambda **_: {"test": Dataset.from_list(docs)}, "test_split": "test",
              "doc_to_text": "prompt", "doc_to_target": "answer"}
    if choices:
        return {**shared, "output_type": "multiple_choice", "doc_to_choice": "choices",
                "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True}
                                for m in ("acc", "acc_norm")]}
    return {**shared, "output_type": "generate_until",
            "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": NEW_TOKENS},
            "filter_list": [{"name": "none", "filter": [{"function": "remove_whitespace"},
                                                        {"function": "take_first"}]}],
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True,
                             "ignore_case": True}]}


def task_of_yaml(path: Path, *, code: bool, hint: str) -> dict[str, Any]:
    """The settings of a task file, with what it includes; paths of data are looked for beside it.

    Args:
        path: of the file.
        code: allow functions (``!function``), metrics from a hub and tasks marked unsafe.
        hint: how to allow them.

    Raises:
        ConfigError: there is no such file, it is no task, or it brings code that is not allowed.
    """
    if not path.is_file():
        raise ConfigError("there is no such task file", where=str(path),
                          hint=did_you_mean(path) or
                          "give a task YAML, a JSON(L) file or a name of the harness under lm_eval")
    if code:
        from lm_eval.tasks._yaml_loader import load_yaml  # pyright: ignore[reportMissingImports]

        found = load_yaml(path)
    else:
        found = _plain_yaml(path, hint, ())
        _refuse_code(found, path, hint)
    if not isinstance(found.get("task"), str):
        raise ConfigError("the file describes no task", where=str(path), why="It has no `task: NAME`.",
                          hint="for a group, name its tasks one by one under lm_eval")
    kwargs = found.get("dataset_kwargs")
    if isinstance(kwargs, dict) and "data_files" in kwargs:
        found["dataset_kwargs"] = {**kwargs, "data_files": _beside(kwargs["data_files"], path.parent)}
    return found


def _plain_yaml(path: Path, hint: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    try:
        found = read_yaml_file(path, str(path))
    except ConfigError as error:
        if isinstance(error.__cause__, yaml.constructor.ConstructorError):
            raise ConfigError("the task file brings code", where=str(path), why=str(error.__cause__.problem),
                              hint=hint) from error
        raise ConfigError("cannot read the task file", where=str(path), why=error.why or error.what,
                          hint="give a YAML file as the harness reads it") from error
    if not isinstance(found, dict):
        raise ConfigError("the file describes no task", where=str(path), hint="write task: NAME and its settings")
    included = found.pop("include", [])
    merged: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else included:
        other = (path.parent / name).resolve()
        if other in seen:
            raise ConfigError("task files include each other", where=str(path), hint=f"take {name} out")
        merged.update(_plain_yaml(other, hint, (*seen, path.resolve())))
    return {**merged, **found}


def _refuse_code(found: dict[str, Any], path: Path, hint: str) -> None:
    import lm_eval.api.metrics  # noqa: F401  # pyright: ignore[reportMissingImports]  # registers what it has
    from lm_eval.api.registry import metric_registry  # pyright: ignore[reportMissingImports]

    for metric in found.get("metric_list") or ():
        name = metric.get("metric") if isinstance(metric, dict) else metric
        if not isinstance(metric, dict) or name not in metric_registry or metric.get("hf_evaluate"):
            raise ConfigError(f"the harness has no metric {name!r} of its own", where=str(path),
                              why="It would download and run code of that name.", hint=hint)
    kwargs = found.get("dataset_kwargs")
    if found.get("unsafe_code") or found.get("class") or (isinstance(kwargs, dict) and kwargs.get("trust_remote_code")):
        raise ConfigError("the task file brings code", where=str(path), hint=hint)


def _beside(files: Any, folder: Path) -> Any:
    if isinstance(files, str):
        return str(folder / files) if (folder / files).exists() else files
    if isinstance(files, dict):
        return {name: _beside(one, folder) for name, one in files.items()}
    return [_beside(one, folder) for one in files] if isinstance(files, list) else files


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, row)."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("cannot read the file with the rows of a task", where=str(path), why=first_line(error),
                          hint=did_you_mean(path) or "give a JSON or JSONL file under lm_eval") from error
    if path.suffix == ".json":
        try:
            listed = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError("the file is not JSON", where=str(path), why=str(error), hint=ROW_HINT) from error
        if not isinstance(listed, list):
            raise DataError("the file holds no list of rows", where=str(path), hint="write [{...}, {...}]")
        found = [(f"{path}, row {i}", row) for i, row in enumerate(listed, 1)]
    else:
        found = []
        for i, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    found.append((at(path, i), json.loads(line)))
                except (ValueError, RecursionError) as error:
                    raise DataError("the line is not JSON", where=at(path, i), why=str(error), hint=ROW_HINT) from error
    for where, row in found:
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or "answer" not in row:
            raise DataError("the row has no prompt with an answer", where=where, hint=ROW_HINT)
        yield where, row


def _choice(row: dict[str, Any], where: str) -> dict[str, Any]:
    choices, answer = row.get("choices"), row["answer"]
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) for c in choices):
        raise DataError("the row has no list of two or more choices", where=where, hint=ROW_HINT)
    if isinstance(answer, str) and choices.count(answer) == 1:
        answer = choices.index(answer)
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise DataError(f"the answer {answer!r} is none of the choices", where=where, hint=ROW_HINT)
    return {"prompt": row["prompt"], "choices": choices, "answer": answer}


def _answer(row: dict[str, Any], where: str) -> dict[str, Any]:
    if "choices" in row or not isinstance(row["answer"], str):
        raise DataError("the answer is no text, or only some rows have choices", where=where, hint=ROW_HINT)
    return {"prompt": row["prompt"], "answer": row["answer"].strip()}
