"""Features on disk: shards of fixed row ranges, resumable, checksummed, fingerprinted; no pickle."""

from siftune.store.fingerprint import first_difference
from siftune.store.shards import FeatureStore, Shard

__all__ = ["FeatureStore", "Shard", "first_difference"]
