"""The warmup run leaves a checkpoint an epoch, with Adam's moments under the names of their parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from siftune._common import files
from siftune._common.errors import ConfigError, DataError, StoreCorrupt
from siftune.features.gradients import warmup
from siftune.features.gradients.warmup import Checkpoint, WarmupSettings, run_warmup, score_weights, warmup_rows
from siftune.models.lora import LoraSettings, adapter_parameters, adapter_state, attach_lora
from siftune.training.settings import TrainSettings
from tests import tiny
from tests.training.rows import random_rows
from tests.training.test_sft import same

ROWS = random_rows(20)
IDS = [f"row-{i:02d}" for i in range(20)]
SETTINGS = WarmupSettings(share=0.3, min_rows=2, epochs=3,
                          train=TrainSettings(batch_size=4, learning_rate=1e-2, epochs=9, betas=(0.8, 0.95)))


def fresh(seed: int = 1) -> Any:
    return attach_lora(tiny.model("llama"), LoraSettings(rank=2, dropout=0.2), seed)


def run(model: Any, folder: Path, settings: WarmupSettings = SETTINGS, seed: int = 0,
        stop_after: int | None = None) -> list[Checkpoint]:
    return run_warmup(model, ROWS, IDS, settings, folder, seed, pad_id=0, device="cpu", stop_after=stop_after)


def told(folder: Path) -> dict[str, Any]:
    """What the note of a finished training tells."""
    return files.read_json(folder / "training/training.json")["content"]["about"]


def test_checkpoints_hold_the_live_optimizers_moments_by_parameter_name(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live: list[dict[str, Any]] = []
    write = warmup._write

    def spy(folder: Path, epoch: int, key: str, model: Any, optimizer: Any, rate: float) -> None:
        live.append({name: {k: v.clone() for k, v in optimizer.state[p].items()} | {"w": p.detach().clone()}
                     for name, p in adapter_parameters(model).items()})
        write(folder, epoch, key, model, optimizer, rate)

    monkeypatch.setattr(warmup, "_write", spy)
    model = fresh()
    checkpoints = run(model, tmp_path)
    assert [c.epoch for c in checkpoints] == [1, 2, 3]
    assert [c.step for c in checkpoints] == [2, 4, 6]  # 6 rows, 4 a batch
    for checkpoint, expected in zip(checkpoints, live, strict=True):
        first, second = checkpoint.load_moments()
        weights = checkpoint.load_weights()
        assert set(first) == set(second) == set(weights) == set(expected)
        for name, state in expected.items():
            assert torch.equal(first[name], state["exp_avg"])
            assert torch.equal(second[name], state["exp_avg_sq"])
            assert torch.equal(weights[name], state["w"])
            assert checkpoint.step == int(state["step"])
        assert (checkpoint.betas, checkpoint.eps) == ((0.8, 0.95), 1e-8)
    assert any(float(v.abs().max()) > 0 for v in checkpoints[0].load_moments()[1].values())
    assert same(adapter_state(model), {n: checkpoints[-1].load_weights()[n] for n in adapter_state(model)})


def test_score_weights_are_the_epochs_mean_learning_rates_normalised(tmp_path: Path) -> None:
    checkpoints = run(fresh(), tmp_path)
    rates = told(tmp_path)["learning_rates"]
    means = np.array([np.mean(rates[0:2]), np.mean(rates[2:4]), np.mean(rates[4:6])])
    np.testing.assert_allclose([c.mean_learning_rate for c in checkpoints], means, rtol=1e-12)
    np.testing.assert_allclose(score_weights(checkpoints), means / means.sum(), rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_there_is_one_checkpoint_an_epoch_whatever_the_batch_size(batch_size: int, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=2, train=replace(SETTINGS.train, batch_size=batch_size))
    assert len(run(fresh(), tmp_path, settings)) == 2


def test_an_interrupted_warmup_continues_and_a_finished_one_returns_at_once(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = run(fresh(), tmp_path / "calm")
    write = warmup._write

    def interrupted(folder: Path, epoch: int, *rest: Any) -> None:
        if epoch == 2:
            raise KeyboardInterrupt
        write(folder, epoch, *rest)

    model = fresh()
    with monkeypatch.context() as patch:
        patch.setattr(warmup, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(model, tmp_path / "cut")
    first = tmp_path / "cut/epoch-1/adapter.safetensors"
    written = first.stat().st_mtime_ns
    again = run(model, tmp_path / "cut")
    assert first.stat().st_mtime_ns == written
    assert [c.checksum for c in again] == [c.checksum for c in calm]

    monkeypatch.setattr(warmup, "train_lora", lambda *a, **k: pytest.fail("trained a finished warmup"))
    other = fresh()
    assert run(other, tmp_path / "cut") == again
    assert same(adapter_state(other), adapter_state(model))


def test_a_run_left_off_after_an_epoch_goes_on_as_if_it_had_not_been(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(fresh(), tmp_path / "whole")
    model = fresh()
    first = run(model, tmp_path / "parts", stop_after=1)
    assert [(c.step, c.checksum) for c in first] == [(2, whole[0].checksum)]
    assert first[0].mean_learning_rate == whole[0].mean_learning_rate, "the schedule is that of all three epochs"
    assert same(adapter_state(model), {n: first[0].load_weights()[n] for n in adapter_state(model)})
    rest = run(fresh(), tmp_path / "parts")
    assert [c.checksum for c in rest] == [c.checksum for c in whole]
    rates = [told(tmp_path / name)["learning_rates"]
             for name in ("whole", "parts")]
    assert rates[0] == rates[1]
    assert len(rates[0]) == 6
    monkeypatch.setattr(warmup, "train_lora", lambda *a, **k: pytest.fail("trained what is there"))
    assert run(fresh(), tmp_path / "parts", stop_after=1) == first
    assert run(fresh(), tmp_path / "parts", stop_after=7) == rest


def test_a_run_left_off_brings_a_lost_checkpoint_back(tmp_path: Path) -> None:
    before = run(fresh(), tmp_path, stop_after=1)
    (tmp_path / "epoch-1/checkpoint.json").unlink()
    assert run(fresh(), tmp_path, stop_after=1) == before


def test_a_lost_or_damaged_checkpoint_is_made_again_and_never_read(tmp_path: Path,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    before = run(fresh(), tmp_path)
    (tmp_path / "epoch-2/checkpoint.json").unlink()
    assert run(fresh(), tmp_path) == before
    whole = tmp_path / "epoch-3/adapter.safetensors"
    written = whole.stat().st_mtime_ns
    damaged = tmp_path / "epoch-1/adapter.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"junk")
    with pytest.raises(StoreCorrupt, match="epoch 1 is damaged"):
        before[0].load_moments()
    assert run(fresh(), tmp_path) == before
    assert "epoch-1 was damaged" in capsys.readouterr().err
    assert whole.stat().st_mtime_ns == written, "the others were not written again"
    before[0].load_moments()


def test_another_seed_or_model_does_not_reuse_the_checkpoints(tmp_path: Path) -> None:
    runs = ((1, 0), (1, 1), (2, 1))
    sums = [[c.checksum for c in run(fresh(adapter), tmp_path, seed=seed)] for adapter, seed in runs]
    assert len({name for names in sums for name in names}) == 9


def test_the_chosen_rows_do_not_depend_on_the_order_of_the_pool(tmp_path: Path) -> None:
    chosen = warmup_rows(IDS, SETTINGS, seed=7)
    assert len(set(chosen)) == 6
    backwards = warmup_rows(IDS[::-1], SETTINGS, seed=7)
    assert [IDS[i] for i in chosen] == [IDS[::-1][i] for i in backwards]
    assert warmup_rows(IDS, SETTINGS, seed=8) != chosen
    run(fresh(), tmp_path, seed=7)
    assert files.read_json(tmp_path / "rows.json")["rows"] == [IDS[i] for i in chosen]


def test_the_number_of_rows_is_the_share_but_not_less_than_the_minimum() -> None:
    assert len(warmup_rows(IDS, WarmupSettings(share=0.11, min_rows=1), 0)) == 3
    assert len(warmup_rows(IDS, WarmupSettings(share=0.11, min_rows=10), 0)) == 10
    assert len(warmup_rows(IDS, WarmupSettings(share=0.11, min_rows=100), 0)) == 20
    with pytest.raises(ConfigError, match="--set warmup_share"):
        WarmupSettings(share=0)
    with pytest.raises(DataError, match="no usable row"):
        warmup_rows([], SETTINGS, 0)
