"""What can be read of a forward pass.

A :class:`Reader` says what it wants to see and makes one :class:`Reading` for every batch; the pass shows the reading
what its reader asked for, and takes the arrays when the batch is done. Any readers can share a pass, since none of
them changes anything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from siftune.data.rows import Rendered
    from siftune.models.batching import Batch

Tap = Literal["hidden", "logits", "gated", "up"]
"""Places of a model that can be looked at: the last hidden states (after the final norm); logits at supervised tokens;
the gated activations that enter each MLP's down projection; the output of each MLP's up projection."""


class Reading(ABC):
    """Of one batch. Those of taps that the reader did not ask for are never called, and need not be there."""

    def hidden(self, values: Tensor) -> None:  # noqa: B027
        """float [B, T, H]: the last hidden states, after the model's final norm."""

    def logits(self, values: Tensor) -> None:  # noqa: B027
        """float [n, V]: at the positions that predict a supervised token, in row-major order."""

    def neurons(self, tap: Tap, layer: int, values: Tensor) -> None:  # noqa: B027
        """float [B, T, I]: activations of an MLP; layers come in their order."""

    @abstractmethod
    def arrays(self) -> dict[str, Tensor]:
        """What is kept of each row: [B, ...] by name."""


class Reader(ABC):
    """One kind of reading: a frozen dataclass, all of whose fields are part of its store's key (see
    :func:`siftune._common.artefacts.described`). Picklable, since worker processes get it too.

    Attributes:
        name: of its store, below ``store/``; two readers that keep something else have different names.
        taps: what it wants to see.
        features: names of arrays that are feature matrices, to be stored as ``feature_dtype`` says.
        version: of its code: whoever changes what it computes counts up.
    """

    taps: ClassVar[frozenset[Tap]]
    features: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    @property
    @abstractmethod
    def name(self) -> str: ...

    def view(self, row: Rendered) -> Rendered:
        """The tokens that are run for a row: the row itself, unless the reader wants others."""
        return row

    @property
    def views_itself(self) -> bool:
        """Whether :meth:`view` gives the row itself, so that the reader can share the pass over the rows."""
        return type(self).view is Reader.view

    @abstractmethod
    def start(self, batch: Batch, device: torch.device | str) -> Reading: ...

    @abstractmethod
    def bytes_per_row(self, model: Any, feature_dtype: str) -> int:
        """What it keeps of a row, in bytes, for `siftune plan`."""
