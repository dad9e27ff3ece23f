"""Features on disk: shards of fixed row ranges, resumable, checksummed, fingerprinted; no pickle."""

from siftune.features.store.fingerprint import first_difference
from siftune.features.store.shards import FeatureStore, Shard

__all__ = ["FeatureStore", "Shard", "first_difference"]
