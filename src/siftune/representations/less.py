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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from siftune.config import SelectConfig
from siftune.data.rows import Examples
from siftune.progress import bar, log
from siftune.representations.base import Context, Evidence, content_key
from siftune.seeds import derive
from siftune.store import FeatureStore, first_difference
from siftune.store.shards import mismatch


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
        from siftune.gradients.engine import GradientEngine

        self.context, self.model, self.fingerprint, self.root = context, model, fingerprint, root
        self.engine = GradientEngine(model)
        self.projection = less_projection(context.config)
        self.computed = False

    def over(self, examples: Examples, checkpoints: Sequence[Any], name: str, *, preconditioned: bool,
             ) -> list[FeatureStore]:
        """One store per checkpoint, complete."""
        config = self.context.config
        self.computed = False
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
        lengths = np.array([len(r) for r in examples.rendered], dtype=np.int64)
        todo = [(c, s, shard) for c, s in zip(checkpoints, stores, strict=True) for shard in s.missing()]
        if todo:
            self.computed = True
            title = f"{'pool' if preconditioned or name == 'pool' else 'target'} gradients"
            with bar(title, float(lengths.sum() * len(stores)), "tokens") as progress:
                progress.skip(float(lengths.sum() * len(stores))
                              - float(sum(lengths[s.start : s.stop].sum() for _, _, s in todo)))
                self._fill(examples, todo, preconditioned, progress.advance)
        for store in stores:
            if not store.complete:
                store.finish()
        return stores

    def _fill(self, examples: Examples, todo: list[tuple[Any, FeatureStore, Any]], preconditioned: bool,
              advance: Callable[[float], None]) -> None:
        from siftune.gradients.adam import AdamDirection, plain
        from siftune.gradients.features import gradient_features
        from siftune.models.lora import load_adapter_state

        config, loaded = self.context.config, self.context.model
        at, precondition = None, plain
        for checkpoint, store, shard in todo:
            if checkpoint is not at:
                at = checkpoint
                load_adapter_state(self.model, checkpoint.load_weights())
                if preconditioned:
                    moments = checkpoint.load_moments()
                    first, second = ({n: t.to(loaded.device) for n, t in part.items()} for part in moments)
                    form = "less-code" if config.adam == "less-code" else "paper"
                    precondition = AdamDirection(first, second, checkpoint.step, checkpoint.betas, checkpoint.eps, form)
            rendered = examples.rendered[shard.start : shard.stop]
            arrays = gradient_features(
                self.engine, rendered, precondition=precondition, projection=self.projection, pad_id=loaded.pad_id,
                batch_tokens=config.batch_tokens, device=loaded.device,
                on_batch=lambda positions, rendered=rendered: advance(sum(len(rendered[i]) for i in positions)),
            )
            arrays["feature"] = arrays["feature"].astype(config.feature_dtype)
            store.write(shard, arrays)


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
        difference = first_difference(read_json(head), fingerprint)
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
