"""DSIR against plain dictionaries and against the authors' package over real rows."""

from __future__ import annotations

import hashlib
import json
import math
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.errors import DataError
from siftune.data.text.ngrams import bucket_of, hashed_ngrams
from siftune.methods.dsir import Dsir
from tests.methods.texts import ODD, demo, examples, for_method, permuted

context = for_method("dsir")

POOL = [*demo("pool", 60), *[(text, "yes") for text in ODD], ("", " "), *demo("pool", 2)]
TARGET = [*demo("target", 6), ("数学", "x")]


def counted(text: str, buckets: int) -> dict[int, int]:
    """Bucket -> how many of the text's words and pairs fall into it."""
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    found: dict[int, int] = {}
    for ngram in words + [f"{a} {b}" for a, b in pairwise(words)]:
        place = int(hashlib.sha256(ngram.encode()).hexdigest(), 16) % buckets
        found[place] = found.get(place, 0) + 1
    return found


def oracle(pool: list[str], target: list[str], buckets: int) -> np.ndarray:
    """log importance weights [N]: sum over a row's n-grams of log p - log q."""
    def distribution(texts):
        total: dict[int, int] = {}
        for text in texts:
            for place, count in counted(text, buckets).items():
                total[place] = total.get(place, 0) + count
        return total, sum(total.values())

    (p, p_all), (q, q_all) = distribution(target), distribution(pool)
    return np.array([sum(count * (math.log(p.get(place, 0) / p_all + 1e-8) - math.log(q[place] / q_all + 1e-8))
                         for place, count in counted(text, buckets).items()) for text in pool])


def texts(conversations: list[tuple[str, str]]) -> list[str]:
    return [f"{prompt}\n{answer}" for prompt, answer in conversations]


@pytest.mark.parametrize("buckets", [1, 7, 10_000, 100_000])
def test_it_equals_plain_dictionaries(tmp_path, buckets):
    found = Dsir().compute(context(tmp_path, examples(POOL), examples(TARGET, "target"), ngram_buckets=buckets))
    np.testing.assert_allclose(found.scores, oracle(texts(POOL), texts(TARGET), buckets), rtol=1e-9, atol=1e-6)
    assert found.notes["rows_without_words"] == 1
    assert found.notes["pool_ngrams"] == sum(sum(counted(text, 9).values()) for text in texts(POOL))


def test_it_equals_the_authors_package(tmp_path):
    from data_selection import HashedNgramDSIR

    for name, conversations in (("pool", POOL), ("target", TARGET)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(conversations)))
    package = HashedNgramDSIR([str(tmp_path / "pool.jsonl")], [str(tmp_path / "target.jsonl")],
                              cache_dir=str(tmp_path / "cache"), num_proc=1, min_example_length=0)
    package.fit_importance_estimator(num_tokens_to_fit="all")
    package.compute_importance_weights()
    weights = np.concatenate([np.load(path) for path in sorted(package.log_importance_weights_dir.glob("*.npy"))])
    found = Dsir().compute(context(tmp_path, examples(POOL), examples(TARGET, "target")))
    np.testing.assert_allclose(found.scores, weights, rtol=1e-9, atol=1e-6)


def test_copies_and_the_order_of_the_pool(tmp_path):
    pool, target = examples(POOL), examples(TARGET, "target")
    scores = Dsir().compute(context(tmp_path, pool, target)).scores
    np.testing.assert_array_equal(scores[-2:], scores[:2])
    order = np.random.default_rng(0).permutation(len(POOL)).tolist()
    np.testing.assert_array_equal(Dsir().compute(context(tmp_path, permuted(pool, order), target)).scores,
                                  scores[order])


def test_rows_like_the_targets_weigh_more_than_rows_of_their_length_unlike_them(tmp_path):
    alike = [(f"Who is the {a} of the {b}?", f"The {a} is Ann.") for a in ("aunt", "uncle") for b in ("son", "wife")]
    unlike = [(f"Add 1{a} and {b}3 and 7!", f"It is 2{a} 5.") for a in range(2) for b in range(2)]
    found = Dsir().compute(context(tmp_path, examples(alike + unlike), examples(alike[:2], "target")))
    assert found.scores[:4].min() > found.scores[4:].max()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_occurrences_are_those_of_plain_counting_whatever_the_chunks(data):
    drawn = data.draw(st.lists(st.text(alphabet="ab !?é\n_1", max_size=12), max_size=9))
    buckets = data.draw(st.sampled_from([1, 2, 255, 256, 257, 65_536, 65_537, 2**32]))
    at = 0
    for part in hashed_ngrams(drawn, buckets, chunk_rows=data.draw(st.integers(1, 10))):
        for row in np.split(part.buckets, np.cumsum(part.counts)[:-1]):
            places, times = np.unique(row, return_counts=True)
            assert dict(zip(places.tolist(), times.tolist(), strict=True)) == counted(drawn[at], buckets)
            at += 1
    assert at == len(drawn)


def test_a_lone_surrogate_has_a_bucket():
    assert bucket_of(["\ud800", "a"], 10).tolist()[1] == int(hashlib.sha256(b"a").hexdigest(), 16) % 10


def test_targets_without_words_are_refused(tmp_path):
    with pytest.raises(DataError, match="no word in any target row") as caught:
        Dsir().compute(context(tmp_path, examples(POOL), examples([(" ", "\n")], "target")))
    assert "hint:" in str(caught.value)
