"""`siftune select --shard I/N`: a share of the feature passes, for clusters that start one command many times."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from siftune._common.artefacts import working_in
from siftune._common.artefacts.lock import working_beside
from siftune._common.errors import ConfigError
from siftune.config.settings import SelectConfig
from siftune.features.shares import FLAG, Share, ShareDone
from siftune.pipeline.features_home import features_folder, reused_folders
from siftune.pipeline.select import choose, complete


@dataclass(frozen=True)
class ShareResult:
    """What a share has done, and what is left.

    Attributes:
        share: which, as ``2/8``.
        folder: of the run whose features these are.
        step: where it ended; empty where nothing is left to compute.
        computed: shards that it has computed.
        left: shards of that step which are missing.
        next: what to do now, in words.
    """

    share: str
    folder: str
    step: str
    computed: int
    left: int
    next: str

    def __str__(self) -> str:
        done = f"{self.computed} shard{'' if self.computed == 1 else 's'} computed"
        if self.share.startswith("0/"):
            done = "what comes before the shares is done"
        left = f"; of {self.step} {self.left} shard{' is' if self.left == 1 else 's are'} missing" if self.left else ""
        return f"share {self.share}: {done}{left}\nnext: {self.next}"

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {"share": self.share, "folder": self.folder, "step": self.step, "computed": self.computed,
                "left": self.left, "next": self.next}


def compute_share(config: SelectConfig, text: str, *, command: str = "") -> ShareResult:
    """Compute a share of the passes over the pool that a selection needs, and write nothing else.

    Shares of one run may be computed at the same time, on any machines that see its folder, but not beside any other
    command that writes there. The selection is made by :func:`siftune.select` with the same settings, which computes
    whatever shares have left.

    Args:
        config: of the selection.
        text: which share, ``2/8``; ``0/8`` for what comes before them.
        command: the command line, for the lock.

    Raises:
        ConfigError: there is no such share, or the settings do not go with one.
        SiftuneError: what comes before the shares is not done; or as for a selection.
    """
    share, config = Share.parse(text), complete(config)
    if config.recompute and not share.prepares:
        raise ConfigError("a share cannot replace what others work on", where="--recompute",
                          hint=f"type it with {FLAG} 0/{share.count} alone")
    if config.storage:
        raise ConfigError("shares are computed into a folder that all machines see",
                          where=f"--storage {config.storage}",
                          hint=f"leave it out, or leave out {FLAG}: with --executor ray one command has all workers")
    folder = features_folder(config)
    alone = working_in(config.output_dir, *reused_folders(config), command=command) if share.prepares else nullcontext()
    with alone, (nullcontext() if share.prepares else
                 working_beside(folder, f"share-{share.number}-of-{share.count}", command)):
        try:
            choose(config, command=command, share=share)
        except ShareDone as done:
            return ShareResult(str(share), str(folder), done.step, done.computed, done.left, _next(share, done))
    return ShareResult(str(share), str(folder), "", share.computed, 0, f"the same command without {FLAG} selects")


def _next(share: Share, done: ShareDone) -> str:
    if share.prepares:
        return f"the same command with {FLAG} 1/{share.count} to {share.count}/{share.count}, in any order or at once"
    if done.is_shared:
        return (f"the other shares; then the same command without {FLAG}, which computes what they have left "
                f"and selects")
    return (f"{done.step}, which cannot be shared, by the same command with {FLAG} 0/{share.count}; or without {FLAG}, "
            "which computes all that is left and selects")
