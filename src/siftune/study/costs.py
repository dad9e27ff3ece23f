"""What features cost, remembered: a pass is run once, and each method is charged with all that it would take alone.

Features are shared: one pass over the pool serves all targets, budgets and selectors of a representation, one warmup
run serves every gradient method. A method's selection is charged with the whole of each step that it needs, whoever
ran it first; what the study as a whole has spent is the sum over the steps that were really run. What a killed process
spent on a step that it did not finish is in neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siftune.files import read_json, write_json

Step = dict[str, Any]


class Costs:
    """The steps that were run so far, kept in a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.steps: list[Step] = read_json(path) if path.is_file() else []

    def charge(self, representation: str, target: str | None, clocked: list[dict[str, Any]]) -> list[Step]:
        """What computing a representation for a target takes: ``step``, ``seconds``, ``run_for``.

        Args:
            representation, target: what was computed.
            clocked: the clock's entries of it. What was really run is remembered; what was found is looked up, and its
                ``seconds`` are None where another run left it.
        """
        charged = []
        for entry in clocked:
            if not entry["reused"]:
                self.steps.append({"representation": representation, "target": target, "step": entry["step"],
                                   "seconds": entry["seconds"]})
            charged.append({"step": entry["step"], **self._known(representation, target, entry["step"])})
        if clocked:
            write_json(self.path, self.steps)
        return charged

    def _known(self, representation: str, target: str | None, step: str) -> dict[str, Any]:
        """Seconds of all runs of a step: for this target, else for another, else for another representation."""
        named = [s for s in self.steps if s["step"] == step]
        for same in ([s for s in named if (s["representation"], s["target"]) == (representation, target)],
                     [s for s in named if s["representation"] == representation],
                     named):
            if same:
                first = same[0]["representation"], same[0]["target"]
                seconds = sum(s["seconds"] for s in same if (s["representation"], s["target"]) == first)
                return {"seconds": round(seconds, 3), "run_for": list(first)}
        return {"seconds": None, "run_for": None}

    @property
    def total(self) -> float:
        """Seconds that were really spent on features."""
        return sum(step["seconds"] for step in self.steps)
