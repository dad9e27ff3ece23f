"""A store: one folder, made from one thing, arrays of N rows cut into shards of fixed row ranges.

    fingerprint.json            what the features are made from, which rows, rows per shard
    shard-00000.safetensors     arrays [rows of the shard, ...] by name
    shard-00000.json            its note: key of the store, row range, content key of these rows, checksum of the file

Every file is written to a temporary name, flushed and renamed; a shard's note comes last, and without it there is no
shard. A killed run leaves whole shards, which the next run keeps. Shards are independent of each other, so any process
may write any of them.

Nothing is believed unread: a shard counts only while its note is sealed, of this store, range and content, and its file
has the checksum that the note tells. That is verified when it is asked what is missing, so that a damaged shard is
computed again in the same run, and again when a shard is read, which costs nothing where the file is the same since.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.artefacts import Absent, Damaged, MadeFromOther, Unusable, described, digest
from siftune._common.artefacts.key import differences, only_artefacts_differ
from siftune._common.artefacts.payload import Payload, Signature, payload_of, payload_of_bytes, settled, signature
from siftune._common.artefacts.sealed import make_way, read_sealed, remove, write_sealed
from siftune._common.errors import StoreCorrupt
from siftune._common.files import link_or_copy, make_folder, write_with
from siftune._common.progress import log
from siftune.features.store.codec import decode
from siftune.features.store.refusal import mismatch
from siftune.features.store.row_keys import RowKeys

KIND = "features"
HEAD = "fingerprint.json"

_intact: dict[str, tuple[Signature, Signature, str]] = {}
"""Path of a shard's file -> signatures of file and note, and what the note was found to say."""


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` to ``stop`` (exclusive), whose content key is ``content`` (empty where it is not known)."""

    index: int
    start: int
    stop: int
    content: str = ""

    @property
    def name(self) -> str:
        return f"shard-{self.index:05d}"

    def __len__(self) -> int:
        return self.stop - self.start


class FeatureStore:
    """Arrays of ``rows`` rows in shards, made from what ``fingerprint`` says. Open one with :meth:`open`.

    Attributes:
        folder: where it is.
        rows: N.
        shard_rows: rows per shard.
        fingerprint: what the features are made from, without the rows.
        key: of the fingerprint and all rows; every note carries it.
        row_keys: what the rows contain; None of a store that was opened as it is.
    """

    def __init__(self, folder: Path, rows: int, shard_rows: int, fingerprint: Mapping[str, Any], key: str,
                 row_keys: RowKeys | None = None):
        self.folder, self.rows, self.shard_rows, self.fingerprint = folder, rows, shard_rows, dict(fingerprint)
        self.key, self.row_keys = key, row_keys
        self._shards: list[Shard] | None = None
        self._told: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes write shards that they are given: they need not know of the others.
        return {**self.__dict__, "row_keys": None, "_shards": None}

    @classmethod
    def open(
        cls,
        folder: str | Path,
        fingerprint: Mapping[str, Any],
        *,
        rows: int | RowKeys,
        shard_rows: int = 256,
        recompute: bool = False,
    ) -> FeatureStore:
        """Open the store of that fingerprint and those rows, or begin it.

        A damaged head is mended out of what the shards' own notes say. Where only another artefact differs that the
        features are made from (a checkpoint was trained again), they are replaced, which is told.

        Args:
            fingerprint: what :func:`~siftune._common.artefacts.described` can describe; every field must equal what is
                stored.
            rows: the rows, by content; or only how many there are.
            shard_rows: rows per shard of a new store; an existing store keeps its own.
            recompute: remove a store that was made from something else instead of refusing it.

        Raises:
            StoreMismatch: the folder holds features made from something else; names the first differing field.
        """
        folder = Path(folder)
        keys = RowKeys.counted(rows) if isinstance(rows, int) else rows
        made_from = described(fingerprint)
        wanted = {"made_from": made_from, "rows": {"of": keys.name, "count": len(keys), "content": keys.key}}
        key = digest(wanted)
        made = cls(folder, len(keys), shard_rows, made_from, key, keys)
        head = folder / HEAD
        difference: tuple[str | None, Any, Any] | None
        try:
            stored = _head(head)
            difference = _difference(stored, wanted)
            if difference is None:
                made.shard_rows = stored["shard_rows"]
                return made
        except Absent:
            difference = None
        except Damaged as error:
            log(f"{_short_path(head)} was damaged ({error})")
            difference = None
        except MadeFromOther as error:
            difference = "format", error, "that of this version"
        ours, others = made._said()
        if ours and len(ours) > others:  # whatever the head says, or does not: the shards are what is wanted
            made.shard_rows = ours[0]
            log(f"{_short_path(head)} is written anew: the shards' own notes say what they are")
            write_sealed(head, KIND, key, {**wanted, "shard_rows": made.shard_rows})
            return made
        if difference is None and others:
            difference = "fingerprint", "that of the shards, whose head is damaged", key
        if difference is not None:
            if difference[0] is None:
                log(f"{_short_path(folder)} was made from an artefact that has been made again since: computed again")
            elif not recompute:
                raise mismatch(folder, *difference)  # type: ignore[arg-type]
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
        make_folder(folder)
        write_sealed(head, KIND, key, {**wanted, "shard_rows": shard_rows})
        return made

    def _said(self) -> tuple[list[int], int]:
        """What the shards' own notes say: (rows per shard by each that is of this store; how many are of another)."""
        ours, others = [], 0
        for note in sorted(self.folder.glob("shard-*.json")):
            try:
                told = read_sealed(note, KIND, self.key)
                index, start, stop = int(note.stem.removeprefix("shard-")), int(told["start"]), int(told["stop"])
            except MadeFromOther:
                others += 1
            except (Unusable, ValueError, KeyError, TypeError):
                continue
            else:
                only = max(self.shard_rows, self.rows)  # one shard of all rows
                ours.append(start // index if index else stop if stop < self.rows else only)
        return ours, others

    @classmethod
    def load(cls, folder: str | Path) -> FeatureStore:
        """Open a store as it is, whatever it was made from.

        Raises:
            StoreCorrupt: there is no readable store.
        """
        try:
            stored = _head(Path(folder) / HEAD)
        except Unusable as error:
            raise StoreCorrupt("there is no readable feature store here", where=str(folder), why=f"Its head: {error}.",
                               hint="name a run folder that `siftune select` has written; where its head is damaged, "
                                    "running the command of that run again mends it") from error
        key = digest({"made_from": stored["made_from"], "rows": stored["rows"]})
        return cls(Path(folder), stored["rows"]["count"], stored["shard_rows"], stored["made_from"], key)

    def shards(self) -> list[Shard]:
        """All of them, in row order."""
        if self._shards is None:
            starts = range(0, self.rows, self.shard_rows)
            ranges = [(start, min(start + self.shard_rows, self.rows)) for start in starts]
            keys = self.row_keys
            self._shards = [Shard(i, *some, keys.of(*some) if keys else "") for i, some in enumerate(ranges)]
        return self._shards

    def missing(self) -> list[Shard]:
        """The shards that are still to be computed: those that are not there, and those that are damaged (it is told).

        Every file is read for that, once as long as it stays the same.
        """
        found = {shard: why for shard in self.shards() if (why := self.fault(shard)) is not None}
        damaged = {shard: why for shard, why in found.items() if why and shard.index not in self._told}
        if damaged:
            self._told.update(shard.index for shard in damaged)
            why = next(iter(damaged.values()))
            log(f"{len(damaged)} of {len(self.shards())} shards of {_short_path(self.folder)} "
                f"{'was' if len(damaged) == 1 else 'were'} damaged ({why}) and {'is' if len(damaged) == 1 else 'are'} "
                "computed again")
        return list(found)

    def fault(self, shard: Shard) -> str | None:
        """What keeps a shard from being used: None where nothing does, the empty text where it was never finished."""
        data, note = self._paths(shard)
        of_data, of_note = signature(data), signature(note)
        said = f"{self.key} {shard.start} {shard.stop} {shard.content}"
        if of_data and of_note and _intact.get(str(data)) == (of_data, of_note, said):
            return None
        try:
            told = read_sealed(note, KIND, self.key)
            if (told["start"], told["stop"]) != (shard.start, shard.stop):
                return "it holds other rows"
            if shard.content and told["rows"] != shard.content:
                return "the content of its rows is another one"
            if (payload := payload_of(data)) is None:
                return "its file is gone, or no regular file"
            if payload != Payload(**told["payload"]):
                return "its bytes have changed"
        except Absent:
            return ""
        except (Unusable, KeyError, TypeError) as error:
            return f"its note: {error}"
        if of_data and of_note and settled(of_data) and settled(of_note) and signature(data) == of_data:
            _intact[str(data)] = of_data, of_note, said
        return None

    def moved(self, folder: Path) -> FeatureStore:
        """The same store in another folder, whose shards it does not know."""
        return FeatureStore(folder, self.rows, self.shard_rows, self.fingerprint, self.key)

    def files(self, shard: Shard) -> tuple[Path, Path]:
        """A shard's file, and its note."""
        return self._paths(shard)

    def _paths(self, shard: Shard) -> tuple[Path, Path]:
        return self.folder / f"{shard.name}.safetensors", self.folder / f"{shard.name}.json"

    def write(self, shard: Shard, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a shard's arrays, each of shape [rows of the shard, ...]; then it exists.

        Raises:
            SiftuneError: the operating system refused the write.
            ValueError: an array has another number of rows.
        """
        from safetensors.numpy import save

        for name, array in arrays.items():
            if len(array) != len(shard):
                raise ValueError(f"array {name!r} has {len(array)} rows, shard {shard.index} has {len(shard)}")
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        self._keep(shard, lambda path: path.write_bytes(content), {
            "arrays": {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()},
            "payload": payload_of_bytes(content)._asdict()})

    def link(self, shard: Shard, path: Path, about: Mapping[str, Any]) -> None:
        """Make a shard of the whole file of another store's, that holds the very same arrays; see :meth:`about`."""
        self._keep(shard, lambda new: link_or_copy(path, new), {name: about[name] for name in ("arrays", "payload")})

    def _keep(self, shard: Shard, write: Callable[[Path], object], about: Mapping[str, Any]) -> None:
        data, note = self._paths(shard)
        content = shard.content
        if not content:  # of a store that was opened as it is: its notes know the rows
            with suppress(Unusable, KeyError, TypeError):
                content = read_sealed(note, KIND, self.key)["rows"]
        remove(note)
        make_way(data)
        write_with(data, write)
        write_sealed(note, KIND, self.key, {"start": shard.start, "stop": shard.stop, "rows": content, **about})

    def about(self, shard: Shard) -> tuple[Path, dict[str, Any]]:
        """(file, what its note tells) of a shard, verified.

        Raises:
            StoreCorrupt: the shard is not there or damaged.
        """
        path, note = self._whole(shard)
        return path, read_sealed(note, KIND, self.key)

    def _whole(self, shard: Shard) -> tuple[Path, Path]:
        """Its file and its note, verified."""
        path, note = self._paths(shard)
        if (why := self.fault(shard)) is not None:
            raise self._unreadable(path, why or "It was never finished.")
        return path, note

    def finish(self) -> None:
        """Make sure that no shard is missing.

        Raises:
            ValueError: some are.
        """
        if missing := self.missing():
            raise ValueError(f"{len(missing)} shards are still missing")

    @property
    def complete(self) -> bool:
        return not self.missing()

    @property
    def bytes(self) -> int:
        """Size of all files, in bytes."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    def read(self, shard: Shard, name: str) -> np.ndarray:
        """One array of a shard, read through a memory map, after it was verified.

        Raises:
            StoreCorrupt: the shard is not there or damaged.
        """
        with self._open(shard) as file:
            return file.get_tensor(name)

    @contextmanager
    def _open(self, shard: Shard) -> Iterator[Any]:
        from safetensors import SafetensorError, safe_open

        path, _ = self._whole(shard)
        try:
            with safe_open(str(path), framework="numpy") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise self._unreadable(path, str(error)) from error

    def _unreadable(self, path: Path, why: str) -> StoreCorrupt:
        return StoreCorrupt(f"cannot read {path.name}", where=str(path), why=why,
                            hint="run the command of that run again: what is damaged is computed again; `siftune "
                                 "doctor RUN` names what is")

    def features(self, shard: Shard, name: str = "feature") -> np.ndarray:
        """float32 [n, d]: a feature matrix of a shard in whatever type it is stored; see
        :mod:`siftune.features.store.codec`.

        Raises:
            StoreCorrupt: the shard is not there or damaged.
        """
        with self._open(shard) as file:
            return decode(name, file.keys(), file.get_tensor)

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, array) of every shard in row order; one shard in memory at a time."""
        for shard in self.shards():
            yield shard.start, self.read(shard, name)

    def feature_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, float32 [n, d]) of every shard in row order; one shard in memory at a time."""
        for shard in self.shards():
            yield shard.start, self.features(shard)

    def whole_features(self) -> np.ndarray:
        """float32 [N, d]: the whole feature matrix; for small stores such as the targets'."""
        return np.concatenate([block for _, block in self.feature_blocks()])

    def array(self, name: str) -> np.ndarray:
        """The whole array [N, ...]; for small arrays such as norms."""
        return np.concatenate([block for _, block in self.blocks(name)])

    def verify(self) -> list[Shard]:
        """The shards that are missing or damaged; every file is read, once as long as it stays the same."""
        return [shard for shard in self.shards() if self.fault(shard) is not None]

    def discard(self, shard: Shard) -> None:
        """Forget a shard, so that the next run computes it again."""
        for path in reversed(self._paths(shard)):
            remove(path)


def _head(path: Path) -> dict[str, Any]:
    """What a head says.

    Raises:
        Absent, MadeFromOther, Damaged: it says nothing.
    """
    stored = read_sealed(path, KIND)
    if not isinstance(stored, dict) or not {"made_from", "rows", "shard_rows"} <= stored.keys():
        raise Damaged("it is no head of a store")
    return stored


def _difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str | None, Any, Any] | None:
    """(field, stored value, wanted value); the field is None where only other artefacts differ."""
    found = differences(stored["made_from"], wanted["made_from"])
    old, new = stored["rows"], wanted["rows"]
    if old != new:
        own = [(name, a, b) for name, a, b in found if not only_artefacts_differ([(name, a, b)])]
        return own[0] if own else (new["of"], _rows_told(old), _rows_told(new))
    if only_artefacts_differ(found):
        return None, None, None
    return found[0] if found else None


def _rows_told(facts: Mapping[str, Any]) -> str:
    return f"{facts['count']:,} rows with the content {facts['content'][:12]}"


def _short_path(path: Path) -> str:
    return "/".join(path.parts[-3:])
