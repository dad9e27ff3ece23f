"""What the user names as a pool, target or test: files, folders and hub data sets, each with a short name."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from siftune._common.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv")
COMPRESSED = (".jsonl.gz", ".ndjson.gz", ".json.gz", ".csv.gz")
_KNOWN = ", ".join(SUFFIXES)

_HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?::(?P<config>[^#:]+))?(?:#(?P<split>.+))?")
# Written beside the data by `datasets` and by hub downloads; never rows themselves.
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to read rows from.

    Attributes:
        kind: ``jsonl``, ``json``, ``parquet``, ``csv``, ``saved`` (a folder of ``datasets.save_to_disk``) or ``hub``.
        location: Path, or id on the hub, as the user wrote it.
        name: Short name, distinct among the sources of a run.
        config: Configuration of a hub data set.
        split: Split of a saved or hub data set.
    """

    kind: str
    location: str
    name: str
    config: str | None = None
    split: str | None = None

    @property
    def path(self) -> Path:
        return Path(self.location)


def find_sources(given: Sequence[str | Path]) -> list[Source]:
    """Resolve what the user named into sources with distinct names, in the order given.

    A local path wins over a hub id of the same spelling. A folder stands for the data files in it, sorted by name.

    Raises:
        DataError: nothing given, a file is missing or of an unknown kind, or the same file was given twice.
    """
    found = [source for one in given for source in _find(str(one))]
    if not found:
        raise DataError("no data file was given", hint=f"name a file ({_KNOWN}), a folder or a hub id (org/name)")
    seen: dict[tuple[str, str | None, str | None], Source] = {}
    for source in found:
        location = source.location if source.kind == "hub" else str(source.path.resolve())
        key = (location, source.config, source.split)
        if key in seen:
            raise DataError("the same data was given twice", where=source.location,
                            why=f"It is also given as {seen[key].location}.", hint="name it once")
        seen[key] = source
    return _distinct(found)


def _find(text: str) -> list[Source]:
    path, split = Path(text), None
    if not path.exists() and "#" in text:
        head, _, tail = text.rpartition("#")
        if Path(head).exists():
            path, split = Path(head), tail
    if path.is_dir():
        return _find_in_folder(path, split)
    if path.exists():
        kind = _kind(path)
        if split is not None:
            raise DataError(f"{path.name} is a file and has no splits", where=text, hint=f"leave out '#{split}'")
        if kind is None:
            raise DataError(f"cannot tell what kind of file {path.name} is", where=str(path),
                            why=f"The endings known are {_KNOWN} (each but .parquet also with .gz).",
                            hint="rename the file to its kind")
        return [Source(kind, str(path), _stem(path))]
    hub = _HUB_ID.fullmatch(text)
    # "data/pool" beside an existing folder "data" is a misspelt path rather than a hub id.
    if hub and _kind(Path(text)) is None and not Path(hub["id"]).parent.is_dir():
        return [Source("hub", hub["id"], hub["id"], hub["config"], hub["split"])]
    raise _missing(path)


def _find_in_folder(folder: Path, split: str | None) -> list[Source]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return [Source("saved", str(folder), folder.name, split=split)]
    if split is not None:
        raise DataError(f"{folder.name} is not a folder saved by datasets and has no splits", where=str(folder),
                        hint=f"leave out '#{split}', or name the file")
    files = sorted(file for file in folder.iterdir() if file.is_file() and _is_data(file))
    if not files:
        raise DataError("no data file in this folder", where=str(folder),
                        why=f"The endings known are {_KNOWN}; folders inside it are not searched.",
                        hint="name the files themselves")
    return [Source(_kind(file) or "", str(file), _stem(file)) for file in files]


def _is_data(file: Path) -> bool:
    return _kind(file) is not None and file.name not in _NOT_DATA and not file.name.startswith((".", "_"))


def _kind(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix not in SUFFIXES or (suffix == ".parquet" and path.name.lower().endswith(".gz")):
        return None
    return "jsonl" if suffix == ".ndjson" else suffix[1:]


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (*COMPRESSED, *SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)] or name
    return name


def _missing(path: Path) -> DataError:
    folder = path.parent
    if not folder.is_dir():
        return DataError(f"no such folder: {folder}", where=str(path), hint=f"check the path; {_working_folder()}")
    near = difflib.get_close_matches(path.name, sorted(item.name for item in folder.iterdir()), n=1, cutoff=0.5)
    hint = f"did you mean {folder / near[0]}?" if near else f"check the path; {_working_folder()}"
    return DataError(f"no such file: {path.name}", where=str(path), hint=hint)


def _working_folder() -> str:
    return f"relative paths start at {Path.cwd()}"


def _distinct(sources: list[Source]) -> list[Source]:
    """Give sources that share a stem longer names: with the ending, then with more and more of the path."""
    names = [source.name for source in sources]
    for depth in range(1, 64):
        count = Counter(names)
        clashing = {name for name, n in count.items() if n > 1}
        if not clashing:
            break
        for i, source in enumerate(sources):
            if names[i] in clashing:
                names[i] = _longer(source, depth)
    return [replace(source, name=name) for source, name in zip(sources, names, strict=True)]


def _longer(source: Source, depth: int) -> str:
    if source.kind == "hub":
        return ":".join(filter(None, (source.location, source.config))) + (f"#{source.split}" if source.split else "")
    path = source.path.resolve()
    last = _stem(path) if depth < 2 else path.name
    folders = [part for part in path.parent.parts if part != path.anchor][-depth:]
    name = "/".join([*folders, last])
    return f"{name}#{source.split}" if source.split else name
