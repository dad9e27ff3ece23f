"""A training of the user's own by transformers' Trainer, with the callback, is as good as siftune's own warmup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Sampler
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import siftune
from siftune._common import seeds
from siftune._common.errors import ConfigError, DataError, StoreCorrupt
from siftune.config.settings import SelectConfig
from siftune.data.load import load_inputs
from siftune.features.gradient_settings import lora_settings, warmup_settings
from siftune.features.gradients.own_warmup import LessCheckpoints, open_checkpoints
from siftune.features.gradients.warmup import warmup_rows
from siftune.methods.less import LessSettings
from siftune.models.loading import load_tokenizer
from siftune.models.lora import LoraSettings, attach_lora
from siftune.training.settings import TrainSettings
from siftune.training.trainer import _EpochOrder
from tests import tiny
from tests.cli.command import siftune as command
from tests.cli.pools import jsonl, records

EPOCHS, RATE = 2, 1e-2


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SelectConfig:
    folder = tmp_path_factory.mktemp("own")
    tiny.save(folder / "model")
    own = {"less": {"warmup_epochs": EPOCHS, "warmup_rows": 12, "warmup_learning_rate": RATE, "warmup_batch_size": 1,
                    "projection": "none"}}
    return SelectConfig(model=str(folder / "model"), pool=(str(jsonl(folder / "pool.jsonl",
                                                                      records("messages", range(40)))),),
                        target=(str(jsonl(folder / "few.jsonl", records("messages", range(100, 104), "target"))),),
                        method="less", budget="8", max_length=96, lora_rank=2, lora_alpha=4, lora_dropout=0.0, own=own)


class InSiftunesOrder(Trainer):
    """The Trainer as it comes, but for the order of the rows."""

    steps = 12

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return _EpochOrder(len(self.train_dataset), self.order_seed, lambda: self.state.global_step // self.steps)


@pytest.fixture(scope="module")
def trained(config: SelectConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of a training with the very settings of the warmup run, one row a step."""
    folder = tmp_path_factory.mktemp("trained")
    inputs = load_inputs(config, load_tokenizer(config.model))
    how = warmup_settings(LessSettings(**config.own["less"]), config)
    seed = seeds.derive(config.seed, "warmup")
    rows = [inputs.pool.rendered[i] for i in warmup_rows(inputs.pool.ids, how, seed)]
    data = []
    for row in rows:
        ids = torch.tensor(row.ids, dtype=torch.long)
        data.append({"input_ids": ids, "labels": torch.where(torch.tensor(row.mask), ids, -100)})
    base = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    model = attach_lora(base, lora_settings(config), seeds.derive(config.seed, "adapter"))
    settings = TrainSettings(learning_rate=RATE, epochs=EPOCHS, batch_size=1)
    args = TrainingArguments(
        output_dir=str(folder / "out"), num_train_epochs=EPOCHS, per_device_train_batch_size=1, learning_rate=RATE,
        lr_scheduler_type="linear", warmup_steps=settings.warmup_steps(EPOCHS * len(rows)), optim="adamw_torch",
        save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True)
    trainer = InSiftunesOrder(model=model, args=args, train_dataset=data, callbacks=[LessCheckpoints(folder / "kept")])
    trainer.order_seed = seeds.derive(seed, "warmup training")
    assert len(rows) == InSiftunesOrder.steps
    trainer.train()
    return folder / "kept"


def scores(run: Path) -> np.ndarray:
    return pq.read_table(run / "scores.parquet")["score"].to_numpy()


def test_a_training_of_ones_own_gives_the_scores_of_siftunes_warmup(
        config: SelectConfig, trained: Path, tmp_path: Path) -> None:
    shared = {"pool": config.pool, "target": config.target, "model": config.model, "method": "less", "budget": "8",
              "max_length": 96, "lora_rank": 2, "lora_alpha": 4.0, "lora_dropout": 0.0}
    own = siftune.select(**shared, **config.own["less"], output_dir=str(tmp_path / "own"))
    given = siftune.select(**shared, checkpoints=str(trained), projection="none", output_dir=str(tmp_path / "given"))
    first, second = scores(tmp_path / "own"), scores(tmp_path / "given")
    assert np.ptp(first) > 0.1
    np.testing.assert_allclose(second, first, atol=1e-4)
    assert given.ids == own.ids
    assert not (tmp_path / "given/warmup").exists()
    noted = [run.manifest["diagnostics"] for run in (own, given)]
    assert str(noted[0].get("checkpoint_weights")) == str(noted[1].get("checkpoint_weights"))


def test_features_of_other_checkpoints_are_refused_and_plan_counts_them(
        config: SelectConfig, trained: Path, tmp_path: Path) -> None:
    flags = ["--pool", config.pool[0], "--target", config.target[0], "--model", config.model, "--method", "less",
             "--budget", 8, "--max-length", 96, "--lora-rank", 2, "--lora-dropout", 0]
    here = [*flags, "--set", f"checkpoints={trained}", "--set", "projection_dim=64"]
    command("plan", *here).refused("the adapter of the training is another one", "--lora-rank 2 --lora-alpha 4")
    planned = command("plan", *here, "--lora-alpha", 4).ok().out
    assert f"none: 2 checkpoints of {trained}" in planned
    command("select", *here, "--lora-alpha", 4, "--lora-targets", "q_proj", "--output-dir", tmp_path / "x").refused(
        "belong to another model or other LoRA settings")
    command("select", *flags, "--set", "checkpoints=lsat", "--output-dir", tmp_path / "x").refused(
        "checkpoints cannot be 'lsat'", "all, last")


def test_what_is_kept_is_verified_when_it_is_read(trained: Path, tmp_path: Path) -> None:
    import shutil

    lora = LoraSettings(rank=2, alpha=4)
    kept = Path(shutil.copytree(trained, tmp_path / "kept"))
    checkpoints = open_checkpoints(kept, lora)
    assert [(c.epoch, c.step) for c in checkpoints] == [(1, 12), (2, 24)]
    assert checkpoints[0].mean_learning_rate > checkpoints[1].mean_learning_rate > 0
    with (kept / "epoch-2/adapter.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(StoreCorrupt, match="damaged"):
        open_checkpoints(kept, lora)
    with pytest.raises(DataError, match="no checkpoints"):
        open_checkpoints(tmp_path, lora)


def lora_model(**changes: Any) -> Any:
    settings = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], **changes)
    return get_peft_model(tiny.model("llama"), settings)


def begin(model: Any, folder: Path) -> LessCheckpoints:
    callback = LessCheckpoints(folder)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, epoch=0.0)
    callback.on_train_begin(None, state, None, model=model)
    return callback


@pytest.mark.parametrize(("model", "said"), [
    (lambda: tiny.model("llama"), "The training moves other parameters"),
    (lambda: lora_model(modules_to_save=["lm_head"]), "lm_head"),
    (lambda: lora_model(rank_pattern={"q_proj": 3}), "no single rank"),
])
def test_a_training_that_is_not_of_one_adapter_is_refused_before_its_first_step(
        tmp_path: Path, model: Any, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        begin(model(), tmp_path)
    assert said in str(raised.value)


def test_an_optimizer_without_adams_moments_is_refused(tmp_path: Path) -> None:
    model = lora_model()
    callback = begin(model, tmp_path)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    callback.on_pre_optimizer_step(None, None, None, optimizer=optimizer)
    with pytest.raises(ConfigError, match=r"no moments of base_model\..* as Adam's"):
        callback.on_epoch_end(None, SimpleNamespace(is_world_process_zero=True, epoch=1.0), None, model=model,
                              optimizer=optimizer)


def wrapped(names: list[str]) -> Iterator[tuple[str, Any]]:
    for name in names:
        yield name, torch.nn.Parameter(torch.zeros(1))


def test_names_are_those_of_siftunes_adapter_whatever_wraps_the_model() -> None:
    from siftune.features.gradients.own_warmup import trained_parameters

    inside = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.{}.weight"
    for prefix, adapter in (("", "default"), ("module.", "mine"), ("_orig_mod.", "mine"), ("module._orig_mod.", "x")):
        model = SimpleNamespace(named_parameters=lambda p=prefix, a=adapter: wrapped([p + inside.format(a)]))
        assert list(trained_parameters(model)) == [inside.format("default")]
