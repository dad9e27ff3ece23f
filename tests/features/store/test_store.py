"""A store keeps whole shards through interruptions, and refuses what was made from something else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune._common.artefacts import first_difference
from siftune._common.errors import SiftuneError, StoreCorrupt, StoreMismatch
from siftune.features.store import FeatureStore

PRINT = {"model": {"name": "tiny", "weights": "abc"}, "projection": {"dim": 4, "seed": 1}, "max_length": 64}


def filled(folder, rows=10, shard_rows=4, **changes):
    store = FeatureStore.open(folder, {**PRINT, **changes}, rows=rows, shard_rows=shard_rows)
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    for shard in store.missing():
        store.write(shard, {"x": x[shard.start : shard.stop], "norm": x[shard.start : shard.stop, 0]})
    store.finish()
    return store, x


def test_what_was_written_is_read_back_in_row_order(tmp_path):
    store, x = filled(tmp_path / "s")
    assert [start for start, _ in store.blocks("x")] == [0, 4, 8]
    np.testing.assert_array_equal(store.array("x"), x)
    assert store.complete
    assert not store.verify()
    again = FeatureStore.load(tmp_path / "s")
    np.testing.assert_array_equal(again.array("norm"), x[:, 0])


def test_a_second_run_computes_only_what_is_missing(tmp_path):
    store = FeatureStore.open(tmp_path, PRINT, rows=10, shard_rows=4)
    first, second, third = store.shards()
    store.write(second, {"x": np.zeros((4, 3), np.float32)})
    (tmp_path / "shard-00000.safetensors").write_bytes(b"half a shard")  # its note was never written
    (tmp_path / ".shard-00002.safetensors.abc.tmp").write_bytes(b"killed while writing")
    assert FeatureStore.open(tmp_path, PRINT, rows=10, shard_rows=100).missing() == [first, third]


@pytest.mark.parametrize(("change", "field"), [
    ({"model": {"name": "other", "weights": "abc"}}, "model.name"),
    ({"model": {"name": "tiny", "weights": "xyz"}}, "model.weights"),
    ({"projection": {"dim": 8, "seed": 1}}, "projection.dim"),
    ({"max_length": 65}, "max_length"),
    ({"new": 1}, "new"),
])
def test_another_fingerprint_is_refused_and_the_field_is_named(tmp_path, change, field):
    filled(tmp_path / "s")
    with pytest.raises(StoreMismatch) as caught:
        FeatureStore.open(tmp_path / "s", {**PRINT, **change}, rows=10)
    assert caught.value.field == field
    assert field in str(caught.value)
    assert "--recompute" in str(caught.value)
    assert FeatureStore.load(tmp_path / "s").complete, "a refusal destroys nothing"
    fresh = FeatureStore.open(tmp_path / "s", {**PRINT, **change}, rows=10, recompute=True)
    assert len(fresh.missing()) == len(fresh.shards())


def test_another_number_of_rows_is_refused(tmp_path):
    filled(tmp_path / "s")
    with pytest.raises(StoreMismatch, match="another rows"):
        FeatureStore.open(tmp_path / "s", PRINT, rows=11)


def test_flipped_bytes_are_found_and_can_be_made_again(tmp_path):
    store, x = filled(tmp_path / "s")
    path = tmp_path / "s" / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(bytes(content))
    broken = store.verify()
    assert [shard.index for shard in broken] == [1]
    store.discard(broken[0])
    assert not store.complete
    assert [shard.index for shard in store.missing()] == [1]
    filled(tmp_path / "s")
    np.testing.assert_array_equal(store.array("x"), x)


def test_a_truncated_shard_counts_as_missing(tmp_path):
    store, _ = filled(tmp_path / "s")
    path = tmp_path / "s" / "shard-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    assert [shard.index for shard in store.missing()] == [2]


def test_a_spoilt_note_counts_as_missing_and_a_spoilt_head_is_mended_by_what_the_shards_say(tmp_path, capsys):
    store, x = filled(tmp_path / "s")
    (tmp_path / "s" / "shard-00001.json").write_text('{"start": 4, "st')
    assert [shard.index for shard in store.missing()] == [1]
    assert [shard.index for shard in store.verify()] == [1]
    head = tmp_path / "s" / "fingerprint.json"
    before = head.read_bytes()
    for spoil in (lambda: head.write_text("{"), head.unlink):
        spoil()
        with pytest.raises(StoreCorrupt, match="no readable feature store"):
            FeatureStore.load(tmp_path / "s")
        mended = FeatureStore.open(tmp_path / "s", PRINT, rows=10, shard_rows=100)
        assert [shard.index for shard in mended.missing()] == [1], "no other shard is lost, and they keep their ranges"
        assert head.read_bytes() == before
        np.testing.assert_array_equal(mended.read(mended.shards()[2], "x"), x[8:])
    assert "written anew" in capsys.readouterr().err


def test_where_the_head_is_spoilt_and_the_shards_are_of_something_else_nothing_is_replaced_unasked(tmp_path):
    filled(tmp_path / "s")
    (tmp_path / "s" / "fingerprint.json").write_text("{")
    with pytest.raises(StoreMismatch, match="head is damaged"):
        FeatureStore.open(tmp_path / "s", {**PRINT, "max_length": 65}, rows=10)
    assert FeatureStore.open(tmp_path / "s", PRINT, rows=10).complete, "a refusal destroys nothing"
    (tmp_path / "s" / "fingerprint.json").write_text("{")
    fresh = FeatureStore.open(tmp_path / "s", {**PRINT, "max_length": 65}, rows=10, shard_rows=4, recompute=True)
    assert len(fresh.missing()) == 3


def test_reading_what_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(StoreCorrupt, match="no readable feature store"):
        FeatureStore.load(tmp_path)
    store = FeatureStore.open(tmp_path / "s", PRINT, rows=3)
    with pytest.raises(StoreCorrupt, match="cannot read shard-00000"):
        store.array("x")
    with pytest.raises(ValueError, match="1 shards are still missing"):
        store.finish()


def test_a_refused_write_leaves_the_shard_missing_and_nothing_behind(tmp_path):
    import resource

    store = FeatureStore.open(tmp_path / "s", PRINT, rows=4000, shard_rows=4000)
    before = sorted(p.name for p in (tmp_path / "s").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(SiftuneError, match="cannot write shard-00000") as caught:
            store.write(store.shards()[0], {"x": np.zeros((4000, 3), np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "hint:" in str(caught.value)
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == before
    assert len(store.missing()) == 1


def test_an_array_of_the_wrong_length_is_refused(tmp_path):
    store = FeatureStore.open(tmp_path, PRINT, rows=5)
    with pytest.raises(ValueError, match="has 4 rows"):
        store.write(store.shards()[0], {"x": np.zeros(4, np.float32)})


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)))
def test_a_fingerprint_equals_itself_after_json(fields):
    import json

    assert first_difference(json.loads(json.dumps(fields)), fields) is None
