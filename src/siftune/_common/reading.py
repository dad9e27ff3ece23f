"""Reading a JSON file as the model that says what stands in it."""

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
    return validated(clean(read_json_of(path, hint)), path, model, hint)


def read_json_of(path: Path, hint: str) -> Any:
    """The JSON value in a file.

    Raises:
        DataError: it is not JSON, or cannot be read; told with the line and the hint.
    """
    try:
        return files.read_json(path)
    except (ValueError, RecursionError) as error:  # broken JSON, not UTF-8, or brackets without end
        raise DataError(f"{path.name} is not JSON", where=at(path, getattr(error, "lineno", None)), why=str(error),
                        hint=hint) from error
    except OSError as error:
        raise DataError(f"cannot read {path.name}", where=str(path), why=str(error.strerror), hint=hint) from error


def validated(value: Any, path: Path, model: type[_Model], hint: str, *, line: int | None = None) -> _Model:
    """A value from a file, or from a line of it, as a model.

    Raises:
        DataError: it is not of that form; told with the key.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or ("the whole file" if line is None else "the whole line")
        raise DataError(f"{path.name} is not as siftune writes it", where=at(path, line), why=f"{key}: {first['msg']}",
                        hint=hint) from error
