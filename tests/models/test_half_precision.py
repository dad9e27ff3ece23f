"""Half precision that is slower than full is never chosen and never a surprise. No test depends on the machine."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from siftune.config.settings import SelectConfig
from siftune.models import half_precision
from siftune.models.half_precision import is_slower, product_seconds, slow_half, warning
from siftune.models.loading import choose_dtype, load_model
from siftune.pipeline.plan import plan
from tests import tiny

HALVES = ("bfloat16", "float16")
POOL = str(Path(__file__).parents[1] / "data" / "cases" / "long_pool.jsonl")


@pytest.fixture
def thirty_seven_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds that were measured on a processor without such units."""
    half_precision._say.cache_clear()
    monkeypatch.setattr(half_precision, "product_seconds",
                        lambda dtype, device: 0.0197 * (37 if dtype in HALVES else 1))


def test_the_decision_on_given_seconds() -> None:
    assert is_slower(0.020, 0.740)
    assert is_slower(0.020, 0.025)
    assert not is_slower(0.020, 0.022), "that may be chance"
    assert not is_slower(0.020, 0.014)


def test_a_product_is_measured_once_in_a_process() -> None:
    product_seconds.cache_clear()
    found = {dtype: product_seconds(dtype, "cpu") for dtype in ("float32", *HALVES)}
    assert all(0 < seconds < math.inf for seconds in found.values())
    assert found == {dtype: product_seconds(dtype, "cpu") for dtype in found}
    for dtype in HALVES:
        told = slow_half(dtype, "cpu")
        assert bool(told) == is_slower(found["float32"], found[dtype])
    assert slow_half("float32", "cpu") == slow_half("none", "cpu") == slow_half("auto", "cpu") == ""


def test_the_warning_has_the_ratio_both_speeds_and_what_to_type(thirty_seven_times: None) -> None:
    told = warning("--dtype", "bfloat16", "cpu")
    assert told == ("bfloat16 is 37.0 times slower than float32 on this processor (measured: 1.2 against 46.0 "
                    "GFLOP/s); hint: --dtype float32, or auto")
    assert warning("--autocast", "float16", "cpu").endswith("hint: --autocast none")
    assert warning("--dtype", "float32", "cpu") == warning("--autocast", "none", "cpu") == ""


def test_auto_is_full_precision_on_a_processor_whatever_its_speed() -> None:
    assert choose_dtype("auto", "cpu") == "float32"


@pytest.mark.parametrize(("ratio", "chosen"), [(0.1, "bfloat16"), (37.0, "float32")])
def test_auto_on_a_gpu_follows_the_measurement(ratio: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older card says that it can, and does it by way of float32."""
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    monkeypatch.setattr(half_precision, "product_seconds", lambda dtype, device: ratio if dtype in HALVES else 1.0)
    assert choose_dtype("auto", "cuda") == chosen


def test_plan_and_loading_tell_before_anything_runs(thirty_seven_times: None, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny.save(tmp_path / "model")
    told = plan(SelectConfig(pool=(POOL,), model=model, method="loss", dtype="bfloat16", autocast="float16")).text()
    assert "warning" in told
    assert "bfloat16 is 37.0 times slower than float32" in told
    assert "float16 is 37.0 times slower than float32" in told
    said = capsys.readouterr().err
    assert said.count("warning: bfloat16 is 37.0 times slower") == said.count("warning: float16 is 37.0 times") == 1
    assert "warning" not in plan(SelectConfig(pool=(POOL,), model=model, method="loss")).text()
    load_model(model)
    assert "slower" not in capsys.readouterr().err
