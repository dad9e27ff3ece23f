"""What the page reads of ``map.json`` and ``rows.json``: :mod:`siftune.experiments.pool.map` and
:mod:`siftune.experiments.pool.rows` tell what all of it means."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from siftune._common.text import visible

MAP, ROWS = "map.json", "rows.json"
TEXT_BYTES = 1_800_000  # of the page, for what the rows say
NAME = 60  # columns of an id or a group

Count = Annotated[int, Field(ge=0)]
Coordinate = Annotated[int, Field(ge=0, lt=4096)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Points(_Part):
    """Of a target; ``rows`` are all that it has."""

    name: str
    rows: Count
    x: list[Coordinate]
    y: list[Coordinate]

    @model_validator(mode="after")
    def _pairs(self) -> Points:
        if len(self.x) != len(self.y):
            raise ValueError("there are not as many x as y")
        return self


class MapFile(_Part):
    """``none`` says why there is no map, and is empty where there is one."""

    none: str = ""
    representation: str = ""
    dimensions: Count = 0
    fitted: Count = 0
    variance: tuple[float, float] = (0.0, 0.0)
    width: Coordinate = 0
    height: Coordinate = 0
    rows: list[Count] = []
    x: list[Coordinate] = []
    y: list[Coordinate] = []
    targets: list[Points] = []

    @model_validator(mode="after")
    def _pairs(self) -> MapFile:
        if not len(self.rows) == len(self.x) == len(self.y):
            raise ValueError("there are not as many x and y as rows")
        return self


class Turn(NamedTuple):
    """``cut``: how many characters are left out of the text."""

    role: str
    text: str
    cut: Count


class Text(NamedTuple):
    """``place`` among the shown rows; ``more``: how many turns are left out."""

    place: Count
    id: str
    turns: list[Turn]
    more: Count


class PackedSubset(_Part):
    """``first``: places of its rows, best first. ``members``: a bit for each shown row, base 64; empty where ``first``
    holds all of them."""

    id: str
    rows: Count
    shown: Count
    first: list[Count] = []
    members: str = ""


class RowsFile(_Part):
    pool: Count
    rows: list[Count]
    tokens: list[Count]
    groups: list[str]
    group: list[Count]
    texts: list[Text] = []
    subsets: list[PackedSubset] = []

    @model_validator(mode="after")
    def _within(self) -> RowsFile:
        count = len(self.rows)
        if not count == len(self.tokens) == len(self.group):
            raise ValueError("there are not as many tokens and groups as rows")
        if max(self.group, default=-1) >= len(self.groups):
            raise ValueError("a row is in a group without a name")
        places = [text.place for text in self.texts] + [place for subset in self.subsets for place in subset.first]
        if max(places, default=-1) >= count:
            raise ValueError("a place is none of a shown row")
        for subset in self.subsets:
            try:
                bits = base64.b64decode(subset.members, validate=True)
            except binascii.Error as error:
                raise ValueError(f"the members of {subset.id} are not base 64") from error
            if bits and len(bits) != (count + 7) // 8:
                raise ValueError(f"the members of {subset.id} are not those of {count} rows")
        return self


def embedded_bytes(value: Any) -> int:
    """How many bytes of the page a value takes."""
    return len(escaped(value).encode("utf-8")) + 1


def seen(value: Any) -> Any:
    """All texts in it with their invisible and reordering characters spelled out."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {seen(key): seen(item) for key, item in value.items()}
    return [seen(item) for item in value] if isinstance(value, (list, tuple)) else value


def escaped(value: Any) -> str:
    """JSON in which nothing can end the element ``script`` that it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
