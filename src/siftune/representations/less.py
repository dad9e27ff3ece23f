"""LESS: low-rank gradient similarity search (Xia et al., arXiv 2402.04333).

1. Warmup (section 4.1): LoRA on a random share of the pool; a checkpoint with Adam's moments after every epoch.
2. Pool features (sections 3.1, 4.1): the Adam direction of each row's gradient at every checkpoint, randomly
   projected, L2-normalised.
3. Target features: the plain gradient at the same checkpoints, same projection.
4. Score (section 4.2): Inf(j, k) = sum_i w_i <t_ik, x_ij> with w_i = eta_i / sum(eta), where x_ij is row j's feature at
   checkpoint i and t_ik stands for subtask k: the normalised mean of its targets' gradients (``target_mean =
   "gradient"``, the paper) or the mean of their normalised gradients (``"cosine"``, the released code).

Cosines rather than inner products, because gradient norms fall with response length (section 3.2). For selectors
that look at single targets, S[q, j] = sum_i w_i <q_i, x_ij>.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siftune.config import SelectConfig
from siftune.data.rows import Examples, Rendered
from siftune.progress import bar, log
from siftune.representations.base import Context, Evidence, content_key
from siftune.seeds import derive
from siftune.store import FeatureStore, Shard, first_difference
from siftune.store.shards import mismatch

if TYPE_CHECKING:
    from siftune.models.loading import LoadedModel
    from siftune.models.warmup import Checkpoint


class Less:
    name = "less"
    summary = "Projected LoRA gradients at warmup checkpoints: Adam directions for the pool, plain for targets."
    paper = "arXiv 2402.04333"
    cost = "one backward pass over the pool per checkpoint, plus a warmup run on 5% of it"
    needs_target = True
    needs_model = True

    def compute(self, context: Context) -> Evidence:
        from siftune.models.lora import attach_lora, detach_lora
        from siftune.models.warmup import run_warmup, score_weights

        config, loaded = context.config, context.model
        fingerprint = self.fingerprint(context)
        root = context.folder / "store" / "less"
        _refuse_other(root, fingerprint, recompute=config.recompute)

        model = attach_lora(loaded.model, lora_settings(config), derive(config.seed, "adapter"))
        try:
            with context.clock.measure("warmup") as entry:
                before = _newest(context.folder / "warmup")
                checkpoints = run_warmup(
                    model, context.pool.rendered, context.pool.ids, warmup_settings(config),
                    context.folder / "warmup", derive(config.seed, "warmup"),
                    pad_id=loaded.pad_id, device=loaded.device, base_key=f"{loaded.weights} {loaded.dtype}",
                )
                entry["reused"] = before == _newest(context.folder / "warmup")
            passes = _Passes(context, model, fingerprint, root)
            with context.clock.measure("pool features") as entry:
                pool = passes.over(context.pool, checkpoints, "pool", preconditioned=config.adam != "none")
                entry["reused"] = not passes.computed
            with context.clock.measure("target features") as entry:
                target = passes.over(context.target, checkpoints, f"target-{content_key(context.target)[:12]}",
                                     preconditioned=False)
                entry["reused"] = not passes.computed
        finally:
            detach_lora(model)
        weights = score_weights(checkpoints)
        notes = {"checkpoint_weights": [round(float(w), 6) for w in weights],
                 "warmup_steps": [c.step for c in checkpoints]}
        return evidence(pool, target, weights, context.target, config.target_mean, fingerprint, notes)

    def fingerprint(self, context: Context) -> dict[str, Any]:
        """What the pool's features depend on, the telling fields first."""
        config, loaded = context.config, context.model
        warmup = asdict(warmup_settings(config))
        return {
            "model": f"{type(loaded.model).__name__} {loaded.weights}",
            "dtype": loaded.dtype,
            "render": context.render,
            "data": content_key(context.pool),
            "lora": _plain(asdict(lora_settings(config))),
            "warmup": _plain(warmup),
            "adam": config.adam,
            "projection": less_projection(config).fingerprint(),
            "feature_dtype": config.feature_dtype,
            "seed": config.seed,
        }


def lora_settings(config: SelectConfig) -> Any:
    from siftune.models.lora import LoraSettings

    return LoraSettings(rank=config.lora_rank, alpha=config.lora_alpha, dropout=config.lora_dropout,
                        targets=config.lora_targets or "auto", layers=config.lora_layers or "all")


def warmup_settings(config: SelectConfig) -> Any:
    from siftune.models.warmup import WarmupSettings
    from siftune.training.settings import TrainSettings

    train = TrainSettings(learning_rate=config.learning_rate, batch_size=config.batch_size)
    return WarmupSettings(share=config.warmup_share, min_rows=config.warmup_rows, epochs=config.warmup_epochs,
                          train=train)


def less_projection(config: SelectConfig) -> Any:
    from siftune.gradients.projection import projection

    return projection(config.projection, config.projection_dim, derive(config.seed, "projection"))


class _Passes:
    """Gradient features of rows at every checkpoint, shard by shard, computing only what the stores lack."""

    def __init__(self, context: Context, model: Any, fingerprint: dict[str, Any], root: Path):
        self.context, self.model, self.fingerprint, self.root = context, model, fingerprint, root
        self.computed = False

    def over(self, examples: Examples, checkpoints: Sequence[Checkpoint], name: str, *, preconditioned: bool,
             ) -> list[FeatureStore]:
        """One store per checkpoint, complete."""
        config = self.context.config
        stores = [
            FeatureStore.open(
                self.root / name / f"epoch-{c.epoch}",
                {**self.fingerprint, "rows": content_key(examples), "checkpoint": c.blake2,
                 "preconditioned": preconditioned},
                rows=len(examples), shard_rows=config.shard_rows,
                recompute=True,  # what may not be replaced was refused before the warmup
            )
            for c in checkpoints
        ]
        jobs = [_Job(c, store, shard, examples.rendered[shard.start : shard.stop], preconditioned)
                for c, store in zip(checkpoints, stores, strict=True) for shard in store.missing()]
        self.computed = bool(jobs)
        if jobs:
            total = len(stores) * int(examples.tokens.sum())
            with bar(f"{name.split('-')[0]} gradients", total, "tokens") as progress:
                progress.skip(total - sum(job.tokens for job in jobs))
                self._run(jobs, progress.advance)
        for store in stores:
            if not store.complete:
                store.finish()
        return stores

    def _run(self, jobs: list[_Job], advance: Callable[[float], None]) -> None:
        from siftune.executors import LocalExecutor

        workers = min(self.context.config.workers, len(jobs))
        if workers > 1:
            start = partial(_start_worker, load=self.context.load, config=self.context.config)
            for tokens in LocalExecutor(workers).map(start, jobs):
                advance(tokens)
        else:
            worker = _Worker(self.context.config, self.context.model, self.model, advance)
            for _ in LocalExecutor(1).map(lambda number: worker, jobs):
                pass


@dataclass(frozen=True)
class _Job:
    """One shard at one checkpoint."""

    checkpoint: Checkpoint
    store: FeatureStore
    shard: Shard
    rendered: list[Rendered]
    preconditioned: bool

    @property
    def tokens(self) -> int:
        return sum(len(r) for r in self.rendered)


class _Worker:
    """Computes and writes shards; remembers the checkpoint that it has loaded."""

    def __init__(self, config: SelectConfig, loaded: LoadedModel, model: Any,
                 advance: Callable[[float], None] = lambda tokens: None):
        from siftune.gradients.engine import GradientEngine

        self.config, self.loaded, self.model, self.advance = config, loaded, model, advance
        self.engine = GradientEngine(model)
        self.projection = less_projection(config)
        self.at: tuple[str, bool] | None = None

    def __call__(self, job: _Job) -> int:
        from siftune.gradients.features import gradient_features

        if self.at != (job.checkpoint.blake2, job.preconditioned):
            self._move_to(job)
        arrays = gradient_features(
            self.engine, job.rendered, precondition=self.precondition, projection=self.projection,
            pad_id=self.loaded.pad_id, batch_tokens=self.config.batch_tokens, device=self.loaded.device,
            on_batch=lambda positions: self.advance(sum(len(job.rendered[i]) for i in positions)),
        )
        arrays["feature"] = arrays["feature"].astype(self.config.feature_dtype)
        job.store.write(job.shard, arrays)
        return job.tokens

    def _move_to(self, job: _Job) -> None:
        from siftune.gradients.adam import AdamDirection, plain
        from siftune.models.lora import load_adapter_state

        checkpoint = job.checkpoint
        load_adapter_state(self.model, checkpoint.load_weights())
        self.precondition: Any = plain
        if job.preconditioned:
            moments = checkpoint.load_moments()
            first, second = ({n: t.to(self.loaded.device) for n, t in part.items()} for part in moments)
            form = "less-code" if self.config.adam == "less-code" else "paper"
            self.precondition = AdamDirection(first, second, checkpoint.step, checkpoint.betas, checkpoint.eps, form)
        self.at = (checkpoint.blake2, job.preconditioned)


def _start_worker(number: int, *, load: Callable[[SelectConfig], LoadedModel], config: SelectConfig) -> _Worker:
    """In a worker process: its own model, on its own GPU where there are several."""
    import torch

    from siftune.models.lora import attach_lora

    if torch.cuda.is_available() and config.device in ("auto", "cuda"):
        config = replace(config, device=f"cuda:{number % torch.cuda.device_count()}")
    loaded = load(config)
    return _Worker(config, loaded, attach_lora(loaded.model, lora_settings(config), derive(config.seed, "adapter")))


def evidence(pool: Sequence[FeatureStore], target: Sequence[FeatureStore], weights: np.ndarray, targets: Examples,
             target_mean: str, fingerprint: dict[str, Any], notes: dict[str, Any]) -> Evidence:
    """Similarities and subtask scores from the stores of every checkpoint, streamed shard by shard.

    Args:
        pool, target: one store per checkpoint with ``feature`` [rows, d] (normalised) and ``projected_norm`` [rows].
        weights: float64 [checkpoints], w_i.
        targets: the target rows, in the order of the target stores.
        target_mean: ``gradient`` or ``cosine``.
    """
    subtasks = [row.subtask or "all" for row in targets.rows]
    names = list(dict.fromkeys(subtasks))
    members = [np.array([s == name for s in subtasks]) for name in names]
    queries, means = [], []  # per checkpoint: float32 [M, d] and [K, d]
    for store in target:
        feature = store.array("feature").astype(np.float32)
        gradient = feature * store.array("projected_norm")[:, None]
        queries.append(feature)
        if target_mean == "gradient":
            mean = np.stack([gradient[m].mean(axis=0) for m in members])
            means.append(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-30))
        else:
            means.append(np.stack([feature[m].mean(axis=0) for m in members]))
    return Evidence(blocks=lambda: weighted_blocks(pool, queries, weights),
                    subtask_blocks=lambda: weighted_blocks(pool, means, weights),
                    stores=[store.folder for store in pool], fingerprint=fingerprint, notes=notes)


def weighted_blocks(pool: Sequence[FeatureStore], queries: Sequence[np.ndarray], weights: np.ndarray,
                    ) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float64 [Q, n]) of sum_i w_i Q_i X_i^T, one shard of every checkpoint in memory at a time."""
    for shard in pool[0].shards():
        total = np.zeros((len(queries[0]), len(shard)))
        for store, query, weight in zip(pool, queries, weights, strict=True):
            total += weight * (query @ store.read(shard, "feature").astype(np.float32, copy=False).T)
        yield shard.start, total


def _refuse_other(root: Path, fingerprint: dict[str, Any], *, recompute: bool) -> None:
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


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: _plain(v) if isinstance(v, dict) else list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def _newest(folder: Path) -> int:
    """Modification time of the newest file below a folder, in ns; 0 where there is none."""
    return max((p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()), default=0)
