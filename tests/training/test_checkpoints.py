"""A checkpoint that is not as it was written is not resumed from: the run is trained anew, with the same result."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from siftune._common.files import read_json
from siftune.training.checkpoints import newest_complete
from siftune.training.settings import TrainSettings
from siftune.training.sft import train_lora
from tests.faults.mutations import mutations_of
from tests.training.rows import random_rows
from tests.training.test_warmup import fresh

ROWS = random_rows(6)
SETTINGS = TrainSettings(epochs=2, batch_size=3, learning_rate=1e-2)


def train(folder: Path, stop_after: int | None = None) -> Path:
    return train_lora(fresh(), ROWS, SETTINGS, folder, pad_id=0, device="cpu", stop_after=stop_after).adapter


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """(a run of which one epoch of two is done, the adapter that it ends with)."""
    folder = tmp_path_factory.mktemp("begun")
    train(folder / "half", stop_after=1)
    return folder / "half", train(folder / "whole").read_bytes()


NAMES = ("adapter.safetensors", "complete.json", "optimizer.pt", "scheduler.pt", "trainer_state.json")


@pytest.mark.parametrize("name", NAMES)
def test_no_damaged_checkpoint_counts_as_complete(name: str, begun: tuple[Path, bytes], tmp_path: Path) -> None:
    [checkpoint] = (begun[0] / "checkpoints").glob("checkpoint-*")
    assert sorted(path.name for path in checkpoint.iterdir()) == sorted(NAMES)
    key = read_json(checkpoint / "complete.json")["artefact"]["made_from"]
    for mutation in mutations_of(Path(name).suffix):
        root = tmp_path / mutation.__name__
        copied = Path(shutil.copytree(checkpoint, root / checkpoint.name))
        found = newest_complete(root, key)
        assert found is not None
        assert found[0] == copied
        others = [path for path in checkpoint.iterdir() if path.name != name]
        assert mutation(copied / name, others, random.Random(1))
        assert newest_complete(root, key) is None, mutation.__name__
        assert list(root.iterdir()) == [], "nothing is left that looks like a checkpoint"


@pytest.mark.parametrize("name", ["complete.json", "optimizer.pt", "trainer_state.json"])
def test_a_run_with_a_damaged_checkpoint_ends_as_if_nothing_had_been(name: str, begun: tuple[Path, bytes],
                                                                    tmp_path: Path,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    half, expected = begun
    run = Path(shutil.copytree(half, tmp_path / "run"))
    assert train(Path(shutil.copytree(half, tmp_path / "calm"))).read_bytes() == expected
    [path] = run.glob(f"checkpoints/*/{name}")
    path.write_bytes(path.read_bytes()[:40])
    capsys.readouterr()
    assert train(run).read_bytes() == expected
    assert "was damaged" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == ["adapter.safetensors", "training.json"]
