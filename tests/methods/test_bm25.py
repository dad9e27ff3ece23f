"""BM25 against its formula in plain loops, and against the package's own scores over the whole vocabulary."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.errors import ConfigError
from siftune.data.text.rows import text_key
from siftune.methods.bm25 import Bm25, Counts, Index
from tests.methods.contexts import whole
from tests.methods.texts import ODD, demo, examples, for_method, permuted

context = for_method("bm25")

POOL = [*demo("pool", 60), *[(text, "yes") for text in ODD], *demo("pool", 2)]
TARGET = [*demo("target", 6), ("word word words", "ignored"), ("?!", "word"), ("数学を勉強する", "x"),
          ("zzzz", "word")]


def words(text: str) -> list[str]:
    from bm25s.stopwords import STOPWORDS_EN

    return [word for word in re.findall(r"\b\w\w+\b", text.lower()) if word not in STOPWORDS_EN]


def oracle(documents: list[str], queries: list[str], k1: float = 1.5, b: float = 0.75) -> np.ndarray:
    """S[M, N] from the formula, word by word."""
    bags = [words(text) for text in documents]
    mean = sum(len(bag) for bag in bags) / len(bags)
    S = np.zeros((len(queries), len(documents)))
    for q, query in enumerate(queries):
        for j, bag in enumerate(bags):
            for word in words(query):
                holding = sum(word in other for other in bags)
                if word in bag:
                    idf = math.log(1 + (len(bags) - holding + 0.5) / (holding + 0.5))
                    f = bag.count(word)
                    S[q, j] += idf * f / (f + k1 * (1 - b + b * len(bag) / mean))
    return S


def index_of(documents: list[str], queries: list[list[str]]) -> Index:
    return Index(Counts.made(documents, queries), queries)


def test_it_equals_the_formula_and_the_package(tmp_path):
    pool, target = examples(POOL), examples(TARGET, "target")
    found = Bm25().compute(context(tmp_path, pool, target))
    documents, prompts = [f"{p}\n{a}" for p, a in POOL], [p for p, _ in TARGET]
    S = whole(found.blocks)
    np.testing.assert_allclose(S, oracle(documents, prompts), rtol=1e-4, atol=1e-5)

    package = bm25s.BM25()
    package.index(bm25s.tokenize(documents, show_progress=False), show_progress=False)
    for q, prompt in enumerate(prompts):
        known = [word for word in words(prompt) if word in package.vocab_dict]
        expected = package.get_scores(known) if known else np.zeros(len(POOL))
        np.testing.assert_allclose(S[q], expected, rtol=1e-4, atol=1e-5)

    assert found.notes["targets_without_words"] == 1, "?! has none"
    assert found.notes["targets_without_match"] == ["target-007", "target-009"]
    assert (S[[7, 9]] == 0).all()
    assert np.flatnonzero(S[8]).tolist() == [60 + ODD.index("数学を勉強する")]


def test_a_word_of_the_query_counts_as_often_as_it_stands_there(tmp_path):
    documents = ["red apple", "green apple tree", "blue sky"]
    once, twice = (whole(index_of(documents, [query]).scores()) for query in (["apple"], ["apple", "apple"]))
    np.testing.assert_array_equal(2 * once, twice)
    assert once[0, 0] > once[0, 1] > once[0, 2] == 0, "the shorter row holds it more densely"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_depends_on_neither_order_nor_blocks_and_copies_score_alike(data):
    word = st.sampled_from(["ab", "cd", "ef", "gh", "ij", "the", "of", "?", "x"])
    texts = st.lists(st.lists(word, max_size=8).map(" ".join), min_size=1, max_size=9)
    documents = data.draw(texts)
    documents.append(documents[0])
    queries = [words(text) for text in data.draw(texts)]
    index = index_of(documents, queries)
    S = whole(index.scores(block_rows=1))
    np.testing.assert_array_equal(whole(index.scores(block_rows=data.draw(st.integers(1, 12)))), S)
    np.testing.assert_array_equal(S[:, 0], S[:, -1])
    np.testing.assert_array_equal(index.matched, S.any(axis=1))
    order = data.draw(st.permutations(range(len(documents))))
    np.testing.assert_array_equal(whole(index_of([documents[i] for i in order], queries).scores()), S[:, order])
    if any(words(text) for text in documents):
        np.testing.assert_allclose(S, oracle(documents, [" ".join(q) for q in queries]), rtol=1e-4, atol=1e-5)
    else:
        assert not S.any()


def test_the_keys_of_texts_are_made_once_and_are_those_of_the_rows(tmp_path):
    pool = examples(POOL)
    one = context(tmp_path, pool, examples(TARGET, "target"))
    keys = one.text_keys
    assert keys is one.of("embed").text_keys
    assert keys.key == text_key(pool.rows)
    other = replace(one, pool=examples(POOL[1:]))
    assert other.text_keys.key == text_key(other.pool.rows) != keys.key
    assert one.text_keys.key == keys.key


def test_the_order_of_a_real_pool_does_not_matter(tmp_path):
    pool, target = examples(POOL), examples(TARGET, "target")
    order = np.random.default_rng(0).permutation(len(POOL)).tolist()
    S = whole(Bm25().compute(context(tmp_path, pool, target)).blocks)
    other = whole(Bm25().compute(context(tmp_path, permuted(pool, order), target)).blocks)
    np.testing.assert_array_equal(other, S[:, order])


def test_counts_of_a_large_pool_are_kept_and_belong_to_its_rows_and_targets(tmp_path, monkeypatch, capsys):
    from siftune.methods import bm25

    pool, target = examples(POOL), examples(TARGET, "target")
    expected = whole(Bm25().compute(context(tmp_path / "other", pool, target)).blocks)
    monkeypatch.setattr(bm25, "KEPT_FROM", len(POOL))
    kept = tmp_path / "store" / "bm25" / "counts.safetensors"
    read: list[int] = []
    made = Counts.made
    monkeypatch.setattr(Counts, "made", lambda *given: read.append(given[2]) or made(*given))

    def scores(pool, target):
        with_clock = context(tmp_path, pool, target)
        S = whole(Bm25().compute(with_clock).blocks)
        return S, [step["reused"] for step in with_clock.clock.steps if step["step"] == "BM25 index"]

    for times in (1, 2):
        S, reused = scores(pool, target)
        np.testing.assert_array_equal(S, expected)
        assert (reused, read) == ([times == 2], [len(POOL)])
    data = kept.read_bytes()
    kept.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    np.testing.assert_array_equal(scores(pool, target)[0], expected)
    assert "counts.safetensors was damaged" in capsys.readouterr().err
    assert len(read) == 2
    other = examples(POOL[::-1])
    np.testing.assert_array_equal(scores(other, target)[0], expected[:, ::-1])
    fewer = examples(TARGET[:3], "target")
    np.testing.assert_array_equal(scores(other, fewer)[0], expected[:3, ::-1])
    assert len(read) == 4


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ConfigError, match=r"pip install 'siftune\[lexical\]'"):
        Bm25().compute(context(tmp_path, examples(POOL), examples(TARGET, "target")))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["ab", "cd", "ef", "gh", "the"]), max_size=40).map(" ".join), min_size=1,
                max_size=30))
def test_the_weights_are_the_packages_to_the_last_bit(documents):
    """Over the same words, of which none is left out."""
    package = bm25s.BM25()
    if not any(words(text) for text in documents):
        return
    package.index(bm25s.tokenize(documents, show_progress=False), show_progress=False)
    S = whole(index_of(documents, [[word] for word in ("ab", "cd", "ef", "gh")]).scores())
    for word, line in zip(("ab", "cd", "ef", "gh"), S, strict=True):
        expected = package.get_scores([word]) if word in package.vocab_dict else np.zeros(len(documents))
        np.testing.assert_array_equal(line, expected)
