"""Sealed JSON, and files with their notes: read back as they were written, or not at all."""

from __future__ import annotations

import json
import os
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune._common.artefacts import (
    Absent,
    Damaged,
    MadeFromOther,
    Unusable,
    keep_file,
    kept_file,
    payload_of,
    read_sealed,
    read_usable,
    write_sealed,
)
from siftune._common.artefacts import payload as payloads
from siftune._common.artefacts.kept import fault, note_of
from siftune._common.artefacts.sealed import open_self_sealed, read_self_sealed, self_sealed
from tests.artefacts.test_key import JSON
from tests.faults.mutations import mutations_of


@given(JSON)
def test_sealed_content_comes_back_whatever_its_names_are(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("sealed") / "x.json"
    for value in (content, {"artefact": content, "seal": content, "content": content, "kind": 1}):
        write_sealed(path, "scores", "key", value)
        assert read_sealed(path, "scores", "key") == json.loads(json.dumps(value))


def test_losses_that_are_no_numbers_come_back(tmp_path):
    write_sealed(tmp_path / "x.json", "scores", "key", {"loss": [float("inf"), float("nan")]})
    found = read_sealed(tmp_path / "x.json", "scores")["loss"]
    assert found[0] == float("inf")
    assert found[1] != found[1]


def test_another_kind_or_key_is_not_read(tmp_path):
    write_sealed(tmp_path / "x.json", "scores", "key", 1)
    for kind, key in (("costs", "key"), ("scores", "other")):
        with pytest.raises(MadeFromOther):
            read_sealed(tmp_path / "x.json", kind, key)
    with pytest.raises(Absent):
        read_sealed(tmp_path / "y.json", "scores")
    (tmp_path / "x.json").write_text('{"loss": [1.0]}')  # as an earlier version wrote it
    with pytest.raises(MadeFromOther, match="earlier format"):
        read_sealed(tmp_path / "x.json", "scores")


@pytest.mark.parametrize("mutation", mutations_of(".json"), ids=lambda mutation: mutation.__name__)
def test_no_mutation_of_sealed_json_is_read(tmp_path, mutation, capsys):
    for seed in range(10):
        path, other, own = (tmp_path / f"{seed}{name}.json" for name in ("x", "other", "self"))
        content = {"ids": ["a", "b"], "loss": [1.5, 2.25], "steps": 3}
        write_sealed(path, "scores", "key", content)
        write_sealed(other, "scores", "another", {**content, "steps": 4})
        own.write_text(json.dumps(self_sealed({"key": "k", **content})))
        assert open_self_sealed(own) == {"key": "k", **content}
        for damaged in (path, own):
            assert mutation(damaged, [other], random.Random(seed))
            assert fault(damaged) is not None or mutation.__name__ == "copy_another_over_it"
        assert read_usable(path, "scores", "key") is None
        assert read_self_sealed(own) is None
        write_sealed(path, "scores", "key", content)  # whatever stands in its place
        assert read_usable(path, "scores", "key") == content


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_no_mutation_of_a_kept_file_is_used(tmp_path, suffix):
    import numpy as np
    from safetensors.numpy import save_file

    def write(path, shift):
        x = np.arange(12, dtype=np.float32).reshape(4, 3) + shift
        if suffix == ".npy":
            with path.open("wb") as out:
                np.save(out, x)
        else:
            save_file({"x": x}, path)

    other = tmp_path / f"other{suffix}"
    write(other, 1)
    for mutation in mutations_of(suffix):
        path = tmp_path / f"{mutation.__name__}{suffix}"
        made = keep_file(path, "directions", "key", {"rank": 2}, write=lambda at: write(at, 0))
        assert kept_file(path, "directions", "key") == made
        assert made.about == {"rank": 2}
        assert fault(note_of(path)) is None
        assert mutation(path, [other], random.Random(1))
        with pytest.raises(Unusable):
            kept_file(path, "directions", "key")
        assert fault(note_of(path)) is not None
        again = keep_file(path, "directions", "key", {"rank": 2}, write=lambda at: write(at, 0))
        assert again.artefact == made.artefact
        assert path.is_file()
        assert not path.is_symlink()


def test_a_file_without_its_note_is_unfinished_and_a_note_without_its_file_is_damage(tmp_path):
    path = tmp_path / "x.npy"
    keep_file(path, "directions", "key", write=lambda at: at.write_bytes(b"abc"))
    content = note_of(path).read_bytes()
    note_of(path).unlink()
    with pytest.raises(Absent):
        kept_file(path, "directions", "key")
    note_of(path).write_bytes(content)
    path.unlink()
    with pytest.raises(Damaged, match="gone"):
        kept_file(path, "directions", "key")


def test_a_checksum_is_remembered_only_while_the_file_is_the_same(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    os.utime(path, ns=(0, 0))  # the time of modification is not what tells: it can be set
    first = payload_of(path)
    time.sleep(0.06)
    assert payload_of(path) == first
    reads = []
    read = payloads._parts
    monkeypatch.setattr(payloads, "_parts", lambda path, size: reads.append(path) or read(path, size))
    assert payload_of(path) == first
    assert payload_of(path) == first
    assert not reads, "read once"
    path.write_bytes(b"two")
    os.utime(path, ns=(0, 0))
    assert payload_of(path) != first
    assert reads == [path]


def test_a_file_that_was_written_just_now_is_read_again(tmp_path):
    """File systems tell time in steps: two writes within one look alike."""
    path = tmp_path / "x"
    for content in (b"one", b"two", b"six"):
        path.write_bytes(content)
        assert payload_of(path) == payloads.payload_of_bytes(content)


@given(st.binary(max_size=3000))
def test_a_file_has_the_checksum_of_its_bytes(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("payload") / "x"
    path.write_bytes(content)
    assert payload_of(path) == payloads.payload_of_bytes(content)
