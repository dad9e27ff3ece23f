"""A store: one folder, one fingerprint, arrays of N rows cut into shards of fixed row ranges.

    fingerprint.json            what the features are made from, the number of rows, rows per shard
    shard-00000.safetensors     arrays [rows of the shard, ...] by name
    shard-00000.json            its row range, size and BLAKE2 checksum; a shard exists once this file does
    manifest.json               all shards; written last: the store is complete once this file does

Every file is written to a temporary name, flushed and renamed. A killed run leaves whole shards, which the next run
keeps, and at most a temporary file. Shards are independent of each other, so any process may write any of them.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.errors import StoreCorrupt, StoreMismatch
from siftune._common.files import make_folder, read_json, write_json, write_with
from siftune.features.store.codec import decode
from siftune.features.store.fingerprint import first_difference

FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` to ``stop`` (exclusive)."""

    index: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"shard-{self.index:05d}"

    def __len__(self) -> int:
        return self.stop - self.start


class FeatureStore:
    """Arrays of ``rows`` rows in shards, made from what ``fingerprint`` says. Open one with :meth:`open`."""

    def __init__(self, folder: Path, rows: int, shard_rows: int, fingerprint: Mapping[str, Any]):
        self.folder, self.rows, self.shard_rows, self.fingerprint = folder, rows, shard_rows, dict(fingerprint)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        fingerprint: Mapping[str, Any],
        *,
        rows: int,
        shard_rows: int = 256,
        recompute: bool = False,
    ) -> FeatureStore:
        """Open the store of that fingerprint, or begin it.

        Args:
            fingerprint: nested JSON values; every field must equal what is stored.
            rows: number of rows N.
            shard_rows: rows per shard of a new store; an existing store keeps its own.
            recompute: remove a store of another fingerprint instead of refusing it.

        Raises:
            StoreMismatch: the folder holds features made from something else; names the first differing field.
        """
        folder = Path(folder)
        head = folder / "fingerprint.json"
        if head.exists() and not recompute:
            cls.load(folder)  # says what to do where the file cannot be read
        if head.exists() and (stored := _readable(head)) is not None:
            difference = first_difference(
                {**stored["fingerprint"], "rows": stored["rows"], "format": stored["format"]},
                {**fingerprint, "rows": rows, "format": FORMAT},
            )
            if difference is None:
                return cls(folder, rows, stored["shard_rows"], fingerprint)
            if not recompute:
                raise mismatch(folder, *difference)
        if folder.exists():
            shutil.rmtree(folder)
        make_folder(folder)
        write_json(head, {"format": FORMAT, "rows": rows, "shard_rows": shard_rows, "fingerprint": dict(fingerprint)})
        return cls(folder, rows, shard_rows, fingerprint)

    @classmethod
    def load(cls, folder: str | Path) -> FeatureStore:
        """Open a store as it is, whatever it was made from.

        Raises:
            StoreCorrupt: there is no readable store.
        """
        try:
            stored = read_json(Path(folder) / "fingerprint.json")
            return cls(Path(folder), stored["rows"], stored["shard_rows"], stored["fingerprint"])
        except (OSError, ValueError, KeyError) as error:
            raise StoreCorrupt("there is no readable feature store here", where=str(folder), why=str(error),
                               hint="name a run folder that `siftune select` has written") from error

    def shards(self) -> list[Shard]:
        starts = range(0, self.rows, self.shard_rows)
        return [Shard(i, start, min(start + self.shard_rows, self.rows)) for i, start in enumerate(starts)]

    def missing(self) -> list[Shard]:
        """The shards that are still to be computed. A shard whose file is not of the noted size counts as missing."""
        return [shard for shard in self.shards() if not self._intact(shard)]

    def _paths(self, shard: Shard) -> tuple[Path, Path]:
        return self.folder / f"{shard.name}.safetensors", self.folder / f"{shard.name}.json"

    def _intact(self, shard: Shard) -> bool:
        data, note = self._paths(shard)
        try:
            return data.stat().st_size == read_json(note)["bytes"]
        except (OSError, ValueError, KeyError, TypeError):  # not there, or a note that a disk fault has spoilt
            return False

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
        data, note = self._paths(shard)
        note.unlink(missing_ok=True)
        write_with(data, lambda path: path.write_bytes(content))
        write_json(note, {"start": shard.start, "stop": shard.stop, "bytes": len(content),
                          "blake2b": hashlib.blake2b(content, digest_size=16).hexdigest()})

    def finish(self) -> None:
        """Write the manifest. Call it once no shard is missing."""
        if missing := self.missing():
            raise ValueError(f"{len(missing)} shards are still missing")
        notes = [read_json(self._paths(shard)[1]) for shard in self.shards()]
        write_json(self.folder / "manifest.json",
                   {"format": FORMAT, "rows": self.rows, "fingerprint": self.fingerprint, "shards": notes})

    @property
    def complete(self) -> bool:
        return (self.folder / "manifest.json").exists() and not self.missing()

    @property
    def bytes(self) -> int:
        """Size of all files, in bytes."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    def read(self, shard: Shard, name: str) -> np.ndarray:
        """One array of a shard, read through a memory map.

        Raises:
            StoreCorrupt: the shard is not there or not readable.
        """
        with self._open(shard) as file:
            return file.get_tensor(name)

    @contextmanager
    def _open(self, shard: Shard) -> Iterator[Any]:
        from safetensors import SafetensorError, safe_open

        path, _ = self._paths(shard)
        try:
            with safe_open(str(path), framework="numpy") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise StoreCorrupt(f"cannot read {path.name}", where=str(path), why=str(error),
                               hint="`siftune doctor RUN` names and removes broken shards; the next run makes them "
                                    "again") from error

    def features(self, shard: Shard, name: str = "feature") -> np.ndarray:
        """float32 [n, d]: a feature matrix of a shard in whatever type it is stored; see
        :mod:`siftune.features.store.codec`.

        Raises:
            StoreCorrupt: the shard is not there or not readable.
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
        """Read every shard and compare its checksum; returns the shards that are missing or broken."""
        broken = []
        for shard in self.shards():
            data, note = self._paths(shard)
            if not self._intact(shard) or (
                hashlib.blake2b(data.read_bytes(), digest_size=16).hexdigest() != read_json(note)["blake2b"]
            ):
                broken.append(shard)
        return broken

    def discard(self, shard: Shard) -> None:
        """Forget a shard, so that the next run computes it again."""
        for path in (self.folder / "manifest.json", *reversed(self._paths(shard))):
            path.unlink(missing_ok=True)


def _readable(head: Path) -> dict[str, Any] | None:
    try:
        stored = read_json(head)
        return stored if {"fingerprint", "rows", "shard_rows", "format"} <= stored.keys() else None
    except (ValueError, AttributeError):
        return None


def mismatch(folder: Path, field: str, stored: Any, wanted: Any) -> StoreMismatch:
    """The refusal to mix features: which field differs, and what to type."""
    return StoreMismatch(
        f"the stored features were made with another {field}",
        field=field,
        where=str(folder),
        why=f"stored: {_short(stored)}; now: {_short(wanted)}",
        hint="choose another --output-dir, or pass --recompute to replace them",
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
