"""Where machines exchange files that share no folder: any file system that fsspec knows (s3://, gs://, file://, ...).

The only file that knows fsspec. All else publishes files under names and fetches them. Neither writing nor reading is
taken to be atomic there: who fetches verifies, as with every artefact, and a note is published after what it speaks of.
Drivers of object stores are packages of their own (s3fs, gcsfs, adlfs), which every machine needs; credentials are
theirs to find, in the environment or in their own files.
"""

from __future__ import annotations

import errno
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError, SiftuneError, first_line
from siftune._common.files import write_with

FLAG = "--storage"
_HERE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""What an operating system says of this machine's own disk, not of the storage."""


class _Missing(Exception):  # noqa: N818 - it names a state
    """There is nothing of that name."""


@dataclass(frozen=True)
class Storage:
    """Files by name below a URL. Made by :meth:`at`; picklable: each process opens it for itself.

    Attributes:
        url: of the folder, complete: it means the same on every machine and in every working folder.
    """

    url: str

    @classmethod
    def at(cls, url: str) -> Storage:
        """The storage of a URL; nothing is read or written.

        Raises:
            ConfigError: there is no such kind of storage, or its driver is not installed.
        """
        fs, root = _file_system(url)
        return cls(fs.unstrip_protocol(root))

    def check(self) -> None:
        """Write a small file, read it and remove it.

        Raises:
            ConfigError: one of that does not work.
        """
        name, content = f".siftune-{secrets.token_hex(8)}", secrets.token_bytes(16)
        try:
            with tempfile.TemporaryDirectory(prefix="siftune-") as folder:
                there, back = Path(folder) / "there", Path(folder) / "back"
                there.write_bytes(content)
                self.publish(there, name)
                same = self.fetch(name, back) and back.read_bytes() == content
                self.remove(name)
        except SiftuneError as error:
            raise ConfigError("the storage cannot be used", where=f"{FLAG} {self.url}", why=error.why,
                              hint="check the URL, and the credentials that its driver finds in the environment"
                              ) from error
        if not same:
            raise ConfigError("the storage does not give back what was written", where=f"{FLAG} {self.url}",
                              hint="name a folder that you may write to, for example s3://bucket/siftune")

    def publish(self, path: Path, name: str) -> None:
        """Write a file there, over whatever has that name.

        Raises:
            SiftuneError: it could not be written.
        """
        fs, at = self._at(name)
        with self._told("write", name):
            fs.put_file(str(path), at)

    def fetch(self, name: str, path: Path) -> bool:
        """Read a file from there; ``path`` is replaced once all of it is here.

        Returns:
            False where there is none of that name.

        Raises:
            SiftuneError: it could not be read, or not be written here.
        """
        fs, at = self._at(name)

        def download(temporary: Path) -> None:
            with self._told("read", name):
                fs.get_file(at, str(temporary))

        try:
            write_with(path, download)
        except _Missing:
            return False
        return True

    def sizes(self, folder: str) -> dict[str, int]:
        """Names (below the URL) and sizes in bytes of all files below a folder; none where there is no such folder.

        Raises:
            SiftuneError: it could not be listed.
        """
        fs, at = self._at(folder)
        _, root = self._at("")
        fs.invalidate_cache()  # others write there
        try:
            with self._told("list", folder):
                found = fs.find(at, detail=True)
        except _Missing:
            return {}
        return {path.removeprefix(root).lstrip("/"): int(about["size"]) for path, about in found.items()}

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            SiftuneError: it could not be removed.
        """
        fs, at = self._at(name)
        try:
            with self._told("remove", name):
                fs.rm_file(at)
        except _Missing:
            pass

    def _at(self, name: str) -> tuple[Any, str]:
        """(file system, the name as it knows it)."""
        fs, root = _file_system(self.url)
        return fs, f"{root.rstrip('/')}/{name}".rstrip("/")

    @contextmanager
    def _told(self, doing: str, name: str) -> Iterator[None]:
        """Whatever a driver raises, as an error that names the file there."""
        try:
            yield
        except FileNotFoundError as error:
            if doing == "write":
                raise self._refused(doing, name, error) from error
            raise _Missing from error
        except Exception as error:  # each driver has errors of its own
            if isinstance(error, OSError) and error.errno in _HERE:
                raise
            raise self._refused(doing, name, error) from error

    def _refused(self, doing: str, name: str, error: Exception) -> SiftuneError:
        return SiftuneError(f"cannot {doing} {name.rpartition('/')[2] or 'files'} in the storage",
                            where=f"{self.url.rstrip('/')}/{name}", why=f"{type(error).__name__}: {first_line(error)}",
                            hint="run the same command again once the storage can be reached; what is finished is kept")


def _file_system(url: str) -> tuple[Any, str]:
    """(fsspec's file system, the path in it) of a URL.

    Raises:
        ConfigError: there is no such kind, or its driver is missing.
    """
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    protocol = url.partition("://")[0] if "://" in url else "file"
    try:
        return url_to_fs(url, **({"auto_mkdir": True} if protocol in ("file", "local") else {}))
    except ImportError as error:
        package = str(known_implementations.get(protocol, {}).get("class", "")).partition(".")[0]
        raise ConfigError(
            f"the driver of {protocol}:// is not installed", where=f"{FLAG} {url}", why=first_line(error),
            hint=f"pip install {package}, on every machine" if package not in ("", "fsspec") else
            "install what it asks for, on every machine") from error
    except Exception as error:  # an unknown protocol, or whatever a driver makes of the URL
        raise ConfigError("this is no storage that can be reached", where=f"{FLAG} {url}",
                          why=first_line(error),
                          hint="name a folder of a bucket (s3://bucket/siftune, gs://bucket/siftune), or file:///folder"
                          ) from error
