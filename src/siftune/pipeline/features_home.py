"""Which run folder keeps the features of a run: its own, or one that ``--from`` leads to.

Runs follow each other by ``--from``. The features of one pool are kept once, in the folder of a run that selected from
it; a run of another pool keeps its own, and takes those of the same rows from the runs before it (see
:mod:`siftune.features.earlier`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from siftune._common.artefacts import Unusable, read_sealed
from siftune._common.files import read_json
from siftune.config.settings import SelectConfig, read_yaml
from siftune.data.rows import Examples
from siftune.data.text.rows import named_text_digests
from siftune.features.base import Context, row_keys
from siftune.features.earlier import POOL
from siftune.features.in_context.matrix import Contents
from siftune.features.store import RowKeys
from siftune.features.store.shards import HEAD
from siftune.features.store.shards import KIND as STORE


def run_folders(config: SelectConfig) -> list[Path]:
    """The run folder of a configuration, and those that ``from_run`` leads to, one after the other."""
    found, onward = [Path(config.output_dir)], config.from_run
    while onward and Path(onward) not in found:
        found.append(Path(onward))
        source = found[-1] / "config.yaml"
        onward = str(read_yaml(source).get("from_run") or "") if source.is_file() else ""
    return found


def reused_folders(config: SelectConfig) -> list[Path]:
    """The folders of other runs that a run may read features of, or add to: it must be alone there."""
    return [folder for folder in run_folders(config)[1:] if folder.is_dir()]


def features_folder(config: SelectConfig) -> Path:
    """The run folder whose ``store`` and ``warmup`` a finished run has used."""
    folders = run_folders(config)
    return next((folder for folder in folders if _pools(folder, stores_alone=True)), folders[-1])


@dataclass(frozen=True)
class FeaturesHome:
    """Where the features of a pool are kept.

    Attributes:
        folder: of the run whose ``store`` and ``warmup`` are used.
        earlier: folders of runs of other pools, the nearest first.
        pool_keys: what the rows contain, where that had to be looked at.
    """

    folder: Path
    earlier: tuple[Path, ...] = ()
    pool_keys: RowKeys | None = None

    def told(self, context: Context) -> Context:
        """A context that has ``folder`` and ``earlier``, with what is known of the pool already."""
        return context if self.pool_keys is None else context.knows(self.pool_keys)


def features_home(config: SelectConfig, pool: Examples) -> FeaturesHome:
    """Where the features of this pool are to be kept, and where some may be taken from.

    Args:
        config: of the run.
        pool: its usable rows, rendered.
    """
    folders = run_folders(config)
    if len(folders) == 1:
        return FeaturesHome(folders[0])
    keys = row_keys(pool, "pool")
    pools = [_pools(folder) for folder in folders]
    made = _keys(pool, keys)
    same = [i for i, found in enumerate(pools) if found and any(key() in found for key in made)]
    # The last one, where several have the same pool; none of them, where all have others.
    at = same[-1] if same else 0 if any(pools[1:]) else len(folders) - 1
    return FeaturesHome(folders[at], tuple(folders[at + 1 :]), keys)


def _keys(pool: Examples, keys: RowKeys) -> list[Callable[[], str]]:
    """The keys that stores of the pool may have: of what passes see, of texts, and of the different contents; each is
    made when it is first asked for."""
    return [lambda: keys.key, cache(lambda: RowKeys("pool", named_text_digests(pool.rows)).key),
            cache(lambda: row_keys(Contents(pool).examples, "pool").key)]


def _pools(folder: Path, *, stores_alone: bool = False) -> set[str]:
    """Content keys of the pools that a run folder has features of, or a selection."""
    found = set()
    for head in (*folder.glob(f"store/*/*/{HEAD}"), *folder.glob(f"store/*/*/*/{HEAD}")):
        try:
            told = read_sealed(head, STORE)
            if POOL in told["made_from"]:  # of targets too, where the pool is part of the key
                found.add(str(told["made_from"][POOL]))
            elif head.relative_to(folder / "store").parts[1] == POOL:
                found.add(str(told["rows"]["content"]))
        except (Unusable, KeyError, TypeError):
            continue
    if not stores_alone:
        try:
            told = read_json(folder / "manifest.json")["data"]["pool"]
            if told:
                found.add(str(told))
        except (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
            pass
    return found
