"""Whatever stands in the files of a run folder, the same command makes them again."""

from __future__ import annotations

from pathlib import Path

import pytest

from siftune._common.files import read_json
from tests.cli.command import SMALL, siftune
from tests.cli.conftest import Files
from tests.cli.runs import TABLES, ids_of

CONTENTS = (b"", b"null", b"[]", b'{"a": [1]}', b"[" * 5_000, b"\xff\xfe\x00", b'"\\ud800"', b"PAR1....PAR1",
            b"a: *b\n")


@pytest.fixture(scope="module")
def run(files: Files, tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[object, ...], Path]:
    folder = tmp_path_factory.mktemp("heal") / "run"
    command = ("select", "--model", files.model, "--pool", files.pool, "--target", files.target, "--budget", 4,
               *SMALL, "--method", "bm25", "--output-dir", folder)
    siftune(*command).ok()
    return command, folder


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_a_rerun_heals_every_file_whatever_stands_in_it(content: bytes, run: tuple[tuple[object, ...], Path]) -> None:
    command, folder = run
    before = ids_of(folder)
    tables = {name: (folder / name).read_bytes() for name in ("selected.jsonl", "targets.jsonl")}
    for name in (*TABLES, "comparison.json"):
        (folder / name).write_bytes(content)
    for reader in (("report", folder), ("export", folder), ("select", "--from", folder, "--output-dir",
                                                            folder.with_name("other"))):
        assert "Traceback" not in siftune(*reader).err
    told = siftune(*command).ok()
    assert "Traceback" not in told.err
    assert ids_of(folder) == before
    assert {name: (folder / name).read_bytes() for name in tables} == tables
    assert read_json(folder / "manifest.json")["budget"]["rows"] == 4
    assert not (folder / "comparison.json").exists()


def test_a_folder_in_the_place_of_a_file_is_told(run: tuple[tuple[object, ...], Path]) -> None:
    command, folder = run
    for name in ("manifest.json", "scores.parquet", "config.yaml"):
        (folder / name).unlink(missing_ok=True)
        (folder / name / "inside").mkdir(parents=True)
        result = siftune(*command)
        assert "Traceback" not in result.err
        if result.code:
            result.refused(name)
            (folder / name / "inside").rmdir()
            (folder / name).rmdir()
    siftune(*command).ok()
