"""A readable view of a row in whatever chat format it came: turns where they can be recognised, JSON otherwise."""

from __future__ import annotations

from typing import Any

from siftune._common.text import clip, pretty_json

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "function": "tool",
          "observation": "tool"}
MAX_CHARACTERS = 4000  # of one turn; the whole text stands in the run's JSONL file
MAX_TURNS = 16


def view(row: Any) -> dict[str, Any]:
    """``{"turns": [{"role", "text", "cut"}], "more_turns": int}``; an unrecognised row is one turn ``row`` of JSON.

    ``cut`` is the number of characters left out of a turn.
    """
    turns = _turns(row) or [("row", row if isinstance(row, str) else pretty_json(row))]
    shown = []
    for role, content in turns[:MAX_TURNS]:
        text, cut = clip(content, MAX_CHARACTERS)
        shown.append({"role": role, "text": text, "cut": cut})
    return {"turns": shown, "more_turns": max(0, len(turns) - MAX_TURNS)}


def gist(row: Any) -> str:
    """What the row asks: its first user turn, else its first turn."""
    turns = _turns(row)
    if not turns:
        return row if isinstance(row, str) else pretty_json(row)
    return next((text for role, text in turns if role == "user"), turns[0][1])


def _turns(row: Any) -> list[tuple[str, str]]:
    if not isinstance(row, dict):
        return []
    for key, role, content in (("messages", "role", "content"), ("conversations", "from", "value"),
                               ("conversations", "role", "content"), ("conversation", "role", "content")):
        turns = _messages(row.get(key), role, content)
        if turns:
            return _system(row) + turns
    answer = next((row[key] for key in ("completion", "response") if key in row), None)
    if "prompt" in row and answer is not None:
        asked, answered = _side(row["prompt"], "user"), _side(answer, "assistant")
        return _system(row) + asked + answered if asked and answered else []
    answer = row.get("output", row.get("response"))
    if isinstance(row.get("instruction"), str) and isinstance(answer, str):
        given = row.get("input")
        asked = row["instruction"] + (f"\n\n{given}" if isinstance(given, str) and given else "")
        return [*_system(row), ("user", asked), ("assistant", answer)]
    return []


def _system(row: dict[str, Any]) -> list[tuple[str, str]]:
    system = row.get("system")
    return [("system", system)] if isinstance(system, str) and system else []


def _side(value: Any, role: str) -> list[tuple[str, str]]:
    return [(role, value)] if isinstance(value, str) else _messages(value, "role", "content")


def _messages(value: Any, role_key: str, content_key: str) -> list[tuple[str, str]]:
    """The turns of a list of messages, or none where a single one of them is not a message."""
    if not isinstance(value, list):
        return []
    turns = []
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get(role_key), str):
            return []
        role = message[role_key]
        rest = {key: item for key, item in message.items() if key not in (role_key, content_key) and item}
        parts = [_content(message.get(content_key)), pretty_json(rest) if rest else ""]
        turns.append((_ROLES.get(role, role), "\n".join(part for part in parts if part)))
    return turns


def _content(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "\n".join(
            part["text"] if isinstance(part, dict) and isinstance(part.get("text"), str) else pretty_json(part)
            for part in content
        )
    return pretty_json(content)
