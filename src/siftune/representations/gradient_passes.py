"""Passes over rows that write gradient features: shard by shard, checkpoint by checkpoint, only what is missing.

LESS, GIST and LoGra differ in which gradients they take and what they are mapped to; how rows become stores is the
same for all of them and lives here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftune.config import SelectConfig
from siftune.data.rows import Examples, Rendered
from siftune.progress import bar, log
from siftune.representations.base import Context, content_key
from siftune.representations.gradient_settings import (
    choose_linear_weights,
    config_projection,
    lora_settings,
    make_engine,
    warmup_settings,
)
from siftune.seeds import derive
from siftune.store import FeatureStore, Shard, first_difference
from siftune.store.shards import mismatch

if TYPE_CHECKING:
    from siftune.models.loading import LoadedModel
    from siftune.models.warmup import Checkpoint


@dataclass(frozen=True)
class Pass:
    """What one pass takes and what it keeps.

    Attributes:
        checkpoint: where the adapter and Adam's moments come from; None for a base model.
        adam: ``paper``, ``less-code`` or ``none`` (plain gradients).
        basis: a matrix of directions to multiply with; None for the configured random projection.
        cosines: keep inner products divided by the direction's norm (``similarity``) instead of unit features.
    """

    checkpoint: Checkpoint | None = None
    adam: str = "none"
    basis: Path | None = None
    cosines: bool = False


class Passes:
    """Runs passes for one run."""

    def __init__(self, context: Context, config: SelectConfig, model: Any, fingerprint: dict[str, Any], root: Path):
        """``config`` is that of the context with its open choices made, see :func:`settled`."""
        self.context, self.config, self.model = context, config, model
        self.fingerprint, self.root = fingerprint, root

    def over(self, examples: Examples, passes: Sequence[Pass], kind: str, step: str = "") -> list[FeatureStore]:
        """One complete store per pass, timed as ``step``.

        Args:
            examples: the pool, or other rows.
            passes: what to take of them.
            kind: ``pool``, ``target`` or ``existing``: the stores' folder, with the rows' content where it may change.
            step: what the clock calls it; the features of that kind when not given.
        """
        with self.context.clock.measure(step or f"{kind} features") as entry:
            stores, computed = self._over(examples, passes, kind)
            entry["reused"] = not computed
        return stores

    def _over(self, examples: Examples, passes: Sequence[Pass], kind: str) -> tuple[list[FeatureStore], bool]:
        is_pool = examples is self.context.pool
        rows = self.fingerprint["data"] if is_pool else content_key(examples)
        folder = self.root / (kind if is_pool else f"{kind}-{rows[:12]}")
        stores = [
            FeatureStore.open(
                folder / (f"epoch-{p.checkpoint.epoch}" if p.checkpoint else "base"),
                {**self.fingerprint, "rows": rows, "adam": p.adam,
                 "checkpoint": p.checkpoint.blake2 if p.checkpoint else None},
                rows=len(examples), shard_rows=self.config.shard_rows,
                recompute=True,  # what may not be replaced was refused before the warmup
            )
            for p in passes
        ]

        def missing() -> list[Job]:
            return [Job(p, store, shard, examples.rendered[shard.start : shard.stop])
                    for p, store in zip(passes, stores, strict=True) for shard in store.missing()]

        jobs = missing()
        if jobs:
            total = len(stores) * int(examples.tokens.sum())
            with bar(f"{kind} gradients", total, "tokens") as progress:
                progress.skip(total - sum(job.tokens for job in jobs))
                self._run(jobs, progress.advance)
                # A worker process that ends takes the error of its last write with it: write those again from here.
                self._run(missing(), progress.advance, here=True)
        for store in stores:
            if not store.complete:
                store.finish()
        return stores, bool(jobs)

    def _run(self, jobs: list[Job], advance: Callable[[float], None], *, here: bool = False) -> None:
        from siftune.executors import LocalExecutor

        if not jobs:
            return
        workers = 1 if here else min(self.config.workers, len(jobs))
        if workers > 1:
            start = partial(_start_worker, load=self.context.load, config=self.config,
                            adapted=self.model is not self.context.model.model)
            for tokens in LocalExecutor(workers).map(start, jobs):
                advance(tokens)
        else:
            worker = Worker(self.config, self.context.model, self.model, advance)
            with worker.writer:
                for _ in LocalExecutor(1).map(lambda number: worker, jobs):
                    pass


@dataclass(frozen=True)
class Job:
    """One shard of one pass."""

    of: Pass
    store: FeatureStore
    shard: Shard
    rendered: list[Rendered]

    @property
    def tokens(self) -> int:
        return sum(len(r) for r in self.rendered)


class Worker:
    """Computes shards; remembers the pass that it is prepared for; a shard is written while the next is computed."""

    def __init__(self, config: SelectConfig, loaded: LoadedModel, model: Any,
                 advance: Callable[[float], None] = lambda tokens: None):
        from siftune.models.memory import batch_tokens

        self.config, self.loaded, self.model, self.advance = config, loaded, model, advance
        self.engine = make_engine(config, model)
        self.batch_tokens = batch_tokens(config.batch_tokens, loaded)
        self.writer = _Writer()
        self.prepared: Pass | None = None

    def __call__(self, job: Job) -> int:
        from siftune.gradients.features import gradient_features, normalised
        from siftune.store.codec import encode

        if self.prepared != job.of:
            self._prepare(job.of)
        arrays = gradient_features(
            self.engine, job.rendered, projection=self.projection, precondition=self.precondition,
            pad_id=self.loaded.pad_id, batch_tokens=self.batch_tokens, device=self.loaded.device,
            on_batch=lambda positions: self.advance(sum(len(job.rendered[i]) for i in positions)),
        )
        if job.of.cosines:
            arrays["similarity"] = arrays.pop("projected") / arrays["norm"][:, None]
        else:
            arrays = normalised(arrays)
            arrays.update(encode("feature", arrays.pop("feature"), self.config.feature_dtype))
        self.writer.submit(job.store.write, job.shard, arrays)
        return job.tokens

    def _prepare(self, wanted: Pass) -> None:
        from siftune.gradients.adam import AdamDirection
        from siftune.gradients.basis import Basis
        from siftune.models.lora import load_adapter_state

        before, self.prepared = self.prepared, wanted
        if before is None or before.basis != wanted.basis:
            self.projection: Any = Basis.stored(wanted.basis) if wanted.basis else config_projection(self.config)
        checkpoint = wanted.checkpoint
        if checkpoint is not None:
            load_adapter_state(self.model, checkpoint.load_weights())
        self.precondition: Any = None
        if wanted.adam != "none":
            assert checkpoint is not None, "Adam's moments belong to a checkpoint"
            first, second = ({n: t.to(self.loaded.device) for n, t in part.items()}
                             for part in checkpoint.load_moments())
            form = "less-code" if wanted.adam == "less-code" else "paper"
            self.precondition = AdamDirection(first, second, checkpoint.step, checkpoint.betas, checkpoint.eps, form)


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
        try:
            self._wait()
        finally:
            self._thread.shutdown()


@contextmanager
def warmed_up(context: Context) -> Iterator[tuple[Any, list[Checkpoint]]]:
    """The model with its adapter, and the checkpoints of its warmup run (LESS, section 4.1), trained where missing."""
    from siftune.models.lora import attach_lora, detach_lora
    from siftune.models.warmup import run_warmup

    config, loaded = context.config, context.model
    model = attach_lora(loaded.model, lora_settings(config), derive(config.seed, "adapter"))
    folder = context.folder / "warmup"
    try:
        with context.clock.measure("warmup") as entry:
            before = _newest(folder)
            checkpoints = run_warmup(
                model, context.pool.rendered, context.pool.ids, warmup_settings(config), folder,
                derive(config.seed, "warmup"), pad_id=loaded.pad_id, device=loaded.device,
                base_key=f"{loaded.weights} {loaded.dtype}",
            )
            entry["reused"] = before == _newest(folder)
        yield model, checkpoints
    finally:
        detach_lora(model)


def refuse_other(root: Path, fingerprint: dict[str, Any], *, recompute: bool) -> None:
    """Refuse before the warmup, not after it, to replace features that took hours."""
    from siftune.files import make_folder, read_json, write_json

    head = root / "fingerprint.json"
    if head.exists():
        try:
            difference = first_difference(read_json(head), fingerprint)
        except (ValueError, AttributeError):  # a disk fault: what the features were made from is not known
            difference = ("fingerprint", "not readable", "as configured")
        if difference is None:
            return
        if not recompute:
            raise mismatch(root, *difference)
        log(f"--recompute: replacing features made with another {difference[0]}")
        import shutil

        shutil.rmtree(root)
        shutil.rmtree(root.parent.parent / "warmup", ignore_errors=True)
    make_folder(root)
    write_json(head, fingerprint)


def _start_worker(number: int, *, load: Callable[[SelectConfig], LoadedModel], config: SelectConfig,
                  adapted: bool) -> Worker:
    """In a worker process: its own model, on its own GPU where there are several."""
    import torch

    from siftune.models.lora import attach_lora

    if torch.cuda.is_available() and config.device in ("auto", "cuda"):
        config = replace(config, device=f"cuda:{number % torch.cuda.device_count()}")
    loaded = load(config)
    if adapted:
        model = attach_lora(loaded.model, lora_settings(config), derive(config.seed, "adapter"))
    else:
        model = choose_linear_weights(loaded.model, config)
    return Worker(config, loaded, model)


def _newest(folder: Path) -> int:
    """Modification time of the newest file below a folder, in ns; 0 where there is none."""
    return max((p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()), default=0)
