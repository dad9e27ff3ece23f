"""Training is AdamW on the mean over rows of each row's mean token loss, and repeats itself to the bit."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from siftune._common import files, seeds
from siftune._common.errors import ConfigError, DataError, ModelError, SiftuneError
from siftune.data.rows import Rendered
from siftune.models.lora import LoraSettings, adapter_parameters, adapter_state, attach_lora
from siftune.training.settings import TRACKERS, TrainSettings
from siftune.training.sft import TrainResult, train_lora, training_key
from tests import tiny
from tests.training.rows import random_rows

QUIET = LoraSettings(rank=4, dropout=0.0)


def fresh(architecture: str = "llama", lora: LoraSettings = QUIET, **changes: Any) -> Any:
    return attach_lora(tiny.model(architecture, **changes), lora, seed=1)


def train(model: Any, rows: list[Rendered], settings: TrainSettings, folder: Path, **options: Any) -> TrainResult:
    return train_lora(model, rows, settings, folder, pad_id=0, device="cpu", **options)


def loss_of_row(model: Any, row: Rendered) -> torch.Tensor:
    """One row, unpadded, all logits: the plainest way to write the loss down."""
    logits = model(input_ids=torch.tensor(row.ids[None].astype(np.int64))).logits[0].float()
    terms = [-torch.log_softmax(logits[t - 1], dim=0)[int(row.ids[t])] for t in range(1, len(row)) if row.mask[t]]
    return sum(terms[1:], terms[0]) / len(terms)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("architecture", "changes"), [
    ("llama", {}), ("gemma2", {}), ("gpt2", dict(resid_pdrop=0.0, attn_pdrop=0.0, embd_pdrop=0.0)),
])
def test_the_run_equals_a_hand_written_adamw_loop(architecture: str, changes: dict[str, Any], tmp_path: Path) -> None:
    rows = random_rows(7)
    settings = TrainSettings(learning_rate=3e-3, epochs=2, batch_size=3, weight_decay=0.01, warmup_share=0.2,
                             betas=(0.8, 0.99), eps=1e-3, max_grad_norm=0.5, seed=5)
    model = fresh(architecture, **changes)
    result = train(model, rows, settings, tmp_path)

    plain = fresh(architecture, **changes)
    parameters = list(adapter_parameters(plain).values())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    total, warm, losses, rates = 6, 2, [], []
    for epoch in range(2):
        order = seeds.permutation(7, 5, "epoch", epoch)
        for batch in (order[:3], order[3:6], order[6:]):
            loss = torch.stack([loss_of_row(plain, rows[i]) for i in batch]).mean()
            gradients = torch.autograd.grad(loss, parameters)
            step = len(losses)
            rate = 3e-3 * (step / warm if step < warm else (total - step) / (total - warm))
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
            with torch.no_grad():
                for p, g, (m, v) in zip(parameters, gradients, moments, strict=True):
                    g = g * min(1.0, 0.5 / (norm + 1e-6))
                    m.mul_(0.8).add_(g, alpha=1 - 0.8)
                    v.mul_(0.99).add_(g * g, alpha=1 - 0.99)
                    m_hat, v_hat = m / (1 - 0.8 ** (step + 1)), v / (1 - 0.99 ** (step + 1))
                    p.sub_(rate * 0.01 * p).sub_(rate * m_hat / (v_hat.sqrt() + 1e-3))
            losses.append(float(loss.detach()))
            rates.append(rate)
    assert result.learning_rates == pytest.approx(rates, abs=1e-12)
    assert result.loss_history == pytest.approx(losses, abs=1e-5)
    for name, value in adapter_parameters(plain).items():
        torch.testing.assert_close(adapter_parameters(model)[name], value, atol=1e-6, rtol=0)
    assert losses[-1] != losses[0]


def test_micro_batches_change_memory_and_not_the_result(tmp_path: Path) -> None:
    rows, models = random_rows(9), []
    for size in (10_000, 1, 30):
        models.append(fresh())
        settings = TrainSettings(epochs=1, batch_size=4, micro_batch_tokens=size, learning_rate=0.01, eps=1e-3)
        train(models[-1], rows, settings, tmp_path / str(size))
    for other in models[1:]:
        for name, value in adapter_state(models[0]).items():
            torch.testing.assert_close(adapter_state(other)[name], value, atol=1e-6, rtol=0)


def test_dropout_is_on_in_training_and_the_base_stays_frozen(tmp_path: Path) -> None:
    model = fresh(lora=LoraSettings(dropout=0.5))
    base = {name: p.clone() for name, p in model.named_parameters() if ".lora_" not in name}
    result = train(model, random_rows(6), TrainSettings(epochs=1), tmp_path / "a")
    other = fresh(lora=LoraSettings(dropout=0.5))
    again = train(other, random_rows(6), TrainSettings(epochs=1), tmp_path / "b")
    quiet = fresh(lora=LoraSettings(dropout=0.0))
    train(quiet, random_rows(6), TrainSettings(epochs=1), tmp_path / "c")
    assert result.loss_history == again.loss_history
    assert same(adapter_state(model), adapter_state(other))
    assert not same(adapter_state(model), adapter_state(quiet))
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters() if n in base)
    assert not model.training


class Stop(Exception):  # noqa: N818
    pass


def stopping_after(epoch: int) -> Any:
    def stop(at: int, *_: Any) -> None:
        if at == epoch:
            raise Stop
    return stop


def test_an_interrupted_run_continues_to_the_very_bits_of_an_undisturbed_one(tmp_path: Path) -> None:
    rows, lora = random_rows(10), LoraSettings(rank=4, dropout=0.3)
    settings = TrainSettings(epochs=3, batch_size=4, learning_rate=1e-2, save_steps=2)
    calm, seen_calm = fresh(lora=lora), []
    whole = train(calm, rows, settings, tmp_path / "calm", on_epoch=lambda *a: seen_calm.append((a[0], a[3])))

    model, seen = fresh(lora=lora), []
    start = adapter_state(model)
    with pytest.raises(Stop):
        train(model, rows, settings, tmp_path / "cut", on_epoch=stopping_after(1))
    assert (tmp_path / "cut/checkpoints/checkpoint-2/complete.json").is_file()  # in the middle of the first epoch
    assert same(adapter_state(model), start)
    torch.manual_seed(99)  # a resumed run owes nothing to the state of the process
    with pytest.raises(Stop):
        train(model, rows, settings, tmp_path / "cut", on_epoch=stopping_after(3))
    result = train(model, rows, settings, tmp_path / "cut", on_epoch=lambda *a: seen.append((a[0], a[3])))
    assert same(adapter_state(model), adapter_state(calm))
    assert result.loss_history == whole.loss_history
    assert result.learning_rates == whole.learning_rates
    assert seen == seen_calm[2:]
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["adapter.safetensors", "training.json"]


def test_a_checkpoint_without_its_marker_is_not_trusted(tmp_path: Path) -> None:
    rows, settings = random_rows(6), TrainSettings(epochs=3, batch_size=4)
    calm = fresh()
    train(calm, rows, settings, tmp_path / "calm")
    with pytest.raises(Stop):
        train(fresh(), rows, settings, tmp_path / "cut", on_epoch=stopping_after(3))
    checkpoints = tmp_path / "cut/checkpoints"
    assert [p.name for p in checkpoints.iterdir()] == ["checkpoint-4"]
    torn = checkpoints / "checkpoint-5"
    torn.mkdir()
    (torn / "adapter.safetensors").write_bytes(b"half")
    (torn / "trainer_state.json").write_text("{")
    model = fresh()
    train(model, rows, settings, tmp_path / "cut")
    assert same(adapter_state(model), adapter_state(calm))


def test_a_finished_run_is_loaded_and_not_trained_again(tmp_path: Path) -> None:
    rows, settings = random_rows(5), TrainSettings(epochs=1)
    model, calls = fresh(), []
    first = train(model, rows, settings, tmp_path)
    other = fresh()
    assert train(other, rows, settings, tmp_path, on_epoch=lambda *a: calls.append(a)) == first
    assert calls == []
    assert same(adapter_state(other), adapter_state(model))


def test_another_run_in_the_same_folder_starts_anew(tmp_path: Path) -> None:
    rows, settings = random_rows(5), TrainSettings(epochs=2)
    train(fresh(), rows, settings, tmp_path / "a")
    with pytest.raises(Stop):
        train(fresh(), rows, settings, tmp_path / "b", on_epoch=stopping_after(2))
    calm = fresh()
    expected = train(calm, rows[::-1], settings, tmp_path / "calm")
    for name in "ab":
        model = fresh()
        result = train(model, rows[::-1], settings, tmp_path / name)
        assert result.loss_history == expected.loss_history
        assert same(adapter_state(model), adapter_state(calm))


def test_a_damaged_adapter_is_trained_again(tmp_path: Path) -> None:
    rows, settings = random_rows(4), TrainSettings(epochs=1)
    model = fresh()
    path = train(model, rows, settings, tmp_path).adapter
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    other = fresh()
    train(other, rows, settings, tmp_path)
    assert same(adapter_state(other), adapter_state(model))


def test_the_key_tells_rows_settings_adapters_and_bases_apart() -> None:
    model, rows, settings = fresh(), random_rows(4), TrainSettings()
    flipped = rows[3].mask.copy()
    flipped[1] ^= True
    keys = [
        training_key(model, rows, settings, "base"),
        training_key(model, rows, settings, "other base"),
        training_key(model, rows[::-1], settings, "base"),
        training_key(model, [*rows[:3], Rendered(rows[3].ids, flipped)], settings, "base"),
        training_key(model, rows, TrainSettings(seed=1), "base"),
        training_key(fresh(lora=LoraSettings(rank=4, dropout=0.1)), rows, settings, "base"),
        training_key(attach_lora(tiny.model("llama"), QUIET, seed=2), rows, settings, "base"),
    ]
    assert len(set(keys)) == len(keys)
    assert training_key(fresh(), rows, TrainSettings(save_steps=3), "base") == keys[0]


def test_training_leaves_the_callers_random_numbers_alone_and_stdout_empty(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def seed_all() -> None:
        random.seed(3), np.random.seed(3), torch.manual_seed(3)

    seed_all()
    expected = draw()
    seed_all()
    train(fresh(), random_rows(3), TrainSettings(epochs=1), tmp_path)
    assert draw() == expected
    assert capsys.readouterr().out == ""


def test_a_single_step_still_learns(tmp_path: Path) -> None:
    model = fresh()
    result = train(model, random_rows(3), TrainSettings(epochs=1, learning_rate=0.01), tmp_path)
    assert result.learning_rates == [0.01]
    assert files.read_json(tmp_path / "training.json")["content"]["about"]["steps"] == 1


def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        train(fresh(), [], TrainSettings(), tmp_path)
    silent = Rendered(np.arange(3, 7, dtype=np.int32), np.zeros(4, dtype=bool))
    with pytest.raises(DataError, match=r"row 1 .* no supervised token"):
        train(fresh(), [random_rows(1)[0], silent], TrainSettings(), tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'linear'"):
        TrainSettings(schedule="liner")
    with pytest.raises(ConfigError, match="--learning-rate"):
        TrainSettings(learning_rate=0)
    broken = fresh()
    with torch.no_grad():
        next(iter(adapter_parameters(broken).values())).fill_(float("nan"))
    with pytest.raises(ModelError, match="training diverged: the loss is nan at step 1"):
        train(broken, random_rows(3), TrainSettings(), tmp_path)


def test_a_full_disk_is_reported_and_the_run_continues_once_there_is_room(tmp_path: Path) -> None:
    import resource

    rows, settings = random_rows(5), TrainSettings(epochs=2)
    calm = fresh()
    size = train(calm, rows, settings, tmp_path / "calm").adapter.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (size // 2, size + 500):  # too little for the adapter; too little for the optimizer's state
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            with pytest.raises(SiftuneError, match=r"cannot write (.|\n)*hint: "):
                train(fresh(), rows, settings, tmp_path / "full")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    model = fresh()
    train(model, rows, settings, tmp_path / "full")
    assert same(adapter_state(model), adapter_state(calm))


@pytest.mark.parametrize("last", [1, 2, 4, 6, 100])
def test_the_mean_of_the_last_weights_is_that_after_each_step(last: int, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    from siftune.training.trainer import Bookkeeping

    rows, settings = random_rows(10), TrainSettings(epochs=2, batch_size=4, learning_rate=1e-2)
    plain, states = fresh(), []
    step = Bookkeeping.on_step_end

    def keep(self: Any, *arguments: Any, **named: Any) -> None:
        step(self, *arguments, **named)
        states.append(adapter_state(plain))

    with monkeypatch.context() as patch:
        patch.setattr(Bookkeeping, "on_step_end", keep)
        train(plain, rows, settings, tmp_path / "plain")
    assert len(states) == 6
    model = fresh()
    result = train(model, rows, replace(settings, average_last=last), tmp_path / "mean")
    found = adapter_state(model)
    for name in found:
        expected = torch.stack([state[name].double() for state in states[-last:]]).mean(dim=0)
        torch.testing.assert_close(found[name].double(), expected, atol=1e-7, rtol=0)
    written = safetensors.torch.load_file(result.adapter)
    assert set(written) == set(found)
    assert all(torch.equal(written[name], value) for name, value in found.items())
    again = fresh()
    train(again, rows, replace(settings, average_last=last), tmp_path / "mean")  # it has finished: it is read
    assert same(adapter_state(again), found)


def test_an_interrupted_mean_has_the_very_bits_of_an_undisturbed_one(tmp_path: Path) -> None:
    rows = random_rows(10)
    settings = TrainSettings(epochs=3, batch_size=4, learning_rate=1e-2, average_last=5, save_steps=2)
    calm = fresh()
    whole = train(calm, rows, settings, tmp_path / "calm")
    model = fresh()
    with pytest.raises(Stop):
        train(model, rows, settings, tmp_path / "cut", on_epoch=stopping_after(2))
    with pytest.raises(Stop):
        train(model, rows, settings, tmp_path / "cut", on_epoch=stopping_after(3))
    assert (tmp_path / "cut/checkpoints/checkpoint-8/complete.json").is_file()  # four of the five are summed up
    result = train(model, rows, settings, tmp_path / "cut")
    assert same(adapter_state(model), adapter_state(calm))
    assert result.loss_history == whole.loss_history
    last = fresh()
    train(last, rows, replace(settings, average_last=1), tmp_path / "last")
    assert not same(adapter_state(last), adapter_state(calm))


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_trained() -> None:
    with pytest.raises(ConfigError, match="unknown tracker"):
        TrainSettings(report_to="mlflow")
    for name in TRACKERS[1:]:
        if find_spec(name) is None:
            with pytest.raises(ConfigError, match="is not installed") as caught:
                TrainSettings(report_to=name)
            assert f"pip install {name}" in str(caught.value.hint)


def test_a_tracker_is_told_every_step_and_changes_nothing(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    rows, settings = random_rows(10), TrainSettings(epochs=2, batch_size=4)
    calm, model = fresh(), fresh()
    whole = train(calm, rows, settings, tmp_path / "calm")
    assert not (tmp_path / "calm/tracking").exists()
    train(model, rows, replace(settings, report_to="tensorboard"), tmp_path / "tracked")
    assert same(adapter_state(model), adapter_state(calm))
    events = reader.EventAccumulator(str(tmp_path / "tracked/tracking")).Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses == pytest.approx(whole.loss_history, abs=1e-3)
