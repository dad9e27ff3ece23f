"""A finished selection with all it came from."""

from __future__ import annotations

from dataclasses import dataclass

from siftune.config.catalogue import Recipe, owner_of
from siftune.config.settings import SelectConfig
from siftune.data.load import Inputs
from siftune.data.rows import Dropped
from siftune.features.base import Computed, Context
from siftune.selectors import Problem, Selection


@dataclass
class Outcome:
    """A finished selection with all it came from; ``constrained`` is the pool under the user's constraints alone."""

    config: SelectConfig
    method: Recipe
    inputs: Inputs
    context: Context
    output: Computed
    constrained: Problem
    problem: Problem
    selection: Selection
    command: str = ""

    @property
    def owners(self) -> list[str]:
        """The method and the selector."""
        return [owner_of(self.method.representation), self.method.selector]

    @property
    def dropped(self) -> list[Dropped]:
        """Every row that could not be selected: for what it is, or because the method rules it out."""
        rows, wanted = self.inputs.pool.rows, set(self.constrained.include.tolist())  # what must be included stays in
        return [*self.inputs.dropped, *(
            Dropped(rows[i].id, rows[i].source, rows[i].where, reason, f"ruled out by {self.method.representation}")
            for reason, found in self.output.excluded.items() for i in found.tolist() if i not in wanted)]
