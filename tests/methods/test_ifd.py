"""IFD against its formula, one row at a time with the model's own loss; what it rules out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune.data.rows import Examples, Rendered
from siftune.data.templates import PLAIN_TEMPLATE, ChatTemplate
from siftune.features.store import FeatureStore
from siftune.methods.ifd import RULED_OUT, Ifd, ifd, readers, without_prompt
from tests import tiny
from tests.features.forward.test_loss import alone, own_loss
from tests.methods.contexts import examples, for_method

context = for_method("ifd")

OPENING = tuple(tiny.tokenizer()("<|im_start|>assistant\n")["input_ids"])


def oracle(model, rendered: list[Rendered]) -> list[float]:
    found = []
    for row in rendered:
        perplexity = math.exp(own_loss(model, row.ids.tolist(), row.mask.tolist()))
        found.append(perplexity / math.exp(own_loss(model, *alone(row, OPENING))))
    return found


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_ifd_equals_its_plain_loop_oracle(tmp_path, architecture):
    expected = None
    for number, changes in enumerate(({"batch_tokens": 64}, {"batch_tokens": 1, "shard_rows": 3})):
        made = context(tmp_path / str(number), architecture=architecture, **changes)
        expected = expected or oracle(made.model.model, made.pool.rendered)
        found = Ifd().compute(made)
        assert found.scores is not None
        np.testing.assert_allclose(found.scores, expected, rtol=1e-4)
        out = [i for i, ratio in enumerate(expected) if ratio >= 1]
        assert 0 < len(out) < len(expected), "the instance rules out some rows and keeps some"
        assert found.excluded[RULED_OUT].tolist() == out
        assert found.notes["ifd_at_least_1"] == len(out)
        assert found.notes["ifd_share_at_least_1"] == pytest.approx(len(out) / len(expected), abs=1e-6)
        assert found.notes["ifd_quantiles"]["100%"] == pytest.approx(max(expected), rel=1e-4)
        assert found.notes["ifd_quantiles"]["50%"] == pytest.approx(sorted(expected)[6], rel=1e-4)


def test_the_losses_are_kept_and_serve_another_run(tmp_path):
    first = Ifd().compute(context(tmp_path))
    again = context(tmp_path)
    second = Ifd().compute(again)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert [step["reused"] for step in again.clock.steps] == [True]
    assert [FeatureStore.load(folder).rows for folder in second.stores] == [13, 13]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_copies_of_a_row_have_the_very_same_ratio(tmp_path, architecture):
    """In other batches than the original, which round otherwise for some rows."""
    made = context(tmp_path, architecture=architecture, batch_tokens=64, shard_rows=5)
    pool = made.pool
    rows = [pool.rows[i] for i in range(13)] + [examples(13, 8).rows[i] for i in range(13)]
    made.pool = Examples(rows, [*pool.rendered, *pool.rendered[::-1]])
    found = Ifd().compute(made).scores
    assert found is not None
    np.testing.assert_array_equal(found[:13], found[13:][::-1])


def test_a_row_without_a_prompt_is_ruled_out_whatever_rounding_says(tmp_path):
    """Its two losses are of the same tokens, but in batches of other shapes."""
    for shard_rows in (1, 2, 5, 30):
        made = context(tmp_path / str(shard_rows), shard_rows=shard_rows, batch_tokens=200)
        made.pool = examples(13, 1)
        for i in range(0, 13, 2):  # the opening of a turn, and a response
            row = made.pool.rendered[i]
            ids = np.concatenate([OPENING, row.ids]).astype(np.int32)
            made.pool.rendered[i] = Rendered(ids, np.arange(len(ids)) >= len(OPENING))
        bare = without_prompt(made.pool, readers(made)[1])
        assert bare.tolist() == [i % 2 == 0 for i in range(13)]
        found = Ifd().compute(made)
        assert found.scores is not None
        assert (found.scores[bare] == 1).all()
        assert set(np.flatnonzero(bare)) <= set(found.excluded[RULED_OUT].tolist())


@pytest.mark.parametrize(("template", "opening"), [
    (tiny.CHATML, "<|im_start|>assistant\n"), (None, "<|assistant|>\n"), (PLAIN_TEMPLATE, "<|assistant|>\n"),
    ("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}", ""),
    ("{% if messages | length < 2 %}{{ raise_exception('two turns') }}{% endif %}{{ messages[0]['content'] }}", ""),
])
def test_the_opening_of_an_answer_is_what_the_template_puts_there(template, opening):
    assert ChatTemplate(tiny.tokenizer(template)).opening() == opening


LOSSES = st.floats(0, 5e4, width=32)


@given(LOSSES, LOSSES)
def test_the_ratio_is_finite_and_at_least_1_exactly_where_the_prompt_does_not_help(conditioned, alone_):
    [ratio] = ifd(np.array([conditioned]), np.array([alone_]))
    assert np.isfinite(ratio)
    assert ratio >= 0
    if abs(conditioned - alone_) > 1e-12:
        assert (ratio >= 1) == (conditioned >= alone_)
    if abs(conditioned - alone_) < 300 and max(conditioned, alone_) < 300:
        assert ratio == pytest.approx(math.exp(conditioned) / math.exp(alone_), rel=1e-9)
