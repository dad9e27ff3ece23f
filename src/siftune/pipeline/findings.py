"""What a user should know of a selection before relying on it: budgets that were not met, targets that got nothing, and
subsets that come from one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from siftune._common.text import counted
from siftune.data.rows import column, groups_of
from siftune.pipeline.outcome import Outcome
from siftune.selectors.core.constraints import CEILING, DUPLICATE, KEPT_FOR_FLOORS, TOO_LONG

CONCENTRATED, RARE, FEWEST = 0.5, 0.2, 4
"""A subset of four rows or more is concentrated where over half of it has what under a fifth of the pool has."""

_NAMED = 3


def findings(outcome: Outcome) -> list[str]:
    """Sentences, the gravest first; none where there is nothing to tell."""
    first = shortfall(outcome)
    return [*([first] if first else []), *_without_rows(outcome), *_concentrated(outcome)]


def shortfall(outcome: Outcome) -> str | None:
    """A budget that was not met since no further row may be taken, and what stood in the way."""
    told, problem, state = outcome.selection.diagnostics, outcome.problem, outcome.selection.state
    if not told["exhausted"]:
        return None
    budget = told["budget"]
    spent = f" ({budget['tokens']:,} of {budget['limit']:,} tokens)" if budget["kind"] == "tokens" else ""
    closed = np.zeros(len(problem), dtype=np.int64) if state is None else np.asarray(state)
    by_user = outcome.constrained.exclude
    reasons = (
        (int((problem.exclude & ~by_user).sum()),
         f"{outcome.method.representation} rules out {{}} of {len(problem):,} usable rows (see dropped.jsonl)"),
        (int((by_user & problem.exclude).sum()), "--must-exclude takes out {}"),
        (int((closed == DUPLICATE).sum()), "{} are near-duplicates of selected rows"),
        (int((closed == CEILING).sum()), "{} are above the ceilings of --quota"),
        (int((closed == KEPT_FOR_FLOORS).sum()), "{} would have taken the place of other groups' floors (--quota)"),
        (int((closed == TOO_LONG).sum()), "{} are too long for what was left"),
    )
    stood = [what.format(f"{count:,}") for count, what in reasons if count]
    return (f"the budget {outcome.config.budget} is not met: {', '.join(stood) or 'the pool has no more rows'}, and "
            f"{counted(budget['rows'])}{spent} are all that may be selected of the rest")


def _without_rows(outcome: Outcome) -> list[str]:
    """Subtasks, or where there is but one, targets that no selected row was taken for."""
    coverage, problem = outcome.selection.diagnostics["per_target_coverage"], outcome.problem
    if coverage is None:
        return []
    taken: Counter[str] = Counter()
    for target, subtask in zip(problem.targets, problem.subtasks, strict=True):
        taken[subtask] += coverage[target]
    several = len(taken) > 1
    if several and (empty := [name for name, rows in taken.items() if not rows]):
        return [_none("subtask", "subtasks", empty, len(taken), len(outcome.selection))]
    empty = [target for target in problem.targets if not coverage[target]]
    return [_none("target", "targets", empty, len(problem.targets), len(outcome.selection))] if empty else []


def _none(one: str, many: str, empty: Sequence[str], total: int, rows: int) -> str:
    names = ", ".join(name[:60] for name in empty[:_NAMED]) + (", ..." if len(empty) > _NAMED else "")
    what = f"{len(empty):,} of {total:,} {many} {'has' if len(empty) == 1 else 'have'} no selected row ({names})"
    return what + (f"; there are fewer selected rows than {many}" if rows < total else
                   f": nothing was chosen for {'this' if len(empty) == 1 else 'each'} {one}")


def _concentrated(outcome: Outcome) -> list[str]:
    rows, chosen = outcome.inputs.pool.rows, outcome.selection.indices.tolist()
    if len(chosen) < FEWEST:
        return []
    found: list[str] = []
    for what, names in (("source", column(rows, "source")), ("group", groups_of(rows))):
        pool, taken = Counter(names), Counter(names[i] for i in chosen)
        name, count = taken.most_common(1)[0]
        share, of_pool = count / len(chosen), pool[name] / len(rows)
        if share > CONCENTRATED and of_pool < RARE:
            shown = f" {name[:60]}, which has {of_pool:.1%} of the pool"
            if not any(shown in other for other in found):  # a row without a group is of its source
                found.append(f"{share:.0%} of the selected rows are of the {what}{shown}")
    return found
