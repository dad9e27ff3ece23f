"""Folders that hold no model, half of one, or one in a form that could run code; and a hub that does not answer."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import SMALL, Result, siftune
from tests.cli.conftest import Files


def loss(files: Files, model: Any, tmp_path: Path) -> Result:
    result = siftune("select", "--model", model, "--pool", files.pool, "--method", "loss", "--budget", 3, *SMALL,
                     "--output-dir", tmp_path / "out")
    assert "Traceback" not in result.err
    return result


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ['{"a": ', "[]", "null", "3", '"x"', "[" * 3000, '{"model_type": 5}',
                                     '{"model_type": "llama", "hidden_size": "x", "vocab_size": [1]}',
                                     '{"chat_template": 5, "eos_token": [1]}',
                                     '{"max_length": {}, "eos_token_id": "x"}'])
def test_json_of_a_model_that_is_of_a_wrong_type_is_told(name: str, content: str, files: Files, tmp_path: Path) -> None:
    model = shutil.copytree(files.model, tmp_path / "model")
    (model / name).write_text(content)
    result = loss(files, model, tmp_path)
    if result.code:
        result.refused()


@pytest.mark.parametrize("content", ['{"a": ', "[]", "3", "{}", '{"base_model_name_or_path": 5}',
                                     '{"base_model_name_or_path": "SELF"}', '{"base_model_name_or_path": "MODEL"}',
                                     '{"base_model_name_or_path": "MODEL", "peft_type": "LORA", "r": "x"}'])
def test_an_adapter_whose_json_is_of_a_wrong_type_is_told(content: str, files: Files, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    text = content.replace("SELF", str(adapter)).replace("MODEL", str(files.model))
    (adapter / "adapter_config.json").write_text(text)
    loss(files, adapter, tmp_path).refused(str(adapter))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "pytorch_model.bin.index.json"])
def test_pickled_weights_are_refused_and_not_opened(name: str, files: Files, tmp_path: Path) -> None:
    import torch

    model = shutil.copytree(files.model, tmp_path / "model")
    (model / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, model / name)
    loss(files, model, tmp_path).refused()
    if not name.endswith(".json"):
        loss(files, model, tmp_path).refused("pickled", name, "save_pretrained")


def test_weights_that_are_damaged_are_told(files: Files, tmp_path: Path) -> None:
    model = shutil.copytree(files.model, tmp_path / "model")
    whole = (model / "model.safetensors").read_bytes()
    for content in (b"", b"\xff" * 100, json.dumps({"a": 1}).encode(), whole[:500]):
        (model / "model.safetensors").write_bytes(content)
        loss(files, model, tmp_path).refused()


def test_a_length_beyond_the_window_is_told_only_where_it_was_asked_for(files: Files, tmp_path: Path) -> None:
    run = ("select", "--model", files.model, "--pool", files.pool, "--method", "random", "--budget", 3)
    assert "beyond the model's window" not in siftune(*run, "--output-dir", tmp_path / "a").ok().err
    assert "beyond the model's window" in siftune(*run, "--max-length", 4096, "--output-dir", tmp_path / "b").ok().err


@pytest.mark.parametrize("answers", [False, None])
def test_a_hub_that_does_not_answer_is_told_in_seconds(answers: bool | None, files: Files, tmp_path: Path) -> None:
    """A port where nobody listens, and one where somebody does and never says a word."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = 9 if answers is None else silent.getsockname()[1]
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0",
                       "HF_HOME": str(tmp_path / "cache")}
        code = ("import time, transformers, datasets\n"
                "from siftune._common.errors import SiftuneError\n"
                "from siftune.data.hub import read_dataset\n"
                "from siftune.data.sources import Source\n"
                "from siftune.models.loading import load_tokenizer, load_model\n"
                "for call in (lambda: load_tokenizer('org/model'), lambda: load_model('org/model'),\n"
                "             lambda: list(read_dataset(Source('hub', 'org/data', 'data')))):\n"
                "    began = time.process_time(), time.monotonic()\n"
                "    try:\n"
                "        call()\n"
                "    except SiftuneError as error:\n"
                "        assert 'does not answer' in str(error), error\n"
                "        print(time.monotonic() - began[1])\n")
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                              env=environment)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.split()) == 3
        assert time.monotonic() - began < 300
