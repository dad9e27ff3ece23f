"""Checksums of files: XXH3 (128 bits), read once as long as a file stays the same."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

Signature = tuple[int, int, int, int, int]

_PART = 1 << 20
_SETTLED = 50_000_000
"""ns: file systems tell time in steps. What has changed in the last moments might change again within the same one."""

_read: dict[str, tuple[Signature, Payload]] = {}


class Payload(NamedTuple):
    """Size in bytes, and hex XXH3-128."""

    bytes: int
    xxh3: str


def signature(path: str | Path) -> Signature | None:
    """What changes whenever a file does: device, inode, size, times of modification and change; None where there is no
    regular file (a link or a folder in its place is none)."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def settled(found: Signature) -> bool:
    """Whether a file with this signature could not have changed since without getting another one."""
    return time.time_ns() - max(found[3], found[4]) > _SETTLED


def payload_of(path: str | Path) -> Payload | None:
    """Checksum of a file, None where there is no regular file or it cannot be read. Read again only if it has changed.
    """
    before = signature(path)
    if before is None:
        return None
    known = _read.get(str(path))
    if known is not None and known[0] == before:
        return known[1]
    digest, size = xxhash.xxh3_128(), 0
    try:
        for part in _parts(path, before[2]):
            digest.update(part)
            size += len(part)
    except OSError:
        return None
    made = Payload(size, digest.hexdigest())
    if settled(before) and signature(path) == before:
        _read[str(path)] = before, made
    return made


def payload_of_bytes(content: bytes) -> Payload:
    """Checksum of what is in memory."""
    return Payload(len(content), xxhash.xxh3_128_hexdigest(content))


def _parts(path: str | Path, expected: int) -> Iterator[memoryview]:
    buffer = bytearray(min(_PART, expected + 1))  # one byte more, so that a file that has grown is seen to have
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        while count := file.readinto(buffer):
            yield view[:count]
