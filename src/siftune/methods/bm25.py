"""BM25: which pool rows a search for the targets' prompts would find (Robertson and Zaragoza 2009).

Queries are the targets' prompts (all turns but the assistant's), documents the prompt and response of each pool row.
With df(t) rows of N that hold the word t, a row of length l that holds it f times, and the mean length l',

    S[q, j] = sum over the words t of q, each as often as it occurs:
              log(1 + (N - df + 0.5) / (df + 0.5)) * f / (f + k1 (1 - b + b l / l')),      k1 = 1.5, b = 0.75,

which is the variant ``lucene`` of the package bm25s; its words are runs of two or more letters, digits or underscores,
in lower case, without English stop words, not stemmed. In a script without spaces a whole clause is one word, so that
little is found. N, l and df are those of the whole pool, but only words that stand in some query are indexed: the
others are one filler word there.

A score adds up over the words of its query, so a long prompt scores high with everything and scores of different
targets are not comparable. The method ``bm25`` therefore lets targets take turns; the best score of any target (top-k)
would give the longest prompt all rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from siftune._common.errors import ConfigError
from siftune._common.progress import bar, log
from siftune.data.text.rows import FORM, conversation_text, prompt_text, text_key
from siftune.features.base import Computed, Context
from siftune.selectors.core.problem import Blocks

CHUNK_ROWS = 1024
BLOCK_ROWS = 4096


class Bm25:
    reads = ()
    name = "bm25"
    summary = "Lexical search: BM25 scores of pool rows for the targets' prompts."
    paper = "Robertson and Zaragoza 2009"
    cost = "seconds: words are counted, no model is run"
    needs_target = True
    needs_model = False

    def compute(self, context: Context) -> Computed:
        import importlib.metadata

        tokenize = _bm25s().tokenize
        prompts = [prompt_text(row) for row in context.target.rows]
        with context.clock.measure("BM25 index"):
            queries: list[list[str]] = tokenize(prompts, return_ids=False, show_progress=False)
            index = Index([conversation_text(row) for row in context.pool.rows], queries)
        silent = [row.id for row, query in zip(context.target.rows, queries, strict=True) if not query]
        unmatched = [row.id for row, found in zip(context.target.rows, index.matched, strict=True) if not found]
        if unmatched:
            log(f"warning: BM25 finds nothing for {len(unmatched)} of {len(queries)} targets, such as "
                f"{unmatched[0]!r}: no word of its prompt stands in the pool, so its turns go to the rows that the "
                "other targets like best")
        notes = {"targets_without_words": len(silent), "targets_without_match": unmatched,
                 "query_words": index.words, "mean_document_length": round(index.mean_length, 2)}
        fingerprint = {"text": FORM, "bm25s": importlib.metadata.version("bm25s"), "method": "lucene",
                       "data": text_key(context.pool.rows), "targets": text_key(context.target.rows)}
        return Computed(blocks=index.scores(), fingerprint=fingerprint, notes=notes)


class Index:
    """BM25 weights of the query words in every document.

    Attributes:
        words: how many different words the queries have.
        mean_length: of the documents, in words that are no stop words.
        matched: bool [M], whether any document holds a word of the query.
    """

    def __init__(self, documents: Sequence[str], queries: Sequence[Sequence[str]]):
        """``queries`` are tokenised already."""
        from scipy.sparse import csr_array

        vocabulary = {word: i for i, word in enumerate(dict.fromkeys(word for query in queries for word in query))}
        self.words = len(vocabulary)
        ids = _document_ids(documents, vocabulary)
        self.mean_length = sum(map(len, ids)) / max(1, len(ids))
        self.weights = _weights(ids, self.words)
        at = [vocabulary[word] for query in queries for word in query]
        of = np.repeat(np.arange(len(queries)), [len(query) for query in queries])
        # A word that a query holds twice counts twice: equal entries are added up.
        self.queries: Any = csr_array((np.ones(len(at)), (of, at)), shape=(len(queries), self.words))
        present = np.asarray((self.weights != 0).sum(axis=0)).ravel() > 0
        self.matched = self.queries @ present.astype(np.float64) > 0

    def scores(self, block_rows: int = BLOCK_ROWS) -> Blocks:
        """Streamed S[M, n], float64.

        The weights are float32 and are added up in float64, which holds their sums exactly: no order of rows, words or
        blocks shows.
        """
        weights, queries = self.weights, self.queries

        def stream() -> Iterator[tuple[int, np.ndarray]]:
            for start in range(0, weights.shape[0], block_rows):
                yield start, (queries @ weights[start : start + block_rows].T).toarray()

        return stream


def _document_ids(documents: Sequence[str], vocabulary: dict[str, int]) -> list[list[int]]:
    """The words of every document; those in no query have the number after the last."""
    tokenize, filler = _bm25s().tokenize, len(vocabulary)
    ids: list[list[int]] = []
    with bar("BM25 index", len(documents)) as progress:
        for start in range(0, len(documents), CHUNK_ROWS):
            chunk = tokenize(list(documents[start : start + CHUNK_ROWS]), show_progress=False)
            number = [vocabulary.get(word, filler) for word in chunk.vocab]
            ids += [[number[i] for i in row] for row in chunk.ids]
            progress.advance(len(chunk.ids))
    return ids


def _weights(ids: list[list[int]], words: int) -> Any:
    """``csr_array`` [N, words], float64: what a word adds to a document's score."""
    from scipy.sparse import csc_array, csr_array

    if not words or not any(ids):
        return csr_array((len(ids), words))
    index = _bm25s().BM25()
    index.index((ids, {str(i): i for i in range(words + 1)}), create_empty_token=False, show_progress=False)
    kept = index.scores
    whole = csc_array((kept["data"].astype(np.float64), kept["indices"], kept["indptr"]), shape=(len(ids), words + 1))
    return whole[:, :words].tocsr()


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise ConfigError("BM25 needs the package bm25s", where="--method bm25", why=str(error),
                          hint="pip install 'siftune[lexical]'") from error
    return bm25s
