"""Reading a user's own vectors or scores: ``.npy`` in pool order, or ``.parquet`` and ``.csv`` keyed by row id."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.artefacts import Damaged, Unusable, digest, keep_file, kept_file
from siftune._common.artefacts.sealed import tell_damage
from siftune._common.errors import DataError
from siftune._common.files import make_folder
from siftune._common.nearest import did_you_mean
from siftune._common.progress import bar

BLOCK_NUMBERS = 1 << 20  # numbers read at a time: a few MiB

KIND = "vectors in the order of a pool"
VERSION = 1
"""Of the copy: whoever changes how it is made of the file counts up."""

ID, SCORE, VECTOR = "id", "score", "vector"
_FORMS = "give a .npy array with a row for each row of the pool, or a .parquet (or, for scores, .csv) file with the " \
         "columns id and score, or id and vector"


@dataclass(frozen=True)
class Supplied:
    """A user's numbers, one row for each row asked for, in that order; all are finite.

    Attributes:
        array: [N] scores or [N, D] vectors, of any real type; memory-mapped where it is large.
        key: BLAKE2 of what was read.
        extra: rows of the file that nobody asked for.
    """

    array: np.ndarray
    key: str
    extra: int

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows as they are), a few MiB at a time."""
        step = _step(self.array)
        for start in range(0, len(self.array), step):
            yield start, self.array[start : start + step]


def read_supplied(path: str, ids: Sequence[str], folder: Path, *, kind: str, flag: str) -> Supplied:
    """The numbers of a file for the rows with these ids.

    Args:
        path: a ``.npy``, ``.parquet`` or ``.csv`` file.
        ids: of the rows, distinct; for ``.npy``, which has no ids, the file's rows must be exactly these.
        folder: where vectors of a ``.parquet`` file are kept in the order of ``ids``.
        kind: ``pool`` or ``target``, for messages.
        flag: the flag that named the file, likewise.

    Raises:
        DataError: the file is not there or not of that kind; it lacks a row; a value is not a finite number.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"there is no file {path!r}", where=flag, hint=did_you_mean(file) or _FORMS)
    if file.suffix == ".npy":
        array, extra = _npy(file, ids, kind), 0
    elif file.suffix == ".parquet":
        array, extra = _parquet(file, ids, folder, kind)
    elif file.suffix == ".csv":
        array, extra = _scores(file, _csv_table(file), ids, kind)
    else:
        raise DataError(f"{file.name} is of no kind that can be read as vectors or scores", where=flag, hint=_FORMS)
    return Supplied(array, _checked_key(array, ids, file), extra)


def _npy(file: Path, ids: Sequence[str], kind: str) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError("the file cannot be read as an array of numbers", where=str(file),
                        why=str(error).splitlines()[0],
                        hint="write it with numpy.save, from an array of float32") from error
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or not all(array.shape[1:]):
        raise DataError(f"the array has the shape {list(array.shape)} and the type {array.dtype}", where=str(file),
                        hint="save vectors as float32 [rows, numbers], scores as float32 [rows]")
    if len(array) != len(ids):
        difference = len(array) - len(ids)
        raise DataError(
            f"the file has {len(array):,} rows, the {kind} has {len(ids):,} usable ones", where=str(file),
            why=f"A .npy file has no ids, so its rows must be those of the {kind} that can be used, in their order. "
                f"The file has {abs(difference):,} rows too {'many' if difference > 0 else 'few'}; rows that were left "
                "out (as duplicates of test rows, or as unusable) have none in it.",
            hint="key the file by id instead: a .parquet file with the columns id and vector (or score); rows it has "
                 "for others do no harm")
    return array


def _parquet(file: Path, ids: Sequence[str], folder: Path, kind: str) -> tuple[np.ndarray, int]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        opened = parquet.ParquetFile(file)
        names = opened.schema_arrow.names
        _check_columns(file, names)
        if SCORE in names:
            return _scores(file, opened.read(columns=[ID, SCORE]), ids, kind)
        place, extra = _places(file, opened.read(columns=[ID]).column(ID).to_pylist(), ids, kind)
        of_file, of_ids = _file_key(file), _ids_key(ids)
        kept = make_folder(folder) / f"{of_file[:12]}-{of_ids[:12]}.npy"
        key = digest({"file": of_file, "ids": of_ids, "code": VERSION})
        try:
            kept_file(kept, KIND, key)
        except Unusable as found:
            if isinstance(found, Damaged):
                tell_damage(kept, str(found))
            keep_file(kept, KIND, key, write=lambda path: _reorder(opened, file, place, len(ids), path))
    except (pa.ArrowException, OSError) as error:
        raise DataError("the Parquet file cannot be read", where=str(file), why=str(error).splitlines()[0],
                        hint=_FORMS) from error
    return np.load(kept, mmap_mode="r", allow_pickle=False), extra


def _csv_table(file: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    try:
        with csv.open_csv(file) as reader:
            names = reader.schema.names
        if VECTOR in names:
            raise DataError("vectors cannot be read from CSV", where=str(file),
                            hint="write a .parquet file with the columns id and vector, or a .npy array")
        _check_columns(file, names)
        return csv.read_csv(file, convert_options=csv.ConvertOptions(
            column_types={ID: pa.string(), SCORE: pa.float64()}, include_columns=[ID, SCORE]))
    except (pa.ArrowException, OSError) as error:
        raise DataError("the CSV file cannot be read", where=str(file), why=str(error).splitlines()[0],
                        hint="give it a first line `id,score` and then an id and a number a line") from error


def _check_columns(file: Path, names: Sequence[str]) -> None:
    if ID not in names or (SCORE in names) == (VECTOR in names):
        raise DataError("the file has not the columns that are needed", where=str(file),
                        why=f"It has {', '.join(names) or 'none'}.",
                        hint="name them id and score, or id and vector (one of the two)")


def _scores(file: Path, table: Any, ids: Sequence[str], kind: str) -> tuple[np.ndarray, int]:
    """float64 [N] by id; NaN where there is nothing, which is refused later."""
    import pyarrow as pa

    place, extra = _places(file, table.column(ID).to_pylist(), ids, kind)
    found = np.empty(len(ids))
    values = table.column(SCORE).cast(pa.float64()).to_numpy(zero_copy_only=False)
    found[place[place >= 0]] = values[place >= 0]
    return found, extra


def _places(file: Path, stored: Sequence[Any], ids: Sequence[str], kind: str) -> tuple[np.ndarray, int]:
    """int64 [rows of the file]: which of ``ids`` each is, -1 for none; and how many are none."""
    position = {row_id: i for i, row_id in enumerate(ids)}
    place = np.array([position.get(str(row_id), -1) for row_id in stored], dtype=np.int64)
    times = np.bincount(place[place >= 0], minlength=len(ids))
    if len(twice := np.flatnonzero(times > 1)):
        raise DataError(f"the file has the id {ids[twice[0]]!r} {times[twice[0]]} times", where=str(file),
                        hint="keep one row for each id")
    if len(missing := np.flatnonzero(times == 0)):
        first = ", ".join(repr(ids[i]) for i in missing[:5])
        raise DataError(f"the file has nothing for {len(missing):,} of {len(ids):,} rows of the {kind}",
                        where=str(file), why=f"The first are {first}.",
                        hint="add them, or leave them out with a smaller pool; `siftune inspect` shows the ids")
    return place, int((place < 0).sum())


def _reorder(opened: Any, file: Path, place: np.ndarray, rows: int, path: Path) -> None:
    """Write the vectors as float32 .npy [rows, D] in the order wanted, a batch of the file in memory at a time."""
    out, at = None, 0
    with bar(f"vectors of {file.name}", len(place)) as progress:
        for batch in opened.iter_batches(batch_size=4096, columns=[ID, VECTOR]):
            where = place[at : at + len(batch)]
            vectors = _matrix(batch.column(VECTOR), batch.column(ID), file)
            if out is None:
                out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, vectors.shape[1]))
            if vectors.shape[1] != out.shape[1]:
                raise DataError(f"the vectors have {out.shape[1]} numbers at first and {vectors.shape[1]} later",
                                where=f"{file}: row {at}", hint="give all rows vectors of the same length")
            out[where[where >= 0]] = vectors[where >= 0]
            at += len(batch)
            progress.advance(len(batch))
    if out is not None:
        out.flush()


def _matrix(column: Any, ids: Any, file: Path) -> np.ndarray:
    """float32 [n, D] of a list column; a number that is missing becomes NaN, which is refused later."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
            or pa.types.is_fixed_size_list(column.type)) or not (
            pa.types.is_floating(column.type.value_type) or pa.types.is_integer(column.type.value_type)):
        raise DataError(f"the column vector holds {column.type}", where=str(file),
                        hint="make it a list of numbers for each row")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]
    odd = np.flatnonzero((lengths != lengths[0]) | (lengths == 0))
    if len(odd):
        i = int(odd[0])
        raise DataError(f"the vector of the row {str(ids[i].as_py())!r} has {lengths[i]} numbers, another one "
                        f"{lengths[0]}", where=str(file), hint="give all rows vectors of the same length, above 0")
    numbers = pc.cast(pc.list_flatten(column), pa.float32(), safe=False)  # type: ignore[attr-defined]
    return numbers.to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _checked_key(array: np.ndarray, ids: Sequence[str], file: Path) -> str:
    """BLAKE2 of type, shape and bytes.

    Raises:
        DataError: a value is not finite.
    """
    digest = hashlib.blake2b(f"{array.dtype.str} {array.shape}".encode(), digest_size=16)
    step = _step(array)
    with bar(f"reading {file.name}", len(array)) as progress:
        for start in range(0, len(array), step):
            block = np.ascontiguousarray(array[start : start + step])
            if not (finite := np.isfinite(block)).all():
                i = int(np.argwhere(~finite)[0][0])
                raise DataError(f"the row {ids[start + i]!r} has a value that is missing or not a finite number",
                                where=f"{file}: row {start + i} of those asked for",
                                why="It has no place in an order, and sorting would put it anywhere.",
                                hint="replace it, or leave the row out of the pool")
            digest.update(block.data)
            progress.advance(len(block))
    return digest.hexdigest()


def _step(array: np.ndarray) -> int:
    return max(1, BLOCK_NUMBERS // max(1, array[:1].size))


def _file_key(file: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as source:
        read: Callable[[], bytes] = lambda: source.read(1 << 20)  # noqa: E731
        for part in iter(read, b""):
            digest.update(part)
    return digest.hexdigest()


def _ids_key(ids: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row_id in ids:
        digest.update(len(row_id).to_bytes(4, "little") + row_id.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
