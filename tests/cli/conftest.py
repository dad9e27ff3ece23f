from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tiny
from tests.cli.command import SMALL, TRAINING, siftune
from tests.cli.pools import jsonl, records


@dataclass(frozen=True)
class Files:
    """Files of a session, never written to after they were made."""

    model: Path
    pool: Path
    target: Path
    test: Path

    @property
    def select(self) -> tuple[object, ...]:
        """``select`` with everything but where to write."""
        return ("select", "--model", self.model, "--pool", self.pool, "--target", self.target, "--budget", 8, *SMALL)

    @property
    def compare(self) -> tuple[object, ...]:
        """``compare`` with everything but where to write."""
        return ("compare", *self.select[1:], "--test", self.test, *TRAINING)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    tiny.save(folder / "model")
    return Files(folder / "model", jsonl(folder / "pool.jsonl", records("messages", range(40))),
                 jsonl(folder / "target.jsonl", records("messages", range(100, 106), "target")),
                 jsonl(folder / "test.jsonl", records("messages", range(200, 206), "test")))


@pytest.fixture(scope="session")
def finished(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that change it take a :func:`copy`."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    siftune(*files.select, "--output-dir", folder).ok()
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Callable[[], Path]:
    """Copies the finished run to where it may be changed."""
    def made() -> Path:
        return Path(shutil.copytree(finished, tmp_path / "run"))

    return made
