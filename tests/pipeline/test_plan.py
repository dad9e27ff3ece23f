"""Plans: speeds that are given, a probe that costs a small part of the run, stages, and what to change first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune._common.errors import ConfigError
from siftune._common.text import counted
from siftune.config.settings import SelectConfig
from siftune.features.gradient_settings import settled
from siftune.features.gradients.engine import parameter_sizes
from siftune.methods.less import Less
from siftune.models import loading, pretrained
from siftune.models.loading import load_model, load_outline
from siftune.models.lora import LoraSettings, attach_lora
from siftune.pipeline.plan import Speeds, plan
from siftune.pipeline.plan.estimate import PROBE_SHARE, Plan, first_rows
from siftune.pipeline.plan.gradients import Probe
from tests import tiny
from tests.methods.contexts import for_method

CASES = Path(__file__).parents[1] / "data" / "cases"
less = for_method("less")


def config(model: str, **settings: Any) -> SelectConfig:
    return SelectConfig(pool=(str(CASES / "long_pool.jsonl"),), target=(str(CASES / "long_pool.jsonl"),), model=model,
                        max_length=2048, budget="1", **settings)


def test_speeds_as_they_are_written() -> None:
    assert Speeds.parse("900") == Speeds(gradients=900, training=900, forward=2700)
    assert Speeds.parse("gradients=900, forward=1000") == Speeds(gradients=900, training=900, forward=1000)
    assert Speeds.parse("forward=1e3") == Speeds(forward=1000)
    assert not Speeds.parse("forward=1e3").spare_the_model
    assert Speeds.parse("900").spare_the_model


@pytest.mark.parametrize("text", ["", "fast", "0", "-1", "nan", "inf", "gradient=1", "gradients=1,gradients=2", "1,",
                                  "gradients=", "=3=4"])
def test_what_is_no_speed(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Speeds.parse(text)
    assert "gradients=900" in str(caught.value.hint)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.floats(0, 400))
def test_the_first_rows_are_as_many_as_reach_enough(lengths: list[int], enough: float) -> None:
    order = list(range(len(lengths)))
    some, others = first_rows(order, np.array(lengths), enough, most=8)
    assert some + others == order
    assert 1 <= len(some) <= 8
    assert sum(lengths[i] for i in some[:-1]) < max(enough, 1), "none is taken that is not needed"
    assert len(some) == 8 or not others or sum(lengths[i] for i in some) >= enough


def test_an_outline_has_the_shapes_and_no_weights(tmp_path: Path) -> None:
    model = tiny.save(tmp_path)
    whole, outline = load_model(model), load_outline(model)
    assert {p.device.type for p in outline.model.parameters()} == {"meta"}
    assert outline.parameters == whole.parameters
    sizes = [parameter_sizes(attach_lora(one.model, LoraSettings(rank=2), seed=0)) for one in (whole, outline)]
    assert sizes[0] == sizes[1]


def test_speeds_that_are_known_spare_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.save(tmp_path)

    def no_weights(*_: Any, **__: Any) -> Any:
        raise AssertionError("the weights are read")

    monkeypatch.setattr(loading, "load_checkpoint", no_weights)
    monkeypatch.setattr(pretrained, "load_checkpoint", no_weights)
    made = plan(config(model, method="less", device="cuda"), Speeds.parse("10"))
    lines = dict(made.lines)
    stages = {stage.name: stage.seconds for stage in made.stages}
    tokens = int(lines["pool"].split()[-2].replace(",", ""))
    assert stages["features"] == pytest.approx(4 * 2 * tokens / 10), "the rows are targets as well, at 4 checkpoints"
    assert made.seconds == pytest.approx(sum(stages.values()))
    assert "as given" in lines["speed"]
    assert made.memory == 0
    assert "memory" not in lines
    busy = stages["features"] + stages["warmup"]
    assert lines["GPU time"] == f"{busy / 3600:,.2f} GPU-hours"
    assert lines["change first"].endswith("--method two-stage takes 1 of 4 passes over all rows, the others over what "
                                          "that finds")


@pytest.mark.parametrize("own", [{}, {"keep_features": True}])
def test_the_probe_takes_a_small_part_of_the_run(tmp_path: Path, own: dict[str, Any],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    context = less(tmp_path, **own)
    seen: list[int] = []
    real = Probe.features

    def counted(self: Probe, rows: list[Any]) -> None:
        seen.append(sum(map(len, rows)))
        real(self, rows)

    monkeypatch.setattr(Probe, "features", counted)
    lengths = context.pool.tokens
    for enough in (1.0, 3.0 * lengths.max(), 1e9):
        seen.clear()
        probe = Probe(context.config, settled(context, Less()), Less(), context)
        measured = probe.measure(enough)
        probe.close()
        largest, *timed = seen
        assert sum(timed) == measured.tokens
        assert measured.tokens <= min(enough + lengths.max(), lengths.sum())
        assert measured.batch <= max(enough, lengths.max())
        assert measured.is_whole or enough < 1e9
        assert measured.memory > 0
        assert largest <= measured.batch
    assert measured.tokens == lengths.sum(), "all rows, where there is time"
    assert 0 < PROBE_SHARE <= 1 / 20, "a plan costs a twentieth of what it predicts at most"


def test_what_to_change_first_is_the_longest_stage_that_can_be_cheaper() -> None:
    made = Plan()
    made.add("reading", "", 5.0, on_device=False)
    made.add("features", "", 55.0, cheaper="fewer of them")
    made.finish("cpu", workers=1)
    assert dict(made.lines)["change first"] == "features, 92% of the time: fewer of them"
    assert "GPU time" not in dict(made.lines)
    short = Plan()
    short.add("features", "", 59.0, cheaper="fewer of them")
    short.finish("cuda", workers=2)
    assert "change first" not in dict(short.lines), "not worth it"
    assert dict(short.lines)["GPU time"] == "0.03 GPU-hours"


def test_the_lines_of_a_part_are_called_by_it() -> None:
    made = Plan()
    with made.within("less"):
        made.add("warmup", "long", 3.0)
    made.add("warmup", "short", 1.0)
    assert made.lines == [("less: warmup", "long"), ("warmup", "short")]
    assert made.seconds == 4.0


def test_one_is_no_plural() -> None:
    assert [counted(n) for n in (0, 1, 2, 1200)] == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    assert counted(1, "token") == "1 token"
