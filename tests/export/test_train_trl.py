"""TRL's own command trains on each form of an export, with the settings that were written beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from siftune.export import export
from tests import tiny
from tests.export.runs import CHATS, MARKED, UNTRAINED, make_run

trl = pytest.importorskip("trl", reason="needs trl, of the extra 'trl'")


@pytest.mark.slow
@pytest.mark.parametrize(("form", "records", "columns"), [
    ("tokens", [*CHATS, UNTRAINED], {"input_ids", "labels"}), ("messages", CHATS, {"messages"}),
    ("messages", [CHATS[0], UNTRAINED], {"prompt", "completion"})])
def test_trl_trains_a_few_steps_on_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str,
                                              records: list[dict[str, Any]], columns: set[str]) -> None:
    from trl.scripts import sft

    model = tiny.save(tmp_path / "model", chat_template=MARKED)
    run = make_run(tmp_path / "run", records, Path(model))
    made = export(run, "trl", tmp_path / "out", form=form)
    first = json.loads(made.files[0].read_text(encoding="utf-8").split("\n", 1)[0])
    assert columns <= set(first)
    monkeypatch.chdir(tmp_path / "out")  # the settings name the data beside them
    arguments = {"config": made.files[1].name, "model_name_or_path": model, "output_dir": tmp_path / "trained",
                 "max_steps": 4, "per_device_train_batch_size": len(records), "learning_rate": 0.01, "logging_steps": 1,
                 "report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "dtype":
                 "float32"}
    parsed = sft.make_parser().parse_args_and_config(
        [text for name, value in arguments.items() for text in (f"--{name}", str(value))])
    sft.main(*parsed)
    logged = json.loads((tmp_path / "trained" / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in logged if "loss" in entry]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]  # every step sees all rows
