"""What the steps of a representation will cost: their own passes over a few rows of the pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from siftune._common.progress import about, pace
from siftune._common.seeds import permutation
from siftune.data.rows import Rendered
from siftune.features.base import Context
from siftune.features.work import Work
from siftune.pipeline.plan.estimate import MEASURED, PROBE_SHARE, Plan, Speeds, peak_memory, size, timed
from siftune.selectors import SelectorInfo

if TYPE_CHECKING:
    from siftune.features.forward.reader import Reader
    from siftune.models.sentence_embedding import SentenceModel

PROBE_SECONDS = 8.0


def estimate(work: Sequence[Work], context: Context, selector: SelectorInfo, made: Plan,
             speeds: Speeds = MEASURED) -> None:
    """Add the steps to a plan, each at the speed of its kind."""
    probe, workers, disk = _Probe(context, speeds, made), context.config.workers, 0
    for one in work:
        if one.needs not in ("", selector.needs):
            continue
        if one.kind == "words":
            made.add(one.step, "seconds: no model is run" + (f" ({one.told})" if one.told else ""))
            continue
        speed = probe.speed(one)
        parallel = workers if one.kind == "forward" else 1
        seconds = one.tokens / speed / parallel
        sentences = one.sentence_rows * probe.sentence_bytes(one.owner) if one.sentence_rows else 0
        kept = one.disk + _of_readers(one, context) + sentences
        disk += kept
        told = [f"{about(seconds)}: {one.tokens:,} tokens at {pace(speed, 'tokens')}"
                + (f" in each of {workers} processes" if parallel > 1 else "")]
        told += [one.told] if one.told else []
        told += [f"keeps {size(kept)}"] if kept else []
        made.add(one.step, ", ".join(told), seconds, cheaper=_CHEAPER.get(one.kind, ""))
    made.disk += disk
    if probe.has_measured:
        made.memory = max(made.memory, peak_memory())
        made.add("memory", f"{size(made.memory)} in passes, of whatever number of rows")
    if disk or not made.disk:  # gradients tell their own
        made.add("disk", f"{size(disk)} of features" + (f", {disk / len(context.pool):,.0f} bytes a row of the pool"
                                                        if disk else ""))
    if selector.needs == "sets":
        made.add("selector", _sets_in_memory(work, context))


_CHEAPER = {"forward": "--method embed runs a small model, bm25 none", "sentences": "--method bm25 runs no model"}


def _sets_in_memory(work: Sequence[Work], context: Context) -> str:
    """The sets of a coverage selector are held in memory: five bytes an entry."""
    from siftune.features.forward.active_sets import ActiveNeurons
    from siftune.features.forward.mlp import neurons
    from siftune.features.similarity import LARGEST_COORDINATES

    rows, entries, most = len(context.pool), LARGEST_COORDINATES, ""
    for reader in work[0].readers[:1] if work else ():
        if isinstance(reader, ActiveNeurons):
            layers, width = neurons(context.model.model)
            entries, most = layers * (width if reader.threshold else reader.top), "at most " * (reader.threshold > 0)
    return f"{most}{size(5 * rows * entries)} of memory for the feature sets of {rows:,} rows"


def _of_readers(one: Work, context: Context) -> int:
    dtype = context.config.feature_dtype
    return one.rows * sum(reader.bytes_per_row(context.model.model, dtype) for reader in one.readers) if one.rows else 0


class _Probe:
    def __init__(self, context: Context, speeds: Speeds, made: Plan):
        self.context, self.speeds, self.made, self.has_measured = context, speeds, made, False
        self._known: dict[tuple[str, str, tuple[str, ...]], float] = {}
        self._sentence_models: dict[str, SentenceModel] = {}

    def speed(self, work: Work) -> float:
        """Tokens a second of a step's kind."""
        key = (work.kind, work.owner, tuple(reader.name for reader in work.readers))
        if key not in self._known:
            given = None if work.kind == "words" else self.speeds.of(work.kind)
            if given is None:
                given = self._measured(self._run(work), PROBE_SHARE * work.tokens)
            self._known[key] = given
        return self._known[key]

    def _run(self, work: Work) -> Callable[[list[int]], int]:
        """What a step does with some rows of the pool; it returns how many tokens these have."""
        if work.kind == "forward":
            return self._forward(work.readers)
        return self._training if work.kind == "training" else partial(self._sentences, work.owner)

    def _measured(self, run: Callable[[list[int]], int], enough: float) -> float:
        """Tokens a second, of so many tokens at most, though a few rows are always tried."""
        self.has_measured = True
        order = permutation(len(self.context.pool), self.context.config.seed, "probe").tolist()
        run(order[:2])  # whatever the first call costs is not the speed
        done, seconds = timed(run, order, self.context.pool.tokens, enough, PROBE_SECONDS)
        return done / seconds

    def _rows(self, positions: Sequence[int]) -> list[Rendered]:
        return [self.context.pool.rendered[i] for i in positions]

    def _forward(self, readers: Sequence[Reader]) -> Callable[[list[int]], int]:
        from siftune.features.forward.engine import forward_features
        from siftune.features.forward.loss import Loss
        from siftune.models.memory import batch_tokens

        loaded, config = self.context.model, self.context.config

        def run(positions: list[int]) -> int:
            rows = self._rows(positions)
            forward_features(loaded.model, rows, readers or [Loss()], pad_id=loaded.pad_id, device=loaded.device,
                             batch_tokens=batch_tokens(config.batch_tokens, loaded))
            return sum(map(len, rows))

        return run

    def _training(self, positions: list[int]) -> int:
        """Optimizer steps, but for the step itself: forward and backward of micro-batches."""
        from siftune.features.gradient_settings import lora_settings
        from siftune.models.batching import collate, plan_batches
        from siftune.models.lora import attach_lora, detach_lora
        from siftune.models.supervised_logits import mean_loss_per_row, supervised_logits

        loaded, rows = self.context.model, self._rows(positions)
        model = attach_lora(loaded.model, lora_settings(self.context.config), seed=0)
        try:
            for some in plan_batches([len(r) for r in rows], self.context.config.micro_batch_tokens):
                batch = collate([rows[i] for i in some], loaded.pad_id, loaded.device)
                with supervised_logits(model, batch.supervised):
                    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask,
                                   use_cache=False).logits[0]
                mean_loss_per_row(logits, batch.input_ids, batch.supervised).sum().backward()
        finally:
            detach_lora(model).requires_grad_(False)
        return sum(map(len, rows))

    def _sentence_model(self, owner: str) -> SentenceModel:
        from siftune.models.sentence_embedding import load_sentence_model

        if owner not in self._sentence_models:
            context = self.context.of(owner) if owner else self.context
            config = context.config
            with self.made.fixed("loading"):
                self._sentence_models[owner] = load_sentence_model(
                    context.settings.embedding_model, device=config.device, dtype=config.dtype,
                    trust_remote_code=config.trust_remote_code)
        return self._sentence_models[owner]

    def sentence_bytes(self, owner: str) -> int:
        """What a row's embedding takes."""
        from siftune.features.store.codec import bytes_per_row

        width = self._sentence_model(owner).encode(["text"]).shape[1]
        return bytes_per_row(width, self.context.config.feature_dtype) + 1

    def _sentences(self, owner: str, positions: list[int]) -> int:
        from siftune.data.text.rows import conversation_text

        self._sentence_model(owner).encode([conversation_text(self.context.pool.rows[i]) for i in positions])
        return sum(len(self.context.pool.rendered[i]) for i in positions)
