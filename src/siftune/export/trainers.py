"""Rows as text for each trainer, set up so that it trains on what siftune scored: the assistant turns and nothing else.

How near each comes to it, template by template, is in docs/export.md; :mod:`siftune.export.tokens` has the form that
is exact for all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from siftune._common.errors import DataError
from siftune._common.files import read_json, write_json, write_lines, write_text
from siftune.data.chat import as_record
from siftune.data.rows import Message, Row
from siftune.data.training_templates import family
from siftune.export.scored import Scored, marks_hold
from siftune.export.tokens import settings_file
from siftune.export.written import Written

LLAMAFACTORY_TEMPLATES = {
    "cohere": "cohere", "cohere2": "cohere", "deepseek_r1_distill": "deepseekr1", "deepseekv3": "deepseek3",
    "gemma": "gemma", "gemma3": "gemma", "glm4moe": "glm4_moe", "gptoss": "gpt_oss", "lfm2": "lfm2",
    "llama3": "llama3", "phi3": "phi", "qwen2_5": "qwen", "qwen2_5_vl": "qwen2_vl", "qwen3": "qwen3",
    "qwen3_instruct_2507": "qwen3_nothink", "qwen3_vl": "qwen3_vl",
}
"""What LLaMA-Factory 0.9.5 calls the templates of the families that are known here; its ``gemma3`` wants images."""

_SHOWN = 5  # ids that a warning names


def write_jsonl(rows: list[Row], data: Path) -> Written:
    """The original records with the run's id: as ``id``, or as ``siftune_id`` where ``id`` says something else.

    A record that has its id already is written as it came, character for character.
    """
    write_lines(data, (_with_id(row) for row in rows))
    return Written([data], "each line is the original record, best first")


def fits_trl(scored: Scored) -> bool:
    """Whether TRL, given messages, makes of every row what was scored."""
    if not any(map(_has_untrained, scored.rows)):
        return marks_hold(scored)
    prompts = _prompts(list(map(scored.messages, scored.rows)))
    return prompts is not None and marks_hold(scored, after_prompt=prompts)


def write_trl(rows: list[Row], data: Path, scored: Scored | None = None) -> Written:
    """JSON lines for TRL's ``SFTTrainer``, and a YAML file for ``trl sft --config``.

    Where the template has ``{% generation %}`` markers, or TRL a training template for it, rows are ``messages`` under
    ``assistant_only_loss``. If some begin with turns that are not to be trained on, all are ``prompt`` and
    ``completion``, both lists of turns, so that the loss leaves these out.

    Where there are no markers, or the model is not known, the loss on messages would cover the user's turns too. Rows
    with one answer, at their end, are then ``prompt`` and ``completion``: TRL's loss covers the completion, with all
    that the template writes after the answer. Rows of several answers are ``messages``, for a template with markers.

    Raises:
        DataError: some assistant turns are not to be trained on after others that are, which neither form can say; or
            rows are more than one answer at their end and the template has no markers.
    """
    settings: dict[str, Any] = {"datasets": [{"path": "json", "data_files": data.name}]}
    if scored is not None:
        settings["max_length"] = scored.max_length
    untrained = any(map(_has_untrained, rows))
    marked = scored is not None and scored.renderer.template.has_markers()
    single = all(map(_is_single, rows))
    turns = list(map(_turns(scored), rows))
    prompts = [len(messages) - 1 for messages in turns] if single and not marked else _prompts(turns)
    if single and not marked:
        note = ("SFTTrainer computes the loss on the completions only, as it does by default for this form: the "
                "answers and what the template writes after them")
    elif untrained and prompts is not None and marked:
        settings |= {"assistant_only_loss": True, "completion_only_loss": True}
        note = "the loss is on the assistant's turns of the completions: SFTConfig(assistant_only_loss=True)"
    else:
        _refuse(rows, _has_untrained, "assistant turns that are not to be trained on, beside several that are", "TRL")
        if scored is not None and not marked:
            _refuse(rows, lambda row: not _is_single(row), "more than one answer at their end, under a chat template "
                    "without {% generation %} markers", "TRL")
        settings["assistant_only_loss"] = True
        prompts = None
        note = "the loss is on the assistant's turns: train with SFTConfig(assistant_only_loss=True)"
    if prompts is None:
        _write_messages(data, rows, turns)
    else:
        _write(data, ({"id": row.id, "prompt": _plain(messages[:n]), "completion": _plain(messages[n:]), **_tools(row)}
                      for row, messages, n in zip(rows, turns, prompts, strict=True)))
    name = settings_file(data, "trl")
    write_text(name, _yaml(settings))
    return Written([data, name], f"{note}. {name.name} has the settings; its paths are relative to {data.parent}", name)


def write_llamafactory(rows: list[Row], data: Path, scored: Scored | None = None) -> Written:
    """JSON lines, their entry in ``dataset_info.json`` (other entries of an existing file are kept), and the settings.

    Tool calls become turns of their own with the tag ``function_call``, tools a column of JSON text.

    Raises:
        DataError: the existing ``dataset_info.json`` is not a JSON object, or rows hold what the format cannot:
            thoughts apart from the answer, text beside a tool call, turns that are not trained on.
    """
    _refuse(rows, _has_untrained, "assistant turns that are not to be trained on", "LLaMA-Factory")
    _refuse(rows, lambda row: any(m.reasoning for m in row.messages), "thoughts apart from the answer", "LLaMA-Factory")
    _refuse(rows, lambda row: any(m.tool_calls and m.content.strip() for m in row.messages),
            "text beside a tool call", "LLaMA-Factory")
    info = data.parent / "dataset_info.json"
    entries = _existing_entries(info)
    name = _data_set_name(data)
    entries[name] = {
        "file_name": data.name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "tools": "tools"} if any(row.tools for row in rows) else
                   {"messages": "messages"},
        "tags": {
            "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
            "system_tag": "system", "observation_tag": "tool",
            "function_tag": "function_call",
        },
    }
    _write(data, ({"id": row.id, "messages": [_with_call_text(message) for message in row.messages],
                   **({"tools": json.dumps([tool["function"] for tool in row.tools], ensure_ascii=False)}
                      if row.tools else {})} for row in rows))
    write_json(info, entries)
    settings: dict[str, Any] = {"stage": "sft", "dataset": name, "dataset_dir": "."}
    warnings = []
    if scored is not None:
        settings["cutoff_len"] = scored.max_length
        given = scored.tokenizer.chat_template
        if template := LLAMAFACTORY_TEMPLATES.get(family(given) or "" if isinstance(given, str) else ""):
            settings["template"] = template
        if cut := [row for row, one in zip(scored.rows, scored.rendered, strict=True) if one.cut_tokens]:
            warnings.append(f"LLaMA-Factory cuts {_named(cut)} in other places: it shortens each turn, siftune the end")
    if lost := [row for row in rows if not _alternates(row)]:
        warnings.append(f"LLaMA-Factory leaves out {_named(lost)}: it takes the turns of user and assistant in turn, "
                        "from a user's to an assistant's")
    file = settings_file(data, "llamafactory")
    write_text(file, _yaml(settings))
    note = (f"train with dataset: {name} and dataset_dir: {data.parent}"
            + ("" if "template" in settings else "; name the model's template, or LLaMA-Factory makes one of the "
               "tokenizer's"))
    return Written([data, info, file], note, file, warnings)


def write_axolotl(rows: list[Row], data: Path, scored: Scored | None = None) -> Written:
    """JSON lines and a YAML file with what belongs into an Axolotl configuration: ``datasets``, and where the model is
    known ``sequence_len`` and the ends of its turns."""
    section: dict[str, Any] = {
        "path": data.name,
        "ds_type": "json",
        "type": "chat_template",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }
    if any(row.tools for row in rows):
        section["field_tools"] = "tools"
    if untrained := any(map(_has_untrained, rows)):
        section["message_field_training"] = "train"
    settings: dict[str, Any] = {"datasets": [section]}
    if scored is not None:
        # Axolotl leaves longer rows out unless it is told to cut them.
        settings |= {"sequence_len": scored.max_length, "excess_length_strategy": "truncate"}
        ends = scored.ends_of_turn
        if ends and ends != [scored.tokenizer.eos_token]:
            settings["eot_tokens"] = ends
    snippet = settings_file(data, "axolotl")
    turns = list(map(_turns(scored), rows))
    if untrained:
        _write(data, ({"id": row.id, "messages": list(map(_with_train, messages)), **_tools(row)}
                      for row, messages in zip(rows, turns, strict=True)))
    else:
        _write_messages(data, rows, turns)
    write_text(snippet, _yaml(settings))
    what = "settings" if len(settings) > 1 else "datasets section"
    note = f"copy the {what} of {snippet.name}; its path is relative to {data.parent}"
    return Written([data, snippet], note, snippet)


def _with_id(row: Row) -> str:
    record = json.loads(row.raw)
    if str(record.get("id", "")) == row.id:
        return row.raw
    key = "siftune_id" if "id" in record else "id"
    # Put into the text, not into the parsed record, so that the rest stays as it came.
    rest = row.raw.lstrip()[1:]
    comma = ", " if record else ""
    return f"{{{json.dumps(key)}: {json.dumps(row.id, ensure_ascii=False)}{comma}{rest}"


def _refuse(rows: Sequence[Row], has: Callable[[Row], bool], what: str, trainer: str) -> None:
    found = [row for row in rows if has(row)]
    if found:
        raise DataError(f"{len(found)} of {len(rows)} rows have {what}, which the form for {trainer} cannot hold",
                        where=found[0].where, why=f"The first is {found[0].id!r}.",
                        hint="export with --form tokens, which holds every row, with --to axolotl, or with --to jsonl "
                             "for the original records")


def _is_answer(message: Message) -> bool:
    return message.role == "assistant" and message.train


def _answers(row: Row) -> int:
    return sum(map(_is_answer, row.messages))


def _is_single(row: Row) -> bool:
    """Whether all that is trained on is one answer at the end."""
    return _answers(row) == 1 and _is_answer(row.messages[-1]) and len(row.messages) > 1


def _has_untrained(row: Row) -> bool:
    return any(message.role == "assistant" and not message.train for message in row.messages)


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [as_record(message) for message in messages]


def _tools(row: Row) -> dict[str, Any]:
    """The tools as JSON text, which both read: as objects, ``datasets`` would fill each with the keys of the others."""
    return {"tools": json.dumps(row.tools, ensure_ascii=False)} if row.tools else {}


def _turns(scored: Scored | None) -> Callable[[Row], Sequence[Message]]:
    """The messages of a row, as the template takes them where it is known."""
    return scored.messages if scored is not None else lambda row: row.messages


def _prompts(turns: Sequence[Sequence[Message]]) -> list[int] | None:
    """How many messages of each row stand before the first that is trained on; None where a row has turns after it
    that are not to be trained on, or none before it."""
    prompts = []
    for messages in turns:
        first = next((i for i, message in enumerate(messages) if _is_answer(message)), 0)
        if first == 0 or any(m.role == "assistant" and not m.train for m in messages[first:]):
            return None
        prompts.append(first)
    return prompts


def _alternates(row: Row) -> bool:
    """Whether LLaMA-Factory keeps the row."""
    turns = row.messages[1:] if row.messages[0].role == "system" else row.messages
    return len(turns) % 2 == 0 and all(m.role in (("user", "tool"), ("assistant",))[i % 2] for i, m in enumerate(turns))


def _named(rows: Sequence[Row]) -> str:
    ids = ", ".join(row.id for row in rows[:_SHOWN]) + (", ..." if len(rows) > _SHOWN else "")
    return f"{len(rows):,} {'row' if len(rows) == 1 else 'rows'} ({ids})"


def _with_train(message: Message) -> dict[str, Any]:
    turn = as_record(message)
    turn.pop("weight", None)
    return {**turn, "train": _is_answer(message)}


def _with_call_text(message: Message) -> dict[str, Any]:
    """A message as LLaMA-Factory's ShareGPT form has it: calls are the text of a turn of their own."""
    turn = as_record(message)
    calls = [call["function"] for call in turn.pop("tool_calls", ())]
    if not calls:
        return turn
    return {**turn, "role": "function_call",
            "content": json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)}


def _write_messages(data: Path, rows: Sequence[Row], turns: Sequence[Sequence[Message]]) -> None:
    _write(data, ({"id": row.id, "messages": _plain(messages), **_tools(row)}
                  for row, messages in zip(rows, turns, strict=True)))


def _yaml(settings: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _write(data: Path, records: Iterable[dict[str, Any]]) -> None:
    write_lines(data, (json.dumps(record, ensure_ascii=False) for record in records))


def _data_set_name(data: Path) -> str:
    return re.sub(r"\W+", "_", data.stem).strip("_") or "selected"


def _existing_entries(info: Path) -> dict[str, Any]:
    if not info.exists():
        return {}
    try:
        entries = read_json(info)
    except (ValueError, OSError) as error:
        raise DataError("the existing dataset_info.json cannot be read", where=str(info), why=str(error),
                        hint="repair it, or export into another folder") from error
    if not isinstance(entries, Mapping):
        raise DataError("the existing dataset_info.json is not a JSON object", where=str(info),
                        hint="repair it, or export into another folder")
    return dict(entries)
