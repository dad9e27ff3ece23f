"""BM25: which pool rows a search for the targets' prompts would find (Robertson and Zaragoza 2009).

Queries are the targets' prompts (all turns but the assistant's), documents the prompt and response of each pool row.
With df(t) rows of N that hold the word t, a row of length l that holds it f times, and the mean length l',

    S[q, j] = sum over the words t of q, each as often as it occurs:
              log(1 + (N - df + 0.5) / (df + 0.5)) * f / (f + k1 (1 - b + b l / l')),      k1 = 1.5, b = 0.75,

which is the variant ``lucene`` of the package bm25s; its words are runs of two or more letters, digits or underscores,
in lower case, without English stop words, not stemmed. In a script without spaces a whole clause is one word, so that
little is found. N, l and df are those of the whole pool, but only words that stand in some query are counted one by
one: the others only make a row longer. The package cuts texts into words; what it would make of the counts is the same
to the last bit, and takes a list of all words of the pool.

Of a large pool the counts are kept in the run folder, so that the next command with the same rows and targets has no
text to read.

A score adds up over the words of its query, so a long prompt scores high with everything and scores of different
targets are not comparable. The method ``bm25`` therefore lets targets take turns; the best score of any target (top-k)
would give the longest prompt all rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.artefacts import Damaged, Unusable, digest, keep_file, kept_file
from siftune._common.artefacts.sealed import tell_damage
from siftune._common.errors import ConfigError
from siftune._common.files import make_folder
from siftune._common.progress import bar, log
from siftune.data.text.rows import FORM, conversation_texts, prompt_text, text_key
from siftune.features.base import Computed, Context
from siftune.selectors.core.problem import Blocks

CHUNK_ROWS = 1024
BLOCK_ROWS = 4096
K1, B = 1.5, 0.75
KEPT_FROM = 20_000
"""Rows of a pool from which on its counts are kept: fewer are counted again in a second."""

KIND = "word counts"
VERSION = 1
"""Of the counts: whoever changes what is counted counts up."""


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
        queries: list[list[str]] = tokenize(prompts, return_ids=False, show_progress=False)
        fingerprint = {"text": FORM, "bm25s": importlib.metadata.version("bm25s"), "method": "lucene",
                       "data": context.text_keys.key, "targets": text_key(context.target.rows)}
        with context.clock.measure("BM25 index") as entry:
            counts, entry["reused"] = _counts(context, queries, fingerprint)
            index = Index(counts, queries)
        silent = [row.id for row, query in zip(context.target.rows, queries, strict=True) if not query]
        unmatched = [row.id for row, found in zip(context.target.rows, index.matched, strict=True) if not found]
        if unmatched:
            log(f"warning: BM25 finds nothing for {len(unmatched)} of {len(queries)} targets, such as "
                f"{unmatched[0]!r}: no word of its prompt stands in the pool, so its turns go to the rows that the "
                "other targets like best")
        notes = {"targets_without_words": len(silent), "targets_without_match": unmatched,
                 "query_words": len(counts.words), "mean_document_length": round(index.mean_length, 2)}
        return Computed(blocks=index.scores(), fingerprint=fingerprint, notes=notes)


@dataclass(frozen=True)
class Counts:
    """How often each document has each word of the queries, and how many words it has.

    Of a document no more is held than that: other words only make it longer.

    Attributes:
        words: those of the queries, each once.
        of_documents: ``csr_array`` [N, words], int32.
        lengths: int64 [N], without stop words.
    """

    words: Sequence[str]
    of_documents: Any
    lengths: np.ndarray

    @classmethod
    def made(cls, documents: Iterable[str], queries: Sequence[Sequence[str]], total: int = 0) -> Counts:
        """Of documents; ``queries`` are tokenised already, ``total`` is the number of documents, for progress."""
        words = _words(queries)
        return cls(words, *_counted(documents, {word: i for i, word in enumerate(words)}, total))

    @classmethod
    def read(cls, path: Path, words: Sequence[str]) -> Counts:
        from safetensors.numpy import load_file
        from scipy.sparse import csr_array

        found = load_file(path)
        parts = found["counts"], found["words"], found["starts"]
        return cls(words, csr_array(parts, shape=(len(found["lengths"]), len(words))), found["lengths"])

    def write(self, path: Path) -> None:
        from safetensors.numpy import save_file

        of = self.of_documents
        save_file({"counts": of.data, "words": of.indices, "starts": of.indptr, "lengths": self.lengths}, path)


def _words(queries: Sequence[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(word for query in queries for word in query))


def _counts(context: Context, queries: Sequence[Sequence[str]], fingerprint: Mapping[str, Any]) -> tuple[Counts, bool]:
    """Those of a pool, and whether they were kept."""
    total = len(context.pool)
    if total < KEPT_FROM or context.share is not None:
        return Counts.made(conversation_texts(context.pool.rows), queries, total), False
    path = context.folder / "store" / "bm25" / "counts.safetensors"
    key = digest({**fingerprint, "words": _words(queries), "code": VERSION})
    try:
        return Counts.read(kept_file(path, KIND, key).path, _words(queries)), True
    except Damaged as error:
        tell_damage(path, str(error))
    except Unusable:
        pass
    counts = Counts.made(conversation_texts(context.pool.rows), queries, total)
    make_folder(path.parent)
    keep_file(path, KIND, key, write=counts.write)
    return counts, False


class Index:
    """BM25 scores of all documents for some queries.

    Args:
        counts: of the documents.
        queries: their words.

    Attributes:
        mean_length: of the documents, in words that are no stop words.
        matched: bool [M], whether any document holds a word of the query.
    """

    def __init__(self, counts: Counts, queries: Sequence[Sequence[str]]):
        from scipy.sparse import csr_array

        self._counts = counts
        n, words = counts.of_documents.shape
        self.mean_length = int(counts.lengths.sum()) / max(1, n)
        holding = np.bincount(counts.of_documents.indices, minlength=words)
        self._idf = np.array([math.log(1 + (n - df + 0.5) / (df + 0.5)) if df else 0.0 for df in holding.tolist()],
                             dtype=np.float32).astype(np.float64)
        number = {word: i for i, word in enumerate(counts.words)}
        at = [number[word] for query in queries for word in query]
        of = np.repeat(np.arange(len(queries)), [len(query) for query in queries])
        # A word that a query holds twice counts twice: equal entries are added up.
        self.queries: Any = csr_array((np.ones(len(at)), (of, at)), shape=(len(queries), words))
        self.matched = self.queries @ (holding > 0).astype(np.float64) > 0

    def scores(self, block_rows: int = BLOCK_ROWS) -> Blocks:
        """Streamed S[M, n], float64.

        The weights are float32 and are added up in float64, which holds their sums exactly: no order of rows, words or
        blocks shows.
        """
        def stream() -> Iterator[tuple[int, np.ndarray]]:
            for start in range(0, len(self._counts.lengths), block_rows):
                yield start, (self.queries @ self._weights(slice(start, start + block_rows)).T).toarray()

        return stream

    def _weights(self, rows: slice) -> Any:
        """``csr_array`` [n, words], float64: what a word adds to a document's score, rounded to float32 as bm25s
        does."""
        from scipy.sparse import csr_array

        counts, lengths = self._counts.of_documents[rows], self._counts.lengths[rows]
        f = counts.data.astype(np.float64)
        norm = np.repeat(K1 * ((1 - B) + B * lengths / (self.mean_length or 1.0)), np.diff(counts.indptr))
        weights = (self._idf[counts.indices] * (f / (norm + f))).astype(np.float32)
        return csr_array((weights.astype(np.float64), counts.indices, counts.indptr), shape=counts.shape)


def _counted(documents: Iterable[str], vocabulary: Mapping[str, int], total: int) -> tuple[Any, np.ndarray]:
    """The ``of_documents`` and ``lengths`` of :class:`Counts`, of the words of a vocabulary (word -> its column)."""
    from scipy.sparse import csr_array

    tokenize, texts, size = _bm25s().tokenize, iter(documents), max(1, len(vocabulary))
    nothing = np.zeros(0, dtype=np.int64)
    words: list[np.ndarray] = [nothing]
    counts: list[np.ndarray] = [nothing]
    held: list[np.ndarray] = [nothing]
    lengths: list[np.ndarray] = [nothing]
    with bar("BM25 index", total) as progress:
        while some := list(islice(texts, CHUNK_ROWS)):
            chunk = tokenize(some, show_progress=False)
            number = np.array([vocabulary.get(word, -1) for word in chunk.vocab], dtype=np.int64)
            length = np.fromiter(map(len, chunk.ids), dtype=np.int64, count=len(some))
            flat = np.fromiter(chain.from_iterable(chunk.ids), dtype=np.int64, count=int(length.sum()))
            word = number[flat] if len(flat) else flat
            pairs, count = np.unique((np.repeat(np.arange(len(some)), length) * size + word)[word >= 0],
                                     return_counts=True)
            words.append((pairs % size).astype(np.int32))
            counts.append(count.astype(np.int32))
            held.append(np.bincount(pairs // size, minlength=len(some)))
            lengths.append(length)
            progress.advance(len(some))
    starts = np.concatenate([[0], np.cumsum(np.concatenate(held))])
    return csr_array((np.concatenate(counts), np.concatenate(words), starts),
                     shape=(len(starts) - 1, len(vocabulary))), np.concatenate(lengths)


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise ConfigError("BM25 needs the package bm25s", where="--method bm25", why=str(error),
                          hint="pip install 'siftune[lexical]'") from error
    return bm25s
