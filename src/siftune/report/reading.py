"""Reading a JSON file of a report's folder as the model that says what stands in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from siftune._common import files
from siftune._common.errors import DataError, at

_Model = TypeVar("_Model", bound=BaseModel)


def read_as(path: Path, model: type[_Model], hint: str, *, clean: Callable[[Any], Any] = lambda value: value) -> _Model:
    """The content of a file.

    Args:
        path: of the file.
        model: what it should be.
        hint: what to do where it is not.
        clean: is shown the value first.

    Raises:
        DataError: it is not JSON, or not of that form; told with the line or the key.
    """
    try:
        return model.model_validate(clean(files.read_json(path)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the whole file"
        raise DataError(f"{path.name} is not as siftune writes it", where=str(path), why=f"{key}: {first['msg']}",
                        hint=hint) from error
    except ValueError as error:  # broken JSON, or not UTF-8
        raise DataError(f"{path.name} is not JSON", where=at(path, getattr(error, "lineno", None)), why=str(error),
                        hint=hint) from error
