"""A disk that is full or cannot be written to: said as a mistake, and the run continues once there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import process, siftune
from tests.cli.conftest import Files
from tests.cli.runs import check_run_folder, ids_of, temporary_files

resource = pytest.importorskip("resource", reason="needs a Unix system")


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False,
                          capture_output=True) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip("mounting a small file system needs more rights than these")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "size=48k")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "ro")


def test_a_full_disk_is_named_and_the_run_continues_when_there_is_room(files: Files, finished: Path,
                                                                       small_disk: Path) -> None:
    run = small_disk / "run"
    siftune(*files.select, "--output-dir", run).refused("No space left on device", str(run), "free some space")
    assert not temporary_files(small_disk)
    assert not (run / "manifest.json").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    siftune(*files.select, "--output-dir", run).ok()
    check_run_folder(run, pool_rows=40, selected=8)
    assert ids_of(run) == ids_of(finished)


def test_a_folder_on_a_read_only_disk_is_refused_before_any_work(files: Files, read_only: Path) -> None:
    siftune(*files.select, "--output-dir", read_only / "run").refused("Read-only file system", "--output-dir")
    siftune(*files.select, "--output-dir", read_only).refused(str(read_only), "--output-dir")


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_named(files: Files, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process(*files.select, "--output-dir", run,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))).refused(
        "File too large", str(run), "ulimit -f")
    assert not temporary_files(run)
    siftune(*files.select, "--output-dir", run).ok()
    check_run_folder(run, pool_rows=40, selected=8)
