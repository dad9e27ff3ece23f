"""Data sets of the ``datasets`` library: folders it saved, and ids on the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from siftune._common.errors import DataError
from siftune._common.hub import hub_or_cache, not_reached
from siftune.data.raw import RawRecord, as_line
from siftune.data.sources import Source


def read_dataset(source: Source) -> Iterator[RawRecord]:
    """The records of a saved or hub data set.

    Raises:
        DataError: it cannot be loaded, or it has several splits and none (or a wrong one) was named.
    """
    dataset = _choose_split(_load(source), source)
    place = source.location if source.kind == "saved" else source.name
    records, number = iter(dataset), 0
    while True:
        try:
            record = next(records, None)
        except Exception as error:  # whatever decodes its columns: images, audio, tables
            raise DataError("cannot read a row of the data set", where=f"{place}:row {number + 1}",
                            why=_first_line(error), hint="leave out the column, or save the rows as JSON lines"
                            ) from error
        if record is None:
            return
        number += 1
        yield RawRecord(f"{place}:row {number}", as_line(record), record)


def _load(source: Source) -> Any:
    import datasets

    # Both loaders raise whatever their storage, HTTP and builder layers raise; all of it means the same here.
    if source.kind == "saved":
        try:
            return datasets.load_from_disk(source.location)
        except Exception as error:
            raise DataError("cannot read the saved data set", where=source.location, why=_first_line(error),
                            hint="save it again with datasets' save_to_disk") from error
    with hub_or_cache() as silence:
        try:
            return datasets.load_dataset(source.location, source.config, revision=source.revision)
        except Exception as error:
            failed = error
    raise DataError(
        f"cannot load {source.location!r} from the hub", where=source.location,
        why=not_reached(silence) if silence else _first_line(failed),
        hint="check the spelling, configuration and revision (org/name@revision:config:split) and the network; a "
        "local file is named by its path",
    ) from failed


def _choose_split(loaded: Any, source: Source) -> Any:
    if not isinstance(loaded, Mapping):
        if source.split is not None:
            raise DataError(f"the saved data set is a single split, it has no {source.split!r}", where=source.location,
                            hint=f"leave out '#{source.split}'")
        return loaded
    splits = list(loaded)
    named = source.location + (f"@{source.revision}" if source.revision else "")
    named += f":{source.config}" if source.config else ""
    if source.split is None and len(splits) == 1:
        return loaded[splits[0]]
    if source.split not in splits:
        what = "the data set has several splits" if source.split is None else f"no split {source.split!r}"
        raise DataError(what, where=source.location, why=f"The splits are {', '.join(map(str, splits))}.",
                        hint=f"name one: {named}#{splits[0] if splits else 'train'}")
    return loaded[source.split]


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
