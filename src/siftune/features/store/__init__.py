"""Features on disk: shards of fixed row ranges, resumable, verified whenever they are read; no pickle."""

from siftune.features.store.row_keys import RowKeys
from siftune.features.store.shards import FeatureStore, Shard

__all__ = ["FeatureStore", "RowKeys", "Shard"]
