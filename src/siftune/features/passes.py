"""Passes over rows that fill stores: shard by shard, only what is missing, in this process or in several.

What is read of a row (gradients, hidden states, activations, losses) is for :class:`ShardWorker`'s children to say;
how rows become stores is the same for all of them and lives here.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siftune._common.artefacts import (
    Absent,
    Damaged,
    MadeFromOther,
    Unusable,
    described,
    digest,
    first_difference,
    read_sealed,
    write_sealed,
)
from siftune._common.artefacts.key import differences
from siftune._common.errors import SiftuneError
from siftune._common.files import make_folder
from siftune._common.progress import bar, log
from siftune.config.settings import SelectConfig
from siftune.data.rows import Examples, Rendered, Row
from siftune.features.base import Context, row_keys
from siftune.features.earlier import POOL, take
from siftune.features.remote import fetch_missing, run_remotely
from siftune.features.shares import Share
from siftune.features.store import FeatureStore, RowKeys, Shard
from siftune.features.store.kept_rows import DIGEST
from siftune.features.store.refusal import METHOD, mismatch
from siftune.features.store.row_keys import content_digests
from siftune.features.store.shards import KIND as STORE

if TYPE_CHECKING:
    from siftune.execution import LocalExecutor, SetAside
    from siftune.execution.ray import RayExecutor
    from siftune.execution.storage import Storage
    from siftune.models.loading import LoadedModel


@dataclass(frozen=True)
class Job:
    """One shard of one pass: what is taken of the rows, and the stores that it is written to."""

    of: Any
    stores: tuple[FeatureStore, ...]
    shard: Shard
    rendered: Sequence[Rendered]

    @property
    def index(self) -> int:
        """Number of the shard."""
        return self.shard.index

    @property
    def tokens(self) -> int:
        return sum(len(r) for r in self.rendered)

    @property
    def parts(self) -> frozenset[tuple[Path, int]]:
        """The shards that it writes: folder of the store, and number."""
        return frozenset((store.folder, self.shard.index) for store in self.stores)

    @property
    def title(self) -> str:
        folder = self.stores[0].folder
        others = f" and {len(self.stores) - 1} more" if len(self.stores) > 1 else ""
        return f"{self.shard.name} of {'/'.join(folder.parts[-3:])}{others}"


Jobs = Callable[[Sequence[int], Sequence[FeatureStore], Examples], list[Job]]
"""The missing jobs of stores: given which of all they are (or are made like), the stores, and the rows they are of."""

Total = Callable[[Sequence[int], Examples], int]


class ShardWorker(ABC):
    """Computes shards; a shard is written while the next is computed.

    Args:
        config: the run's settings.
        loaded: the model of this process.
        advance: told how many tokens each batch had.
    """

    def __init__(self, config: SelectConfig, loaded: LoadedModel,
                 advance: Callable[[float], None] = lambda tokens: None):
        from siftune.models.memory import batch_tokens

        self.config, self.loaded, self.advance = config, loaded, advance
        self.batch_tokens = batch_tokens(config.batch_tokens, loaded)
        self.writer = _Writer()

    @abstractmethod
    def arrays(self, job: Job) -> Sequence[Mapping[str, np.ndarray]]:
        """What each of the job's stores keeps of the rows: arrays [rows of the shard, ...] by name."""

    def __call__(self, job: Job) -> int:
        seen = {DIGEST: content_digests(job.rendered)} if len(job.rendered) else {}
        for store, arrays in zip(job.stores, self.arrays(job), strict=True):
            self.writer.submit(self.write, store, job.shard, {**arrays, **seen})
        return job.tokens

    def write(self, store: FeatureStore, shard: Shard, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the arrays of a shard; in a thread of its own."""
        store.write(shard, arrays)

    def close(self) -> None:
        """Wait for the last write."""
        self.writer.close()


def fill(context: Context, step: str, stores: Sequence[FeatureStore], jobs: Jobs, total: Total,
         here: Callable[[Callable[[float], None]], ShardWorker], start: Callable[[int], ShardWorker], *,
         examples: Examples, title: str = "", by_row: bool = True, over_pool: bool = False) -> None:
    """Run the jobs that are missing, until the stores are complete.

    What earlier runs have kept of the same rows is taken from them, see :mod:`siftune.features.earlier`. A shard that
    is lost with its worker goes to another one. One that loses worker after worker is set aside; all others are
    computed and kept before the run ends.

    Args:
        context: of the run.
        step: what the clock calls it.
        stores: what the jobs write to.
        jobs: the jobs that are still to be done of some of the stores, or of others made likewise of fewer rows; asked
            again at the end.
        total: counts the tokens of all jobs, done or not; asked only where some are missing.
        here: makes a worker in this process.
        start: makes one in a worker process, given its number; picklable.
        examples: what the stores' rows are, also for whoever has to look for the one that kills its worker.
        title: of the progress bar; ``step`` when not given.
        by_row: whether what is kept of a row depends on that row alone.
        over_pool: whether shares of a run (see :mod:`siftune.features.shares`) compute a part of it each; any other
            pass has to be complete before there are any.

    Raises:
        StoreMismatch: an earlier run has kept such features, made with another setting.
        ShareDone: a share of the run has done what it can.
        SiftuneError: whatever a job raised; or, with everything else done, which shards lost all their workers.
    """
    def compute(which: Sequence[int], some: Sequence[FeatureStore], rows: Examples, share: Share | None = None) -> None:
        missing = partial(jobs, which, some, rows)
        todo = missing()
        if todo and context.config.storage:
            fetch_missing(_storage(context.config), some)
            todo = missing()
        if todo:
            entry["reused"] = False
        shards, parts = sum(len(store.shards()) for store in some), _parts(todo)
        own = missing
        if share is not None:
            share.begin(step, parts)
            own = partial(_of_share, share, missing)
            todo = own()
        elif todo:
            context.computes_alone(step)
        if 0 < parts < shards:
            mine = f", {_parts(todo)} of them of share {share}" if share is not None else ""
            log(f"{step}: {parts} of {shards} shards are missing{mine}")
        if todo:
            with bar(title or step, total(which, rows), "tokens") as progress:
                progress.skip(progress.total - sum(job.tokens for job in todo))
                # Of a run that goes on, what is left over may be what killed the process before: not in this one.
                _complete(context, step, todo, own, rows.rows, progress.advance, here, start, apart=parts < shards)
        if share is not None:
            share.end(step, _parts(todo), _parts(missing()))
        for store in some:
            store.finish()

    with context.clock.measure(step) as entry:
        entry["reused"] = True
        if by_row:
            take(context, stores, examples, cache(partial(content_digests, examples.rendered)), compute)
        compute(range(len(stores)), stores, examples, context.share if over_pool else None)


def _parts(jobs: Sequence[Job]) -> int:
    """How many shards jobs write."""
    return sum(len(job.stores) for job in jobs)


def _of_share(share: Share, missing: Callable[[], list[Job]]) -> list[Job]:
    return share.own(missing())


def _complete(context: Context, step: str, jobs: list[Job], missing: Callable[[], list[Job]], rows: Sequence[Row],
              advance: Callable[[float], None], here: Callable[[Callable[[float], None]], ShardWorker],
              start: Callable[[int], ShardWorker], *, apart: bool) -> None:
    from siftune.execution import SetAside, executor_of

    lost: SetAside | None = None
    aside: frozenset[tuple[Path, int]] = frozenset()
    for _ in range(1 + context.config.worker_tries):
        executor = executor_of(context.config, context.folder, len(jobs), apart=apart)
        try:
            _run(context.config, jobs, executor, advance, here, start)
        except SetAside as error:
            lost, aside = error, aside.union(*(job.parts for job in error.jobs))
        # A worker that is killed takes its last write with it: that is made again, by others.
        jobs = [job for job in missing() if not job.parts & aside]
        if not jobs or not executor.elsewhere:
            break
        apart = True
    if lost is not None:
        raise _set_aside(step, lost, context, rows)
    if jobs:
        raise SiftuneError(f"{step}: {len(jobs)} shards are still missing", where=str(jobs[0].stores[0].folder),
                           why="Workers were lost while they wrote.", hint="run the same command again")


def _storage(config: SelectConfig) -> Storage:
    from siftune.execution import storage_of

    return storage_of(config)


def _set_aside(step: str, lost: SetAside, context: Context, rows: Sequence[Row]) -> SiftuneError:
    """Which shards are missing at the end of a pass, and which rows they hold."""
    from siftune.execution.tries import times

    named = []
    for job, reason in zip(lost.jobs, lost.reasons, strict=True):
        some = rows[job.shard.start : job.shard.stop]
        ids = (f"rows {job.shard.start + 1} to {job.shard.stop}" if not some else f"row {some[0].id} ({some[0].where})"
               if len(some) == 1 else f"{len(some)} rows, {some[0].id} ({some[0].where}) to {some[-1].id} "
                                      f"({some[-1].where})")
        named.append(f"{job.title}: {ids}; {reason}")
    one = len(named) == 1
    return SiftuneError(
        f"{step}: {len(named)} shard{'' if one else 's'} could not be computed, since the worker was lost "
        f"{times(context.config.worker_tries)}{'' if one else ' with each'}",
        where=str(lost.jobs[0].stores[0].folder), why="\n  ".join([*named, "All other shards are done and kept."]),
        hint="run the same command again with fewer --workers or a smaller --batch-tokens; where that does not help, "
             "look at these rows and leave out what kills its worker (a new --output-dir and smaller --shard-rows "
             "narrow it down)")


def _run(config: SelectConfig, jobs: list[Job], executor: LocalExecutor | RayExecutor,
         advance: Callable[[float], None], here: Callable[[Callable[[float], None]], ShardWorker],
         start: Callable[[int], ShardWorker]) -> None:
    if config.storage:
        run_remotely(jobs, executor, _storage(config), start, advance)
    elif executor.elsewhere:
        for tokens in executor.map(start, jobs):
            advance(tokens)
    else:
        worker = here(advance)
        with worker.writer:
            for _ in executor.map(lambda number: worker, jobs):
                pass


class _Writer:
    """Writes in a thread of its own, one shard behind; an error of the last write appears at the next, or at exit."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shard-writer")
        self._last: Future[None] | None = None

    def submit(self, write: Callable[..., None], *arguments: Any) -> None:
        self._wait()
        self._last = self._thread.submit(write, *arguments)

    def _wait(self) -> None:
        if self._last is not None:
            last, self._last = self._last, None
            last.result()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        try:
            self._wait()
        finally:
            self._thread.shutdown()


def keys_and_folder(context: Context, examples: Examples, kind: str) -> tuple[RowKeys, str]:
    """(content keys, folder name) of the pool, or of other rows, which may change between runs of one folder."""
    if examples is context.pool:
        return context.pool_keys, kind
    keys = row_keys(examples, kind)
    return keys, f"{kind}-{keys.key[:12]}"


def on_own_device(config: SelectConfig, number: int) -> SelectConfig:
    """The settings of worker process ``number``: its own GPU where there are several."""
    import torch

    if torch.cuda.is_available() and config.device in ("auto", "cuda"):
        return replace(config, device=f"cuda:{number % torch.cuda.device_count()}")
    return config


def refuse_other(context: Context, root: Path, fingerprint: dict[str, Any], *, recompute: bool | None = None,
                 training: str = "warmup") -> None:
    """Refuse before the warmup, not after it, to replace features that took hours, or to take some of other settings.

    Args:
        context: of the run.
        root: of the representation's stores, below ``store`` of the run folder.
        fingerprint: what they are to be made from.
        recompute: replace those made from something else, and the training run they came from; as ``--recompute`` says
            when not given.
        training: folder of that training run, below the run folder.

    Raises:
        StoreMismatch: they were made from something else, and are not to be replaced; or those of an earlier run, of
            another pool, are of other settings besides.
    """
    head, wanted = root / "fingerprint.json", described(fingerprint)
    key, recompute = digest(wanted), context.config.recompute if recompute is None else recompute
    difference: tuple[str, Any, Any] | None = None
    try:
        difference = first_difference(read_sealed(head, METHOD), wanted)
        if difference is None:
            return
    except Absent:
        if not recompute:
            _refuse_earlier(context, head, wanted)
    except MadeFromOther as error:
        difference = ("format", error, "that of this version")
    except Damaged as error:  # the stores below it say themselves what they were made from
        log(f"{root.name}/{head.name} was damaged ({error}) and is written anew")
    if difference is not None and _agree(root, wanted):
        log(f"{root.name}/{head.name} is written anew: the stores below it say what they were made from")
    elif difference is not None:
        if not recompute:
            raise mismatch(root, *difference)
        log(f"--recompute: replacing features made with another {difference[0]}")
        shutil.rmtree(root)
        shutil.rmtree(root.parent.parent / training, ignore_errors=True)
    make_folder(root)
    write_sealed(head, METHOD, key, wanted)


def _refuse_earlier(context: Context, head: Path, wanted: dict[str, Any]) -> None:
    """Compare with the nearest earlier run that has such features; of another pool they may be, and no more."""
    for run in [run / context.below for run in context.earlier]:
        there = run / head.relative_to(context.folder)
        try:
            found = differences(read_sealed(there, METHOD), wanted)
        except Unusable:
            continue
        if other := [one for one in found if one[0] != POOL]:
            raise mismatch(there.parent, *other[0])
        return


def _agree(root: Path, wanted: dict[str, Any]) -> bool:
    """Whether there are stores below, and all that can be read were made from what is wanted."""
    found = []
    for head in root.glob("*/*/fingerprint.json"):
        try:
            made_from = read_sealed(head, STORE)["made_from"]
            found.append(first_difference({name: made_from.get(name) for name in wanted}, wanted) is None)
        except (Unusable, KeyError, TypeError, AttributeError):
            continue
    return bool(found) and all(found)
