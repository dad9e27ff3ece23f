"""What each trainer reads, set up so that it trains on what siftune scored: the assistant turns and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from siftune._common.errors import DataError
from siftune._common.files import read_json, write_json, write_lines, write_text
from siftune.data.chat import as_record
from siftune.data.rows import Message, Row

Written = tuple[list[Path], str]


def write_jsonl(rows: list[Row], data: Path) -> Written:
    """The original records with the run's id: as ``id``, or as ``siftune_id`` where ``id`` says something else.

    A record that has its id already is written as it came, character for character.
    """
    write_lines(data, (_with_id(row) for row in rows))
    return [data], "each line is the original record, best first"


def write_trl(rows: list[Row], data: Path) -> Written:
    """JSON lines for TRL's ``SFTTrainer``.

    Given ``messages``, TRL's loss covers the user's turns too, unless it is told otherwise; given ``prompt`` and
    ``completion`` (as message lists) it covers the completion only, which is what siftune scored. So rows are
    written as prompt and completion. Where a row has several supervised turns that form would leave all but the
    last unsupervised; then all rows are written as ``messages``, and ``assistant_only_loss=True`` must be set.

    Raises:
        DataError: some assistant turns are not to be trained on, which the second form cannot say.
    """
    if all(_answers(row) == 1 and _is_answer(row.messages[-1]) for row in rows):
        _write(data, ({"id": row.id, "prompt": _plain(row.messages[:-1]), "completion": _plain(row.messages[-1:]),
                       **_tools(row)} for row in rows))
        return [data], "SFTTrainer computes the loss on the completions only, as it does by default for this form"
    _refuse(rows, _has_untrained, "assistant turns that are not to be trained on, beside several that are", "TRL")
    _write_messages(data, rows)
    return [data], "rows have several assistant turns: train with SFTConfig(assistant_only_loss=True)"


def write_llamafactory(rows: list[Row], data: Path) -> Written:
    """JSON lines and their entry in ``dataset_info.json``; other entries of an existing file are kept.

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
    return [data, info], f"train with dataset: {name} and dataset_dir: {data.parent}"


def write_axolotl(rows: list[Row], data: Path) -> Written:
    """JSON lines and a YAML file with the ``datasets`` section for an Axolotl configuration."""
    import yaml

    section: dict[str, list[dict[str, Any]]] = {"datasets": [{
        "path": data.name,
        "ds_type": "json",
        "type": "chat_template",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }]}
    if any(row.tools for row in rows):
        section["datasets"][0]["field_tools"] = "tools"
    if untrained := any(map(_has_untrained, rows)):
        section["datasets"][0]["message_field_training"] = "train"
    snippet = data.with_suffix(".axolotl.yaml")
    if untrained:
        _write(data, ({"id": row.id, "messages": [_with_train(message) for message in row.messages], **_tools(row)}
                      for row in rows))
    else:
        _write_messages(data, rows)
    write_text(snippet, yaml.safe_dump(section, sort_keys=False, allow_unicode=True))
    return [data, snippet], f"copy the datasets section of {snippet.name}; its path is relative to {data.parent}"


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
                        hint="export with --to axolotl, or --to jsonl for the original records")


def _is_answer(message: Message) -> bool:
    return message.role == "assistant" and message.train


def _answers(row: Row) -> int:
    return sum(map(_is_answer, row.messages))


def _has_untrained(row: Row) -> bool:
    return any(message.role == "assistant" and not message.train for message in row.messages)


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [as_record(message) for message in messages]


def _tools(row: Row) -> dict[str, Any]:
    return {"tools": row.tools} if row.tools else {}


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


def _write_messages(data: Path, rows: Sequence[Row]) -> None:
    _write(data, ({"id": row.id, "messages": _plain(row.messages), **_tools(row)} for row in rows))


def _write(data: Path, records: Any) -> None:
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
