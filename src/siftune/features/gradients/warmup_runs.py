"""Whose checkpoints a warmup folder holds: of this pool, or of an earlier one that they were taken from.

What decides a warmup run beside its rows (settings, adapter, model, renderer, seed) is the key of ``run.json``, so that
the run of another pool is found where all of that is the same. The checkpoints are verified and taken as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from siftune._common.artefacts import Unusable, keep_file, kept_file, write_sealed
from siftune._common.artefacts.sealed import read_usable
from siftune._common.files import link_or_copy
from siftune._common.progress import log

TENSORS = "adapter.safetensors"
SUMMARY = "checkpoint.json"
KIND = "checkpoint"
_RUN = "run.json"
_RUN_KIND = "warmup"


@dataclass(frozen=True)
class WarmupRun:
    """A finished warmup run.

    Attributes:
        key: Of the run that the checkpoints are of.
        instead_of: Key of the run that this pool would have; the same where it was trained here.
        rows, pool: How many rows it trained on, of how many.
        trained_in: Folder of the run that trained it, where that is another one.
    """

    key: str
    instead_of: str
    rows: int
    pool: int
    trained_in: str = ""

    def keep(self, folder: Path, made_from: str) -> None:
        """Write ``run.json``, unless it says so already.

        Args:
            folder: of the warmup run.
            made_from: what it is made from but for the rows.
        """
        if warmup_run(folder, made_from) != self:
            write_sealed(folder / _RUN, _RUN_KIND, made_from, asdict(self))


def warmup_run(folder: Path, made_from: str | None = None) -> WarmupRun | None:
    """The run that a folder holds; None where there is none, or one of other settings.

    Args:
        folder: of the warmup run.
        made_from: what it must be made from but for the rows; anything where not given.
    """
    told = read_usable(folder / _RUN, _RUN_KIND, made_from)
    return None if told is None else WarmupRun(**told)


def taken_over(folder: Path, made_from: str, own: str, earlier: Sequence[Path], epochs: int) -> WarmupRun | None:
    """The run of another pool whose checkpoints are used in this folder, brought from an earlier run where need be.

    Args:
        folder: of the warmup run.
        made_from: what it is made from but for the rows.
        own: key of the run that this pool would have.
        earlier: such folders of earlier runs, the nearest first.
        epochs: so many checkpoints are needed.

    Returns:
        None where this pool's own run is to be trained, or was.
    """
    before = warmup_run(folder, made_from)
    if before is not None and before.instead_of == own:
        if before.key == own:
            return None
        if all(_whole(folder, epoch, before.key) for epoch in range(1, epochs + 1)):
            return before
    for there in earlier:
        found = warmup_run(there, made_from)
        if found is None or (before is not None and before.instead_of == own and found.key != before.key):
            continue  # what is kept already was made at the checkpoints that were taken before
        if all(_whole(there, epoch, found.key) for epoch in range(1, epochs + 1)):
            for epoch in range(1, epochs + 1):
                _take(there / f"epoch-{epoch}", folder / f"epoch-{epoch}", found.key)
            return replace(found, instead_of=own, trained_in=found.trained_in or str(there.parent))
    if before is not None and before.instead_of == own:
        log("warning: the checkpoints that were taken from an earlier run are damaged or gone, here and there: the "
            "warmup is trained on this pool, and all that was made at them is made again")
    return None


def _whole(folder: Path, epoch: int, key: str) -> bool:
    target = folder / f"epoch-{epoch}"
    try:
        kept_file(target / TENSORS, KIND, key, note=target / SUMMARY)
    except Unusable:
        return False
    return True


def _take(source: Path, target: Path, key: str) -> None:
    file = kept_file(source / TENSORS, KIND, key, note=source / SUMMARY)
    keep_file(target / TENSORS, KIND, key, file.about, note=target / SUMMARY,
              write=lambda path: link_or_copy(source / TENSORS, path))
