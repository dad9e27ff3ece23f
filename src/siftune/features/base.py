"""What a representation is given and what it gives back."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from siftune.config.options import deciding, plain
from siftune.config.settings import SelectConfig
from siftune.data.rows import Examples
from siftune.data.text.rows import named_text_digests
from siftune.features.store.row_keys import RowKeys, row_digest
from siftune.selectors.core.problem import Blocks, Problem

if TYPE_CHECKING:
    from siftune.features.shares import Share
    from siftune.models.loading import LoadedModel


@dataclass
class Clock:
    """Wall time of each step of a run, and whether its result was taken from an earlier run."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    _within: list[float] = field(default_factory=list)  # of each step that is running: the time of steps inside it

    @contextmanager
    def measure(self, step: str) -> Iterator[dict[str, Any]]:
        """Time a step; set ``entry["reused"] = True`` inside if nothing had to be computed.

        A step inside another (features that a selector asks for) counts for itself alone, so that the times add up.
        """
        entry: dict[str, Any] = {"step": step, "seconds": 0.0, "reused": False}
        start = time.monotonic()
        self._within.append(0.0)
        try:
            yield entry
        finally:
            whole, inside = time.monotonic() - start, self._within.pop()
            if self._within:
                self._within[-1] += whole
            entry["seconds"] = round(max(0.0, whole - inside), 3)
            self.steps.append(entry)


@dataclass
class Context:
    """Everything a representation may use.

    Attributes:
        config: the run's settings.
        pool, target: usable rows, rendered; ``target`` is empty where there is none.
        existing: rows that the model already knows; empty where there are none.
        render: the renderer's fingerprint (tokenizer, template, mask policy, length).
        folder: the run folder; stores go below ``folder / "store"``.
        load: loads the model of a configuration; worker processes call it too, so it must be picklable.
        clock: where steps are timed.
        siblings: makes the contexts of other targets for the same pool, of which a representation may serve several
            with one pass; none unless in a study.
        trained: the run folder that keeps the warmup run, where that is another one.
        whole: the whole pool, where ``pool`` is a part of it (see :mod:`siftune.features.parts`): what a warmup run
            trains on, and what means are of.
        share: which share of the passes is computed; all of them where there is none.
        owner: name of the method that computes; decides what :attr:`settings` are.
        shared: what contexts of one run have in common and is made but once: the model, the pool's key.
        earlier: folders of earlier runs, of other pools, whose features of the same rows are taken, the nearest first;
            see :mod:`siftune.features.earlier`.
        below: where ``folder`` is below the run folder, of an ablation.
        taken: for the manifest: what was taken of them.
        limits: what the user leaves out and which rows are near-duplicates, for a method that itself chooses; None
            where nothing is known of that.
    """

    config: SelectConfig
    pool: Examples
    target: Examples
    render: dict[str, Any]
    folder: Path
    load: Callable[[SelectConfig], LoadedModel]
    clock: Clock = field(default_factory=Clock)
    existing: Examples = field(default_factory=lambda: Examples([], []))
    siblings: Callable[[], Sequence[Context]] = tuple
    trained: Path | None = None
    whole: Examples | None = None
    share: Share | None = None
    owner: str = ""
    shared: dict[Any, Any] = field(default_factory=dict)
    earlier: tuple[Path, ...] = ()
    below: str = ""
    taken: dict[str, Any] = field(default_factory=dict)
    limits: Problem | None = None

    def of(self, owner: str) -> Context:
        """The same for a method: its own settings are :attr:`settings`."""
        return replace(self, owner=owner)

    @property
    def settings(self) -> Any:
        """The method's own settings: an instance of its ``Settings``."""
        return self.config.settings_of(self.owner)

    def computes_alone(self, step: str) -> None:
        """Called before anything is computed that is no pass over the pool, and that others will find.

        Raises:
            SiftuneError, ShareDone: a share of the passes does not do that, see
                :meth:`siftune.features.shares.Share.only_alone`.
        """
        if self.share is not None:
            self.share.only_alone(step)

    @property
    def whole_pool(self) -> Examples:
        return self.pool if self.whole is None else self.whole

    @property
    def model(self) -> LoadedModel:
        config = self.config
        wanted = ("model", config.model, config.device, config.dtype, config.trust_remote_code)
        if wanted not in self.shared:
            from siftune.models.half_precision import say_if_slow

            self.shared[wanted] = self.load(config)
            say_if_slow("--autocast", config.autocast, self.shared[wanted].device)
        return self.shared[wanted]

    @property
    def loaded(self) -> LoadedModel | None:
        """The model, only if it was ever loaded."""
        return next((found for key, found in self.shared.items() if key[0] == "model"), None)

    @property
    def pool_keys(self) -> RowKeys:
        if ("pool",) not in self.shared:
            self.shared[("pool",)] = row_keys(self.pool, "pool")
        return self.shared[("pool",)]

    @property
    def pool_key(self) -> str:
        return self.pool_keys.key

    def in_earlier(self, name: str = "") -> list[Path]:
        """Where earlier runs keep what this one keeps under that name: of an ablation, or of all."""
        return [*dict.fromkeys(run / below / name for run in self.earlier for below in (self.below, ""))]

    @property
    def text_keys(self) -> RowKeys:
        """Content keys of the pool's texts, ids and texts; made once for all methods of a run."""
        rows, keys = self.shared.get(("texts",), (None, None))
        if keys is None or rows is not self.pool.rows:
            keys = RowKeys("pool", named_text_digests(self.pool.rows))
            self.shared[("texts",)] = (self.pool.rows, keys)
        return keys

    def knows(self, pool_keys: RowKeys) -> Context:
        """The same, with the content keys of the pool, where they are known already."""
        self.shared[("pool",)] = pool_keys
        return self


@dataclass
class Computed:
    """What a representation knows about the pool, ready for a :class:`~siftune.selectors.core.problem.Problem`.

    Attributes:
        blocks: streamed similarities S[M, n] of pool rows to targets, where the representation compares with them.
        subtask_blocks: streamed scores [K, n] per subtask in order of first appearance, where the paper defines them
            otherwise than as the mean of ``blocks``.
        lines: names of the lines of ``blocks``, where they are not the target rows but, say, the subtasks.
        vectors: streamed (first row, float32 [n, D]) whose inner products are similarities between pool rows.
        existing: streamed similarities [E, n] of pool rows to rows that the model already knows.
        kernel: makes the directed kernel [N, N] of a representation that compares pool rows as such (see
            :class:`~siftune.selectors.core.problem.Problem`); called only for a selector that needs one.
        sets: makes the feature sets [N, F] of the rows (``csr_array`` of 0/1); called only for a selector that needs
            them.
        scores: float64 [N], for representations that score rows on their own.
        excluded: reason -> int64 rows that the method itself rules out; they are listed in ``dropped.jsonl``.
        stores: folders of the pool's features.
        fingerprint: what the features were made from.
        notes: numbers worth showing in the report, JSON-ready.
    """

    blocks: Blocks | None = None
    subtask_blocks: Blocks | None = None
    lines: Sequence[str] = ()
    vectors: Blocks | None = None
    existing: Blocks | None = None
    kernel: Callable[[], Any] | None = None
    sets: Callable[[], Any] | None = None
    scores: np.ndarray | None = None
    excluded: dict[str, np.ndarray] = field(default_factory=dict)
    stores: list[Path] = field(default_factory=list)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


class Method(Protocol):
    """A method: one way of knowing rows.

    It may have ``Settings``, a frozen dataclass of its own settings (:class:`~siftune.config.options.OwnSettings`),
    which ``context.settings`` is an instance of; ``selector``, the name of the selector that it is used with; and
    ``reads``, those of the shared settings ``autocast`` and ``feature_dtype`` that its features depend on.

    Attributes:
        name, summary, paper, cost: for ``siftune methods``; ``name`` is the one it is registered under.
        needs_target: whether it compares with target rows. A representation that has ``without_target``, a tuple of
            what selectors may need (:class:`~siftune.selectors.core.info.SelectorInfo`), serves these without a target.
        needs_model: whether it runs a language model.
    """

    name: str
    summary: str
    paper: str
    cost: str
    needs_target: bool
    needs_model: bool

    def compute(self, context: Context) -> Computed: ...


@runtime_checkable
class GradientMethod(Method, Protocol):
    """A representation by gradients: what `siftune plan` asks of it.

    It may have ``projection_of_features``: what ``auto`` stands for where features are wanted, of a method that does
    without any where its targets are known.

    Attributes:
        projection: the projection that ``auto`` stands for.
        projections: those it works with.
        warmup: whether it takes gradients at the checkpoints of a warmup run, or once, of the base model.
    """

    projection: str
    projections: tuple[str, ...]
    warmup: bool

    def numbers_per_row(self, settings: Any, targets: int, subtasks: int) -> int:
        """How many numbers a pass keeps of a row, at most. ``settings`` are the method's own."""
        ...

    def keeps_features(self, settings: Any) -> bool:
        """Whether they are features, stored as ``feature_dtype`` says, rather than scores."""
        ...


def deciding_features(method: Any, settings: Any) -> dict[str, Any]:
    """The settings of a method that its kept features depend on: what their key is derived from.

    A method may have ``keeps_besides(settings)``: names of settings that only read features as a rule, but decide what
    is kept under these settings.
    """
    besides = getattr(method, "keeps_besides", None)
    more = besides(settings) if besides else ()
    return {**deciding(settings, "features"), **{name: plain(getattr(settings, name)) for name in more}}


def row_keys(examples: Examples, name: str) -> RowKeys:
    """Content keys of rows: id, token ids and mask. Equal exactly where a pass over the rows would do the same.

    Args:
        examples: rows, rendered.
        name: what they are called where a store refuses them: ``pool``, ``target``, ...
    """
    return RowKeys(name, (
        row_digest(row_id.encode("utf-8", "surrogatepass"), np.ascontiguousarray(rendered.ids, dtype="<i4").tobytes(),
                   np.packbits(rendered.mask).tobytes())
        for row_id, rendered in zip(examples.ids, examples.rendered, strict=True)))


def content_key(examples: Examples) -> str:
    """BLAKE2 of ids, token ids and masks in order, see :func:`row_keys`."""
    return row_keys(examples, "rows").key


def targets_key(targets: Examples) -> str:
    """Equal where directions made from the targets are: the same rows in the same subtasks."""
    subtasks = "\n".join(row.subtask or "all" for row in targets.rows)
    return hashlib.blake2b(f"{content_key(targets)}\n{subtasks}".encode(), digest_size=16).hexdigest()
