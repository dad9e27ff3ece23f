"""LESS without a projection: the targets' directions first, then cosines with them in one pass over the pool.

With x^ the unit direction of a row, q^ the unit gradient of a target, both whole, a pass keeps <x^, q^> and the cosine
with every subtask's direction: exact, a few floats a row, for these targets only. One pass serves the targets of a
whole study, as many at a time as have room for their directions in :data:`IN_MEMORY`.

With ``center`` (see :mod:`siftune.features.centring`) it keeps <x^, m_x> and <x^, m_y> besides, once for all targets,
where m_x and m_y are the means of x^ and of plain gradients' directions; then

    <x^ - m_x, q^ - m_y> / (|x^ - m_x| |q^ - m_y|),    |x^ - m_x|^2 = 1 - 2 <x^, m_x> + |m_x|^2,

is made of inner products that are there. The means of the whole pool would take a pass of their own: they are those of
256 random rows of it (of all, where there are fewer), as that of plain gradients is with projected features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siftune._common.artefacts import KeptFile, digest
from siftune._common.errors import SiftuneError
from siftune._common.progress import log
from siftune.features.base import Computed, Context, GradientMethod, content_key, targets_key
from siftune.features.centring import reciprocal, reference_rows, told
from siftune.features.earlier import kept_earlier
from siftune.features.gradient_passes import Pass, Passes, can_join, together
from siftune.features.gradient_settings import gradient_fingerprint, make_engine, settled
from siftune.features.passes import refuse_other
from siftune.features.similarity import Subtasks, first_identical, identical_blocks
from siftune.features.store import FeatureStore
from siftune.features.target_gradients import target_gradients
from siftune.features.warmed_up import warmed_up, warmup_folder

if TYPE_CHECKING:
    from siftune.features.gradients.warmup import Checkpoint

IN_MEMORY = 2 << 30
"""Bytes of the directions that one pass holds; of a target that takes more alone, its own."""

VERSION = 2
"""Of the directions: whoever changes how they are made of the targets' gradients counts up."""

MEANS_VERSION = 1
"""Of the means: likewise."""


def exact_scores(context: Context, method: GradientMethod) -> Computed:
    """Similarities and subtask scores of a method by gradients, without a projection.

    Args:
        context: of the run; with ``siblings`` whose targets may be served by the same pass.
        method: LESS.

    Raises:
        StoreMismatch: scores made from something else are there, and ``--recompute`` was not given.
    """
    from siftune.features.gradients.warmup import score_weights

    own = Scores(context, method)
    refuse_other(context, own.root, own.fingerprint, training=warmup_folder(context))
    centre = Centre(context, method) if own.settings.center else None
    if centre:
        refuse_other(context, centre.root, centre.fingerprint)
    with warmed_up(context) as (model, checkpoints):
        if centre:
            with context.clock.measure("centre") as entry:
                entry["reused"] = not centre.prepare(model, checkpoints)
        with context.clock.measure("target directions") as entry:
            several = own.with_siblings(model, checkpoints)
            entry["reused"] = not any(one.fresh for one in several)
        _tell(several)
        if centre:
            # What the targets lack is taken in the same pass, which is theirs where they lack anything.
            lacking = any(store.missing() for one in several for store in one.stores())
            if context.earlier and any(store.missing() for store in centre.stores()):
                log(f"{method.name}: what centres exact scores are means of this pool: a pass over all of it (--set "
                    f"{method.name}.keep_features=true keeps features, whose means take none)")
            found = together([*((one.passes, one.wanted) for one in several), (centre.passes, centre.wanted)],
                             context.pool, "pool", "pool scores" if lacking else "centre of the pool")
            pool, shared = found[0], found[-1]
        else:
            pool, *_ = together([(one.passes, one.wanted) for one in several], context.pool, "pool", "pool scores")
            shared = []
        weights = score_weights(checkpoints)
    notes: dict[str, Any] = {"checkpoint_weights": [round(float(w), 6) for w in weights],
                             "warmup_steps": [c.step for c in checkpoints]}
    if centre:
        notes |= told([float(np.sqrt(means.xx)) for means in centre.means(own)])
        return _centred(own, centre, pool, shared, weights, notes)
    return _as_they_are(own, pool, weights, notes)


def are_kept(context: Context, method: GradientMethod) -> bool:
    """Whether :func:`exact_scores` would find all that it takes of the pool."""
    own = Scores(context, method)
    if not (own.root / "pool").is_dir():
        return False
    try:
        refuse_other(context, own.root, own.fingerprint, recompute=False)
        with warmed_up(context) as (model, checkpoints):
            own.prepare(model, checkpoints)
            stores = own.stores()
            if own.settings.center:
                centre = Centre(context, method)
                refuse_other(context, centre.root, centre.fingerprint, recompute=False)
                centre.prepare(model, checkpoints)
                stores += centre.stores()
        return not any(store.missing() for store in stores)
    except SiftuneError:  # made with other settings
        return False


def _tell(several: Sequence[Scores]) -> None:
    """Say why there is a pass over the pool again, where there are scores for other targets."""
    own = several[0]
    ours = {one.root.name for one in several}
    name, stores = own.method.name, [own.root.parent, *(run / "store" for run in own.context.earlier)]
    others = [at for store in stores for at in store.glob(f"{name}-exact-*") if at.name not in ours]
    features = any((store / name / "fingerprint.json").is_file() for store in stores)
    if not (others or features) or not any(store.missing() for store in own.stores()):
        return
    if features:
        log(f"{name}: exact scores for these targets, by a pass over the pool (--set {name}.keep_features=true takes "
            "the features that are kept here, if they were made with the same settings)")
    else:
        log(f"{name}: the scores that are kept are exact, and for other targets: a pass over the pool for these "
            f"(--set {name}.keep_features=true keeps features that serve any targets)")


class Scores:
    """The directions of one target's rows and subtasks, and the stores of what the pool's have in common with them.

    Attributes:
        root, fingerprint: of the stores.
        passes, directions, wanted: of every checkpoint, once prepared.
        fresh: whether a direction was made just now.
    """

    def __init__(self, context: Context, method: GradientMethod):
        self.context, self.method = context, method
        self.settings = settled(context, method)
        self.subtasks = Subtasks(context.target)
        targets = targets_key(context.target)
        self.root = context.folder / "store" / f"{method.name}-exact-{targets[:12]}"
        self.fingerprint = {**gradient_fingerprint(context, method, self.settings), "targets": targets}
        self.fresh = False

    def prepare(self, model: Any, checkpoints: Sequence[Checkpoint]) -> None:
        self.passes = Passes(self.context, self.settings, model, self.fingerprint, self.root)
        made = [target_directions(self.context, self.passes, c, self.subtasks) for c in checkpoints]
        self.fresh = any(fresh for _, fresh in made)
        self.directions = [file for file, _ in made]
        self.wanted = [Pass(c, self.settings.adam, file, cosines=True)
                       for c, file in zip(checkpoints, self.directions, strict=True)]

    def stores(self) -> list[FeatureStore]:
        """With what they hold already."""
        return self.passes.stores(self.context.pool, self.wanted, "pool")

    @property
    def held(self) -> int:
        """Bytes of the directions of one checkpoint."""
        return self.directions[0].path.stat().st_size

    def with_siblings(self, model: Any, checkpoints: Sequence[Checkpoint]) -> list[Scores]:
        """Prepared, with those of further targets that the same pass can serve."""
        self.prepare(model, checkpoints)
        found: list[Scores] = [self]
        held = self.held
        if not any(store.missing() for store in self.stores()):  # there is no pass
            return found
        roots = {self.root}
        for one in (Scores(context, self.method) for context in self.context.siblings()):
            if one.root not in roots and held < IN_MEMORY and can_join(one, model, checkpoints):
                held += one.held
                if held <= IN_MEMORY:
                    found.append(one)
                    roots.add(one.root)
        return found


def target_directions(context: Context, passes: Passes, checkpoint: Checkpoint, subtasks: Subtasks,
                      ) -> tuple[KeptFile, bool]:
    """The unit gradients of the targets (unless ``directions = "subtasks"``), then every subtask's direction.

    Returns:
        The matrix, whose note tells the lengths of the gradients (``norms``), and whether it was made just now.
    """
    from siftune.features.gradients.basis import KIND, kept_directions

    settings = passes.settings
    path = passes.root / "directions" / f"epoch-{checkpoint.epoch}.npy"
    made_from = {**passes.fingerprint, "checkpoint": checkpoint, "code": VERSION}
    key = digest(made_from)
    kept = kept_directions(path, key) or kept_earlier(context, path, KIND, made_from, head=passes.head)
    if kept is not None:
        return kept, False
    gradients = target_gradients(context, passes, checkpoint, path.with_name(f"gradients-{checkpoint.epoch}.npy"))
    gram = gradients.gram()
    norms = np.sqrt(np.diag(gram))
    unit = np.diag(1 / norms)
    mean = subtasks.weights(norms, settings.target_mean) @ unit
    if settings.target_mean == "gradient":
        mean /= np.sqrt(np.einsum("km,mn,kn->k", mean, gram, mean))[:, None]
    combination = np.concatenate([unit, mean]) if settings.directions == "targets" else mean
    kept = gradients.combined(path, combination).keep(key, {"norms": norms.tolist()})
    gradients.remove()
    return kept, True


@dataclass(frozen=True)
class Means:
    """How the means lie to each other and to the unit gradients of M targets, at one checkpoint.

    Attributes:
        target_x, target_y: float64 [M], <q^, m_x> and <q^, m_y>.
        gram: float64 [M, M], of the q^.
        norms: float64 [M], lengths of the targets' gradients.
        xx, xy, yy: <m_x, m_x>, <m_x, m_y>, <m_y, m_y>.
    """

    target_x: np.ndarray
    target_y: np.ndarray
    gram: np.ndarray
    norms: np.ndarray
    xx: float
    xy: float
    yy: float

    @classmethod
    def of(cls, directions: KeptFile, means: KeptFile, targets: int) -> Means:
        """From the files of both; streamed over the columns."""
        from siftune.features.gradients.basis import Directions

        own, shared = Directions.kept(directions), Directions.kept(means)
        last = len(shared.matrix) - 1  # of plain directions there is but one mean
        gram = np.zeros((targets + last + 1, targets + last + 1))
        for part in own.chunks():
            columns = np.concatenate([own.matrix[:targets, part], shared.matrix[:, part]]).astype(np.float64)
            gram += columns @ columns.T
        x, y = targets, targets + last
        return cls(gram[:x, x], gram[:x, y], gram[:x, :x], np.array(directions.about["norms"]), float(gram[x, x]),
                   float(gram[x, y]), float(gram[y, y]))

    @property
    def target_lengths(self) -> np.ndarray:
        """float64 [M]: |q^ - m_y|."""
        return np.sqrt(np.maximum(1 - 2 * self.target_y + self.yy, 0))

    def cosines(self, similar: np.ndarray, with_means: np.ndarray) -> np.ndarray:
        """float64 [M, n]: the cosines of x^ - m_x and q^ - m_y.

        Args:
            similar: [M, n], <x^, q^>.
            with_means: [n, 2 or 1], <x^, m_x> and <x^, m_y>.
        """
        with_x, with_y = with_means[:, 0].astype(np.float64), with_means[:, -1].astype(np.float64)
        lengths = np.sqrt(np.maximum(1 - 2 * with_x + self.xx, 0))
        left = similar.astype(np.float64) - with_y - (self.target_x - self.xy)[:, None]
        return left * reciprocal(self.target_lengths)[:, None] * reciprocal(lengths)

    def subtask_weights(self, subtasks: Subtasks, target_mean: str) -> np.ndarray:
        """float64 [K, M]: how the cosines of a subtask's targets add up to its own."""
        inverse = reciprocal(self.target_lengths)
        weights = subtasks.weights(self.norms * self.target_lengths, target_mean)
        if target_mean == "gradient":
            gram = self.gram - self.target_y[:, None] - self.target_y[None, :] + self.yy
            gram *= inverse[:, None] * inverse[None, :]
            weights /= np.sqrt(np.maximum(np.einsum("km,mn,kn->k", weights, gram, weights), 1e-60))[:, None]
        return weights


class Centre:
    """The means of some rows' directions, and the stores of what every row of the pool has in common with them; the
    same for all targets.

    Attributes:
        root, fingerprint: of the stores.
        passes, files, wanted: of every checkpoint, once prepared.
    """

    def __init__(self, context: Context, method: GradientMethod):
        self.context = context
        settings = settled(context, method)
        # Nothing here depends on how targets add up.
        fields = type(settings).__dataclass_fields__
        self.settings = replace(settings, **{n: fields[n].default for n in ("directions", "target_mean")})
        self.fingerprint = gradient_fingerprint(context, method, self.settings)
        self.root = context.folder / "store" / f"{method.name}-centre"
        self.rows = reference_rows(context.whole_pool, context.config.seed)

    def prepare(self, model: Any, checkpoints: Sequence[Checkpoint]) -> bool:
        """Whether means were made just now."""
        self.passes = Passes(self.context, self.settings, model, self.fingerprint, self.root)
        made = [self._mean(model, checkpoint) for checkpoint in checkpoints]
        self.files = [file for file, _ in made]
        self.wanted = [Pass(c, self.settings.adam, file, cosines=True)
                       for c, file in zip(checkpoints, self.files, strict=True)]
        return any(fresh for _, fresh in made)

    def stores(self) -> list[FeatureStore]:
        """With what they hold already."""
        return self.passes.stores(self.context.pool, self.wanted, "pool")

    def _mean(self, model: Any, checkpoint: Checkpoint) -> tuple[KeptFile, bool]:
        from siftune._common.progress import bar
        from siftune.features.gradient_passes import preconditioner
        from siftune.features.gradients.basis import kept_directions
        from siftune.features.gradients.means import mean_directions
        from siftune.models.lora import load_adapter_state
        from siftune.models.memory import batch_tokens

        made_from = {name: value for name, value in self.fingerprint.items() if name != "pool"}
        key = digest({**made_from, "rows": content_key(self.rows), "checkpoint": checkpoint, "code": MEANS_VERSION})
        path = self._folder / f"epoch-{checkpoint.epoch}-{key[:12]}.npy"
        kept = kept_directions(path, key)
        if kept is not None:
            return kept, False
        self.context.computes_alone("the mean of gradients")
        config, loaded, rendered = self.context.config, self.context.model, self.rows.rendered
        load_adapter_state(model, checkpoint.load_weights())
        with bar("mean gradients", int(self.rows.tokens.sum()), "tokens") as progress:
            made = mean_directions(
                make_engine(config, model), rendered, path, pad_id=loaded.pad_id, device=loaded.device,
                precondition=preconditioner(checkpoint, self.settings.adam, loaded.device),
                batch_tokens=batch_tokens(config.batch_tokens, loaded),
                on_batch=lambda rows: progress.advance(sum(len(rendered[i]) for i in rows)))
        return made.keep(key), True

    @property
    def _folder(self) -> Path:
        """Of a part of the pool the means are those of the whole, and kept where that has its own."""
        home = (self.context.trained if self.context.whole is not None else None) or self.context.folder
        return home / "store" / self.root.name / "means"

    def means(self, scores: Scores) -> list[Means]:
        """At every checkpoint."""
        return [Means.of(directions, means, len(self.context.target))
                for directions, means in zip(scores.directions, self.files, strict=True)]


def _as_they_are(own: Scores, pool: Sequence[FeatureStore], weights: np.ndarray, notes: dict[str, Any]) -> Computed:
    count = len(own.subtasks.names)
    ahead = len(own.context.target) if own.settings.directions == "targets" else 0
    first = first_identical(own.context.pool)
    per_subtask = identical_blocks(lambda: _weighted(pool, weights, slice(ahead, ahead + count)), first)
    stores = [store.folder for store in pool]
    if not ahead:
        return Computed(blocks=per_subtask, lines=own.subtasks.names, stores=stores, fingerprint=own.fingerprint,
                        notes=notes)
    return Computed(blocks=identical_blocks(lambda: _weighted(pool, weights, slice(0, ahead)), first),
                    subtask_blocks=per_subtask, stores=stores, fingerprint=own.fingerprint, notes=notes)


def _weighted(pool: Sequence[FeatureStore], weights: np.ndarray, lines: slice) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float64 [lines, n]): the stored cosines of every checkpoint, weighed."""
    for shard in pool[0].shards():
        parts = [w * store.read(shard, "similarity")[:, lines].astype(np.float64)
                 for store, w in zip(pool, weights, strict=True)]
        yield shard.start, np.sum(parts, axis=0).T


def _centred(own: Scores, centre: Centre, pool: Sequence[FeatureStore], shared: Sequence[FeatureStore],
             weights: np.ndarray, notes: dict[str, Any]) -> Computed:
    targets, means = len(own.context.target), centre.means(own)
    with_means = [store.array("similarity") for store in shared]
    subtasks = [one.subtask_weights(own.subtasks, own.settings.target_mean) for one in means]
    every = [np.eye(targets)] * len(means)

    def stream(lines: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        for shard in pool[0].shards():
            rows = slice(shard.start, shard.stop)
            parts = [w * (line @ one.cosines(store.read(shard, "similarity")[:, :targets].T, known[rows]))
                     for store, one, known, w, line in zip(pool, means, with_means, weights, lines, strict=True)]
            yield shard.start, np.sum(parts, axis=0)

    first = first_identical(own.context.pool)
    return Computed(blocks=identical_blocks(lambda: stream(every), first),
                    subtask_blocks=identical_blocks(lambda: stream(subtasks), first),
                    stores=[store.folder for store in pool], fingerprint=own.fingerprint, notes=notes)
