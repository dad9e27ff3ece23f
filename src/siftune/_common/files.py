"""Atomic files: a reader sees the old content or the whole new content, never a half.

Everything that siftune writes goes through here: to a temporary name beside the target, flushed to disk, then
renamed. What an operating system refuses (full disk, read-only folder, a file-size limit) becomes a
:class:`~siftune._common.errors.SiftuneError` with a hint, and the temporary file is removed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from siftune._common.errors import SiftuneError

# A file-size limit (ulimit -f) otherwise kills the process; ignored, the write fails with EFBIG, which we report.
if hasattr(signal, "SIGXFSZ"):
    with contextlib.suppress(ValueError):  # not in the main thread: the importing program decides
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

_HINTS = {
    errno.ENOSPC: "free some space, or choose another --output-dir",
    errno.EDQUOT: "free some of your quota, or choose another --output-dir",
    errno.EFBIG: "raise the file-size limit (ulimit -f), or choose smaller shards with --shard-rows",
    errno.EROFS: "choose an --output-dir that you may write to",
    errno.EACCES: "choose an --output-dir that you may write to",
    errno.EPERM: "choose an --output-dir that you may write to",
    errno.EISDIR: "a folder stands where this file is to be written: move it away and run the same command again",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another --output-dir",
    errno.EEXIST: "a file stands where a folder is needed: choose another --output-dir",
}


def write_error(path: str | Path, error: OSError | ValueError) -> SiftuneError:
    """What the operating system said about a write, as an error the user can act on."""
    number = getattr(error, "errno", None) or 0
    return SiftuneError(
        f"cannot write {Path(path).name}: {os.strerror(number) if number else error}",
        where=str(path),
        why="Nothing half-written was left behind; what was finished before is kept and will be reused.",
        hint=_HINTS.get(number, "check the folder of --output-dir"),
    )


def make_folder(path: str | Path) -> Path:
    """Create a folder (and its parents).

    Raises:
        SiftuneError: the operating system refused.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # the latter of a NUL in it
        raise write_error(path, error) from error
    return path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed and renamed to ``path``.

    Raises:
        SiftuneError: the operating system refused the write; ``path`` is unchanged.
    """
    path = Path(path)
    make_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise write_error(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        put_in_place(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Flush a finished file to disk and give it its name.

    Raises:
        SiftuneError: the operating system refused; ``path`` is unchanged.
    """
    try:
        with temporary.open("rb") as done:
            os.fsync(done.fileno())
        temporary.chmod(0o644 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_bytes(path: str | Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, sort_keys=False) + "\n")


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """One text line each, terminated by a newline, streamed."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for line in lines:
            out.write(line)
            out.write("\n")


def write_with(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let a library write the file: ``write(temporary_path)``; its plain ``OSError`` is translated too."""
    with atomic_path(path) as temporary:
        write(temporary)


def link_or_copy(source: Path, path: Path) -> None:
    """Give a temporary file (of :func:`write_with`) what another file holds: by a hard link, which takes neither time
    nor space, where the file system has such and the file is the user's own; else by a copy. Nothing of siftune's is
    ever written into, so that two names for one file do no harm."""
    try:
        if source.stat().st_uid != os.getuid():
            raise PermissionError
        path.unlink()
        os.link(source, path)
    except (OSError, AttributeError):  # the latter on Windows, where users have no numbers
        shutil.copyfile(source, path)


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))
