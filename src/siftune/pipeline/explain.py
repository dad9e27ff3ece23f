"""Why one row of a pool was selected, or was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from siftune._common.text import counted, one_line
from siftune.pipeline.outcome import Outcome
from siftune.pipeline.runfolder import ranking

if TYPE_CHECKING:
    from siftune.selectors import Problem

_SCORES = ("score", "similarity", "method_score")
NEAREST = 3
"""How many targets an explanation shows."""


@dataclass(frozen=True)
class NearTarget:
    """A target beside a row.

    Attributes:
        id: of the target; the subtask's name where rows are compared with those.
        similarity: as the method computes it; None where it is not known.
        text: how its conversation begins; empty for a subtask.
    """

    id: str
    similarity: float | None
    text: str


@dataclass(frozen=True)
class Explanation:
    """Where a row stands; printed, it is a few lines.

    Attributes:
        id, source, group, tokens: of the row; the last two None for one that could not be used.
        status: ``selected``; ``not selected``; or ``left out``: it could not be selected.
        reason: why, in a sentence.
        rank: of a selected row in the selection, 1 is the best.
        would_rank: of a row that was not selected: where it would stand by its score alone, after those that were.
        score: what the selector ranked the row by; where it gave the row none, its best similarity or the method's
            score; None where there is neither.
        nearest: the targets that it is most similar to, best first.
        similarities: target (or subtask) -> similarity, for all of them; empty for a run that was loaded, whose folder
            keeps only the best.
    """

    id: str
    status: Literal["selected", "not selected", "left out"]
    reason: str
    source: str
    group: str | None = None
    tokens: int | None = None
    rank: int | None = None
    would_rank: int | None = None
    score: float | None = None
    nearest: tuple[NearTarget, ...] = ()
    similarities: Mapping[str, float] | None = None

    def __str__(self) -> str:
        facts = [f"source {self.source}"]
        facts += [f"group {self.group}"] if self.group is not None else []
        facts += [f"{self.tokens} tokens"] if self.tokens is not None else []
        lines = [f"{self.id}: {self.status}; {self.reason}", f"  {', '.join(facts)}"]
        if self.score is not None:
            lines.append(f"  score {self.score:.4g}")
        for near in self.nearest:
            similarity = "" if near.similarity is None else f"{near.similarity:8.4f}  "
            lines.append(f"  {similarity}{near.id}" + (f"  {near.text}" if near.text else ""))
        return "\n".join(map(one_line, lines))


def explain(row_id: str, place: int | None, pool: Any, dropped: Sequence[Mapping[str, Any]],
            targets: Sequence[Mapping[str, Any]], outcome: Outcome | None) -> Explanation:
    """What the files of a run, and its outcome where there is one, say of a row.

    Args:
        row_id: of the row.
        place: its place in ``pool``; None for a row that could not be used.
        pool: the table ``scores.parquet``.
        dropped: entries of ``dropped.jsonl`` with this id.
        targets: the lines of ``targets.jsonl``.
        outcome: in the process that made the selection.
    """
    if place is None:
        found = dropped[0]
        return Explanation(row_id, "left out", f"{_words(found)} ({found['where']})", found["source"])
    row = {name: pool[name][place].as_py() for name in pool.column_names}
    texts = {target["id"]: _beginning(target) for target in targets}
    similarities = {} if outcome is None else _similarities(outcome.problem, place)
    if similarities:
        best = sorted(similarities, key=lambda name: (-similarities[name], name))[:NEAREST]
        nearest = tuple(NearTarget(name, similarities[name], texts.get(name, "")) for name in best)
    elif row["nearest_target"] is not None:
        name = row["nearest_target"]
        nearest = (NearTarget(name, row["similarity"], texts.get(name, "")),)
    else:
        nearest = ()
    score = next((row[name] for name in _SCORES if row.get(name) is not None), None)
    facts: dict[str, Any] = {"source": row["source"], "group": row["group"], "tokens": row["tokens"], "score": score,
                             "nearest": nearest, "similarities": similarities}
    if row["selected"]:
        return Explanation(row_id, "selected", _why_selected(row, place, pool, outcome), rank=row["rank"], **facts)
    # The ids of targets and of the pool may be the same; the source tells them apart.
    out = [entry for entry in dropped if entry["source"] == row["source"]]
    if out:
        return Explanation(row_id, "left out", _words(out[0]), **facts)
    if outcome is not None and outcome.problem.exclude[place]:
        return Explanation(row_id, "left out", "it is on the list of ids that must not be selected", **facts)
    twin = None if outcome is None else _selected_twin(outcome, place)
    would_rank = _would_rank(place, pool, outcome)
    if twin is not None:
        reason = f"it is a near-duplicate of {twin}, which is selected"
    elif would_rank is None:
        reason = "the budget went to other rows, and the method gives rows no score"
    else:
        count = sum(pool["selected"].to_pylist())
        reason = f"by its score it would come at rank {would_rank:,}, and the budget ended with {counted(count)}"
    return Explanation(row_id, "not selected", reason, would_rank=would_rank, **facts)


def _why_selected(row: Mapping[str, Any], place: int, pool: Any, outcome: Outcome | None) -> str:
    count = sum(pool["selected"].to_pylist())
    reason = f"rank {row['rank']:,} of {count:,}"
    if outcome is None:
        return reason
    if place in outcome.problem.include:
        return f"{reason}; it is on the list of ids that must be selected"
    target = int(outcome.selection.nearest_target[row["rank"] - 1])
    return f"{reason}, taken for {outcome.problem.targets[target]}" if target >= 0 else reason


def _words(dropped: Mapping[str, Any]) -> str:
    return f"{dropped['reason']}: {dropped['detail']}" if dropped["detail"] else str(dropped["reason"])


def _similarities(problem: Problem, place: int) -> dict[str, float]:
    """To every target; features are read up to the block with the row."""
    if problem.blocks is None:
        return {}
    for start, block in problem.stream():
        if place < start + block.shape[1]:
            return dict(zip(problem.targets, block[:, place - start].tolist(), strict=True))
    return {}


def _selected_twin(outcome: Outcome, place: int) -> str | None:
    """A selected row of which at most one is taken together with this one."""
    taken = set(outcome.selection.indices.tolist())
    for group in outcome.problem.duplicate_groups:
        if place in group:
            for other in group:
                if other in taken:
                    return outcome.problem.ids[other]
    return None


def _would_rank(place: int, pool: Any, outcome: Outcome | None) -> int | None:
    """Its rank by score among the rows that were not selected, which come after those that were.

    From the folder alone, rows that were excluded by id are not known and count, and equal scores share a rank.
    """
    selected = np.array(pool["selected"].to_pylist(), dtype=bool)
    if outcome is not None:
        order = [i for i in ranking(outcome.problem, outcome.selection)
                 if not selected[i] and not outcome.problem.exclude[i]]
        return int(selected.sum()) + 1 + order.index(place) if order else None
    name = next((name for name in _SCORES if name in pool.column_names and pool[name][place].as_py() is not None), None)
    if name is None:
        return None
    score = np.asarray(pool[name].to_numpy(zero_copy_only=False), dtype=np.float64)
    return int(selected.sum()) + 1 + int((~selected & (score > score[place])).sum())


def _beginning(target: Mapping[str, Any], length: int = 100) -> str:
    """The first words that a user says in a target, on one line."""
    said = next((m["content"] for m in target.get("messages", ()) if m["role"] == "user"), "")
    text = " ".join(said.split())
    return text if len(text) <= length else text[: length - 3] + "..."
