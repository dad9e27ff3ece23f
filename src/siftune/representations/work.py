"""What computing a representation takes, said before it is done: for `siftune plan`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from siftune.representations.base import Context, Representation

if TYPE_CHECKING:
    from siftune.data.rows import Examples
    from siftune.forward.reader import Reader


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
        disk: bytes that are kept otherwise.
        told: anything worth saying, such as the number of pairs.
    """

    step: str
    kind: Literal["forward", "training", "sentences", "words"]
    tokens: int
    readers: tuple[Reader, ...] = ()
    rows: int = 0
    disk: int = 0
    told: str = ""


@runtime_checkable
class PlannedRepresentation(Representation, Protocol):
    """A representation that says what it takes; those by gradients are
    :class:`~siftune.representations.base.GradientRepresentation`."""

    def work(self, context: Context) -> list[Work]: ...


def forward_work(context: Context, readers: tuple[Reader, ...], *, existing: bool = True) -> list[Work]:
    """Forward passes over the pool, the targets and the rows that the model already knows."""
    def over(name: str, examples: Examples) -> Work:
        return Work(f"{name} forward pass", "forward", int(examples.tokens.sum()), readers, len(examples))

    known = [over("existing", context.existing)] if existing and len(context.existing) else []
    target = [over("target", context.target)] if len(context.target) else []
    return [over("pool", context.pool), *target, *known]
