"""One writer at a time in a folder: a lock file that names its owner and dies with it.

The operating system takes the lock (``flock``) back when its owner ends, however it ends, so that a dead owner's lock
is simply taken over. Locks of several folders are taken in the order of their paths, and none is waited for, so that
commands cannot wait for each other. Within a thread the lock of a folder that is held already is held once more.

Commands that each write files of their own, shares of a pass, hold a folder beside each other (:func:`working_beside`),
with a lock file each, and never beside one that holds it alone. Each takes its own lock first and looks at the others'
then, so that of two that come at the same moment one at least is refused.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from siftune._common.errors import SiftuneError
from siftune._common.files import make_folder, write_error

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock: nothing is locked there
    fcntl = None  # type: ignore[assignment]

LOCK = ".siftune.lock"
_BESIDE = f"{LOCK}."
_held = threading.local()


@contextmanager
def working_in(*folders: str | Path, command: str = "") -> Iterator[None]:
    """Hold the folders as their only writer; temporary files that a dead writer has left there are removed, and at the
    end those of workers that were killed meanwhile.

    Args:
        folders: of runs; made where they are missing. One that may not be written to needs no lock.
        command: what the owner is called in the refusal of another one.

    Raises:
        SiftuneError: another process works in one of them; it is named.
    """
    mine: set[str] = _held.__dict__.setdefault("folders", set())
    wanted = sorted({os.path.realpath(folder) for folder in folders} - mine)
    with contextlib.ExitStack() as stack:
        for folder in wanted:
            path = Path(folder, LOCK)
            handle = _lock(Path(folder), command, path)
            if handle is not None:
                stack.callback(_unlock, path, handle)
                for beside in sorted(Path(folder).glob(f"{_BESIDE}*")):
                    _look(Path(folder), beside, sweep=True)
                stack.callback(_sweep, folder)  # of workers that were killed
                _sweep(folder)
            mine.add(folder)
            stack.callback(mine.discard, folder)
        yield


def is_held(folder: str | Path) -> bool:
    """Whether this thread is the only writer of a folder, see :func:`working_in`."""
    return os.path.realpath(folder) in _held.__dict__.get("folders", ())


@contextmanager
def working_beside(folder: str | Path, name: str, command: str = "") -> Iterator[None]:
    """Hold a folder as one of several that write different files there, whole and of the same content whoever writes
    them; temporary files are left for the next command that holds it alone.

    Args:
        folder: of a run; made where it is missing.
        name: of what is written, which no two of one machine write at once. What another machine says of it is
            replaced: that may be a command that was killed there and is run again here.
        command: what the owner is called in the refusal of another one.

    Raises:
        SiftuneError: another process holds the folder alone, or works on the same; it is named.
    """
    folder = Path(os.path.realpath(folder))
    path = folder / f"{_BESIDE}{name}"
    handle = _lock(folder, command, path, replace=True)
    try:
        if handle is not None:
            _look(folder, folder / LOCK)
        yield
    finally:
        if handle is not None:
            _unlock(path, handle)


def _lock(folder: Path, command: str, path: Path, *, replace: bool = False) -> int | None:
    """The handle of the locked file; None where nothing can be locked, since nothing can be written."""
    if fcntl is None:
        return None
    make_folder(folder)
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
                return None  # whoever has to write there will be told
            raise write_error(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner, tries = _owner(handle), 100
            while not owner and (tries := tries - 1):  # who has just locked it is about to write a name into it
                time.sleep(0.01)
                owner = _owner(handle)
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _refusal(folder, owner) from error
            return None  # a file system without locks
        try:
            if os.path.samestat(os.fstat(handle), os.lstat(path)):
                break
        except FileNotFoundError:
            pass
        os.close(handle)  # its owner removed it between our opening and locking it
    owner, host = _owner(handle), socket.gethostname()
    if owner.get("host", host) != host:  # a file system may keep the locks of each machine to itself
        os.close(handle)
        if replace:
            path.unlink(missing_ok=True)
            return _lock(folder, command, path)
        raise _refusal(folder, owner, _elsewhere(path))
    told = {"command": command or "siftune", "pid": os.getpid(), "host": host,
            "since": datetime.now().astimezone().isoformat(timespec="seconds")}
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, (json.dumps(told, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape"), 0)
    except OSError as error:
        _unlock(path, handle)
        raise write_error(path, error) from error
    return handle


def _look(folder: Path, path: Path, *, sweep: bool = False) -> None:
    """Refuse to work in a folder while the owner of a lock file there does; remove that of a dead one if asked to.

    Raises:
        SiftuneError: it is named.
    """
    assert fcntl is not None, "a lock of our own is held"
    try:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return
    try:
        owner = _owner(handle)
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if sweep else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            raise _refusal(folder, owner) from error
        if owner.get("host", host := socket.gethostname()) != host:
            raise _refusal(folder, owner, _elsewhere(path))
        if sweep:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _elsewhere(path: Path) -> str:
    return f"if that command has ended, remove {path} and run the same command again"


def _unlock(path: Path, handle: int) -> None:
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(handle), os.lstat(path)):  # or another one has replaced it
            path.unlink()
    os.close(handle)


def _owner(handle: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(handle, 1 << 16, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _refusal(folder: Path, owner: dict[str, Any], hint: str = "") -> SiftuneError:
    name = str(owner.get("command") or "a command of siftune's")[:200]
    where = " ".join(f"{word} {owner[key]}" for word, key in (("process", "pid"), ("on", "host")) if key in owner)
    about = [*filter(None, [where]), *([f"since {owner['since']}"] if "since" in owner else [])]
    return SiftuneError("another command is working in this folder", where=str(folder),
                        why=f"`{name}`{' (' + ', '.join(about) + ')' if about else ''} writes there.",
                        hint=hint or "wait until it has ended, or choose another --output-dir")


def _sweep(folder: str) -> None:
    """Remove the temporary files of writers that are gone: whoever wrote here must have held the lock."""
    for at, _, names in os.walk(folder):
        for name in names:
            if (name.startswith(".") and name.endswith(".tmp")) or name == ".writable":
                with contextlib.suppress(OSError):
                    (Path(at) / name).unlink()
