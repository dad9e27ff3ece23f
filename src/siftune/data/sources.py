"""What the user names as a pool, target or test: files, folders and hub data sets, each with a short name."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from siftune._common.errors import DataError
from siftune._common.nearest import did_you_mean
from siftune._common.text import one_line
from siftune.data.opening import COMPRESSED, without_compression

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
_KNOWN = ", ".join(SUFFIXES)
_PACKED = f"each but .parquet also with {', '.join(COMPRESSED)}"

_HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^#:@]+))?(?::(?P<config>[^#:]+))?"
                     r"(?::(?P<named>[^#:]+))?(?:#(?P<split>.+))?")
# Written beside the data by `datasets` and by hub downloads; never rows themselves.
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "validation": "validation",
           "valid": "validation", "val": "validation", "dev": "validation", "eval": "validation",
           "evaluation": "validation"}
_LONGEST = 4096  # no operating system has longer paths, and patterns take time that is quadratic in their length
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to read rows from.

    Attributes:
        kind: ``jsonl``, ``json``, ``parquet``, ``csv``, ``saved`` (a folder of ``datasets.save_to_disk``) or ``hub``.
        location: Path, or id on the hub, as the user wrote it.
        name: Short name, distinct among the sources of a run.
        config: Configuration of a hub data set.
        split: Split of a saved or hub data set.
        revision: Branch, tag or commit of a hub data set.
        note: What was left out beside it, such as the files of other splits.
    """

    kind: str
    location: str
    name: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    note: str = ""

    @property
    def path(self) -> Path:
        return Path(self.location)


def find_sources(given: Sequence[str | Path], *, train: bool = True) -> list[Source]:
    """Resolve what the user named into sources with distinct names, in the order given.

    ``~`` is the home folder, and ``*``, ``?``, ``[...]`` and ``**`` stand for files as in a shell. A local path wins
    over a hub id of the same spelling. A folder stands for the data files in it (or in its folder ``data``), sorted
    by name; of a folder with several splits, as their file names say, only ``train`` is read.

    Args:
        given: Paths, patterns and hub ids; ``#split`` behind one names its split.
        train: Whether ``train`` is what is meant where a folder has several splits; refused otherwise.

    Raises:
        DataError: nothing given, a file is missing or of an unknown kind, the splits of a folder leave it open what
            to read, or the same file was given twice.
    """
    found = [source for one in given for source in _find(str(one), train)]
    if not found:
        raise DataError("no data file was given", hint=f"name a file ({_KNOWN}), a folder or a hub id (org/name)")
    seen: dict[tuple[str | None, ...], Source] = {}
    for source in found:
        location = source.location if source.kind == "hub" else str(source.path.resolve())
        key = (location, source.config, source.split, source.revision)
        if key in seen:
            raise DataError("the same data was given twice", where=source.location,
                            why=f"It is also given as {seen[key].location}.", hint="name it once")
        seen[key] = source
    named = _distinct(found)
    for source in named:
        _check_name(source)
    return named


def _check_name(source: Source) -> None:
    """Raises: DataError: a name that is not UTF-8, which neither ids nor the files of a run could hold."""
    for text in (source.name, source.location):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError("the name of a file or folder is not UTF-8", where=one_line(source.location),
                            why=f"Character {error.start + 1} of it is byte {ord(text[error.start]) & 0xFF:#04x}.",
                            hint="rename it") from error


def _find(text: str, train: bool) -> list[Source]:
    if len(text) > _LONGEST:
        raise DataError("this cannot be the name of a file or data set", where=f"{text[:60]}...",
                        why=f"It has {len(text):,} characters.", hint=f"check it; {_working_folder()}")
    path, split = _local(text), None
    if not _exists(path) and "#" in text:
        head, _, tail = text.rpartition("#")
        if _exists(_local(head)):
            path, split = _local(head), tail
    if _exists(path) and path.is_dir():
        return _find_in_folder(path, split, train)
    if _exists(path):
        if split is not None:
            raise DataError(f"{path.name} is a file and has no splits", where=text, hint=f"leave out '#{split}'")
        return [_file(path)]
    if glob.has_magic(text):
        return _find_by_pattern(str(path), train)
    hub = _HUB_ID.fullmatch(text)
    # "data/pool" beside an existing folder "data" is a misspelt path rather than a hub id.
    if hub and _kind(Path(text)) is None and not Path(hub["id"]).parent.is_dir():
        if hub["named"] and hub["split"]:
            raise DataError("two splits are named", where=text, hint=f"leave out '#{hub['split']}'")
        return [Source("hub", hub["id"], hub["id"], hub["config"], hub["named"] or hub["split"], hub["revision"])]
    raise _missing(path)


def _local(text: str) -> Path:
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError:  # no such user
        return Path(text)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for a file, or with a NUL
        return False


def _file(path: Path) -> Source:
    kind = _kind(path)
    if kind is None:
        raise DataError(f"cannot tell what kind of file {path.name} is", where=str(path),
                        why=f"The endings known are {_KNOWN} ({_PACKED}).", hint="rename the file to its kind")
    return Source(kind, str(path), _stem(path))


def _find_by_pattern(pattern: str, train: bool) -> list[Source]:
    files, split = _matching(pattern), None
    if not files and "#" in pattern:
        pattern, _, split = pattern.rpartition("#")
        files = _matching(pattern)
    found = [file for file in files if _is_data(file)]
    if not found:
        raise DataError("no data file matches the pattern", where=pattern,
                        why=f"It matches {len(files)} files; the endings known are {_KNOWN} ({_PACKED})."
                        if files else "It matches no file.", hint=f"check it; {_working_folder()}")
    return _of_one_split(found, split, pattern, train)


def _find_in_folder(folder: Path, split: str | None, train: bool) -> list[Source]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return [Source("saved", str(folder), folder.name, split=split)]
    if (folder / "selected.jsonl").is_file() and (folder / "manifest.json").is_file():
        raise DataError("this is the folder of a run, not of data", where=str(folder),
                        hint=f"its selection is {folder / 'selected.jsonl'}")
    inside = folder / "data"  # where a clone of a hub data set has its files
    files = _data_files(folder) or (_data_files(inside) if inside.is_dir() else [])
    if not files:
        raise DataError("no data file in this folder", where=str(folder),
                        why=f"The endings known are {_KNOWN}; folders inside it are not searched, but for one named "
                        "data.", hint="name the files themselves")
    return _of_one_split(files, split, str(folder), train)


def _matching(pattern: str) -> list[Path]:
    found = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    return sorted(path for path in map(Path, found) if path.is_file())


def _data_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and _is_data(file))


def _of_one_split(files: Sequence[Path], wanted: str | None, where: str, train: bool) -> list[Source]:
    """The files of one split: the one that is wanted, or ``train`` where there are several."""
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file), []).append(file)
    named = sorted(set(by_split) - {""})
    if wanted is not None:
        if _SPLITS.get(wanted.lower(), wanted) not in named:
            raise DataError(f"the files of this folder name no split {wanted!r}", where=where,
                            why=f"The splits are {', '.join(named)}." if named else "They name no split at all.",
                            hint=f"name one: {where}#{named[0]}" if named else f"leave out '#{wanted}'")
        chosen = by_split[_SPLITS.get(wanted.lower(), wanted)]
    elif len(by_split) <= 1:
        return [_file(file) for file in files]
    elif not train or ("train" not in by_split and "" not in by_split):
        raise DataError("the folder holds several splits" + (", and none is called train" if train else ""),
                        where=where, why=f"The splits are {', '.join(named)}.", hint=f"name one: {where}#{named[0]}")
    else:
        chosen = sorted([*by_split.get("", []), *by_split.get("train", [])])
    left = [file.name for file in files if file not in chosen]
    shown = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
    note = f"{where}: the files of other splits were not read: {shown}" if left else ""
    return [replace(_file(file), note=note if i == 0 else "") for i, file in enumerate(chosen)]


def _split_of(file: Path) -> str:
    """The split that a file's name says, such as ``test-00000-of-00001.parquet``; empty where it says none."""
    return next((_SPLITS[word] for word in _WORD.findall(_stem(file).lower()) if word in _SPLITS), "")


def _is_data(file: Path) -> bool:
    return _kind(file) is not None and file.name not in _NOT_DATA and not file.name.startswith((".", "_"))


def _kind(path: Path) -> str | None:
    name = without_compression(path.name)
    suffix = Path(name).suffix
    if suffix not in SUFFIXES or (suffix == ".parquet" and name != path.name.lower()):
        return None
    return {".ndjson": "jsonl", ".tsv": "csv"}.get(suffix, suffix[1:])


def _stem(path: Path) -> str:
    name = path.name[: len(without_compression(path.name))]
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)] or path.name
    return name


def _missing(path: Path) -> DataError:
    folder = path.parent
    hint = did_you_mean(path) or f"check the path; {_working_folder()}"
    if not _exists(folder) or not folder.is_dir():
        return DataError(f"no such folder: {folder}"[:300], where=str(path)[:300], hint=hint)
    return DataError(f"no such file: {path.name[:300]}", where=str(path)[:300], hint=hint)


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
        place = source.location + (f"@{source.revision}" if source.revision else "")
        return ":".join(filter(None, (place, source.config))) + (f"#{source.split}" if source.split else "")
    path = source.path.resolve()
    last = _stem(path) if depth < 2 else path.name
    folders = [part for part in path.parent.parts if part != path.anchor][-depth:]
    name = "/".join([*folders, last])
    return f"{name}#{source.split}" if source.split else name
