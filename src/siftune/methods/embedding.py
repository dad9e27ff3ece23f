"""EMBED: L2-normalised sentence embeddings of whole rows; the similarity is their cosine.

The representation that targeted selection is most often compared with (arXiv 2602.14696, which uses GTR-T5-base). Any
model of sentence-transformers serves; the text of a row is its prompt and response (see :mod:`siftune.data.text.rows`),
cut where the model stops reading, which is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from siftune._common.progress import bar
from siftune.config.options import OwnSettings, option
from siftune.data.rows import Examples
from siftune.data.text.rows import FORM, conversation_texts, first_same_text, named_text_digests, text_digests
from siftune.features.base import Computed, Context
from siftune.features.cosines import cosines, identical_vectors
from siftune.features.earlier import take
from siftune.features.shares import Share
from siftune.features.store import FeatureStore, RowKeys
from siftune.features.store.codec import encode
from siftune.features.store.kept_rows import DIGEST
from siftune.features.whitening import Whitenable, prepared
from siftune.features.work import Work
from siftune.models.sentence_embedding import BATCH_ROWS, SentenceModel, load_sentence_model
from siftune.selectors.core.problem import Blocks

VERSION = 2
"""Of the embeddings: whoever changes how a row is embedded counts up."""


@dataclass(frozen=True)
class Embedded(OwnSettings):
    """Of methods that look at sentence embeddings."""

    embedding_model: str = option("minilm", "Sentence-embedding model: any of sentence-transformers, a folder, or "
                                  "minilm (all-MiniLM-L6-v2, offline).")


@dataclass(frozen=True)
class EmbeddingSettings(Whitenable, Embedded):
    pass


class Embedding:
    Settings = EmbeddingSettings
    reads = ("feature_dtype",)
    name = "embed"
    summary = "Sentence embeddings of prompt and response (embedding_model); cosine to the targets."
    paper = "arXiv 2602.14696"
    cost = "one forward pass of a small encoder over the pool"
    needs_target = True
    without_target = ("vectors", "kernel")
    needs_model = False

    def compute(self, context: Context) -> Computed:
        embeddings = Embeddings(context)
        every = embeddings.pool()
        pool = embeddings.store(context.pool, "pool")
        queries = embeddings.store(context.target, "target").whole_features() if len(context.target) else None
        existing = embeddings.store(context.existing, "existing").whole_features() if len(context.existing) else None
        cut = {kind: rows_cut(embeddings.store(rows, kind))
               for kind, rows in (("pool", context.pool), ("target", context.target)) if len(rows)}
        vectors, (queries, existing), notes = prepared(context, every, queries, existing)
        notes |= {
            "embedding_model": context.settings.embedding_model, "embedding_dim": next(every())[1].shape[1],
            "embedding_max_tokens": embeddings.model.max_tokens, "embedding_rows_cut": cut,
        }
        return Computed(blocks=None if queries is None else cosines(vectors, queries), vectors=vectors,
                        existing=None if existing is None else cosines(vectors, existing),
                        stores=[pool.folder], fingerprint=pool.fingerprint, notes=notes)

    def work(self, context: Context) -> list[Work]:
        """What `siftune plan` tells."""
        parts = (("pool", context.pool), ("target", context.target), ("existing", context.existing))
        return [Work(f"{name} embeddings", "sentences", int(rows.tokens.sum()), sentence_rows=len(rows))
                for name, rows in parts if len(rows)]


def embedding_vectors(context: Context) -> Blocks:
    """Streamed (first row, float32 [n, D]): unit sentence embeddings of the pool, for whatever needs neighbours.

    Nothing is loaded or computed before the stream is first asked for; then they are computed, or read from the store
    that the representation ``embed`` keeps as well. Rows with the same text have the very same vector.
    """
    made: list[Blocks] = []

    def stream() -> Iterator[tuple[int, np.ndarray]]:
        if not made:
            made.append(Embeddings(context).pool())
        return made[0]()

    return stream


class Embeddings:
    """Embeds rows into stores below ``store/embed-<hash of the model>``; reads what is there already."""

    def __init__(self, context: Context):
        self.context = context
        self._stores: dict[str, FeatureStore] = {}

    @cached_property
    def model(self) -> SentenceModel:
        config = self.context.config
        with self.context.clock.measure("embedding model"):
            return load_sentence_model(self.context.settings.embedding_model, device=config.device, dtype=config.dtype,
                                       trust_remote_code=config.trust_remote_code)

    def pool(self) -> Blocks:
        """Streamed (first row, float32 [n, D]) of the pool."""
        store = self.store(self.context.pool, "pool")
        return identical_vectors(store.feature_blocks, first_same_text(self.context.pool.rows))

    def store(self, examples: Examples, kind: str) -> FeatureStore:
        """The complete store of some rows.

        Args:
            examples: the pool, or other rows.
            kind: ``pool``, ``target`` or ``existing``. The pool is kept as ``feature_dtype`` says; what it is
                compared with keeps its precision.

        Raises:
            StoreMismatch: the pool's store was made from something else.
            ModelError: the model cannot be loaded.
        """
        if kind not in self._stores:
            _ = self.model  # timed by itself
            with self.context.clock.measure(f"{kind} embeddings") as entry:
                self._stores[kind], entry["reused"] = self._store(examples, kind)
        return self._stores[kind]

    def _store(self, examples: Examples, kind: str) -> tuple[FeatureStore, bool]:
        config, model = self.context.config, self.model
        is_pool = kind == "pool"
        known = is_pool and examples is self.context.pool
        rows = self.context.text_keys if known else RowKeys(kind, named_text_digests(examples.rows))
        dtype = config.feature_dtype if is_pool else "float32"
        root = self.context.folder / "store" / f"embed-{model.weights[:8]}"
        store = FeatureStore.open(
            root / (kind if is_pool else f"{kind}-{rows.key[:12]}"),
            {"model": model.fingerprint(), "text": FORM, "feature_dtype": dtype, "code": VERSION},
            rows=rows, shard_rows=config.shard_rows, recompute=config.recompute,
        )
        computed = 0

        def compute(which: Sequence[int], stores: Sequence[FeatureStore], some: Examples) -> None:
            nonlocal computed
            computed += sum(self._embed(one, some, kind, dtype) for one in stores)

        take(self.context, [store], examples, lambda: text_digests(examples.rows), compute)
        computed += self._embed(store, examples, kind, dtype, self.context.share if is_pool else None)
        return store, not computed

    def _embed(self, store: FeatureStore, examples: Examples, kind: str, dtype: str,
               share: Share | None = None) -> int:
        """Compute what is missing of a store, and how many rows that were."""
        config, model = self.context.config, self.model
        missing, step = store.missing(), f"{kind} embeddings"
        if share is not None:
            share.begin(step, len(missing))
            missing = share.own(missing)
        elif missing:
            self.context.computes_alone(step)
        rows = sum(len(shard) for shard in missing)
        batch_rows = max(1, config.batch_tokens // (model.max_tokens or 512)) if config.batch_tokens else BATCH_ROWS
        with bar(step, len(examples)) as progress:
            progress.skip(len(examples) - rows)
            for shard in missing:
                inside = examples.rows[shard.start : shard.stop]
                texts = list(conversation_texts(inside))
                cut = model.cut(texts)
                known = np.full(len(texts), -1, np.int8) if cut is None else cut.astype(np.int8)
                store.write(shard, {**encode("feature", model.encode(texts, batch_rows), dtype), "cut": known,
                                    DIGEST: text_digests(inside)})
                progress.advance(len(shard))
        if share is not None:
            share.end(step, len(missing), len(store.missing()))
        store.finish()
        return rows


def rows_cut(store: FeatureStore) -> int | None:
    """How many rows are longer than the model reads; None where its tokenizer cannot tell."""
    cut = store.array("cut")
    return None if (cut < 0).any() else int(cut.sum())
