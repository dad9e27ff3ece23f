"""Where an export may write."""

from __future__ import annotations

from pathlib import Path

import pytest

from siftune._common.errors import ConfigError
from siftune.export import export
from tests.export.runs import CHATS, lines, make_run


def pool(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text('{"prompt": "Q", "completion": "A"}\n')
    return folder


@pytest.mark.parametrize(("source", "file"), [
    ("a.jsonl", "a.jsonl"), ("*.jsonl", "b.jsonl"), ("", "c.csv"), ("#train", "train.jsonl"), ("", "data/d.jsonl"),
    ("**/*.jsonl", "data/d.jsonl"), ("?.jsonl", "a.jsonl"), ("[ab].jsonl", "b.jsonl"), ("", "test.jsonl"),
])
@pytest.mark.parametrize("role", ["pool", "target", "test", "existing"])
def test_no_file_that_the_run_read_is_overwritten(tmp_path: Path, role: str, source: str, file: str) -> None:
    """Named itself, by a folder or by a pattern; of a folder's splits none."""
    folder = pool(tmp_path / "pool", "a.jsonl", "b.jsonl", "c.csv", "train.jsonl", "test.jsonl", "data/d.jsonl")
    named = f"{folder}{source}" if source.startswith("#") or not source else f"{folder}/{source}"
    run = make_run(tmp_path / "run", CHATS, **{role: [named]})
    with pytest.raises(ConfigError, match="would overwrite") as refused:
        export(run, "trl", folder / file)
    assert "--output" in (refused.value.hint or "")
    assert (folder / file).read_text() == '{"prompt": "Q", "completion": "A"}\n'


@pytest.mark.parametrize(("source", "file"), [
    ("", "new.jsonl"), ("", "data/new.jsonl"), ("/*.jsonl", "new.jsonl"), ("/**/*.jsonl", "deep/er/new.jsonl"),
])
def test_no_new_file_becomes_a_part_of_the_pool(tmp_path: Path, source: str, file: str) -> None:
    folder = pool(tmp_path / "pool", "a.jsonl", "data/d.jsonl")
    run = make_run(tmp_path / "run", CHATS, pool=[f"{folder}{source}"])
    with pytest.raises(ConfigError, match="would become a part of"):
        export(run, "trl", folder / file)
    assert not (folder / file).exists()


@pytest.mark.parametrize(("source", "file"), [
    ("/a.jsonl", "new.jsonl"), ("/*.jsonl", "deep/new.jsonl"), ("/*.csv", "new.jsonl"), ("", "deep/new.jsonl"),
    ("/**/*.jsonl", "../other/new.jsonl"), ("/[!a].jsonl", "a.jsonl.jsonl"),
])
def test_other_places_are_free(tmp_path: Path, source: str, file: str) -> None:
    folder = pool(tmp_path / "pool", "a.jsonl", "b.csv")
    run = make_run(tmp_path / "run", CHATS, pool=[f"{folder}{source}"])
    for _ in range(2):  # an earlier export is written anew
        assert len(lines(export(run, "trl", folder / file).files[0])) == len(CHATS)


def test_an_export_into_its_own_run_is_free_though_a_pattern_covers_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", CHATS, pool=[f"{tmp_path}/**/*.jsonl"])
    assert export(run, "trl").files[0] == run / "export-trl" / "selected.jsonl"


@pytest.mark.parametrize("name", ["selected.jsonl", "selection.parquet", "config.yaml"])
def test_no_file_of_any_run_is_overwritten(tmp_path: Path, name: str) -> None:
    run, other = make_run(tmp_path / "run", CHATS), make_run(tmp_path / "other", CHATS[:2])
    before = (other / name).read_bytes()
    with pytest.raises(ConfigError, match="would overwrite"):
        export(run, "jsonl", other / name)
    assert (other / name).read_bytes() == before


def test_files_that_only_a_method_reads_are_kept_too(tmp_path: Path) -> None:
    ids, scores = tmp_path / "ids.txt", tmp_path / "scores.parquet"
    for file in (ids, scores):
        file.write_text("mine")
    run = make_run(tmp_path / "run", CHATS, must_include=str(ids), method=f"file:{scores}")
    for file in (ids, scores):
        with pytest.raises(ConfigError, match="would overwrite"):
            export(run, "jsonl", file)
        assert file.read_text() == "mine"


def test_what_goes_beside_the_data_is_protected_as_well(tmp_path: Path) -> None:
    mine = tmp_path / "selected.trl.yaml"
    mine.write_text("mine")
    run = make_run(tmp_path / "run", CHATS, must_exclude=str(mine))
    with pytest.raises(ConfigError, match="would overwrite"):
        export(run, "trl", tmp_path / "selected.jsonl")
    assert mine.read_text() == "mine"
    assert not (tmp_path / "selected.jsonl").exists()
