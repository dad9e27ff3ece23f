"""DELIFT's utility: how much an example in context helps the model to answer a row (arXiv 2411.04425, section 3).

    d_i(.)  = sqrt(mean_t (1 - p_t)^2), p_t the probability of row i's supervised token t under teacher forcing
    U[i, j] = d_i(no example) - d_i(example j before it), in [-1, 1]: "showing j helps to answer i"

(``utility = "logprob"``: ``mean_t log p_t`` with the example, less that without.) U is directed: rows are those to be
helped, columns the examples. An example is shown as an earlier exchange of the same conversation, see
:mod:`siftune.features.in_context.conversation`.

Kernel: s = max(U, 0), as it is, on one scale for pool, targets and existing rows (the released code stretches each
block to [0, 1] on its own, which makes them incomparable). It serves the paper's three stages: facility location
(nothing given), FLMI or FLQMI (targets: U[q, j], negative where j harms), FLCG (existing rows: U[i, p]).

A row is never shown to itself, nor to a row of the same content: its own answer would be in the context (as it is in
the released code). Yet a row that is taken needs no other one to stand for it. With a diagonal of 0, facility location
takes rows by twos, the second to represent the first; so a row counts as helped by itself as much as by the best of
the others: s[i, i] = max_j s[i, j].

Cost: a forward pass a pair. The example's keys and values are computed once for all rows that it is shown to, and above
256 rows only pairs are scored that nearness or chance nominates (:mod:`siftune.features.in_context.nomination`); the
rest are 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from siftune._common.errors import ConfigError
from siftune.config.options import COUNT_OR_NONE, OwnSettings, option
from siftune.data.rows import Examples
from siftune.features.base import Computed, Context, deciding_features, row_keys
from siftune.features.in_context.matrix import Contents, Utilities
from siftune.features.in_context.nomination import all_pairs, nominated
from siftune.features.store import FeatureStore
from siftune.features.utility_passes import Pairs, Scored, score_alone, score_pairs
from siftune.features.work import Work

DENSE_ROWS = 256
"""``pairs = "auto"`` scores all pairs of up to so many rows (squared)."""

_WIDTH = 4096  # pool rows a block
_UNION = 1.75  # as many pairs as this times ``nominees`` a row, where both sides nominate


@dataclass(frozen=True)
class UtilitySettings(OwnSettings):
    utility: Literal["distance", "logprob"] = option("distance", "How much an example in context helps: by distance "
                                                     "from certainty (the paper), or by mean log-probability.",
                                                     decides="selection")
    pairs: Literal["auto", "dense", "sparse"] = option("auto", "Which pairs are scored: all, or those that nearest "
                                                       "neighbours and chance nominate; auto: all up to 256 rows.",
                                                       paper="dense")
    nominees: int = option(24, "Nearest rows by embedding that each example is scored on, where not all pairs are.",
                           rule=COUNT_OR_NONE)
    random_nominees: int = option(8, "Random rows that each example is scored on besides.", rule=COUNT_OR_NONE)


class Utility:
    Settings = UtilitySettings
    reads = ()
    name = "utility"
    summary = "How much each row, shown as an example, helps the model to answer the others."
    paper = "arXiv 2411.04425"
    cost = "a forward pass a pair of rows: all pairs of up to 256 rows, about 50 a row above"
    needs_target = False
    needs_model = True

    def compute(self, context: Context) -> Computed:
        stages = Stages(context)
        return Computed(kernel=stages.kernel, blocks=stages.to_targets if len(context.target) else None,
                        existing=stages.to_existing if len(context.existing) else None,
                        fingerprint={**stages.fingerprint, "settings": deciding_features(self, context.settings)},
                        notes=stages.notes)

    def work(self, context: Context) -> list[Work]:
        """What `siftune plan` tells; how many pairs nearness nominates is known about, until it is done."""
        own, pool, target, known = context.settings, context.pool, context.target, context.existing
        hidden = context.model.model.get_output_embeddings().weight.shape[1]

        def alone(name: str, rows: Examples, needs: str = "") -> Work:
            return Work(f"{name} without an example", "forward", int(rows.tokens.sum()), needs=needs,
                        disk=len(rows) * 4 * (hidden + 2))

        def pairs(name: str, helped: Examples, shown: Examples, count: int, needs: str = "") -> Work:
            tokens = int(shown.tokens.sum()) + round(count * float(helped.tokens.mean()))
            return Work(name, "forward", tokens, disk=12 * count, needs=needs, told=f"{count:,} pairs")

        def count(helped: Examples, shown: Examples) -> int:
            if is_dense(own.pairs, len(helped), len(shown)):
                return len(helped) * len(shown)
            # Nearest rows of each side, many of them the same pair.
            return round(len(shown) * min(len(helped), _UNION * own.nominees + own.random_nominees))

        made = [alone("pool", pool, "kernel"), pairs("utility", pool, pool, count(pool, pool), "kernel")]
        if len(target):
            made += [alone("target", target), pairs("utility (target)", target, pool, len(pool) * len(target))]
        if len(known):
            made += [alone("existing", known, "kernel"),
                     pairs("utility (existing)", pool, known, count(pool, known), "kernel")]
        return made


def is_dense(pairs: str, rows: int, examples: int) -> bool:
    """Whether ``pairs`` means all of them, for so many rows to be helped and examples."""
    return pairs == "dense" or (pairs == "auto" and rows * examples <= DENSE_ROWS**2)


class Stages:
    """Utilities between pool, targets and existing rows; each matrix is made when it is first asked for.

    Attributes:
        notes: what was scored, filled as matrices are made.
    """

    def __init__(self, context: Context):
        self.context = context
        self.pool = Contents(context.pool)
        every = self._dense(len(self.pool), max(len(self.pool), len(self.existing)))
        if not every and not context.settings.nominees + context.settings.random_nominees:
            raise ConfigError("no pairs would be scored", where="--set nominees",
                              why="Neither nearest rows nor random ones are nominated.",
                              hint="give nominees or random_nominees above 0, or --set pairs=dense")
        self.notes: dict[str, Any] = {"utility": context.settings.utility}

    def kernel(self) -> Any:
        """s [N, N]: float32, or ``csc_array`` where pairs are nominated."""
        found, of = self.among_pool, self.pool.of
        n = len(self.pool)
        best = found.best()
        values = np.concatenate([np.maximum(found.utility, 0), best])
        rows, examples = (np.concatenate([some, np.arange(n)]) for some in (found.rows, found.examples))
        if self._dense(n, n):
            s = np.zeros((n, n), dtype=np.float32)
            s[rows, examples] = values
            return s[np.ix_(of, of)]
        from scipy.sparse import csc_array

        positive = values > 0
        made = csc_array((values[positive], (rows[positive], examples[positive])), shape=(n, n))
        return made[:, of].tocsr()[of].tocsc()

    def to_targets(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, float32 [M, n]): how much each pool row helps each target; negative where it harms."""
        found = self.on_targets
        U = found.matrix(found.best())
        yield from _columns(U[self.target.of], self.pool.of)

    def to_existing(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, float32 [E, n]): how much each row that the model knows helps each pool row."""
        found = self.of_existing
        U = found.matrix(np.maximum(found.best(), self.among_pool.best()))
        yield from _columns(U.T[self.existing.of], self.pool.of)

    @cached_property
    def target(self) -> Contents:
        return Contents(self.context.target)

    @cached_property
    def existing(self) -> Contents:
        return Contents(self.context.existing)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What every utility depends on. Both forms of it come of the same pass, and are stored side by side."""
        loaded = self.context.model
        return {"model": loaded.identity, "dtype": loaded.dtype,
                "render": self.context.render, "pool": self.pool.key, "limit": self._limit}

    @cached_property
    def among_pool(self) -> Utilities:
        return self._utilities("pool", self.pool, self.pool)

    @cached_property
    def on_targets(self) -> Utilities:
        return self._utilities("target", self.target, self.pool)

    @cached_property
    def of_existing(self) -> Utilities:
        return self._utilities("existing", self.pool, self.existing)

    @cached_property
    def _limit(self) -> int:
        from siftune.features.in_context.scoring import most_tokens

        return most_tokens(self.context.model.model, self.context.config.max_length)

    @cached_property
    def _conversation(self) -> Any:
        from siftune.features.in_context.conversation import Conversation

        return Conversation(self.context.model.tokenizer)

    def _dense(self, rows: int, examples: int) -> bool:
        return is_dense(self.context.settings.pairs, rows, examples)

    def _utilities(self, kind: str, helped: Contents, shown: Contents) -> Utilities:
        """U of one kind: all pairs where targets are helped or the rows are few, nominated ones elsewhere."""
        context, config, own = self.context, self.context.config, self.context.settings
        same = helped.place_of(shown)
        dense = kind == "target" or self._dense(len(helped), len(shown))
        alone = self.alone(helped, "pool" if helped is self.pool else kind)
        rows = [self._conversation.continuation(row, rendered)
                for row, rendered in zip(helped.examples.rows, helped.examples.rendered, strict=True)]

        def pairs() -> Pairs:
            if dense:
                some = all_pairs(len(helped), same)
            else:
                apart = None if shown is helped else self.alone(shown, kind).array("vector")
                some = nominated(alone.array("vector"), apart, same, shown.examples.ids, nominees=own.nominees,
                                 random_nominees=own.random_nominees, seed=config.seed)
            return Pairs([r.ids for r in shown.examples.rendered], rows, some)

        form = {"pairs": "dense"} if dense else {"pairs": "sparse", "nominees": own.nominees,
                                                 "random_nominees": own.random_nominees, "seed": config.seed}
        other = {"target": helped, "existing": shown}.get(kind)
        scored = score_pairs(
            context, pairs, self._folder(kind, other) / form["pairs"],
            {**self.fingerprint, **form, **({} if other is None else {kind: other.key})},
            examples=row_keys(shown.examples, "pool"),
            expected=len(helped) if dense else 2 * own.nominees + own.random_nominees, limit=self._limit,
            title="utility" if kind == "pool" else f"utility ({kind})", shown=shown.examples.rows,
            over_pool=shown is self.pool)
        found = Utilities.between(scored.rows, scored.examples, alone.array(own.utility),
                                  scored.scores[own.utility], own.utility, same, (len(helped), len(shown)))
        self._note(kind, found, scored, np.array([len(row) for row in rows]), shown)
        return found

    def alone(self, contents: Contents, kind: str) -> FeatureStore:
        """Rows without an example."""
        other = None if contents is self.pool else contents
        return score_alone(self.context, contents.examples, self._folder(kind, other) / "alone",
                           {**self.fingerprint, **({} if other is None else {kind: contents.key})}, self._limit,
                           f"{kind} without an example", over_pool=contents is self.pool)

    def _folder(self, kind: str, contents: Contents | None) -> Path:
        """One for the pool, and one for all other rows by their content, since they may change between runs."""
        name = kind if contents is None else f"{kind}-{contents.key[:12]}"
        return self.context.folder / "store" / "utility" / name

    def _note(self, kind: str, found: Utilities, scored: Scored, lengths: np.ndarray, shown: Contents) -> None:
        told = scored.facts(shown.examples.tokens, lengths, self._limit)
        step = next(s for s in self.context.clock.steps[::-1] if s["step"].startswith("utility"))
        told["seconds_a_pair"] = round(step["seconds"] / scored.computed, 4) if scored.computed else None
        told["positive"] = round(float((found.utility > 0).mean()), 4) if len(found.utility) else 0.0
        told["mean"] = round(float(found.utility.mean(dtype=np.float64)), 6) if len(found.utility) else 0.0
        self.notes["pairs" if kind == "pool" else f"{kind}_pairs"] = told
        self.notes["rows_in_conversation"] = self._conversation.turns
        self.notes["rows_put_behind"] = self._conversation.joined


def _columns(U: np.ndarray, of: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first pool row, U of those rows): a column of U for each content."""
    for start in range(0, len(of), _WIDTH):
        yield start, U[:, of[start : start + _WIDTH]]
