"""NAIT: rows whose activations point where a response of the target task moves them (arXiv 2603.13201).

Per layer l, the delta of the gated activations between the last and the first response token of each target; v_l is the
first principal component of the deltas, its sign such that the mean delta lies along it. Score(x) = sum_l <A_l(x),
v_l>, where A_l(x) are the activations averaged over the response tokens; ``nait_score = "cosine"`` takes the mean over
the layers of the cosines instead. One line of directions and scores per subtask. Inner products grow with the
activations of a task's layers: where several subtasks compete for a budget, round-robin lets each rank for itself.

What the paper leaves open: principal components are centred, as usual, so that with two targets v_l is along their
difference; where the deltas do not vary (a single target), v_l is their mean, of length 1. A response of one token has
no delta; such targets say nothing of a direction and are left out, and counted. The end-of-turn token, though it is
supervised, does not count as the last: with it the directions tell of ending, whatever the task (on the demo's pool 0
of 17 rows came from the targets' families, without it 6). Inner products are mostly the last layers';
``nait_score = "cosine"`` weighs all layers alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from siftune._common.artefacts import Damaged, Unusable, digest, keep_file, kept_file
from siftune._common.artefacts.sealed import tell_damage
from siftune._common.errors import DataError
from siftune.config.options import OwnSettings, option
from siftune.data.spans import special_ids
from siftune.features.base import Computed, Context, targets_key
from siftune.features.earlier import kept_earlier
from siftune.features.forward_passes import forward_stores
from siftune.features.similarity import Subtasks, first_identical, identical_blocks
from siftune.features.work import Work, forward_work

if TYPE_CHECKING:
    from siftune.features.forward.active_sets import Neurons
    from siftune.features.forward.directions import Along
    from siftune.features.forward.reader import Reader
    from siftune.features.forward.spans import Span
    from siftune.features.store import FeatureStore


KIND = "directions"
VERSION = 1
"""Of the directions: whoever changes how they are made of the targets' moves counts up."""


@dataclass(frozen=True)
class NaitSettings(OwnSettings):
    neurons: Literal["gated", "up"] = option("gated", "Whose activations count: the gated ones that enter the MLP's "
                                             "down projection, or those of its up projection.")
    span: Literal["response", "prompt", "all"] = option("response", "Over which tokens a row's activations are taken.")
    nait_score: Literal["dot", "cosine"] = option("dot", "Inner product with the task's direction (the paper), or the "
                                                  "mean over the layers of the cosines.", decides="selection")


class Nait:
    Settings = NaitSettings
    reads = ("autocast",)
    name = "nait"
    summary = "Mean activations along the directions in which the targets' responses move them, layer by layer."
    paper = "arXiv 2603.13201"
    cost = "one forward pass over the pool, after one over the targets"
    needs_target = True
    needs_model = True
    forward = True

    def compute(self, context: Context) -> Computed:
        own = along(context)
        [store] = forward_stores(context, context.pool, [own], "pool")
        cosine = context.settings.nait_score == "cosine"
        short = int((_response_tokens(context) < 2).sum())
        return Computed(blocks=identical_blocks(lambda: scores(store, cosine=cosine), first_identical(context.pool)),
                        lines=Subtasks(context.target).names, stores=[store.folder], fingerprint=store.fingerprint,
                        notes={"one_token_targets": short})

    def work(self, context: Context) -> list[Work]:
        """What `siftune plan` tells."""
        from siftune.features.forward.directions import Deltas

        return forward_work(context, planned_readers(context), [Deltas(_settled(context)[0], _closing(context))])


def readers(context: Context) -> list[Reader]:
    """What it reads of a forward pass over the pool; passes over the targets first."""
    return [along(context)]


def planned_readers(context: Context) -> list[Reader]:
    """As large as those and as fast, though the targets are not known yet."""
    from siftune.features.forward.directions import Along

    neurons, span = _settled(context)
    return [Along(None, "", len(Subtasks(context.target).names), neurons, span)]


def along(context: Context) -> Along:
    """The reader of the pool, with the directions of the targets.

    Raises:
        DataError: no target of a subtask has a response of two tokens.
    """
    from siftune.features.forward.directions import Along, Deltas

    neurons, span = _settled(context)
    _require_moves(context)
    [deltas] = forward_stores(context, context.target, [Deltas(neurons, _closing(context))], "target")
    key = targets_key(context.target)
    path = deltas.folder / f"directions-{key[:12]}.npy"
    made_from = {"deltas": deltas.key, "targets": key, "code": VERSION}
    try:
        file = kept_file(path, KIND, digest(made_from))
    except Unusable as error:
        if isinstance(error, Damaged):
            tell_damage(path, str(error))
        file = kept_earlier(context, path, KIND, made_from)
    if file is None:
        directions = np.stack([principal_directions(deltas.array("delta")[rows]) for rows in _moving(context)])
        file = keep_file(path, KIND, digest(made_from), write=lambda temporary: _save(temporary, directions))
    return Along(file, key, len(Subtasks(context.target).names), neurons, span)


def _settled(context: Context) -> tuple[Neurons, Span]:
    settings = context.of(Nait.name).settings
    return settings.neurons, settings.span


def principal_directions(deltas: np.ndarray) -> np.ndarray:
    """float32 [L, I]: for each layer the unit vector along which the deltas vary most, turned towards their mean.

    Args:
        deltas: float32 [M, L, I], M >= 1. Where they are all equal, it is their mean, of length 1 (0 where that is 0).
    """
    return np.stack([_principal(deltas[:, layer].astype(np.float64)) for layer in range(deltas.shape[1])]
                    ).astype(np.float32)


def _principal(deltas: np.ndarray) -> np.ndarray:
    mean = deltas.mean(axis=0)
    centred = deltas - mean
    # The right singular vector out of the small Gram matrix [M, M].
    values, vectors = np.linalg.eigh(centred @ centred.T)
    if values[-1] <= 1e-12 * np.square(deltas).sum():
        return mean / max(float(np.linalg.norm(mean)), 1e-30)
    direction = vectors[:, -1] @ centred
    direction /= np.linalg.norm(direction)
    along_mean = float(direction @ mean)
    if along_mean == 0:  # no side is the mean's: a rule that does not depend on how the vector was found
        along_mean = float(direction[np.abs(direction).argmax()])
    return direction if along_mean > 0 else -direction


def scores(store: FeatureStore, *, cosine: bool) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float64 [K, n]): sum over the layers of the inner products, or the mean of the cosines."""
    for shard in store.shards():
        dots = store.read(shard, "dot").astype(np.float64)  # [n, K, L]
        if cosine:
            norms = store.read(shard, "norm").astype(np.float64)
            yield shard.start, (dots / np.maximum(norms, 1e-30)[:, None, :]).mean(axis=2).T
        else:
            yield shard.start, dots.sum(axis=2).T


def _save(path: Path, directions: np.ndarray) -> None:
    with path.open("wb") as out:
        np.save(out, directions)


def _closing(context: Context) -> tuple[int, ...]:
    return tuple(sorted(special_ids(context.model.tokenizer)))


def _response_tokens(context: Context) -> np.ndarray:
    """int64 [M]: without those that only close a turn."""
    closing = _closing(context)
    return np.array([int((row.mask & ~np.isin(row.ids, closing)).sum()) for row in context.target.rendered])


def _moving(context: Context) -> list[np.ndarray]:
    """For each subtask the targets whose response has two tokens or more."""
    moves = _response_tokens(context) > 1
    return [np.flatnonzero(member & moves) for member in Subtasks(context.target).members]


def _require_moves(context: Context) -> None:
    for name, rows in zip(Subtasks(context.target).names, _moving(context), strict=True):
        if not len(rows):
            raise DataError(f"no target of the subtask {name!r} has a response of two tokens or more",
                            where="--target", why="NAIT looks at how activations change from a response's first token "
                            "to its last.", hint="give targets with longer responses, or choose another method, for "
                            "example --method rds+")
