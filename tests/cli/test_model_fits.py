"""Rows must fit the model: its window cuts them and that is said, a token that it does not know is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from siftune._common.errors import DataError, ModelError
from siftune.cli.printing import print_inspection
from siftune.config.settings import DataConfig, SelectConfig
from siftune.data.model_shape import ModelShape
from siftune.models.shape import model_shape, shape_of
from siftune.pipeline.doctor import doctor
from siftune.pipeline.inspection import inspect
from siftune.pipeline.select import read_inputs
from tests import tiny

CASES = Path(__file__).parents[1] / "data" / "cases"
LONG = str(CASES / "long_pool.jsonl")
WINDOW, KNOWN = 64, 384


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("short")
    tiny.model("gpt2", n_positions=WINDOW).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose tokenizer has one token more than its embedding."""
    folder = tmp_path_factory.mktemp("small")
    tiny.model("llama").save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["</tool_response>"])
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_rows_are_cut_at_the_window_and_that_is_said(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = read_inputs(SelectConfig(pool=(LONG,), model=short, max_length=500))
    assert int(inputs.pool.tokens.max()) == WINDOW
    assert inputs.render["max_length"] == WINDOW
    assert inputs.pool.truncated == 4
    assert any("--max-length 500 is beyond the model's window: rows are cut at its 64 positions" in warning
               for warning in inputs.warnings)
    assert not any("window" in warning for warning in
                   read_inputs(SelectConfig(pool=(LONG,), model=short, max_length=60)).warnings)
    capsys.readouterr()
    print_inspection(inspect(DataConfig(pool=(LONG,), max_length=500), short, show=0))
    shown = " ".join(capsys.readouterr().out.split())
    assert "rows are cut at its 64 positions" in shown
    assert "truncated: 4" in shown


def test_a_token_that_the_embedding_lacks_is_named(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    pool = str(CASES / "vocab_pool.jsonl")
    for work in (lambda: read_inputs(SelectConfig(pool=(pool,), model=small)),
                 lambda: inspect(DataConfig(pool=(pool,)), small, show=0)):
        with pytest.raises(ModelError, match=rf"token {KNOWN} \('</tool_response>'\)") as caught:
            work()
        assert "resize_token_embeddings" in str(caught.value.hint)
    # Rows that do not use it can be used.
    assert len(read_inputs(SelectConfig(pool=(LONG,), model=small)).pool) == 20
    capsys.readouterr()
    assert not doctor(None, small)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"FAIL model the model has no embedding for the token {KNOWN} ('</tool_response>')" in shown


def test_the_shape_is_what_the_configuration_says(short: str) -> None:
    from transformers import AutoConfig

    assert model_shape(short) == ModelShape(WINDOW, KNOWN)
    assert shape_of(AutoConfig.for_model("bloom", vocab_size=9)).window is None
    assert shape_of(AutoConfig.for_model("llama", max_position_embeddings=77, vocab_size=9)) == ModelShape(77, 9)
    stretched = AutoConfig.for_model("qwen2", max_position_embeddings=32, rope_scaling={
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32})
    assert shape_of(stretched).window == 128


def test_inspect_shows_formats_and_columns_of_each_source(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    pool = tuple(str(CASES / name) for name in ("idx.csv", "orca.jsonl", "hubclone"))
    print_inspection(inspect(DataConfig(pool=pool), short, show=0))
    shown = capsys.readouterr().out
    assert "source idx: alpaca 2\n  columns used: input (2), instruction (2), output (2)\n" \
           "  kept, not used: Unnamed: 0 (2)\n" in shown
    assert "columns used: id (1), question (1), response (1), system_prompt (1)\n  kept, not used: none" in shown
    assert "the files of other splits were not read: test-00000-of-00001.parquet" in shown


def test_refused_media_are_told_with_their_field(short: str) -> None:
    with pytest.raises(DataError, match="not-text"):
        read_inputs(SelectConfig(pool=(str(CASES / "llava.jsonl"),), model=short))
