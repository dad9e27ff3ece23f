"""What computing a representation takes, said before it is done: for `siftune plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from siftune.features.base import Context, Method

if TYPE_CHECKING:
    from siftune.features.forward.reader import Reader


@dataclass(frozen=True)
class Work:
    """One step.

    Attributes:
        step: what it is called, as in the times of the report.
        kind: ``forward`` (tokens through the model), ``training`` (forward and backward), ``sentences`` (tokens through
            the sentence-embedding model), or ``words`` (no model: seconds).
        tokens: how many tokens go that way.
        readers: what is read of a forward pass; decides its speed and its size.
        rows: how many rows are kept, by the readers.
        sentence_rows: how many rows are kept as sentence embeddings.
        disk: bytes that are kept otherwise.
        needs: of the selector, where the step is for that alone (see
            :class:`~siftune.selectors.core.info.SelectorInfo`); empty for every selector.
        told: anything worth saying, such as the number of pairs.
        owner: the method whose step it is, where that is another one than the method that is planned.
    """

    step: str
    kind: Literal["forward", "training", "sentences", "words"]
    tokens: int
    readers: tuple[Reader, ...] = ()
    rows: int = 0
    sentence_rows: int = 0
    disk: int = 0
    needs: str = ""
    told: str = ""
    owner: str = ""


@runtime_checkable
class PlannedMethod(Method, Protocol):
    """A representation that says what it takes; those by gradients are
    :class:`~siftune.features.base.GradientMethod`."""

    def work(self, context: Context) -> list[Work]: ...


def forward_work(context: Context, pool: Sequence[Reader], target: Sequence[Reader] = (),
                 existing: Sequence[Reader] = ()) -> list[Work]:
    """Forward passes over the pool (with what ``--collect`` adds), the targets and the rows that the model knows.

    Args:
        context: of the run.
        pool, target, existing: what is read of each; nothing is run where nothing is read.
    """
    from siftune.features.collect import planned_readers

    passes = (("pool", context.pool, planned_readers(context, pool)), ("target", context.target, tuple(target)),
              ("existing", context.existing, tuple(existing)))
    return [Work(f"{name} forward pass", "forward", int(rows.tokens.sum()), readers, len(rows))
            for name, rows, readers in passes if readers and len(rows)]
