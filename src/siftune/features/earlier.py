"""Features of an earlier run, of another pool: rows that both pools have are taken, and only the others computed.

A pass sees token ids and mask of a row and nothing of its neighbours, so what is kept of a row serves any pool that has
it, while all else is the same: model, renderer, settings, checkpoint, directions. That is decided by the keys of both
stores, in which nothing but the pool may differ; another setting is refused, as it is where one pool is selected from
twice. What is taken is verified like whatever is read. What is missing is computed as a store of its own (``added-...``
in the folder of the store), so that it is interrupted and goes on like any other, and is then put between the rows that
were there.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.artefacts import KeptFile, Unusable, digest, keep_file, kept_file, read_sealed
from siftune._common.artefacts.key import differences, only_artefacts_differ
from siftune._common.errors import StoreCorrupt
from siftune._common.files import link_or_copy
from siftune._common.progress import bar, log
from siftune._common.text import counted
from siftune.data.rows import Examples
from siftune.features.base import Context
from siftune.features.parts import rows_of
from siftune.features.store import FeatureStore, Shard
from siftune.features.store.kept_rows import KeptRows, as_keys, rows_of_shards
from siftune.features.store.refusal import METHOD, mismatch

ADDED = "added-"
POOL = "pool"
"""The part of a key that names the pool; what the pool decides besides (checkpoint, directions) is named by itself."""

_OF_OTHER_ROWS = re.compile(r"^(target|existing|reference)-[0-9a-f]{12}$")


def take(context: Context, stores: Sequence[FeatureStore], examples: Examples, digests: Callable[[], np.ndarray],
         compute: Callable[[list[int], list[FeatureStore], Examples], None]) -> None:
    """Fill what is missing of some stores with rows of earlier runs, as far as these have any.

    A store of which no earlier run has a row is left as it is.

    Args:
        context: of the run; ``earlier`` says where to look.
        stores: of the same rows.
        examples: these rows.
        digests: what is seen of each row, uint8 [N, 16], as
            :data:`~siftune.features.store.kept_rows.DIGEST` of the shards tells; called only where it is needed.
        compute: fills stores of some rows, made as those of the given numbers are.

    Raises:
        StoreMismatch: an earlier run has such a store, made with another setting, and ``--recompute`` was not given.
    """
    if not context.earlier or (context.share is not None and not context.share.prepares):
        return  # shares work beside each other: what comes before them has taken what there is
    mixed: dict[int, _Mixed] = {}
    for i, store in enumerate(stores):
        shards = store.missing()
        if shards:
            one = _Mixed(context, store, shards)
            if one.look(digests):
                mixed[i] = one
    _tell(context, list(mixed.values()))
    groups: dict[bytes, list[int]] = {}
    for i, one in mixed.items():
        groups.setdefault(one.lacking.tobytes(), []).append(i)
    for several in groups.values():
        rows = mixed[several[0]].lacking
        if len(rows):
            added = [mixed[i].added(rows) for i in several]
            compute(several, added, rows_of(examples, rows))
            for i, store in zip(several, added, strict=True):
                mixed[i].look_into(KeptRows(store), "")
    for one in mixed.values():
        one.write()
    for store in stores:
        for folder in store.folder.glob(f"{ADDED}*"):
            shutil.rmtree(folder)


class _Mixed:
    """The missing shards of a store, and where each of their rows is kept.

    Attributes:
        store, shards: which.
        counts: run folder -> rows that are taken from it; the empty text for those of an interrupted try of this run.
    """

    def __init__(self, context: Context, store: FeatureStore, shards: Sequence[Shard]):
        self.context, self.store, self.shards = context, store, shards
        self.rows = rows_of_shards(shards)
        self.counts: dict[str, int] = {}
        self._sources: list[KeptRows] = []
        self._source = np.full(len(self.rows), -1, np.int64)  # which source has each row
        self._place = np.full(len(self.rows), -1, np.int64)  # and which row of it that is

    def look(self, digests: Callable[[], np.ndarray]) -> int:
        """How many rows are kept somewhere."""
        for found, run in _sources(self.context, self.store):
            if not self._sources and not self.counts:
                self._digests = digests()[self.rows]
            self.look_into(found, run)
            if not len(self.lacking):
                break
        return sum(self.counts.values())

    def look_into(self, found: KeptRows, run: str) -> None:
        lacking = np.flatnonzero(self._source < 0)
        place = found.find(self._digests[lacking])
        there = lacking[place >= 0]
        self._source[there], self._place[there] = len(self._sources), place[place >= 0]
        self._sources.append(found)
        self.counts[run] = self.counts.get(run, 0) + len(there)

    @property
    def lacking(self) -> np.ndarray:
        """int64, ascending: rows that are kept nowhere, one of each content."""
        lacking = np.flatnonzero(self._source < 0)
        _, first = np.unique(as_keys(self._digests[lacking]), return_index=True)
        return self.rows[lacking[np.sort(first)]]

    def added(self, rows: np.ndarray) -> FeatureStore:
        """A store of some rows alone, made as this one is."""
        assert self.store.row_keys is not None, "it was opened for rows that are known"
        keys = self.store.row_keys.some(rows)
        return FeatureStore.open(self.store.folder / f"{ADDED}{keys.key[:12]}", self.store.fingerprint, rows=keys,
                                 shard_rows=self.store.shard_rows)

    def write(self) -> None:
        """Write the shards, all of whose rows are kept somewhere now."""
        start = 0
        with bar(f"{_name(self.context, self.store)} together", len(self.rows)) as progress:
            for shard in self.shards:
                inside = slice(start, start + len(shard))
                self._write(shard, self._source[inside], self._place[inside])
                start += len(shard)
                progress.advance(len(shard))

    def _write(self, shard: Shard, source: np.ndarray, place: np.ndarray) -> None:
        if (source == source[0]).all() and (same := self._sources[source[0]].whole_shard(place)) is not None:
            self.store.link(shard, *self._sources[source[0]].store.about(same))
            return
        arrays: dict[str, np.ndarray] = {}
        for one in np.unique(source).tolist():
            at = np.flatnonzero(source == one)
            self._sources[one].read(place[at], arrays, at, len(shard))
        self.store.write(shard, arrays)


def _sources(context: Context, store: FeatureStore) -> Iterator[tuple[KeptRows, str]]:
    """(rows that are kept of what the store is made from, run folder), the nearest first."""
    for folder in sorted(store.folder.glob(f"{ADDED}*")):
        try:
            found = FeatureStore.load(folder)
        except StoreCorrupt:  # it is made anew
            continue
        if not differences(found.fingerprint, store.fingerprint):
            yield KeptRows(found), ""
    inside = store.folder.relative_to(context.folder)
    wanted = _without_pool(store.fingerprint)
    compared = False  # with the store of the nearest run that has it
    for run in [run / context.below for run in context.earlier]:
        for folder in counterparts(run, inside):
            name = f"{'/'.join(folder.relative_to(run / 'store').parts)} of {run}"
            try:
                found = FeatureStore.load(folder)
            except StoreCorrupt as error:
                log(f"{name} is not readable, and none of its rows are taken: {error.why} Running the command of that "
                    "run again mends it")
                continue
            other = differences(_without_pool(found.fingerprint), wanted)
            if other and folder == run / inside and not compared and not only_artefacts_differ(other):
                if not context.config.recompute:
                    raise mismatch(folder, *next(one for one in other if not only_artefacts_differ([one])))
                log(f"--recompute: nothing is taken of {name}, which was made with another {other[0][0]}")
            elif other and folder == run / inside:
                log(f"nothing is taken of {name}, which was made from another {_artefact(other[0][0])}")
            compared = compared or folder == run / inside
            if other:
                continue
            kept = KeptRows(found)
            _tell_unusable(name, kept)
            yield kept, str(run)


def counterparts(run: Path, inside: Path) -> list[Path]:
    """Where a run may keep features of the rows that a folder of another one is for.

    Args:
        run: its folder.
        inside: the other's folder, below the run folder, or below that of a part of its pool.

    Returns:
        Folders that are there: the same, those of other targets (each kept by content), and of parts of the pool.
    """
    pattern = "/".join(_OF_OTHER_ROWS.sub(r"\1-*", part) for part in inside.parts)
    found = [run / inside, *sorted(run.glob(pattern)), *sorted(run.glob(f"store/part-*/{pattern}"))]
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def kept_earlier(context: Context, path: Path, kind: str, made_from: Mapping[str, Any], *, head: Path | None = None,
                 ) -> KeptFile | None:
    """A file that depends on the pool by what its key names beside it (a checkpoint), taken from an earlier run.

    Args:
        path: where it belongs, below the run folder.
        kind: of the artefact.
        made_from: its key's parts.
        head: where runs tell what they are made from, if their pool is part of the key: the note of a method's stores.

    Returns:
        The file, in its place; None where no earlier run has it.
    """
    inside = path.relative_to(context.folder)
    for run in [run / context.below for run in context.earlier]:
        for below in (run, *sorted(run.glob("store/part-*"))):
            there, parts = below / inside, dict(made_from)
            try:
                if head is not None:
                    parts[POOL] = read_sealed(below / head.relative_to(context.folder), METHOD)[POOL]
                file = kept_file(there, kind, digest(parts))
            except (Unusable, KeyError, TypeError):
                continue

            def write(new: Path, there: Path = there) -> None:
                link_or_copy(there, new)

            return keep_file(path, kind, digest(made_from), file.about, write=write)
    return None


def _without_pool(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fingerprint.items() if name != POOL}


def _artefact(field: str) -> str:
    return "checkpoint" if "checkpoint" in field else "direction or mean" if "basis" in field else "file"


def _tell_unusable(name: str, kept: KeptRows) -> None:
    total = len(kept.store.shards())
    if kept.damaged:
        why = next(iter(kept.damaged.values()))
        log(f"{len(kept.damaged)} of {total} shards of {name} are damaged ({why}): their rows are computed again")
    if kept.unnamed:
        log(f"{len(kept.unnamed)} of {total} shards of {name} were kept by an earlier version, which did not say whose "
            "features they are: their rows are computed again")


def _tell(context: Context, mixed: Sequence[_Mixed]) -> None:
    """Say what is taken of the pool and what is computed, and note it for the manifest."""
    several: dict[str, list[_Mixed]] = {}
    for one in mixed:
        several.setdefault(_name(context, one.store), []).append(one)
    for name, stores in several.items():
        one = stores[0]
        taken = {run: count for run, count in one.counts.items() if run and count}
        before, total = one.counts.get("", 0), len(one.rows)
        rest = total - sum(taken.values()) - before
        context.taken[name] = {"rows": total, "taken": taken, "computed": len(one.lacking)}
        if not name.endswith(f"/{POOL}"):
            continue
        each = f" (in each of {len(stores)} stores)" if len(stores) > 1 else ""
        words = next(iter(taken)) if len(taken) == 1 else "earlier runs (" + ", ".join(
            f"{count:,} from {run}" for run, count in taken.items()) + ")"
        again = f", {before:,} from before this run was interrupted" if before else ""
        log(f"{sum(taken.values()):,} of {counted(total)} of {name}{each} have their features from {words}{again}; "
            f"{f'{rest:,}' if rest else 'none'} {'is' if rest < 2 else 'are'} computed")


def _name(context: Context, store: FeatureStore) -> str:
    """Method and rows: ``rds/pool``."""
    return "/".join(store.folder.relative_to(context.folder / "store").parts[:2])
