"""A pool as it was read and rendered, kept in the folder of a run, so that it is read and rendered once.

    rows.arrow            what reading gave, see :mod:`siftune.data.stored`
    ids.bin, mask.bin     int32 token ids and bool masks of all rows, one after the other
    rendering.bin         for each row how many tokens it has, and its facts (:data:`_ROW`)

Each file is an artefact with its note: verified when it is opened, made again where it is damaged. The rows are made
from the content of the source files and every setting of reading; ids and masks from the rows and the renderer's
fingerprint. Small pools are read again faster than they are kept, and sources on the hub have no content that could be
looked at; neither is kept.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.artefacts import Damaged, KeptFile, Unusable, digest, is_held, keep_file, kept_file, payload_of
from siftune._common.artefacts.kept import note_of
from siftune._common.artefacts.sealed import make_way, remove, tell_damage
from siftune._common.errors import DataError
from siftune._common.files import atomic_path, make_folder, put_in_place
from siftune._common.mapped import Mapped
from siftune._common.progress import log
from siftune._common.version import __version__
from siftune.data.collect import SourceSummary
from siftune.data.facts import KEY_BYTES, Facts
from siftune.data.readers import BadRows, Reading
from siftune.data.render import Renderer
from siftune.data.rendered import RenderedRows, joined, starts_of, supervised_in
from siftune.data.rendering import Block, Rendering, blocks, render_block
from siftune.data.rows import Dropped
from siftune.data.sources import Source, find_sources
from siftune.data.stored import RowFile, StoredRows

_PROBES = 32  # rows that are rendered again to see whether what is kept is what would be made

VERSION = 2
"""Counted up whenever reading or rendering gives other rows, ids, masks or facts for the same input."""

_ROWS, _RENDERING = "pool rows", "pool rendering"
_IDS, _MASK, _TABLE = "ids.bin", "mask.bin", "rendering.bin"
_ROW = np.dtype([("length", "<i4"), ("cut_tokens", "<i4"), ("supervised", "<i4"), ("unmatched", "<i4"),
                 ("turns", "<i4"), ("characters", "<i8"), ("special", "?"), ("normalised", "u1", (KEY_BYTES,)),
                 ("prompt", "u1", (KEY_BYTES,)), ("text", "u1", (KEY_BYTES,))])


class PoolCache:
    """What is kept of a pool.

    Args:
        runs: folders of the run and of those that it goes on from; nothing is kept where there are none. All may be
            read; the first is written to, by who holds it (:func:`~siftune._common.artefacts.working_in`).
    """

    def __init__(self, runs: Sequence[Path] = ()):
        self._folders = [run / "pool" for run in runs]
        self.folder = self._folders[0] if runs else None
        self._writes = bool(runs) and is_held(runs[0])

    def reading(self, given: Sequence[str], settings: Mapping[str, Any], bad_rows: BadRows,
                read: Callable[[Path | None], Reading]) -> Reading:
        """What reading a pool gives.

        Args:
            given: the sources.
            settings: all that decides what is read of them, but for ``bad_rows``.
            bad_rows: see :func:`~siftune.data.readers.read_sources`.
            read: reads them; many rows are written into the folder that it is given.

        Raises:
            DataError: whatever is wrong with a file or a row.
        """
        sources = find_sources(given)
        key = _key_of(sources, settings) if self.folder is not None else None
        if key is None:
            return read(None)
        if (kept := self._kept_rows(key)) is not None:
            for source in sources:
                if source.note:
                    log(source.note)
            return kept.checked("pool", bad_rows)
        found = read(self.folder if self._writes else None)
        if self._writes and isinstance(found.rows, StoredRows):
            if _key_of(find_sources(given), settings) == key:
                self._keep_rows(found, found.rows.file, key)
            else:
                log("warning: a file of the pool has changed while it was read: what was read is not kept")
        return found

    def _kept_rows(self, key: str) -> Reading | None:
        opened = (_opened(folder / "rows.arrow", _ROWS, key) for folder in self._folders)
        kept = next((one for one in opened if one is not None), None)
        if kept is None:
            return None
        about = kept.about
        file = RowFile(kept.path, about["sources"], about["own"])
        file.artefact = kept.artefact
        return Reading(StoredRows(file), [Dropped(**row) for row in about["dropped"]],
                       [SourceSummary(**one) for one in about["summaries"]], about["advice"])

    def _keep_rows(self, found: Reading, file: RowFile, key: str) -> None:
        assert self.folder is not None
        path = self.folder / "rows.arrow"
        remove(note_of(path))
        make_way(path)
        put_in_place(file.path, path)
        file.leaves.detach()
        file.path = path
        about = {"sources": list(file.sources), "own": list(file.own),
                 "summaries": [asdict(one) for one in found.sources],
                 "dropped": [asdict(row) for row in found.dropped], "advice": found.advice}
        file.artefact = keep_file(path, _ROWS, key, about).artefact

    def rendering(self, rows: StoredRows, renderer: Renderer) -> tuple[StoredRows, Rendering]:
        """What rendering makes of all rows of a pool, and the rows with their facts.

        Args:
            rows: all rows of their file.
            renderer: what renders them.

        Raises:
            ModelError: see :func:`~siftune.data.rendering.render_rows`.
        """
        key = None
        if self.folder is not None and rows.file.artefact:
            key = digest([VERSION, rows.file.artefact, renderer.fingerprint(), renderer.vocabulary,
                          _versions("transformers", "tokenizers", "jinja2")])
            for folder in self._folders:
                kept = _kept_rendering(folder, key, rows)
                if kept is not None and _is_what_is_rendered(kept[1], rows, renderer):
                    return kept
        if key is None or self.folder is None or not self._writes:
            scratch = Path(tempfile.mkdtemp(prefix="siftune-"))
            try:
                bad = _write(scratch, rows, renderer)
                made = _read(scratch, rows, bad)
            except BaseException:
                shutil.rmtree(scratch, ignore_errors=True)
                raise
            weakref.finalize(made[1].rendered, shutil.rmtree, scratch, ignore_errors=True)
            return made
        for name in (_IDS, _MASK, _TABLE):
            remove(note_of(self.folder / name))
            make_way(self.folder / name)
        bad = _write(make_folder(self.folder), rows, renderer)
        for name in (_IDS, _MASK):
            keep_file(self.folder / name, _RENDERING, key)
        keep_file(self.folder / _TABLE, _RENDERING, key, bad)
        return _read(self.folder, rows, bad)


def _opened(path: Path, kind: str, key: str) -> KeptFile | None:
    """A file that is kept, or None where it has to be made (again): which is told, where it was damaged."""
    try:
        return kept_file(path, kind, key)
    except Damaged as error:
        tell_damage(path, str(error))
    except Unusable:
        pass
    return None


def _key_of(sources: Sequence[Source], settings: Mapping[str, Any]) -> str | None:
    """Of the content of the sources and how they are read; None where the content cannot be looked at."""
    found: list[Any] = []
    for source in sources:
        if source.kind == "hub":
            return None
        files = sorted(file for file in source.path.rglob("*") if file.is_file()) if source.path.is_dir() \
            else [source.path]
        payloads = [payload_of(file.resolve()) for file in files]
        if None in payloads:
            return None
        found.append({**asdict(source), "files": [file.name for file in files], "payloads": payloads})
    return digest({"version": VERSION, "packages": _versions("pyarrow", "datasets"), "sources": found,
                   "settings": settings})


def _versions(*packages: str) -> list[str]:
    from importlib.metadata import version

    return [__version__, *map(version, packages)]


def _kept_rendering(folder: Path, key: str, rows: StoredRows) -> tuple[StoredRows, Rendering] | None:
    kept = [_opened(folder / name, _RENDERING, key) for name in (_IDS, _MASK, _TABLE)]
    if kept[2] is None or None in kept:
        return None
    return _read(folder, rows, [(place, reason, detail) for place, reason, detail in kept[2].about])


def _is_what_is_rendered(kept: Rendering, rows: StoredRows, renderer: Renderer) -> bool:
    """Whether some rows, spread over all, are rendered as they are kept; no fingerprint tells of code that comes with a
    tokenizer."""
    places = np.unique(np.linspace(0, len(rows) - 1, _PROBES).astype(np.int64))
    before = renderer.unmatched_turns, renderer.special_tokens_in_content
    made = render_block(renderer, rows.take(places))
    renderer.unmatched_turns, renderer.special_tokens_in_content = before
    some = kept.take(places)
    ids, mask = (joined([getattr(row, name) for row in some.rendered], kind)
                 for name, kind in (("ids", np.int32), ("mask", np.bool_)))
    if np.array_equal(ids, made.ids) and np.array_equal(mask, made.mask) and some.bad == made.bad:
        return True
    log("warning: the tokenizer renders rows of the pool otherwise than before: they are rendered again")
    return False


def _write(folder: Path, rows: StoredRows, renderer: Renderer) -> list[tuple[int, str, str]]:
    """Render rows into the three files; the rows that cannot be used."""
    bad: list[tuple[int, str, str]] = []
    with ExitStack() as stack:
        ids, mask, table = (stack.enter_context(stack.enter_context(atomic_path(folder / name)).open("wb"))
                            for name in (_IDS, _MASK, _TABLE))
        first = 0
        for one in blocks(rows, renderer, role="pool", facts=True):
            one.ids.astype("<i4", copy=False).tofile(ids)
            one.mask.tofile(mask)
            _table_of(one).tofile(table)
            bad += [(first + place, reason, detail) for place, reason, detail in one.bad]
            first += len(one.lengths)
    return bad


def _table_of(one: Block) -> np.ndarray:
    assert one.facts is not None
    table = np.zeros(len(one.lengths), dtype=_ROW)
    table["length"], table["cut_tokens"], table["unmatched"] = one.lengths, one.cut_tokens, one.unmatched
    table["special"], table["supervised"] = one.special, supervised_in(one.mask, starts_of(one.lengths), one.lengths)
    for name in ("normalised", "prompt", "text", "turns", "characters"):
        table[name] = getattr(one.facts, name)
    return table


def _read(folder: Path, rows: StoredRows, bad: list[tuple[int, str, str]]) -> tuple[StoredRows, Rendering]:
    ids, mask, whole = (Mapped(folder / name) for name in (_IDS, _MASK, _TABLE))
    table = whole.array(_ROW)
    if len(table) != len(rows):
        raise DataError("the kept rendering of the pool is that of other rows", where=str(folder),
                        hint="remove this folder and run the same command again")

    def used(count: int) -> None:
        ids.used(count)
        mask.used(count)

    lengths, cut, supervised, unmatched, special, turns = (
        np.ascontiguousarray(table[name]) for name in ("length", "cut_tokens", "supervised", "unmatched", "special",
                                                       "turns"))
    rendered = RenderedRows(ids.array("<i4"), mask.array(np.bool_), starts_of(lengths), lengths, cut, supervised, used)
    facts = Facts(table["normalised"], table["prompt"], table["text"], turns, np.ascontiguousarray(table["characters"]))
    return rows.knowing(facts), Rendering(rendered, unmatched, special, bad)
