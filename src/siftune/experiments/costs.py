"""What features cost, remembered: a pass is run once, and each method is charged with all that it would take alone.

Features are shared: one pass over the pool serves all targets, budgets and selectors of a representation, one warmup
run serves every gradient method. A method's selection is charged with the whole of each step that it needs, whoever
ran it first; what the study as a whole has spent is the sum over the steps that were really run. What a killed process
spent on a step that it did not finish is in neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from siftune._common.artefacts import read_usable, write_sealed

Step = dict[str, Any]

_KIND = "costs"


class Costs:
    """The steps that were run so far, kept in a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.steps: list[Step] = read_usable(path, _KIND, "") or []

    def charge(self, representation: str, target: str | None, clocked: Sequence[dict[str, Any]],
               collects: Sequence[str] = ()) -> list[Step]:
        """What computing a representation for a target takes: ``step``, ``seconds``, ``run_for``.

        Args:
            representation, target: what was computed.
            clocked: the clock's entries of it. What was really run is remembered; what was found is looked up, and its
                ``seconds`` are None where another run left it.
            collects: representations whose features its passes keep as well, where they are missing.
        """
        for entry in clocked:
            if not entry["reused"]:
                self.steps.append({"representation": representation, "target": target, "step": entry["step"],
                                   "seconds": entry["seconds"], "collects": list(collects)})
        if clocked:
            write_sealed(self.path, _KIND, "", self.steps)
        return [{"step": entry["step"], **self._known(representation, target, entry["step"])} for entry in clocked]

    def _known(self, representation: str, target: str | None, step: str) -> Step:
        """Seconds of all runs of a step, and for what it was run.

        The step's own run for this target counts, else that for another target, else the pass of another representation
        that kept these features as well, else a step of that name of another representation (a warmup run), else any
        pass that kept features for others.
        """
        named = [s for s in self.steps if s["step"] == step]
        for found in ([s for s in named if (s["representation"], s["target"]) == (representation, target)],
                      [s for s in named if s["representation"] == representation],
                      _longest(s for s in self.steps if representation in s["collects"]), named,
                      _longest(s for s in self.steps if s["collects"])):
            if found:
                first = found[0]["representation"], found[0]["target"], found[0]["step"]
                seconds = sum(s["seconds"] for s in found if (s["representation"], s["target"], s["step"]) == first)
                return {"seconds": round(seconds, 3), "run_for": list(first[:2])}
        return {"seconds": None, "run_for": None}

    @property
    def total(self) -> float:
        """Seconds that were really spent on features."""
        return sum(step["seconds"] for step in self.steps)


def _longest(steps: Iterable[Step]) -> list[Step]:
    """Of the steps of a representation, the pass over the pool takes longest."""
    return sorted(steps, key=lambda s: -s["seconds"])[:1]
