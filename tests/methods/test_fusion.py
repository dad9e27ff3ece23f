"""Fusion against its formulas in plain loops, on signals that are there in whole."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.errors import ConfigError, SiftuneError
from siftune.config.settings import CompareConfig, SelectConfig, load
from siftune.features import fusing
from siftune.features.base import Context
from siftune.features.fusing import aligned, reciprocal_ranks, z_sum
from siftune.methods.bm25 import Bm25
from siftune.methods.embedding import Embedding
from siftune.methods.fusion import Fusion
from siftune.methods.nag import Nag
from siftune.methods.rds import Rds
from siftune.pipeline.recipes import resolve
from siftune.selectors.core.arrays import sliced
from siftune.selectors.core.spread import Spread
from tests.methods import contexts, texts
from tests.methods.contexts import whole


def z_oracle(signals: list[np.ndarray], weights: list[float]) -> np.ndarray:
    total = np.zeros(signals[0].shape)
    for S, weight in zip(signals, weights, strict=True):
        for m, line in enumerate(S.tolist()):
            sd = statistics.pstdev(line) if max(line) > min(line) else 0
            for j, value in enumerate(line):
                total[m, j] += weight * (value - statistics.fmean(line)) / sd if sd else 0
    return total


def rank_oracle(signals: list[np.ndarray], weights: list[float]) -> np.ndarray:
    return np.array([[sum(weight / (60 + 1 + sum(other > value for other in S[m]))
                          for S, weight in zip(signals, weights, strict=True) for value in [S[m, j]])
                      for j in range(signals[0].shape[1])] for m in range(len(signals[0]))])


@st.composite
def several(draw: st.DrawFn) -> tuple[list[np.ndarray], list[float]]:
    """Signals of very different sizes, half of them full of ties, some lines the same for all rows."""
    n, m, count = draw(st.integers(1, 14)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for k in range(count):
        S = rng.standard_normal((m, n)) * 10.0 ** rng.integers(-3, 4) + rng.integers(-5, 6)
        S = np.round(S * 2) / 2 if draw(st.booleans()) else S
        if draw(st.booleans()):
            S[0] = k
        found.append(S)
    return found, rng.integers(0, 4, count).astype(float).tolist()


@settings(max_examples=60, deadline=None)
@given(several(), st.data())
def test_it_is_the_formula_whatever_the_blocks_and_the_order_of_the_pool(case, data):
    signals, weights = case
    m, n = signals[0].shape
    order = np.array(data.draw(st.permutations(range(n))))

    def fused(parts: list[np.ndarray], form: str) -> np.ndarray:
        streams = [sliced(S, data.draw(st.integers(1, n + 1))) for S in parts]
        if form == "rrf":
            return whole(reciprocal_ranks(streams, weights, m, n, Path("unused")))
        return whole(z_sum(streams, weights, [Spread.of(stream) for stream in streams]))

    for form, oracle in (("zsum", z_oracle), ("rrf", rank_oracle)):
        got = fused(signals, form)
        np.testing.assert_allclose(got, oracle(signals, weights), rtol=1e-8, atol=1e-8)
        np.testing.assert_array_equal(fused(signals, form), got)
        np.testing.assert_array_equal(fused([S[:, order] for S in signals], form), got[:, order])


def test_ranks_of_a_large_pool_are_held_in_a_file(tmp_path, monkeypatch):
    S = np.random.default_rng(0).standard_normal((3, 50))
    kept = whole(reciprocal_ranks([sliced(S, 7)], [1.0], 3, 50, tmp_path))
    monkeypatch.setattr(fusing, "IN_MEMORY", 1)
    np.testing.assert_array_equal(whole(reciprocal_ranks([sliced(S, 7)], [1.0], 3, 50, tmp_path / "store")), kept)
    assert (tmp_path / "store").is_dir()
    assert not list((tmp_path / "store").iterdir()), "it has no name"


def test_signals_of_different_pools_are_refused():
    with pytest.raises(SiftuneError, match="ends at row 3"):
        list(aligned([sliced(np.zeros((1, 3)), 2), sliced(np.zeros((1, 4)), 2)]))


@pytest.fixture
def made(tmp_path: Path) -> Context:
    """A tiny model's tokens, and texts that differ."""
    context = contexts.context(tmp_path, owner="fusion")
    for rows, name in ((context.pool, "pool"), (context.target, "target")):
        spoken = texts.examples(texts.demo(name, len(rows)), name).rows
        rows.rows[:] = [dataclasses.replace(new, subtask=row.subtask)
                        for row, new in zip(rows.rows, spoken, strict=True)]
    return context


def alone(context: Context, method: type, **own: object) -> np.ndarray:
    name = method.name
    config = context.config.with_own({name: own})
    return whole(method().compute(dataclasses.replace(context, config=config, owner=name)).blocks).astype(np.float64)


def fused(context: Context, **own: object) -> Context:
    return dataclasses.replace(context, config=context.config.with_own({"fusion": own}))


@pytest.mark.parametrize("centred", [True, False])
def test_by_default_it_adds_words_embeddings_and_hidden_states(made, centred):
    context = fused(made, weights=(1.0, 2.0, 0.5), center_signals=centred)
    found = Fusion().compute(context)
    signals = [alone(made, Bm25), alone(made, Embedding, center=centred), alone(made, Rds, center=centred)]
    np.testing.assert_allclose(whole(found.blocks), z_oracle(signals, [1, 2, 0.5]), rtol=1e-6, atol=1e-8)
    ranks = Fusion().compute(fused(context, form="rrf"))
    np.testing.assert_allclose(whole(ranks.blocks), rank_oracle(signals, [1, 2, 0.5]), rtol=1e-12)
    assert (found.notes["signals"]["rds"].get("shared_by_all_rows") is not None) == centred
    assert len(found.stores) == 2


def test_it_reads_what_its_signals_have_kept_and_leaves_it_to_them(made):
    alone(made, Rds)
    Fusion().compute(fused(made, signals=("rds", "embed")))
    steps = {step["step"]: step["reused"] for step in made.clock.steps}
    assert steps["pool forward pass"]
    made.clock.steps.clear()
    alone(made, Embedding)
    assert all(step["reused"] for step in made.clock.steps if step["step"].endswith("embeddings"))


def test_subtasks_count_for_each_of_their_targets_and_scores_alike_for_all(made):
    scores = np.random.default_rng(0).normal(size=len(made.pool))
    np.save(made.folder / "scores.npy", scores)
    found = Fusion().compute(fused(made, signals=("nag", f"file:{made.folder}/scores.npy")))
    by_subtask = alone(made, Nag)
    names = list(dict.fromkeys(row.subtask for row in made.target.rows))
    assert len(by_subtask) == len(names) == 2
    signals = [np.stack([by_subtask[names.index(row.subtask)] for row in made.target.rows]),
               np.stack([scores] * len(made.target))]
    np.testing.assert_allclose(whole(found.blocks), z_oracle(signals, [1, 1]), rtol=1e-6, atol=1e-8)


def test_gradients_can_be_a_signal(made):
    small = {name: value for name, value in contexts.OWN.items() if name.startswith(("warmup", "projection"))}
    config = made.config.with_own({"less": {**small, "warmup_epochs": 1}})
    context = fused(dataclasses.replace(made, config=config), signals=("less", "bm25"))
    found = Fusion().compute(context)
    assert np.isfinite(whole(found.blocks)).all()
    assert [one.name for one, _ in Fusion().gradient_parts(context)] == ["less"]
    assert "shared_by_all_rows" in found.notes["signals"]["less"]


def test_a_signal_that_cannot_be_computed_is_named_with_the_way_to_leave_it_out(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ConfigError) as caught:
        Fusion().compute(made)
    told = str(caught.value)
    assert "bm25 is one of the signals of fusion" in told
    assert "pip install 'siftune[lexical]'" in told
    assert "--set signals=[embed, rds]" in told


@pytest.mark.parametrize(("own", "said"), [
    ({"signals": ()}, "empty"), ({"signals": ("bm25", "bm25")}, "twice"), ({"signals": ("bm52",)}, "bm25"),
    ({"signals": ("fusion",)}, "cannot be one of the signals"), ({"signals": ("utility",)}, "neither compares"),
    ({"weights": (0.0, 0.0, 0.0)}, "all 0"),
    ({"weights": (1.0, -1.0, 1.0)}, "0 or more"), ({"weights": (1.0, math.nan, 1.0)}, "0 or more"),
])
def test_settings_that_make_no_sense_are_refused(own, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        SelectConfig(own={"fusion": own}).settings_of("fusion")


def test_weights_are_as_many_as_signals(made):
    for ask in (Fusion().compute, Fusion().work):
        with pytest.raises(ConfigError, match="1 numbers for 3 signals"):
            ask(fused(made, weights=(1.0,)))


def test_without_a_target_it_is_refused():
    with pytest.raises(ConfigError, match="compares with targets"):
        resolve("fusion", has_target=False)


def test_nothing_is_collected_where_no_signal_runs_a_forward_pass(made):
    context = fused(made, signals=("bm25",))
    context.config = dataclasses.replace(context.config, collect=("mads",))
    with pytest.raises(ConfigError, match="none of the signals"):
        Fusion().compute(context)


def test_settings_of_its_signals_are_read_with_its_own(tmp_path):
    config = load(SelectConfig, None, {"method": "fusion", "own": [
        "less.projection_dim=64", "signals=[less, bm25]", "weights=[1, 2]"]})
    assert config.owners() == ["fusion", "round-robin", "less", "bm25"]
    assert config.settings_of("less").projection_dim == 64
    assert config.settings_of("fusion").weights == (1.0, 2.0)
    written = tmp_path / "c.yaml"
    written.write_text("method: fusion\nfusion: {signals: [less]}\nless: {projection_dim: 32}\n")
    assert load(CompareConfig, written, {}).settings_of("less").projection_dim == 32
    with pytest.raises(ConfigError, match="less is not in use"):
        load(SelectConfig, None, {"method": "fusion", "own": ["less.projection_dim=64"]})
