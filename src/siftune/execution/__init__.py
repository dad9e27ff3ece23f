"""Executors: run jobs here, in several processes or on a Ray cluster. What is finished is what its files say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftune._common.errors import ConfigError
from siftune.execution.local import LocalExecutor
from siftune.execution.tries import SetAside

if TYPE_CHECKING:
    from siftune.config.settings import SelectConfig
    from siftune.execution.ray import RayExecutor
    from siftune.execution.storage import Storage

__all__ = ["LocalExecutor", "SetAside", "check_storage", "executor_of", "storage_of"]


def executor_of(config: SelectConfig, folder: str | Path, jobs: int, *,
                apart: bool = False) -> LocalExecutor[Any, Any] | RayExecutor[Any, Any]:
    """What the settings ask for: processes on this machine, or actors of a Ray cluster.

    Args:
        config: says which, how many, and on what device.
        folder: that the jobs write into; all machines must see it, unless they exchange files through a storage.
        jobs: how many there are; more workers than that would have nothing to do.
        apart: where several workers are asked for, none of the jobs runs in this process, however few there are.

    Raises:
        ConfigError: settings that do not go together.
    """
    _refuse_useless_storage(config)
    workers = max(1, min(config.workers, jobs))
    if config.executor == "local":
        return LocalExecutor(workers, config.worker_tries, apart and config.workers > 1)
    from siftune.execution.ray import RayExecutor
    from siftune.models.loading import choose_device

    # That of this process: dtype and device decide what is stored, so every worker has the same.
    device = config.device if config.device.startswith("cuda:") else choose_device(config.device)
    return RayExecutor(workers, device, str(folder), config.worker_tries, config.ray_start_seconds,
                       shared=not config.storage)


def storage_of(config: SelectConfig) -> Storage:
    """Where the workers of a run exchange files with it; ``config`` names one.

    Raises:
        ConfigError: there is no such kind of storage, or its driver is missing.
    """
    from siftune.execution.storage import Storage

    return Storage.at(config.storage)


def check_storage(config: SelectConfig) -> None:
    """Refuse a storage that is of no use, or that cannot be written to and read, before any work is done.

    Raises:
        ConfigError: so it is.
    """
    if config.storage:
        _refuse_useless_storage(config)
        storage_of(config).check()


def _refuse_useless_storage(config: SelectConfig) -> None:
    if config.storage and config.executor != "ray":
        raise ConfigError("a storage is for workers on other machines", where=f"--storage {config.storage}",
                          why="Those of --executor local write into the run folder themselves.",
                          hint='type --executor ray as well, or --storage "" for none')
    if config.storage.startswith("memory:"):
        raise ConfigError("the memory of a process is no storage for several", where=f"--storage {config.storage}",
                          hint="name a folder of a bucket (s3://bucket/siftune, gs://bucket/siftune), or "
                               "file:///folder")
