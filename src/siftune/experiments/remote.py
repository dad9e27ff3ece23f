"""Trainings by workers that do not see the run folder: files go through a storage.

    trainings/<content>/        of every cell: its adapter, the note of that, its scores

A cell's folder is named by all that it is trained on (:mod:`siftune.experiments.cells`), and its files are verified
when they are read, so whatever was left there is either used or made again. Only what is finished is exchanged: a
training that loses its worker begins anew.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftune._common.errors import ConfigError
from siftune.config.settings import CompareConfig
from siftune.execution import SetAside, check_storage
from siftune.features.remote import for_workers

if TYPE_CHECKING:
    from siftune.execution.storage import Storage


class RemoteTrainer:
    """A worker in a temporary folder of its own, which fetches what there is of a cell and publishes what it makes.

    Args:
        number: of the worker.
        start: makes the :class:`siftune.experiments.trainings.StudyWorker`.
        settings: model -> its :class:`siftune.experiments.trainings.Setting`, whose cells have no folder.
        storage: where files are exchanged.
    """

    def __init__(self, number: int, *, start: Callable[..., Any], settings: Mapping[str, Any], storage: Storage):
        self.storage = storage
        self._temporary = tempfile.TemporaryDirectory(prefix="siftune-worker-")
        self.settings = _in_folder(settings, Path(self._temporary.name))
        self.worker = start(number, settings=self.settings)

    def __call__(self, job: Any) -> tuple[int, str, str]:
        """As the worker's own."""
        folder = self.settings[job.model].shelf.folder(job.cell)
        fetch_training(self.storage, folder)
        result = self.worker(job)
        publish_training(self.storage, folder)
        shutil.rmtree(folder, ignore_errors=True)
        return result

    def close(self) -> None:
        """Leave nothing behind."""
        self._temporary.cleanup()


def train_remotely(jobs: Sequence[Any], executor: Any, storage: Storage, start: Callable[..., Any],
                   settings: Mapping[str, Any]) -> Iterator[tuple[int, str, str]]:
    """Run trainings in workers that do not see the run folder; what they publish is fetched before it is told.

    Args:
        jobs: see :class:`siftune.experiments.trainings.Job`.
        executor: runs them elsewhere.
        storage: where files are exchanged.
        start: makes a worker, given its number and ``settings``; picklable.
        settings: model -> its setting.

    Raises:
        SetAside: as the executor's.
        SiftuneError: whatever the storage raised.
    """
    folders = {job.number: settings[job.model].shelf.folder(job.cell) for job in jobs}
    for folder in folders.values():  # a cell may lack some scores alone
        publish_training(storage, folder)
    sent = _in_folder({name: replace(s, shelf=replace(s.shelf, config=for_workers(s.shelf.config)))
                       for name, s in settings.items()}, Path())
    try:
        for result in executor.map(partial(RemoteTrainer, start=start, settings=sent, storage=storage), jobs):
            fetch_training(storage, folders[result[0]])
            yield result
    except SetAside as error:
        for job in error.jobs:  # it may have been lost between its last file and telling so
            fetch_training(storage, folders[job.number])
        raise


def check_storage_of_trainings(config: CompareConfig) -> None:
    """Refuse a storage that cannot be used, before any work is done.

    Raises:
        ConfigError: so it is; or a task of the lm-evaluation-harness is a file of this machine.
    """
    check_storage(config)
    files = [name for name in config.lm_eval if Path(name).is_file()]
    if config.storage and files:
        raise ConfigError(f"the task {files[0]} is a file, which workers on other machines do not have",
                          where="--lm-eval", why=f"With --storage {config.storage} they see no folder of this machine.",
                          hint="name a task of the harness, or leave --storage out and give an --output-dir that all "
                               "machines see")


def publish_training(storage: Storage, folder: Path) -> None:
    """Write the files of a cell's folder there, unless they are there; those that notes speak of first."""
    files = sorted((path for path in folder.glob("*") if path.is_file() and not path.name.startswith(".")),
                   key=lambda path: (path.suffix == ".json", path.name))
    there = storage.sizes(_name(folder)) if files else {}
    for path in files:
        if there.get(f"{_name(folder)}/{path.name}") != path.stat().st_size:
            storage.publish(path, f"{_name(folder)}/{path.name}")


def fetch_training(storage: Storage, folder: Path) -> None:
    """Fetch the files of a cell, over those that are here."""
    there = [name.removeprefix(f"{_name(folder)}/") for name in storage.sizes(_name(folder))]
    for name in sorted(there, key=lambda name: (name.endswith(".json"), name)):
        if "/" not in name and not name.startswith("."):
            storage.fetch(f"{_name(folder)}/{name}", folder / name)


def _name(folder: Path) -> str:
    return f"trainings/{folder.name}"


def _in_folder(settings: Mapping[str, Any], root: Path) -> dict[str, Any]:
    return {name: replace(s, shelf=replace(s.shelf, root=root)) for name, s in settings.items()}
