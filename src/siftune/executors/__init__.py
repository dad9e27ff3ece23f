"""Executors: run the shards of a pass, here or in several processes. Finished shards are what the store already has."""

from siftune.executors.local import LocalExecutor

__all__ = ["LocalExecutor"]
