"""No representation: for selectors that look at nothing but ids and lengths (random, longest)."""

from __future__ import annotations

from siftune.features.base import Computed, Context


class Nothing:
    name = "none"
    summary = "Nothing is computed; for random and length-based selectors."
    paper = ""
    cost = "none"
    needs_target = False
    needs_model = False

    def compute(self, context: Context) -> Computed:
        return Computed()
