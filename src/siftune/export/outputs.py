"""Where an export may write: never over what the run was made from or has its results in, nor into its pool."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError, DataError
from siftune.data.sources import find_sources

_ROLES = ("pool", "target", "test", "existing")
_RUN = ("selected.jsonl", "selection.parquet", "scores.parquet", "manifest.json", "config.yaml")
_HINT = "name another file or folder with --output"


def check_outputs(files: Iterable[Path], run: Path, config: Mapping[str, Any]) -> None:
    """Refuse to write files that are, or would become, something else than an export.

    An earlier export may be written anew. What must not be written: a file that the run's configuration names, itself
    or through a folder or pattern; the files of a run folder, this or another; a new file where a folder or pattern of
    the run would read it as data the next time.

    Raises:
        ConfigError: one of the files is such.
    """
    sources = [text for role in _ROLES for text in map(str, config.get(role) or [])]
    named = [path for text in sources for path in _read_by(text)]
    named += [path for text in _texts(config) if (path := _existing(text)) is not None]
    for file in files:
        if file.exists():
            if file.parent.is_dir() and _is_run(file.parent) and file.name in _RUN:
                raise ConfigError(f"the export would overwrite {file.name} of a run", where=str(file), hint=_HINT)
            if any(file.samefile(path) for path in named if path.exists()):
                raise ConfigError(f"the export would overwrite {file.name}, which the run needs", where=str(file),
                                  hint=_HINT)
        if not _inside(file, run) and (text := next((text for text in sources if _would_read(text, file)), None)):
            raise ConfigError(f"{file.name} would become a part of what {text} names, which the run reads",
                              where=str(file), hint=_HINT)


def _read_by(text: str) -> list[Path]:
    """The files that a source stands for, of all its splits."""
    paths = [path] if (path := _existing(text)) is not None else []
    with contextlib.suppress(DataError):  # it has gone, or cannot be read any more
        paths += [source.path for source in find_sources([text]) if source.kind != "hub"]
    for folder in [path for path in paths if path.is_dir()]:
        saved = (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()
        inside = [folder.rglob("*")] if saved else [folder.iterdir(), (folder / "data").glob("*")]
        paths += [file for files in inside for file in files if file.is_file()]
    return paths


def _existing(text: str) -> Path | None:
    try:
        path = Path(text).expanduser()
        return path if text and path.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _texts(value: Any) -> Iterator[str]:
    """Every text in a configuration, however deep: a method may read files too."""
    if isinstance(value, str):
        yield value
        yield value.partition(":")[2]  # file:PATH
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _would_read(text: str, file: Path) -> bool:
    """Whether a new file of that name would be read as data by a source."""
    try:
        path = Path(text.partition("#")[0]).expanduser()
    except RuntimeError:
        return False
    file = Path(os.path.normpath(file.absolute()))  # without `..`, and with symbolic links as they are written
    if file.suffix not in (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".ndjson") or file.exists():
        return False
    if _existing(str(path)) is not None:
        return path.is_dir() and file.parent.resolve() in (path.resolve(), (path / "data").resolve())
    return bool(re.search(r"[*?\[]", text)) and re.fullmatch(_pattern(str(path.absolute())), str(file)) is not None


def _pattern(glob: str) -> str:
    """A pattern as a shell reads it, as a regular expression over whole paths."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}

    def one(found: re.Match[str]) -> str:
        part = found.group()
        return parts.get(part) or (part.replace("[!", "[^") if len(part) > 1 else re.escape(part))

    return re.sub(r"\*\*/|\*\*|\*|\?|\[[^]]+\]|.", one, glob, flags=re.DOTALL)


def _is_run(folder: Path) -> bool:
    return (folder / "selection.parquet").is_file() or (folder / "manifest.json").is_file()


def _inside(file: Path, folder: Path) -> bool:
    return folder.resolve() in file.absolute().resolve().parents
