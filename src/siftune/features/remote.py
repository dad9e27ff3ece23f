"""Feature passes by workers that do not see the run folder: files go through a storage.

    files/<artefact>.npy                          what jobs read: checkpoints, directions, bases, adapters
    features/<store>/shard-00000-0-256.*          what they write: a shard and its note, the note last

Names are made of content: of the artefact, or of the key of the store, which says what its features are made from and
of which rows. So a shard that is there is the one that is wanted, whichever run or worker has left it; it is verified
by the run's own mechanism when it is fetched, and what is half there or damaged is computed again. Workers compute in a
temporary folder of their own, and the process of the command alone writes into the run folder.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from siftune._common.artefacts import KeptFile, payload_of
from siftune._common.artefacts.kept import with_files
from siftune._common.errors import StoreCorrupt
from siftune._common.progress import log
from siftune.config.settings import SelectConfig
from siftune.features.store import FeatureStore, Shard

if TYPE_CHECKING:
    from siftune.execution.storage import Storage


class Published(NamedTuple):
    """A shard that is in the storage: key of its store, and its number."""

    store: str
    shard: int


@dataclass(frozen=True)
class RemoteJob:
    """A job as it is sent: it names no file of the machine that it comes from.

    Attributes:
        job: a :class:`siftune.features.passes.Job` whose stores and files have relative paths.
        title: what it is called where it comes from.
    """

    job: Any
    title: str


class RemoteWorker:
    """A worker in a temporary folder of its own, which fetches what its jobs read and publishes what they write.

    Args:
        number: of the worker.
        start: makes the :class:`siftune.features.passes.ShardWorker`.
        storage: where files are exchanged.
    """

    def __init__(self, number: int, *, start: Callable[[int], Any], storage: Storage):
        self.storage = storage
        self._temporary = tempfile.TemporaryDirectory(prefix="siftune-worker-")
        self.folder = Path(self._temporary.name)
        self._published: deque[Published] = deque()  # filled by the thread that writes
        self.worker = start(number)
        self.worker.write = self._write

    def __call__(self, remote: RemoteJob) -> tuple[int, list[Published]]:
        """Tokens of the job, and the shards that were published since the last call: a shard is written while the next
        is computed."""
        job = remote.job
        stores = tuple(store.moved(self.folder / "features" / store.folder) for store in job.stores)
        tokens = self.worker(replace(job, of=with_files(job.of, self._fetched), stores=stores))
        published = []
        while self._published:
            published.append(self._published.popleft())
        return tokens, published

    def close(self) -> None:
        """Wait for the last write, and leave nothing behind."""
        try:
            self.worker.close()
        finally:
            self._temporary.cleanup()

    def _fetched(self, file: KeptFile) -> KeptFile:
        path = self.folder / "files" / file.path.name
        if not path.is_file() and not self.storage.fetch(_name_of(file), path):
            raise StoreCorrupt(f"{file.path.name} is not in the storage", where=f"{self.storage.url}/{_name_of(file)}",
                               hint="run the same command again: it is written there again")
        if payload_of(path) != file.payload:
            path.unlink()
            raise StoreCorrupt(f"{file.path.name} is damaged in the storage",
                               where=f"{self.storage.url}/{_name_of(file)}",
                               why="Its bytes do not match their checksum.",
                               hint="remove it there and run the same command again: it is written there again")
        return replace(file, path=path)

    def _write(self, store: FeatureStore, shard: Shard, arrays: Mapping[str, np.ndarray]) -> None:
        store.write(shard, arrays)
        for path, name in zip(store.files(shard), shard_names(store, shard), strict=True):
            self.storage.publish(path, name)
        store.discard(shard)
        self._published.append(Published(store.key, shard.index))


def run_remotely(jobs: Sequence[Any], executor: Any, storage: Storage, start: Callable[[int], Any],
                 advance: Callable[[float], None]) -> None:
    """Run jobs in workers that do not see the run folder; what they publish is fetched as it comes.

    Args:
        jobs: of a pass, see :class:`siftune.features.passes.Job`.
        executor: runs them elsewhere.
        storage: where files are exchanged.
        start: makes a worker, given its number; picklable.
        advance: told how many tokens each job had.

    Raises:
        SetAside: of these jobs, as the executor's.
        SiftuneError: whatever a job or the storage raised.
    """
    from siftune.execution import SetAside

    _publish_files(jobs, storage)
    sent = [RemoteJob(replace(job, of=with_files(job.of, _sent),
                              stores=tuple(store.moved(Path(store.key)) for store in job.stores)), job.title)
            for job in jobs]
    places = {Published(store.key, job.shard.index): (store, job.shard) for job in jobs for store in job.stores}
    try:
        for tokens, published in executor.map(partial(RemoteWorker, start=start, storage=storage), sent):
            for one in published:
                if one in places:
                    fetch_shard(storage, *places.pop(one))
            advance(tokens)
    except SetAside as error:
        of = {id(remote): job for remote, job in zip(sent, jobs, strict=True)}
        fetch_missing(storage, [store for store, _ in places.values()], tell=False)
        raise SetAside([of[id(remote)] for remote in error.jobs], error.reasons, error.tries) from error
    fetch_missing(storage, [store for store, _ in places.values()], tell=False)  # the last one of each worker


def fetch_missing(storage: Storage, stores: Iterable[FeatureStore], *, tell: bool = True) -> None:
    """Fetch the shards that stores lack and the storage has.

    Args:
        tell: how many they were, of each store.

    Raises:
        SiftuneError: the storage cannot be read.
    """
    for store in {store.folder: store for store in stores}.values():
        missing = store.missing()
        there = storage.sizes(f"features/{store.key}") if missing else {}
        found = [shard for shard in missing if all(name in there for name in shard_names(store, shard))
                 and fetch_shard(storage, store, shard)]
        if found and tell:
            log(f"{len(found)} of {len(missing)} missing shards of {'/'.join(store.folder.parts[-3:])} were in the "
                "storage")


def fetch_shard(storage: Storage, store: FeatureStore, shard: Shard) -> bool:
    """Fetch one shard into its store; it counts only if it is verified there.

    Returns:
        Whether it is there now. A damaged one is told and will be computed again.
    """
    store.discard(shard)  # what is there is of no use
    files = zip(shard_names(store, shard), store.files(shard), strict=True)
    why = None if all(storage.fetch(name, path) for name, path in files) else ""
    if why is None:
        why = store.fault(shard)
    if why is None:
        return True
    if why:
        log(f"{shard.name} of {'/'.join(store.folder.parts[-3:])} was damaged in the storage ({why}) and is computed "
            "again")
    store.discard(shard)
    return False


def shard_names(store: FeatureStore, shard: Shard) -> tuple[str, str]:
    """What a shard's file and its note are called in a storage; the range of rows is part of it, since a later run may
    cut the same rows otherwise."""
    name = f"features/{store.key}/{shard.name}-{shard.start}-{shard.stop}"
    return f"{name}.safetensors", f"{name}.json"


def for_workers(config: SelectConfig) -> SelectConfig:
    """The settings as workers need them that see no folder of this machine: without its files, but for the model's,
    which every machine has under the same name."""
    if not config.storage:
        return config
    model = Path(config.model)
    return replace(config, pool=(), target=(), test=(), existing=(), must_include="", must_exclude="", output_dir="",
                   from_run="", model=str(model.absolute()) if model.is_dir() else config.model)


def _publish_files(jobs: Sequence[Any], storage: Storage) -> None:
    """Write what jobs read into the storage, unless it is there."""
    wanted: dict[str, KeptFile] = {}

    def note(file: KeptFile) -> KeptFile:
        wanted[_name_of(file)] = file
        return file

    for of in {id(job.of): job.of for job in jobs}.values():
        with_files(of, note)
    there = storage.sizes("files") if wanted else {}
    for name, file in wanted.items():
        if there.get(name) != file.payload.bytes:
            storage.publish(file.path, name)


def _sent(file: KeptFile) -> KeptFile:
    return replace(file, path=Path(_name_of(file)).relative_to("files"))


def _name_of(file: KeptFile) -> str:
    return f"files/{file.artefact}{file.path.suffix}"
