"""Passes for the utility: rows alone, and pairs (row to be helped, example), a line of the store an example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siftune.config.settings import SelectConfig
from siftune.data.rows import Examples, Rendered, Row
from siftune.features.base import Context, row_keys
from siftune.features.passes import Job, ShardWorker, fill, on_own_device
from siftune.features.remote import for_workers
from siftune.features.store import FeatureStore, RowKeys, Shard

if TYPE_CHECKING:
    from siftune.models.loading import LoadedModel

VERSION = 1
"""Of the passes: whoever changes what they compute counts up."""

PAIRS_A_SHARD = 256  # half a minute to a minute on a CPU core: what an interruption costs at most


@dataclass(frozen=True)
class Pairs:
    """What is to be scored: C examples, each on some of R rows.

    Attributes:
        examples: token ids, int32 [P] each.
        rows: R rows as they continue an example.
        helped: for each example the rows that it is shown to, int64, ascending.
    """

    examples: Sequence[np.ndarray]
    rows: Sequence[Rendered]
    helped: Sequence[np.ndarray]


@dataclass(frozen=True)
class PairJob(Job):
    """The examples of one shard; ``of`` is the part of :class:`Pairs` that they need, and nothing is ``rendered``."""

    @property
    def tokens(self) -> int:
        _, rows, helped = self.of
        return sum(len(rows[i]) for some in helped for i in some.tolist())


class UtilityWorker(ShardWorker):
    """Scores shards of rows without an example, or of pairs."""

    def __init__(self, config: SelectConfig, loaded: LoadedModel, limit: int,
                 advance: Callable[[float], None] = lambda tokens: None):
        from siftune.features.in_context.scoring import Scorer

        super().__init__(config, loaded, advance)
        self.scorer = Scorer(loaded, batch_tokens=self.batch_tokens, limit=limit)

    def arrays(self, job: Job) -> Sequence[Mapping[str, np.ndarray]]:
        return [self._pairs(*job.of) if isinstance(job, PairJob) else self._alone(job.rendered)]

    def _alone(self, rows: Sequence[Rendered]) -> Mapping[str, np.ndarray]:
        found, vectors = self.scorer.alone(rows, lambda some: self.advance(sum(len(rows[i]) for i in some)))
        return {"distance": found.distance, "logprob": found.logprob, "vector": vectors}

    def _pairs(self, examples: Sequence[np.ndarray], rows: Mapping[int, Rendered], helped: Sequence[np.ndarray],
               ) -> Mapping[str, np.ndarray]:
        width = max(1, *map(len, helped))
        row = np.full((len(examples), width), -1, np.int32)
        distance, logprob = (np.full((len(examples), width), np.nan, np.float32) for _ in range(2))
        for line, (example, some) in enumerate(zip(examples, helped, strict=True)):
            found = self.scorer.after(example, [rows[i] for i in some.tolist()])
            row[line, : len(some)] = some
            distance[line, : len(some)], logprob[line, : len(some)] = found.distance, found.logprob
            self.advance(sum(len(rows[i]) for i in some.tolist()))
        return {"row": row, "distance": distance, "logprob": logprob}


def score_alone(context: Context, examples: Examples, folder: Path, fingerprint: dict[str, Any], limit: int,
                title: str, *, over_pool: bool) -> FeatureStore:
    """The complete store of rows without an example: ``distance``, ``logprob`` [N], and ``vector`` [N, H].

    Args:
        over_pool: whether they are the pool, see :func:`siftune.features.passes.fill`.

    Raises:
        StoreMismatch: the folder holds something else, and ``--recompute`` was not given.
    """
    config = context.config
    store = FeatureStore.open(folder, {**fingerprint, "code": VERSION}, rows=row_keys(examples, "pool"),
                              shard_rows=config.shard_rows, recompute=config.recompute)

    def jobs(which: Sequence[int], some: Sequence[FeatureStore], rows: Examples) -> list[Job]:
        return [Job(None, (one,), shard, rows.rendered[shard.start : shard.stop])
                for one in some for shard in one.missing()]

    fill(context, title, [store], jobs, lambda which, rows: int(rows.tokens.sum()), *_workers(context, limit),
         examples=examples, over_pool=over_pool)
    return store


@dataclass(frozen=True)
class Scored:
    """Pairs with their scores, ordered by example.

    Attributes:
        rows, examples: int64 [pairs].
        scores: name -> float32 [pairs], ``distance`` and ``logprob``; NaN where a row leaves no room for an example.
        computed: pairs that were scored just now rather than read.
    """

    rows: np.ndarray
    examples: np.ndarray
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    computed: int = 0

    def facts(self, examples: np.ndarray, rows: np.ndarray, limit: int) -> dict[str, Any]:
        """For the notes: how many pairs, what was cut, and what did not have to be run again.

        Args:
            examples, rows: int64 [C], [R]: their lengths in tokens.
            limit: the most tokens of both together.
        """
        shown = np.clip(limit - rows[self.rows], 0, examples[self.examples])
        longest = np.zeros(len(examples), dtype=np.int64)
        np.maximum.at(longest, self.examples, shown)
        return {"pairs": len(shown), "share_of_all_pairs": len(shown) / (len(rows) * len(examples)),
                "prefix_tokens_reused": int(shown.sum() - longest.sum()),
                "shortened_examples": int(((shown > 0) & (shown < examples[self.examples])).sum()),
                "pairs_without_room": int((shown == 0).sum())}


def score_pairs(context: Context, pairs: Callable[[], Pairs], folder: Path, fingerprint: dict[str, Any], *,
                examples: RowKeys, expected: float, limit: int, title: str, shown: Sequence[Row] = (),
                over_pool: bool = False) -> Scored:
    """Score what the store lacks, and read it.

    Args:
        pairs: makes them; called only where something is missing.
        folder: of the store.
        examples: the C examples, by content.
        expected: about how many pairs an example has, which decides how many make a shard.
        limit: the most tokens of an example and a row together.
        title: of the progress bar and of the clock's entry.
        shown: the rows that the examples are, to be named where they cannot be scored.
        over_pool: whether they are the pool, see :func:`siftune.features.passes.fill`.

    Raises:
        StoreMismatch: the folder holds something else, and ``--recompute`` was not given.
    """
    config = context.config
    height = max(1, min(config.shard_rows, int(PAIRS_A_SHARD / max(1.0, expected))))
    store = FeatureStore.open(folder, {**fingerprint, "code": VERSION}, rows=examples, shard_rows=height,
                              recompute=config.recompute)
    before = {shard.index for shard in store.missing()}
    made = cache(pairs)

    def job(shard: Shard) -> PairJob:
        inside = slice(shard.start, shard.stop)
        helped = made().helped[inside]
        needed = {i: made().rows[i] for some in helped for i in some.tolist()}
        return PairJob((made().examples[inside], needed, helped), (store,), shard, [])

    def jobs(which: Sequence[int], some: Sequence[FeatureStore], rows: Examples) -> list[Job]:
        return [job(shard) for shard in store.missing()]

    def total(which: Sequence[int], rows: Examples) -> int:
        lengths = np.array([len(row) for row in made().rows], dtype=np.int64)
        return sum(int(lengths[some].sum()) for some in made().helped)

    # Which rows an example is shown to depends on all of them.
    fill(context, title, [store], jobs, total, *_workers(context, limit), examples=Examples(list(shown), []),
         by_row=False, over_pool=over_pool)
    return _read(store, before)


def _workers(context: Context, limit: int) -> tuple[Callable[[Callable[[float], None]], ShardWorker],
                                                    Callable[[int], ShardWorker]]:
    """What :func:`~siftune.features.passes.fill` starts: a worker here, or one in a process of its own."""
    return (lambda advance: UtilityWorker(context.config, context.model, limit, advance),
            partial(_start_worker, load=context.load, config=for_workers(context.config), limit=limit))


def _start_worker(number: int, *, load: Callable[[SelectConfig], LoadedModel], config: SelectConfig, limit: int,
                  ) -> UtilityWorker:
    config = on_own_device(config, number)
    return UtilityWorker(config, load(config), limit)


def _read(store: FeatureStore, fresh: set[int]) -> Scored:
    parts: list[tuple[np.ndarray, ...]] = []
    computed = 0
    for shard in store.shards():
        row = store.read(shard, "row")
        line, place = np.nonzero(row >= 0)
        parts.append((row[line, place].astype(np.int64), line + shard.start, store.read(shard, "distance")[line, place],
                      store.read(shard, "logprob")[line, place]))
        computed += len(line) if shard.index in fresh else 0
    rows, examples, distance, logprob = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Scored(rows, examples, {"distance": distance, "logprob": logprob}, computed)
