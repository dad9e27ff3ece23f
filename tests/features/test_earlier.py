"""A pool that grows: what is kept of its rows is taken from the run before, and only new rows are computed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from siftune._common.errors import StoreMismatch
from siftune.config.catalogue import METHODS
from siftune.data.rows import Examples, Message, Rendered
from siftune.features.base import Computed, Context
from siftune.features.passes import Job, ShardWorker
from siftune.features.store import FeatureStore
from siftune.features.store.row_keys import content_digests
from tests.interrupt import stopped_after
from tests.methods.contexts import context, examples, whole

KEPT: dict[str, tuple[str, dict[str, Any]]] = {
    "rds": ("rds", {}), "loss": ("loss", {}), "ifd": ("ifd", {}), "mads": ("mads", {"active": 3}),
    "nag": ("nag", {"active": 3}), "nait": ("nait", {}), "logra": ("logra", {"damping": 0.1}), "gist": ("gist", {}),
    "less, kept": ("less", {"keep_features": True}), "less, exact": ("less", {"projection": "none"}),
    "less, one checkpoint": ("less", {"keep_features": True, "checkpoints": "last", "feature_dtype": "int8"}),
    "loss-drop": ("loss-drop", {})}
"""Methods that keep something of every row, with settings."""

NEW = examples(4, 50)


def removed(pool: Examples) -> Examples:
    return some(pool, [0, 1, 2, 4, 5, 7, 8, 9, 10, 12])


def added(pool: Examples) -> Examples:
    return joined(pool, some(NEW, [0, 1]))


def edited(pool: Examples) -> Examples:
    rendered = list(pool.rendered)
    rendered[6] = NEW.rendered[2]
    return Examples(pool.rows, rendered)


def reordered(pool: Examples) -> Examples:
    return some(pool, np.random.default_rng(0).permutation(len(pool)).tolist())


def renamed(pool: Examples) -> Examples:
    return Examples([dataclasses.replace(row, id=f"other-{i}", where=f"other:{i}") for i, row in enumerate(pool.rows)],
                    pool.rendered)


def all_at_once(pool: Examples) -> Examples:
    return reordered(joined(renamed(removed(edited(pool))), NEW))


CHANGES: dict[str, tuple[Callable[[Examples], Examples], int]] = {
    "removed": (removed, 0), "added": (added, 2), "edited": (edited, 1), "reordered": (reordered, 0),
    "renamed": (renamed, 0), "all at once": (all_at_once, 4)}
"""What happens to a pool: a function, and how many contents are new."""


def some(pool: Examples, rows: Sequence[int]) -> Examples:
    return Examples([pool.rows[i] for i in rows], [pool.rendered[i] for i in rows])


def joined(*parts: Examples) -> Examples:
    return Examples([row for part in parts for row in part.rows], [row for part in parts for row in part.rendered])


def run(folder: Path, name: str, change: Callable[[Examples], Examples] | None = None, *earlier: Path,
        **more: Any) -> tuple[Context, Computed]:
    """A method, by its name in ``KEPT``, over a pool that was changed, with features of earlier runs; every row is run
    by itself, so that its features are the same bits in whatever company."""
    method, settings = KEPT[name]
    made = context(folder, owner=method, **{"batch_tokens": 1, **settings, **more})
    if change:
        made.pool = change(made.pool)
    made.earlier = tuple(earlier)
    return made, METHODS.get(method)().compute(made)


@contextmanager
def computed() -> Iterator[list[bytes]]:
    """Inside, the contents of all rows, of the pool and others, that are run for a store, once for each store."""
    seen: list[bytes] = []
    real = ShardWorker.__call__

    def call(self: ShardWorker, job: Job) -> int:
        seen.extend([digest.tobytes() for digest in content_digests(job.rendered)] * len(job.stores))
        return real(self, job)

    with patch.object(ShardWorker, "__call__", call):
        yield seen


def stores(of: Context) -> dict[str, FeatureStore]:
    """The pool's stores by where they are."""
    heads = sorted((of.folder / "store").glob("*/pool/*/fingerprint.json"))
    return {head.parent.relative_to(of.folder).as_posix(): FeatureStore.load(head.parent) for head in heads}


def alike(found: Context, fresh: Context) -> None:
    """The same stores with the same features of every row, to the last bit."""
    mine, theirs = stores(found), stores(fresh)
    assert mine.keys() == theirs.keys() != set()
    for place, store in mine.items():
        assert store.complete
        for shard in store.shards():
            for name in store.about(shard)[1]["arrays"]:
                np.testing.assert_array_equal(store.read(shard, name), theirs[place].read(shard, name),
                                              err_msg=f"{place} {name}")


def same_scores(found: Computed, fresh: Computed) -> None:
    if found.blocks is not None:
        assert fresh.blocks is not None
        np.testing.assert_array_equal(whole(found.blocks), whole(fresh.blocks))
    if found.scores is not None:
        np.testing.assert_array_equal(found.scores, fresh.scores)
    if found.sets is not None:
        assert (found.sets() != fresh.sets()).nnz == 0


def fresh_run(folder: Path, after: Context, name: str, change: Callable[[Examples], Examples], **more: Any,
              ) -> tuple[Context, Computed]:
    """All rows computed, at the very same checkpoints."""
    for path in after.folder.glob("warmup*"):
        shutil.copytree(path, folder / path.name)
    return run(folder, name, change, **more)


@pytest.mark.parametrize("name", ["rds", "less, kept", "less, exact"])
def test_in_batches_features_equal_those_of_rows_alone(name: str, tmp_path: Path) -> None:
    run(tmp_path / "before", name, batch_tokens=64)
    after, found = run(tmp_path / "after", name, all_at_once, tmp_path / "before", batch_tokens=64)
    fresh, expected = fresh_run(tmp_path / "fresh", after, name, all_at_once)
    assert found.blocks is not None
    assert expected.blocks is not None
    np.testing.assert_allclose(whole(found.blocks), whole(expected.blocks), atol=1e-5)
    assert stores(after).keys() == stores(fresh).keys()


@pytest.mark.parametrize("name", KEPT)
def test_features_equal_those_of_a_fresh_run_and_only_new_rows_are_computed(name: str, tmp_path: Path) -> None:
    run(tmp_path / "before", name)
    with computed() as seen:
        after, found = run(tmp_path / "after", name, all_at_once, tmp_path / "before")
    new = {digest.tobytes() for digest in content_digests(NEW.rendered)}
    assert set(seen) == new, "neither rows of the old pool nor targets"
    assert len(seen) == 4 * len(stores(after))
    fresh, expected = fresh_run(tmp_path / "fresh", after, name, all_at_once)
    alike(after, fresh)
    same_scores(found, expected)
    assert not list(tmp_path.rglob("added-*")), "what was put together is not kept twice"


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["rds", "less, kept"])
def test_whatever_happens_to_a_pool(name: str, change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed, new = CHANGES[change]
    run(tmp_path / "before", name)
    capsys.readouterr()
    with computed() as seen:
        after, found = run(tmp_path / "after", name, changed, tmp_path / "before")
    assert len(seen) == new * len(stores(after))
    rows, method = len(after.pool), KEPT[name][0]
    told = capsys.readouterr().err
    assert f"{rows - new} of {rows} rows of {method}/pool" in told
    assert "target" not in told
    assert f"features from {tmp_path / 'before'}; {new or 'none'} {'is' if new < 2 else 'are'} computed" in told
    assert after.taken[f"{method}/pool"] == {
        "rows": rows, "taken": {str(tmp_path / "before"): rows - new}, "computed": new}
    fresh, expected = fresh_run(tmp_path / "fresh", after, name, changed)
    alike(after, fresh)
    same_scores(found, expected)


def test_a_row_that_is_new_twice_is_computed_once(tmp_path: Path) -> None:
    run(tmp_path / "before", "rds")

    def twice(pool: Examples) -> Examples:
        return joined(pool, some(NEW, [0]), renamed(some(NEW, [0])))

    with computed() as seen:
        after, _ = run(tmp_path / "after", "rds", twice, tmp_path / "before")
    assert len(seen) == 1
    [store] = stores(after).values()
    np.testing.assert_array_equal(store.whole_features()[-1], store.whole_features()[-2])


def test_shards_that_stay_as_they_are_take_no_space(tmp_path: Path) -> None:
    run(tmp_path / "before", "rds")
    run(tmp_path / "after", "rds", added, tmp_path / "before")
    for name, same in (("shard-00000", True), ("shard-00001", True), ("shard-00002", False)):
        one, other = (tmp_path / run / f"store/rds/pool/base/{name}.safetensors" for run in ("before", "after"))
        assert one.samefile(other) == same


def test_shards_may_have_another_size(tmp_path: Path) -> None:
    run(tmp_path / "before", "rds", shard_rows=4)
    with computed() as seen:
        after, _ = run(tmp_path / "after", "rds", added, tmp_path / "before", shard_rows=6)
    assert len(seen) == 2
    fresh, _ = fresh_run(tmp_path / "fresh", after, "rds", added, shard_rows=6)
    alike(after, fresh)


def test_rows_of_a_damaged_shard_are_computed_and_that_is_told(tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "before", "rds")
    path = tmp_path / "before/store/rds/pool/base/shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with computed() as seen:
        after, found = run(tmp_path / "after", "rds", added, tmp_path / "before")
    assert len(seen) == 2 + 5
    assert "1 of 3 shards of rds/pool/base" in (told := capsys.readouterr().err)
    assert "8 of 15 rows of rds/pool" in told
    fresh, expected = fresh_run(tmp_path / "fresh", after, "rds", added)
    alike(after, fresh)
    same_scores(found, expected)
    assert path.read_bytes() == content, "the earlier run is only read"


@pytest.mark.parametrize("name", ["rds", "less, kept", "less, exact"])
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_interrupted_and_run_again_it_goes_on(name: str, stop: int, tmp_path: Path) -> None:
    def many(pool: Examples) -> Examples:
        return joined(removed(pool), examples(9, 60))  # two shards of new rows

    run(tmp_path / "before", name)
    with computed() as seen:
        with stopped_after(stop), pytest.raises(KeyboardInterrupt):
            run(tmp_path / "after", name, many, tmp_path / "before")
        folders = (tmp_path / "after").rglob("added-*")
        kept = sum(len(shard) for store in map(FeatureStore.load, folders) for shard in store.shards()
                   if store.fault(shard) is None)
        seen.clear()
        after, found = run(tmp_path / "after", name, many, tmp_path / "before")
    assert kept > 0 or stop == 0
    assert len(seen) == 9 * len(stores(after)) - kept
    fresh, expected = fresh_run(tmp_path / "fresh", after, name, many)
    alike(after, fresh)
    same_scores(found, expected)
    with computed() as seen:
        run(tmp_path / "after", name, many, tmp_path / "before")
    assert not seen
    assert not list(tmp_path.rglob("added-*"))


@pytest.mark.parametrize(("name", "change", "field"), [
    ("rds", {"model_seed": 1}, "model"), ("rds", {"feature_dtype": "int8"}, "feature_dtype"),
    ("less, kept", {"model_seed": 1}, "model"), ("less, kept", {"lora_rank": 3}, "lora.rank"),
    ("less, kept", {"projection_dim": 64}, "settings.projection_dim"),
    ("less, kept", {"adam": "none"}, "settings.adam"), ("less, kept", {"warmup_epochs": 2}, "settings.warmup_epochs"),
    ("gist", {"target_rank": 2}, "settings.target_rank"), ("less, exact", {"seed": 1}, "seed")])
def test_nothing_is_taken_that_was_made_otherwise(name: str, change: dict[str, Any], field: str,
                                                  tmp_path: Path) -> None:
    run(tmp_path / "before", name)
    with computed() as seen:
        with pytest.raises(StoreMismatch) as caught:
            run(tmp_path / "after", name, added, tmp_path / "before", **change)
        assert caught.value.field == field
        assert not seen
        assert not (tmp_path / "after/warmup").exists(), "it is refused before hours of work"
    with computed() as seen:  # all anew, where that is asked for
        after, _ = run(tmp_path / "after", name, added, tmp_path / "before", recompute=True, **change)
    assert len(seen) >= 15 * len(stores(after))
    fresh, _ = fresh_run(tmp_path / "fresh", after, name, added, **change)
    alike(after, fresh)


def test_another_rendering_is_refused(tmp_path: Path) -> None:
    before, _ = run(tmp_path / "before", "rds")
    made = context(tmp_path / "after", owner="rds")
    made.pool, made.earlier, made.render = added(made.pool), (before.folder,), {"template": "another"}
    with pytest.raises(StoreMismatch, match=r"another render\.template"):
        METHODS.get("rds")().compute(made)


@pytest.mark.parametrize("name", ["rds", "less, exact", "gist"])
def test_runs_follow_each_other_and_what_was_removed_comes_back_from_the_first(name: str, tmp_path: Path) -> None:
    def back(pool: Examples) -> Examples:
        return joined(pool, NEW)

    folders = [tmp_path / part for part in ("third", "second", "first")]
    run(folders[2], name)
    with computed() as seen:
        second, _ = run(folders[1], name, all_at_once, folders[2])
    assert len(seen) == 4 * len(stores(second))
    with computed() as seen:
        third, found = run(folders[0], name, back, *folders[1:])
    assert len(seen) == 0, "the new rows of the second, all others of the first"
    assert third.taken[next(one for one in third.taken if one.endswith("/pool"))]["taken"].keys() == {
        str(folder) for folder in folders[1:]}
    fresh, expected = fresh_run(tmp_path / "fresh", third, name, back)
    alike(third, fresh)
    same_scores(found, expected)
    if name != "rds":
        assert third.taken["warmup"] == {"from": str(folders[2]), "rows": 8, "pool_rows": 13}


def test_features_that_do_not_say_whose_they_are_are_computed_again(tmp_path: Path,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    before, _ = run(tmp_path / "before", "rds")
    [store] = stores(before).values()
    shard = store.shards()[1]
    store.write(shard, {name: store.read(shard, name) for name in store.about(shard)[1]["arrays"] if name != "digest"})
    with computed() as seen:
        run(tmp_path / "after", "rds", added, tmp_path / "before")
    assert len(seen) == 2 + 5
    assert "1 of 3 shards of rds/pool/base" in (told := capsys.readouterr().err)
    assert "an earlier version" in told


def test_exact_scores_for_other_targets_take_a_pass_and_say_what_would_not(tmp_path: Path,
                                                                          capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "before", "less, exact")
    made = context(tmp_path / "after", owner="less", projection="none", batch_tokens=1)
    made.pool, made.target, made.earlier = added(made.pool), examples(3, 9), (tmp_path / "before",)
    capsys.readouterr()
    with computed() as seen:
        METHODS.get("less")().compute(made)
    assert len(seen) == 15 * len(stores(made))
    assert "--set less.keep_features=true" in capsys.readouterr().err
    assert made.taken["warmup"]["from"] == str(tmp_path / "before")


def test_centred_exact_scores_are_made_of_means_of_this_pool(tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "before", "less, exact", center=True)
    capsys.readouterr()
    with computed() as seen:
        after, found = run(tmp_path / "after", "less, exact", added, tmp_path / "before", center=True)
    told = capsys.readouterr().err
    assert "nothing is taken of less-centre/pool/epoch-1" in told
    assert "--set less.keep_features=true" in told
    assert len(seen) == 3 * (2 + 15), "cosines with the targets of new rows, with the means of all"
    _, expected = fresh_run(tmp_path / "fresh", after, "less, exact", added, center=True)
    same_scores(found, expected)


def test_kept_features_are_centred_on_this_pool(tmp_path: Path) -> None:
    run(tmp_path / "before", "rds", center=True)
    after, found = run(tmp_path / "after", "rds", added, tmp_path / "before", center=True)
    _, expected = fresh_run(tmp_path / "fresh", after, "rds", added, center=True)
    same_scores(found, expected)


def test_checkpoints_that_were_taken_are_brought_again_and_where_they_are_gone_trained(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "before", "less, kept")
    _, found = run(tmp_path / "after", "less, kept", added, tmp_path / "before")
    checkpoint = tmp_path / "after/warmup/epoch-2/adapter.safetensors"
    content = checkpoint.read_bytes()
    checkpoint.unlink()
    with computed() as seen:
        _, again = run(tmp_path / "after", "less, kept", added, tmp_path / "before")
    assert not seen
    assert checkpoint.read_bytes() == content
    np.testing.assert_array_equal(whole(again.blocks), whole(found.blocks))

    checkpoint.unlink()
    shutil.rmtree(tmp_path / "before")
    capsys.readouterr()
    after, other = run(tmp_path / "after", "less, kept", added, tmp_path / "before")
    assert "warning: the checkpoints that were taken" in capsys.readouterr().err
    _, expected = run(tmp_path / "fresh", "less, kept", added)
    np.testing.assert_allclose(whole(other.blocks), whole(expected.blocks), atol=1e-6)
    assert "warmup" not in after.taken


def test_a_pool_of_its_own_checkpoints_never_uses_those_of_another(tmp_path: Path) -> None:
    run(tmp_path / "run", "less, exact")
    made = context(tmp_path / "run", owner="less", projection="none")
    made.pool, made.target = added(made.pool), examples(3, 9)  # nobody asked for an earlier run
    found = METHODS.get("less")().compute(made)
    fresh = dataclasses.replace(made, folder=tmp_path / "fresh", shared={})
    np.testing.assert_allclose(whole(found.blocks), whole(METHODS.get("less")().compute(fresh).blocks), atol=1e-6)


def test_rows_alone_of_the_utility_are_taken_and_pairs_are_not(tmp_path: Path) -> None:
    def utility(folder: Path, pool: Examples, *earlier: Path) -> tuple[Context, Any]:
        made = context(folder, owner="utility")
        made.pool, made.earlier = spoken(pool), tuple(earlier)
        made.target = spoken(made.target)
        return made, METHODS.get("utility")().compute(made)

    pool = examples(7, 1)
    _, first = utility(tmp_path / "before", pool)
    first.kernel()
    with computed() as seen:
        after, found = utility(tmp_path / "after", joined(pool, some(NEW, [0, 1])), tmp_path / "before")
        kernel = found.kernel()
    assert len(seen) == 2
    _, expected = utility(tmp_path / "fresh", after.pool)
    np.testing.assert_allclose(kernel, expected.kernel(), atol=1e-5)
    np.testing.assert_allclose(whole(found.blocks), whole(expected.blocks), atol=1e-5)


def spoken(rows: Examples) -> Examples:
    """Rows whose messages are a conversation, as an example before another one is."""
    turns = (Message("user", "a"), Message("assistant", "b"))
    return Examples([dataclasses.replace(row, messages=turns) for row in rows.rows],
                    [Rendered(row.ids, row.mask) for row in rows.rendered])
