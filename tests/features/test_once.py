"""Blocks that are computed once: the same numbers in every pass, whoever stops early and however full the disk is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from siftune.features import once
from siftune.features.once import Once

GIVEN = [(0, np.arange(6.0).reshape(2, 3)), (3, np.zeros((2, 0))), (3, np.arange(8, dtype=np.float32).reshape(4, 2).T)]


class Counting:
    def __init__(self) -> None:
        self.passes = 0

    def __call__(self):
        self.passes += 1
        yield from GIVEN


def check(blocks: Once) -> None:
    found = list(blocks())
    assert [start for start, _ in found] == [start for start, _ in GIVEN]
    for (_, got), (_, want) in zip(found, GIVEN, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_a_whole_pass_is_the_only_one_that_computes(tmp_path: Path) -> None:
    count = Counting()
    blocks = Once(count, tmp_path / "new")
    next(iter(blocks()))
    first, second = blocks(), blocks()  # two that run beside each other
    assert [np.array_equal(a, b) for (_, a), (_, b) in zip(first, second, strict=True)] == [True] * 3
    assert count.passes == 3
    for _ in range(3):
        check(blocks)
    one, other = blocks(), blocks()
    next(one)
    assert [start for start, _ in other] == [0, 3, 3]
    np.testing.assert_array_equal(next(one)[1], GIVEN[1][1])
    np.testing.assert_array_equal(next(one)[1], GIVEN[2][1])
    assert count.passes == 3
    assert not list((tmp_path / "new").iterdir()), "the file has no name"


@pytest.mark.parametrize("short", ["folder", "room", "disk"])
def test_without_room_every_pass_computes(short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if short == "folder":
        (tmp_path / "taken").write_text("")
    elif short == "room":
        monkeypatch.setattr(once, "MOST_BYTES", GIVEN[0][1].nbytes + 1)
    else:
        monkeypatch.setattr(once, "_written", lambda file, block: block.dtype != np.float32)
    count = Counting()
    blocks = Once(count, tmp_path / "taken")
    for times in (1, 2):
        check(blocks)
        assert count.passes == times
