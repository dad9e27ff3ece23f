"""The bytes of a data file as UTF-8 lines: decompressed, with the byte order mark read, within the limits."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from siftune._common.errors import DataError, first_line
from siftune.data.limits import FLAG, Limits

COMPRESSED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
"""Endings of compressed files, and the program that makes each."""

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SPARED = 64_000_000  # bytes of text below which the expansion of a file is not looked at
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file, or what its limit leaves of it.

    Attributes:
        data: Its bytes as UTF-8 with the line end, without a byte order mark.
        offset: Where it starts, in bytes.
        whole: Whether nothing is missing.
    """

    data: bytes
    offset: int
    whole: bool = True


def without_compression(name: str) -> str:
    """A file name in lower case without the ending of a compressed file."""
    name = name.lower()
    return next((name.removesuffix(ending) for ending in COMPRESSED if name.endswith(ending)), name)


def lines(path: Path, limits: Limits) -> Iterator[Line]:
    """The lines of a plain or compressed file, streamed; no line takes more memory than the limit.

    A file that begins with the byte order mark of UTF-16 is read as that.

    Raises:
        DataError: the file cannot be opened or decompressed, is not the UTF-16 it says, or expands beyond the limit.
    """
    with _opened(path, limits) as file:
        start = file.peek(4)[:4]
        if start.startswith(_UTF16):
            yield from _utf16(path, file, limits)
            return
        offset = 0
        if start.startswith(_BOM):
            offset = len(file.read(len(_BOM)))
        while data := file.readline(limits.line + 1):
            if len(data) <= limits.line or data.endswith(b"\n"):
                yield Line(data, offset)
                offset += len(data)
                continue
            size = len(data)
            while not data.endswith(b"\n") and (data := file.readline(_PIECE)):
                size += len(data)
            yield Line(b"", offset, whole=False)
            offset += size


def _utf16(path: Path, file: IO[bytes], limits: Limits) -> Iterator[Line]:
    text, offset = io.TextIOWrapper(file, encoding="utf-16", newline="\n"), 0
    try:
        while line := text.readline(limits.line + 1):
            if whole := len(line) <= limits.line or line.endswith("\n"):
                data = line.encode("utf-8")
            else:
                data = b""
                while not line.endswith("\n") and (line := text.readline(_PIECE)):
                    pass
            yield Line(data, offset, whole)
            offset += len(data)
    except UnicodeError as error:
        raise DataError(f"{path.name} is not UTF-16", where=str(path), why=f"Its first bytes say so, but: {error}.",
                        hint="write it again as UTF-8") from error


@contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[io.BufferedReader[Any]]:
    kind = next((program for ending, program in COMPRESSED.items() if path.name.lower().endswith(ending)), "")
    try:
        with path.open("rb") as plain:
            if not kind:
                yield plain
            else:
                with io.BufferedReader(_Expanded(_expand(kind, plain), path, limits), _PIECE) as expanded:
                    yield expanded
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _incomplete(path, kind, error) from error
    except OSError as error:
        if kind and error.errno is None:  # bz2 and the zstd reader say so of what they cannot decompress
            raise _incomplete(path, kind, error) from error
        raise DataError(f"cannot read {path.name}", where=str(path), why=error.strerror or str(error)) from error


def _incomplete(path: Path, kind: str, error: Exception) -> DataError:
    return DataError(f"{path.name} is not a complete {kind} file", where=str(path), why=first_line(error),
                     hint=f"check it with: {kind} -t {path.name}")


def _expand(kind: str, plain: IO[bytes]) -> Any:
    if kind == "gzip":
        return gzip.GzipFile(fileobj=plain)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2File(plain)
    if kind == "xz":
        return lzma.LZMAFile(plain)
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(plain, mode="r"), "zstd")


class _Expanded(io.RawIOBase):
    """What a decompressor gives, counted, so that a small file cannot become an endless one."""

    def __init__(self, stream: Any, path: Path, limits: Limits):
        self._stream, self._path = stream, path
        self._most = max(_SPARED, path.stat().st_size * limits.expansion)
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._size += len(data)
        if self._size > self._most:
            raise DataError(f"{self._path.name} expands to more than {self._most:,} bytes", where=str(self._path),
                            why=f"That is {self._most / max(1, self._path.stat().st_size):,.0f} times its own size.",
                            hint=f"check the file, or raise the limit with {FLAG} expansion=...")
        return len(data)
