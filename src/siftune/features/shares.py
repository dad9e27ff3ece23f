"""Shares of the feature passes, for clusters that start one command many times: ``--shard 2/8`` is the second of eight.

A share takes of every pass over the pool those of the missing shards whose number says so, and ends with the first pass
that others have not finished. What passes need first (a warmup run, the targets' directions, passes over other rows) is
no share of anything: ``--shard 0/8`` does all of it up to the next pass over the pool. Shares do not look at each
other: a shard is whole once its note is there, and whatever shares have left is computed by the command without them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from siftune._common.errors import ConfigError, SiftuneError

FLAG = "--shard"


class _Numbered(Protocol):
    @property
    def index(self) -> int: ...


S = TypeVar("S", bound=_Numbered)


class ShareDone(Exception):  # noqa: N818 - it ends a computation, not for a fault
    """A share of a run is done, and with it all that this command is to do.

    Attributes:
        step: where it ended.
        computed: shards that it has computed just now.
        left: shards of that step which are missing.
        is_shared: whether others can compute them by shares.
    """

    def __init__(self, step: str, computed: int, left: int, *, is_shared: bool):
        super().__init__(step, computed, left)
        self.step, self.computed, self.left, self.is_shared = step, computed, left, is_shared


@dataclass
class Share:
    """The ``number``-th of ``count`` shares; number 0 is what comes before them.

    Attributes:
        computed: shards so far.
        begun: whether a pass over the pool was met.
    """

    number: int
    count: int
    computed: int = 0
    begun: bool = field(default=False)

    @classmethod
    def parse(cls, text: str) -> Share:
        """Of ``I/N``.

        Raises:
            ConfigError: it is not of that form, or out of range.
        """
        found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
        if not found or not int(found[2]) or int(found[1]) > int(found[2]):
            raise ConfigError(f"{text!r} is no share", where=FLAG,
                              hint="type I/N: 1/8 to 8/8 for eight shares, 0/8 for what comes before them")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def prepares(self) -> bool:
        """Whether it is what comes before the shares."""
        return self.number == 0

    def own(self, shards: Sequence[S]) -> list[S]:
        """Those of this share."""
        return [shard for shard in shards if shard.index % self.count == self.number - 1]

    def begin(self, step: str, missing: int) -> None:
        """A pass over the pool begins.

        Args:
            step: what it is called.
            missing: shards.

        Raises:
            ShareDone: this is what comes before it.
        """
        self.begun = True
        if missing and self.prepares:
            raise ShareDone(step, 0, missing, is_shared=True)

    def end(self, step: str, computed: int, missing: int) -> None:
        """A pass over the pool has ended, as far as this share goes.

        Args:
            step: what it is called.
            computed: shards, by this share.
            missing: shards, of all.

        Raises:
            ShareDone: others have not finished theirs.
        """
        self.computed += computed
        if missing:
            raise ShareDone(step, self.computed, missing, is_shared=True)

    def only_alone(self, step: str) -> None:
        """Something is to be computed that is no share of a pass.

        Raises:
            SiftuneError: it comes before the passes over the pool, and was not done.
            ShareDone: it comes after one, so that this share is done.
        """
        if self.prepares:
            return
        if self.begun:
            raise ShareDone(step, self.computed, 0, is_shared=False)
        raise SiftuneError(f"{step} comes before the shares, and is not done", where=f"{FLAG} {self}",
                           why="It cannot be shared, and every share would compute it again.",
                           hint=f"run the same command with {FLAG} 0/{self.count} first, and the shares once it has "
                                "ended")
