"""What a choice has come to, as a program wants it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from siftune.experiments.results.choice import Choice
    from siftune.pipeline.run import Run

COLUMNS = ("arm", "trainings", "measured", "expected", "low", "high", "worse", "claimed")


@dataclass(repr=False)
class Chosen:
    """A finished choice.

    Attributes:
        file: ``choice.json``.
        results: what it holds.
        run: the winner's selection; None where nothing was selected.
        report: path of the page.
        verdict: the page's first sentences in plain words, a line each.
    """

    file: Path
    results: Choice
    run: Run | None = None
    report: Path | None = None
    verdict: str = ""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.file.parent

    @property
    def take(self) -> str:
        """The arm to take: ``random`` or ``untuned`` where no method is worth it."""
        return self.results.take

    def to_frame(self) -> pd.DataFrame:
        """A row for each arm with the columns :data:`COLUMNS`: gains over random rows in points, the best bet first;
        ``worse`` is the probability that it is worse than random rows."""
        import pandas as pd

        return pd.DataFrame([(one.arm, one.trainings, one.measured, one.expected, one.low, one.high, one.worse,
                              one.arm in self.results.claim.winners) for one in self.results.gains],
                            columns=list(COLUMNS))

    def __repr__(self) -> str:
        expected = self.results.expected
        gain = "" if expected is None else f", expected to gain {expected:+.1f} points over random rows"
        return f"<choice: {self.take}{gain} ({self.file})>"
