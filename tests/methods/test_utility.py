"""DELIFT's utility against its formula in plain loops, one pair at a time, without padding or kept keys and values."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch

from siftune._common.errors import ConfigError, StoreMismatch
from siftune.data.render import Renderer
from siftune.data.rows import Examples, Message, Rendered, Row, content_hash
from siftune.methods.utility import Stages, Utility
from siftune.selectors import Problem, select
from tests import tiny
from tests.cli.pools import conversation
from tests.features.in_context.fitted import fitted
from tests.interrupt import stopped_after
from tests.methods.contexts import for_method, whole

plain_context = for_method("utility")

SMALL = {"batch_tokens": 200, "shard_rows": 3}


def rows(numbers, prefix: str, subtasks: tuple[str, ...] = ("all",)) -> Examples:
    renderer = Renderer(tiny.tokenizer(), max_length=64)
    found, rendered = [], []
    for place, i in enumerate(numbers):
        messages = tuple(Message(role, text) for role, text in
                         zip(("user", "assistant"), conversation(i), strict=True))
        found.append(Row(f"{prefix}{place:02}", "made", f"made:{place}", messages, json.dumps({"i": i}),
                         content_hash(messages), "messages", subtasks[place % len(subtasks)]))
        rendered.append(renderer.render(messages))
    return Examples(found, rendered)


def after_one_another() -> list[Rendered]:
    """Conversations of two rows each, the second one supervised: a model fitted on them is helped by examples."""
    seen = rows(range(0, 12, 2), "p").rendered
    return [Rendered(np.concatenate([a.ids, b.ids]), np.concatenate([np.zeros(len(a), bool), b.mask]))
            for a, b in zip(seen, seen[1:] + seen[:1], strict=True)]


@cache
def weights(architecture: str):
    return fitted(architecture, after_one_another()).state_dict()


def context(folder, numbers=range(9), **changes):
    """Over a model that has seen every second row after another."""
    made = plain_context(folder, **{**SMALL, "max_length": 64, **changes})
    made.pool, made.target = rows(numbers, "p"), rows((50, 61, 3), "t")
    made.existing = rows((70, 4), "e")
    if "model_seed" not in changes:
        made.model.model.load_state_dict(weights(changes.get("architecture", "llama")))
    return made


def score(model, before: list[int], row, form: str) -> float:
    ids = [*before, *row.ids.tolist()]
    with torch.no_grad():
        logp = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
    terms = [float(logp[len(before) + t - 1, ids[len(before) + t]]) for t in range(len(row)) if row.mask[t]]
    if form == "logprob":
        return sum(terms) / len(terms)
    return -float(np.sqrt(sum((1 - np.exp(x)) ** 2 for x in terms) / len(terms)))


def oracle(model, helped: Examples, shown: Examples, form: str = "distance") -> np.ndarray:
    """U [R, C]; NaN where the example is the row."""
    U = np.full((len(helped), len(shown)), np.nan)
    for i, row in enumerate(helped.rendered):
        for j, example in enumerate(shown.rendered):
            if helped.rows[i].content_hash != shown.rows[j].content_hash:
                U[i, j] = score(model, example.ids.tolist(), row, form) - score(model, [], row, form)
    return U


def best(U: np.ndarray) -> np.ndarray:
    return np.maximum(np.nanmax(U, axis=1), 0)


def dense(kernel) -> np.ndarray:
    return kernel if isinstance(kernel, np.ndarray) else kernel.toarray()


@pytest.mark.parametrize(("architecture", "form"), [
    ("llama", "distance"), ("llama", "logprob"), ("mistral", "distance"), ("gpt2", "logprob")])
def test_all_three_matrices_equal_the_plain_loop_oracle(tmp_path, architecture, form):
    made = context(tmp_path, architecture=architecture, utility=form)
    found, model = Utility().compute(made), made.model.model
    U = oracle(model, made.pool, made.pool, form)
    assert np.nanmin(U) < 0
    assert np.nanmax(U) > 0.02, "there is something to see beside a tolerance of 1e-4"
    kernel = found.kernel()
    wanted = np.where(np.isnan(U), best(U)[:, None], np.maximum(U, 0))
    np.testing.assert_allclose(kernel, wanted, atol=1e-4)
    assert (kernel.dtype, kernel.shape) == (np.float32, (9, 9))

    to_targets = oracle(model, made.target, made.pool, form)
    assert np.isnan(to_targets).sum() == 1, "target 3 stands in the pool as well"
    np.testing.assert_allclose(whole(found.blocks), np.where(np.isnan(to_targets), best(to_targets)[:, None],
                                                             to_targets), atol=1e-4)
    to_existing = oracle(model, made.pool, made.existing, form)
    assert np.isnan(to_existing).sum() == 1
    itself = np.maximum(best(U), best(to_existing))
    np.testing.assert_allclose(whole(found.existing),
                               np.where(np.isnan(to_existing), itself[:, None], to_existing).T, atol=1e-4)


def test_rows_join_the_conversation_of_the_example(tmp_path):
    made = context(tmp_path)
    found = Utility().compute(made)
    found.kernel()
    assert (found.notes["rows_in_conversation"], found.notes["rows_put_behind"]) == (9, 0)
    assert found.notes["pairs"]["pairs"] == 9 * 8
    lengths = [len(r) for r in made.pool.rendered]
    assert found.notes["pairs"]["prefix_tokens_reused"] == sum(lengths) * 7
    assert found.notes["pairs"]["shortened_examples"] == 0


def test_a_sparse_kernel_has_the_dense_entries_of_its_pairs_and_nothing_else(tmp_path):
    whole_kernel = Stages(context(tmp_path / "dense", range(14), pairs="dense"))
    dense_kernel = whole_kernel.kernel()
    made = context(tmp_path / "sparse", range(14), pairs="sparse", nominees=2, random_nominees=1)
    stages = Stages(made)
    kernel = stages.kernel()
    pairs = stages.among_pool
    count = np.bincount(pairs.examples, minlength=14)
    assert count.min() >= 3
    assert count.sum() < 14 * 9
    assert kernel.format == "csc"
    scored = np.zeros((14, 14), dtype=bool)
    scored[pairs.rows, pairs.examples] = True
    got = kernel.toarray()
    assert not got[~scored & ~np.eye(14, dtype=bool)].any()
    np.testing.assert_allclose(got[scored], dense_kernel[scored], atol=1e-6)
    off = np.where(np.eye(14, dtype=bool), 0, got)
    np.testing.assert_array_equal(np.diag(got), off.max(axis=1))
    chosen = select(Problem(ids=made.pool.ids, kernel=kernel), 4, "facility-location")
    assert len(chosen) == 4


def test_existing_rows_are_nominated_likewise(tmp_path):
    made = context(tmp_path, range(8), pairs="sparse", nominees=1, random_nominees=0)
    made.existing = rows(range(70, 78), "e")
    stages = Stages(made)
    got = np.concatenate([block for _, block in stages.to_existing()], axis=1)
    U = oracle(made.model.model, made.pool, made.existing)
    found = stages.of_existing
    assert 8 <= len(found.rows) < 17
    scored = np.zeros((8, 8), dtype=bool)
    scored[found.rows, found.examples] = True
    assert scored.any(axis=0).all()
    assert scored.any(axis=1).all()
    np.testing.assert_allclose(got, np.where(scored, U, 0).T, atol=1e-4)


@pytest.mark.parametrize("changes", [{"pairs": "dense"}, {"pairs": "sparse", "nominees": 3, "random_nominees": 1}])
def test_neither_the_order_of_the_pool_nor_the_batches_matter_and_copies_are_alike(tmp_path, changes):
    numbers = [0, 1, 2, 3, 4, 5, 6, 2, 1, 2]
    made = context(tmp_path / "a", numbers, **changes)
    first = dense(Stages(made).kernel())
    for copies in ([1, 8], [2, 7, 9]):
        for other in copies[1:]:
            np.testing.assert_array_equal(first[:, copies[0]], first[:, other])
            np.testing.assert_array_equal(first[copies[0]], first[other])
    turned = context(tmp_path / "b", numbers, **changes)
    turned.pool = Examples(turned.pool.rows[::-1], turned.pool.rendered[::-1])
    np.testing.assert_array_equal(dense(Stages(turned).kernel()), first[::-1, ::-1])
    for batch_tokens in (1, 5000):
        other = context(tmp_path / str(batch_tokens), numbers, **changes, batch_tokens=batch_tokens, shard_rows=1)
        np.testing.assert_allclose(dense(Stages(other).kernel()), first, atol=1e-6)


def test_examples_too_long_beside_a_row_are_cut_and_counted(tmp_path):
    model = fitted("gpt2", rows(range(0, 12, 2), "p").rendered, n_positions=60)
    made = context(tmp_path)
    made.model.model = model
    stages = Stages(made)
    kernel = stages.kernel()
    lengths = [len(r) for r in made.pool.rendered]
    assert max(lengths) < 60 < 2 * max(lengths)
    told = stages.notes["pairs"]
    assert told["shortened_examples"] == sum(a + b > 60 for i, a in enumerate(lengths)
                                             for j, b in enumerate(lengths) if i != j) > 0
    assert told["pairs_without_room"] == 0
    i, j = next((i, j) for i, a in enumerate(lengths) for j, b in enumerate(lengths) if i != j and a + b > 60
                and kernel[i, j] > 0.01)
    row, shown = made.pool.rendered[i], made.pool.rendered[j].ids[: 60 - lengths[i]].tolist()
    np.testing.assert_allclose(kernel[i, j], score(model, shown, row, "distance") - score(model, [], row, "distance"),
                               atol=1e-4)


def test_a_row_that_leaves_no_room_is_helped_by_nothing(tmp_path):
    longest = max(map(len, context(tmp_path / "a").pool.rendered))
    made = context(tmp_path / "b")
    made.model.model = tiny.model("gpt2", n_positions=longest).requires_grad_(False)
    stages = Stages(made)
    kernel = stages.kernel()
    full = [i for i, r in enumerate(made.pool.rendered) if len(r) == longest]
    assert full
    assert not kernel[full].any()
    assert stages.notes["pairs"]["pairs_without_room"] == 8 * len(full)


def test_an_interrupted_pass_continues_to_the_very_same_numbers(tmp_path):
    for name, changes in (("dense", {}), ("sparse", {"pairs": "sparse", "nominees": 2})):
        wanted = dense(Stages(context(tmp_path / name / "whole", **changes)).kernel())
        with stopped_after(5), pytest.raises(KeyboardInterrupt):
            Stages(context(tmp_path / name / "part", **changes)).kernel()
        again = context(tmp_path / name / "part", **changes)
        np.testing.assert_array_equal(dense(Stages(again).kernel()), wanted)
        assert [step["reused"] for step in again.clock.steps] == [True, False]
        once_more = context(tmp_path / name / "part", **changes, utility="logprob")
        Stages(once_more).kernel()
        assert all(step["reused"] for step in once_more.clock.steps), "the other form comes of the same passes"


def test_each_matrix_is_made_only_when_it_is_asked_for(tmp_path):
    made = context(tmp_path)
    found = Utility().compute(made)
    assert not made.clock.steps
    whole(found.blocks)
    assert [step["step"] for step in made.clock.steps] == ["target without an example", "utility (target)"]
    found.kernel()
    assert [step["step"] for step in made.clock.steps[2:]] == ["pool without an example", "utility"]


def test_other_settings_are_refused_and_other_targets_are_not(tmp_path):
    Stages(context(tmp_path, range(4))).kernel()
    with pytest.raises(StoreMismatch, match="model"):
        Stages(context(tmp_path, range(4), model_seed=5)).kernel()
    other = context(tmp_path, range(4))
    other.target = rows((88,), "t")
    assert whole(Utility().compute(other).blocks).shape == (1, 4)
    sparse = {"pairs": "sparse", "nominees": 1, "random_nominees": 0}
    Stages(context(tmp_path, range(4), **sparse)).kernel()
    with pytest.raises(StoreMismatch, match="nominees"):
        Stages(context(tmp_path, range(4), **{**sparse, "nominees": 2})).kernel()
    with pytest.raises(ConfigError, match="no pairs would be scored"):
        Utility().compute(context(tmp_path, range(4), **{**sparse, "nominees": 0}))
