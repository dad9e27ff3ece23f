"""What a user can name: patterns, the home folder, folders of splits, hub data sets with revision and split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from siftune._common.errors import DataError
from siftune.data.readers import read_sources
from siftune.data.sources import find_sources
from tests.data.samples import jsonl, record

ONE = record("alpaca", "Q", "A")


def names(given: Any, **options: Any) -> list[str]:
    return [source.path.name for source in find_sources([given], **options)]


def test_the_home_folder_and_patterns_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "in").mkdir()
    for name in ("a.jsonl", "b.jsonl", "notes.txt", "in/c.jsonl"):
        jsonl(tmp_path / name, ONE)
    assert names("~/a.jsonl") == ["a.jsonl"]
    assert names("~/*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names(f"{tmp_path}/[a-b].jsonl") == ["a.jsonl", "b.jsonl"]
    assert names(f"{tmp_path}/**/*") == ["a.jsonl", "b.jsonl", "c.jsonl"]
    for pattern in ("*.csv", "*.txt"):
        with pytest.raises(DataError, match="no data file matches"):
            find_sources([f"{tmp_path}/{pattern}"])
    jsonl(tmp_path / "x[1].jsonl", ONE)  # a file of that very name wins
    assert names(tmp_path / "x[1].jsonl") == ["x[1].jsonl"]


@pytest.mark.parametrize(("files", "read"), [
    (["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test-00000-of-00001.jsonl"],
     ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]),
    (["math.jsonl", "code.jsonl", "test.jsonl"], ["code.jsonl", "math.jsonl"]),
    (["a_train.jsonl", "a_validation.jsonl"], ["a_train.jsonl"]),
    (["test.jsonl"], ["test.jsonl"]),
    (["contest.jsonl", "latest.jsonl", "trainer.jsonl"], ["contest.jsonl", "latest.jsonl", "trainer.jsonl"]),
])
def test_of_a_folder_with_several_splits_only_train_is_read_and_that_is_said(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], files: list[str], read: list[str]) -> None:
    for name in files:
        jsonl(tmp_path / name, ONE)
    assert names(tmp_path) == names(f"{tmp_path}/*.jsonl") == read
    found = read_sources([tmp_path], role="pool")
    left = sorted(set(files) - set(read))
    assert all(name in found.sources[0].note and name in capsys.readouterr().err for name in left)


def test_another_split_is_named_and_must_be_for_a_test_set(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl", "dev.jsonl"):
        jsonl(tmp_path / name, ONE)
    assert names(f"{tmp_path}#test") == ["test.jsonl"]
    assert names(f"{tmp_path}#validation") == names(f"{tmp_path}#dev") == ["dev.jsonl"]
    assert names(f"{tmp_path}/*.jsonl#test") == ["test.jsonl"]
    with pytest.raises(DataError, match="test, train, validation"):
        read_sources([tmp_path], role="test")
    with pytest.raises(DataError, match="no split 'x'"):
        find_sources([f"{tmp_path}#x"])
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(DataError, match="none is called train"):
        find_sources([tmp_path])


def test_a_clone_of_a_hub_data_set_is_read_from_its_data_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("x")
    jsonl(tmp_path / "data" / "train.jsonl", ONE)
    assert names(tmp_path) == ["train.jsonl"]


@pytest.mark.parametrize(("given", "revision", "config", "split"), [
    ("org/name", None, None, None), ("org/name@v1.0", "v1.0", None, None), ("org/name:main", None, "main", None),
    ("org/name:main:train", None, "main", "train"), ("org/name:main#train", None, "main", "train"),
    ("org/name@refs/pr/1:main:train", "refs/pr/1", "main", "train"), ("org/name#train", None, None, "train"),
])
def test_hub_data_sets_are_named_with_revision_configuration_and_split(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, revision: str, config: str, split: str) -> None:
    monkeypatch.chdir(tmp_path)
    (source,) = find_sources([given])
    assert (source.kind, source.location) == ("hub", "org/name")
    assert (source.revision, source.config, source.split) == (revision, config, split)


def test_two_revisions_are_two_sources_and_two_splits_of_one_name_are_refused(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len({source.name for source in find_sources(["org/name@a", "org/name@b"])}) == 2
    with pytest.raises(DataError, match="given twice"):
        find_sources(["org/name:c:train", "org/name:c#train"])
    with pytest.raises(DataError, match="two splits"):
        find_sources(["org/name:c:train#test"])


@pytest.mark.parametrize("given", ["x" * 5000 + ".jsonl", "a\0b", "~nobody-of-that-name/x.jsonl", "/" + "x/" * 3000])
def test_impossible_names_are_refused_in_a_few_lines(given: str) -> None:
    with pytest.raises(DataError) as caught:
        find_sources([given])
    assert len(str(caught.value)) < 1500


def test_the_folder_of_a_run_is_no_data_and_its_selection_is_named(tmp_path: Path) -> None:
    for name in ("selected.jsonl", "manifest.json", "dropped.jsonl"):
        (tmp_path / name).write_text("{}\n")
    with pytest.raises(DataError, match="the folder of a run") as caught:
        find_sources([str(tmp_path)])
    assert str(tmp_path / "selected.jsonl") in str(caught.value.hint)
