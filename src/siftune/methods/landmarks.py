"""Landmarks: LESS's gradients of a few random rows, carried to all others by their sentence embeddings.

From influence distillation's released code. With L a set of l random rows of the pool, P_L [l, M] their exact LESS
scores (:mod:`siftune.features.exact_scores`) and K a radial kernel over embeddings E,

    P = K(E, L) (K_LL + ridge mean(diag K_LL) I)^-1 P_L,      K(x, y) = exp(-|x - y|^2 / (2 sigma^2)),

sigma the median distance between two landmarks, ridge 0.01: kernel ridge regression of the scores on the embeddings. It
takes l gradients whatever the size of the pool, the same for all targets, and tells of the others only what rows that
read alike have in common: where a task is not to be recognised by its words, neither does this.

The landmarks' own scores come out of the same formula, so that they have no advantage over rows beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from siftune._common.errors import ConfigError
from siftune._common.seeds import derive, shuffled
from siftune.config.options import POSITIVE, OwnSettings, Rule, option
from siftune.features.base import Computed, Context, GradientMethod
from siftune.features.parts import computed_of, part_context, rows_of
from siftune.features.work import Work
from siftune.methods.embedding import Embeddings
from siftune.methods.less import Less
from siftune.selectors.core.problem import Blocks

SOME = Rule("a whole number of 2 or more", lambda x: 2 <= x < 2**63, {"minimum": 2, "exclusiveMaximum": 2**63})


@dataclass(frozen=True)
class LandmarksSettings(OwnSettings):
    landmarks: int = option(256, "Random rows of the pool whose gradients are taken (all, where there are fewer).",
                            rule=SOME, paper=4096)
    ridge: float = option(0.01, "How far scores are smoothed, as a share of the kernel's diagonal.", rule=POSITIVE,
                          decides="selection")

    @property
    def parts(self) -> tuple[str, ...]:
        """The methods whose settings are read with these."""
        return ("embed", "less")


class Landmarks:
    Settings = LandmarksSettings
    reads = ("autocast", "feature_dtype")
    name = "landmarks"
    summary = "LESS scores of a few random rows, carried to all others by their sentence embeddings."
    paper = "influence distillation (released code)"
    cost = "LESS on the landmarks alone (a warmup run is as by itself), and a small encoder over the pool"
    needs_target = True
    needs_model = True
    selector = "round-robin"
    part = "landmarks"

    def compute(self, context: Context) -> Computed:
        settings: LandmarksSettings = context.settings
        rows = landmark_rows(context)
        pool = rows_of(context.pool, rows)
        inside = less_context(context)
        own, there = computed_of(inside, pool, rows, Less(), siblings=lambda: [
            part_context(less_context(one), pool, Less()) for one in context.siblings() if one.pool is context.pool])
        if own.blocks is None or own.lines:
            raise ConfigError("landmarks take scores of single targets", where="less.directions",
                              hint="leave directions out")
        scores = np.concatenate([block for _, block in own.blocks()], axis=1)  # [M, l]
        embeddings = Embeddings(context.of("embed"))
        vectors = embeddings.pool()
        with context.clock.measure("carry scores") as entry:
            at = landmark_vectors(vectors, rows)
            carried = Carried(at, scores, settings.ridge)
            entry["reused"] = False
        predicted = carried.predicted(at)
        notes: dict[str, Any] = {
            "landmarks": len(rows), "sigma": round(carried.sigma, 6), "read_from_earlier_scores": there,
            "landmark_tokens": int(pool.tokens.sum()), "fit": round(_correlation(predicted, scores), 4),
            "less": own.notes}
        stores = [*own.stores, embeddings.store(context.pool, "pool").folder]
        return Computed(blocks=carried.over(vectors), stores=stores,
                        fingerprint={"landmarks": settings.landmarks, "less": own.fingerprint}, notes=notes)

    def work(self, context: Context) -> list[Work]:
        """What `siftune plan` tells but for the gradients, see :meth:`gradient_parts`."""
        pool = context.pool
        return [Work("pool embeddings", "sentences", int(pool.tokens.sum()), sentence_rows=len(pool), owner="embed")]

    def gradient_parts(self, context: Context) -> list[tuple[GradientMethod, Context]]:
        """LESS on the landmarks."""
        pool = rows_of(context.pool, landmark_rows(context))
        return [(Less(), part_context(less_context(context), pool, Less()))]


def landmark_rows(context: Context) -> np.ndarray:
    """int64 [l], ascending: random rows, the same for every order of the pool."""
    order = shuffled(context.pool.ids, derive(context.config.seed, "landmarks"), "landmarks")
    return np.sort(np.array(order[: context.settings.landmarks], dtype=np.int64))


def less_context(context: Context) -> Context:
    """What the landmarks' scores are computed in: LESS with its own settings, and exact."""
    own = {**context.config.own.get("less", {}), "projection": "none"}
    config = replace(context.config, collect=(), own={**context.config.own, "less": own})
    return replace(context, config=config, owner="less",
                   siblings=lambda: [less_context(one) for one in context.siblings()])


def landmark_vectors(vectors: Blocks, rows: np.ndarray) -> np.ndarray:
    """float64 [l, D]: the embeddings of some rows, ascending, of those that are streamed."""
    found = [block[rows[(rows >= start) & (rows < start + len(block))] - start] for start, block in vectors()]
    return np.concatenate(found).astype(np.float64)


class Carried:
    """Kernel ridge regression of scores on embeddings.

    Args:
        at: float64 [l, D], embeddings of the landmarks.
        scores: [M, l].
        ridge: as a share of the kernel's mean diagonal.

    Attributes:
        sigma: the median distance between two landmarks (1 where they all lie on one spot).
    """

    def __init__(self, at: np.ndarray, scores: np.ndarray, ridge: float):
        from scipy.linalg import cho_factor, cho_solve
        from scipy.spatial.distance import pdist

        self.at = at
        self.sigma = float(np.median(pdist(at))) if len(at) > 1 else 0.0
        self.sigma = self.sigma or 1.0
        kernel = self.kernel(at)  # [l, l]
        kernel[np.diag_indices_from(kernel)] += ridge * float(np.mean(np.diag(kernel)))
        self.weights = cho_solve(cho_factor(kernel, lower=True), scores.T.astype(np.float64))  # [l, M]

    def kernel(self, vectors: np.ndarray) -> np.ndarray:
        """float64 [n, l]: of n vectors with the landmarks."""
        from scipy.spatial.distance import cdist

        return np.exp(cdist(vectors.astype(np.float64), self.at, "sqeuclidean") / (-2 * self.sigma**2))

    def predicted(self, vectors: np.ndarray) -> np.ndarray:
        """float64 [M, n]."""
        return (self.kernel(vectors) @ self.weights).T

    def over(self, vectors: Blocks) -> Blocks:
        """Streamed float64 [M, n] of the pool; rounded to float32, so that rows that read alike score alike."""

        def stream() -> Iterator[tuple[int, np.ndarray]]:
            for start, block in vectors():
                yield start, self.predicted(block).astype(np.float32).astype(np.float64)

        return stream


def _correlation(predicted: np.ndarray, scores: np.ndarray) -> float:
    """How well the formula gives the landmarks' own scores back: 1 where exactly; 0 where nothing can be told."""
    a, b = predicted.ravel(), scores.ravel()
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0
