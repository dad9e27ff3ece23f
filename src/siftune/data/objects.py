"""Rows as a program has them: lists of dicts, data sets, data frames and tables, written once as JSON lines.

From there on they are files like any others, so that a run folder replays without the program that made it. A file is
named by its content: the same rows are the same file, whoever gives them and however often.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError, DataError, SiftuneError
from siftune._common.files import write_lines
from siftune.data.raw import as_line

_HINT = ("give a path or a hub id, a list of dicts, a datasets.Dataset, a pandas DataFrame or a pyarrow Table, or a "
         "list of such")


class ObjectFiles:
    """Turns whatever was given as a pool, target, test or existing rows into paths.

    Args:
        folder: where the rows of objects are written, each as ``<content key>/<role>.jsonl``.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._labels: dict[str, str] = {}  # path of a file: what the program calls its rows

    def paths(self, given: Any, role: str, called: str = "") -> tuple[str, ...]:
        """What the settings hold for what was given; objects are written.

        * ``str``, ``Path``: one file, folder or hub id, never its letters.
        * a list of dicts: rows. Their values are text, numbers, ``None``, lists and dicts; dates become ISO text and
          bytes Base64, as when they are read from Parquet, anything else is refused.
        * ``datasets.Dataset``, or a ``DatasetDict`` with a single split.
        * ``pandas.DataFrame``: its columns, and its index where that has a name (as ``set_index("id")`` gives it one).
          An index without a name numbers the rows and is left out. Missing values become null.
        * ``pyarrow.Table``.
        * a list or tuple of any of these: several sources.

        Args:
            given: one of the above.
            role: ``pool``, ``target``, ``test`` or ``existing``: the source's name, so part of the ids that are made
                for rows without one.
            called: the argument's name, for messages; ``role`` when not given.

        Raises:
            ConfigError: something else, such as a generator, which could be read only once.
            DataError: there is no row in it, it has several splits, or a value that JSON cannot hold.
        """
        called = called or role
        sources = _sources(given, called)
        alone = len(sources) == 1
        found, number = [], 0
        for place, one in enumerate(sources):
            if isinstance(one, (str, Path)):
                found.append(str(one))
                continue
            number += 1
            label = called if alone and not _holds(given, one) else f"{called}[{place}]"
            found.append(self._written(one, label, role if alone else f"{role}-{number}"))
        return tuple(found)

    def renamed(self, error: SiftuneError) -> SiftuneError:
        """The same error, with places in the written files named as the program knows them: ``pool[3]``."""
        for path, label in self._labels.items():
            pattern = re.compile(re.escape(path) + r"(?::(\d+))?")

            def place(match: re.Match[str], label: str = label) -> str:
                return f"{label}[{int(match[1]) - 1}]" if match[1] else label

            for name in ("what", "where", "why"):
                if text := getattr(error, name):
                    setattr(error, name, pattern.sub(place, text))
        error.args = (error.what,)
        return error

    def _written(self, rows: Any, label: str, name: str) -> str:
        lines = list(_lines(rows, label))
        if not lines:
            raise DataError(f"there is no row in {label}", where=label, hint="give at least one row")
        digest = blake2b(digest_size=16)
        for line in lines:
            digest.update(line.encode() + b"\n")
        key = digest.hexdigest()
        path = self.folder / key[:16] / f"{name}.jsonl"
        if not path.is_file() or _key_of(path) != key:
            write_lines(path, lines)
        self._labels[str(path)] = f"{label}.iloc" if _is(rows, "pandas", "DataFrame") else label
        return str(path)


def _key_of(path: Path) -> str:
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _is(value: Any, package: str, name: str) -> bool:
    """Whether it is of that class, without importing the package."""
    return any(c.__name__ == name and c.__module__.partition(".")[0] == package for c in type(value).__mro__)


def _holds(given: Any, one: Any) -> bool:
    """Whether what was given is a list with this one source in it, rather than the source itself."""
    return isinstance(given, (list, tuple)) and len(given) == 1 and given[0] is one


def _sources(given: Any, role: str) -> list[Any]:
    """One or several sources, each a path or an object that :func:`_lines` reads."""
    if not isinstance(given, (list, tuple)):
        return [_source(given, role)]
    if not given:
        raise DataError(f"{role} is an empty {type(given).__name__}", where=role, hint=_HINT)
    if all(_is_row(one) for one in given):
        return [given]
    if wrong := next((i for i, one in enumerate(given) if _is_row(one)), None):
        raise ConfigError(f"{role} mixes rows with other things", where=f"{role}[{wrong}]",
                          why=f"{role}[0] is a {type(given[0]).__name__}, {role}[{wrong}] is a dict.",
                          hint=f"give the rows as a list of their own: {role}=[path, rows]")
    if _is_row(given[0]):
        wrong = next(i for i, one in enumerate(given) if not _is_row(one))
        raise ConfigError(f"{role} mixes rows with other things", where=f"{role}[{wrong}]",
                          why=f"{role}[0] is a dict, {role}[{wrong}] is a {type(given[wrong]).__name__}.",
                          hint="every row must be a dict")
    return [_source(one, f"{role}[{i}]") for i, one in enumerate(given)]


def _is_row(value: Any) -> bool:
    return isinstance(value, Mapping) and not _is(value, "datasets", "DatasetDict")


def _source(given: Any, label: str) -> Any:
    if isinstance(given, str) and not given:
        raise ConfigError(f"{label} is an empty text", where=label, hint=_HINT)
    if isinstance(given, (str, Path)) or any(_is(given, *kind) for kind in (
            ("datasets", "Dataset"), ("pandas", "DataFrame"), ("pyarrow", "Table"))):
        return given
    if isinstance(given, (list, tuple)):  # a list of rows among other sources
        if given and all(_is_row(one) for one in given):
            return given
        raise ConfigError(f"{label} is a {type(given).__name__} of something other than dicts", where=label, hint=_HINT)
    if _is(given, "datasets", "DatasetDict"):
        if len(given) == 1:
            return next(iter(given.values()))
        raise DataError(f"{label} has {'several splits' if given else 'no split'}", where=label,
                        why=f"They are {', '.join(map(str, given))}." if given else None,
                        hint=f"name one: {label}=dataset[{next(iter(given), 'train')!r}]")
    if isinstance(given, Mapping):
        columns = given and all(isinstance(value, (list, tuple)) for value in given.values())
        raise ConfigError(f"{label} is a dict, where a list of dicts is expected", where=label,
                          hint="make a data set of the columns: datasets.Dataset.from_dict(columns)"
                          if columns and "messages" not in given else "put the row into a list: [row]")
    if isinstance(given, Iterator) or _is(given, "datasets", "IterableDataset"):
        raise ConfigError(f"{label} is a {type(given).__name__}, which can be read only once", where=label,
                          why="Rows are read several times: to name them by their content, and to write them.",
                          hint=f"make a list of it: {label.partition('[')[0]}=list(rows)")
    raise ConfigError(f"{label} cannot be a {type(given).__name__}", where=label, hint=_HINT)


def _lines(rows: Any, label: str) -> Iterator[str]:
    """Each row as a line of JSON."""
    for number, record in enumerate(_records(rows, label)):
        try:
            yield as_line(_plain(record))
        except _Unfit as unfit:
            place = "".join(f"[{key!r}]" for key in (number, *reversed(unfit.path)))
            raise DataError(unfit.what, where=label + place, why="A row is written as JSON.", hint=unfit.hint) from None
        except RecursionError as error:
            raise DataError("a row is nested too deeply", where=f"{label}[{number}]",
                            hint="look for a list or dict that holds itself") from error


class _Unfit(Exception):  # noqa: N818 - it names a value
    """A value that JSON cannot hold; ``path`` leads to it, from within outwards."""

    def __init__(self, what: str, hint: str):
        super().__init__(what)
        self.what, self.hint = what, hint
        self.path: list[Any] = []


def _records(rows: Any, label: str) -> Iterable[Any]:
    if _is(rows, "datasets", "Dataset"):
        return rows.with_format(None)
    if _is(rows, "pandas", "DataFrame"):
        return _frame_records(rows, label)
    if _is(rows, "pyarrow", "Table"):
        _check_columns(rows.column_names, label)
        return chain.from_iterable(batch.to_pylist() for batch in rows.to_batches(max_chunksize=1024))
    return rows


def _frame_records(frame: Any, label: str) -> Iterator[dict[str, Any]]:
    """Column by column, so that each keeps its own type."""
    columns = {name: frame.iloc[:, i] for i, name in enumerate(frame.columns)}
    named = [name for name in frame.index.names if name is not None]
    _check_columns([*named, *frame.columns], label)
    for name in named:
        columns[name] = frame.index.get_level_values(name)
    values = [column.tolist() for column in columns.values()]
    for record in zip(*values, strict=True):
        yield dict(zip(columns, record, strict=True))


def _check_columns(names: Iterable[Any], label: str) -> None:
    names = list(names)
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"the column {name!r} has no text as its name", where=label,
                            hint="name every column with a text, such as messages, prompt, completion")
        if names.count(name) > 1:
            raise DataError(f"there are two columns {name!r}", where=label,
                            hint="give every column (and the index) a name of its own")


def _plain(value: Any) -> Any:
    """A value as JSON has it, or as :func:`~siftune.data.raw.as_line` makes it so.

    Raises:
        _Unfit: JSON cannot hold it.
    """
    if value is None or isinstance(value, (str, bool, int, float, bytes)):
        return value
    if isinstance(value, Mapping):
        if (key := next((key for key in value if not isinstance(key, str)), "")) != "":
            raise _Unfit(f"the key {key!r} is no text", "name every value with a text")
        return dict(_plain_items(value.items()))
    if isinstance(value, (list, tuple)):
        return [item for _, item in _plain_items(enumerate(value))]
    package = type(value).__module__.partition(".")[0]
    if package == "numpy":
        return _plain(value.tolist())
    if package == "pandas" and type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "isoformat") or package in ("decimal", "uuid", "pathlib"):
        return value
    raise _Unfit(f"there is a {type(value).__name__} in a row",
                 "give text, numbers, lists and dicts; of a pydantic object, its model_dump()")


def _plain_items(items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    for key, item in items:
        try:
            yield key, _plain(item)
        except _Unfit as unfit:
            unfit.path.append(key)
            raise
