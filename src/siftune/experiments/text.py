"""Results as Markdown tables: what `siftune compare` and `siftune study` print."""

from __future__ import annotations

from collections.abc import Sequence

from siftune._common.text import one_line
from siftune.experiments.ablations import in_words
from siftune.experiments.results import FULL, RANDOM, ZERO_SHOT, Ablation, Arm, Estimate, Rank, Results, Target

SHARES = {"exact_match": "exact match", "acc": "acc", "acc_norm": "acc_norm"}
"""Metrics that are shares of right answers, and what tables call them."""


def short_table(results: Results) -> str:
    """A comparison: a line for each arm, loss and shares of right answers with intervals, by subtask too, and the
    verdict against random on the loss."""
    [target] = results.targets
    arms = sorted(results.own, key=lambda arm: ([ZERO_SHOT, RANDOM].index(arm.name) if arm.name in (ZERO_SHOT, RANDOM)
                                                else 2, arm.kind))
    parts = list(dict.fromkeys(name for arm in arms for name in arm.subtasks))
    sizes = {part: next(arm.subtasks[part].n for arm in arms if part in arm.subtasks) for part in parts}
    shares = [(metric, part) for metric in SHARES for part in (None, *parts)
              if any(_share(arm, metric, part) for arm in arms)]
    tasks = list(dict.fromkeys(metric for arm in arms for metric in arm.lm_eval))
    lines = [["", "rows", "tokens", f"loss all (n={target.tested})", *(f"loss {p} (n={sizes[p]})" for p in parts),
              *(_share_title(metric, target, " all") if part is None else f"{SHARES[metric]} {part}"
                for metric, part in shares), *tasks,
              "p (Holm)", "verdict"]]
    for arm in arms:
        some = [arm.subtasks.get(p) for p in parts]
        test = results.test(target.name, arm.budget, arm.name)
        lines.append([
            arm.name, shown_number(arm.rows), shown_number(arm.tokens), shown_interval(arm.loss, "{:.3f}"),
            *(shown_interval(one and one.loss, "{:.3f}") for one in some),
            *(shown_interval(_share(arm, metric, part), "{:.0%}") for metric, part in shares),
            *(shown_interval(arm.lm_eval.get(metric), "{:.3g}") for metric in tasks),
            shown_p(test.p_value_holm if test else None), _verdict(test.verdict if test else None)])
    return aligned(lines)


def tables(results: Results) -> str:
    """A study: a table for each target, the ranking, and what the settings of ablations change."""
    parts = []
    for target in results.targets:
        arms = [arm for arm in results.own if arm.target == target.name]
        if arms:
            parts.append(f"## {one_line(target.name)} (n={target.tested})\n\n{_table(arms, target, results)}")
    if results.ranking:
        head = ["", "lower loss than random", "better", "worse", "of"]
        lines = [[r.name, "-" if r.improvement is None else f"{r.improvement:+.1%}", *_counts(r), str(r.comparisons)]
                 for r in results.ranking]
        parts.append(f"## Ranking\n\n{aligned([head, *lines])}")
    if settings := _settings(results.analyses.ablations):
        parts.append(f"## What a setting changes\n\n{settings}")
    notes = "\n".join(map(one_line, results.notes))
    parts.append(f"{notes}\n{legend(results)}")
    return "\n\n".join(parts)


def legend(results: Results) -> str:
    """What the brackets and p mean."""
    family = sum(test.against != FULL and test.p_value is not None for test in results.tests)
    return (f"Brackets: {results.confidence:.0%} intervals over trainings and test rows; with one training on a side "
            "over test rows alone. p: Student's t over trainings and rows, by Holm's method over "
            f"{family} {'comparison' if family == 1 else 'comparisons'}.")


def failures(results: Results) -> str:
    """One line for each failure, and where its traceback is; empty where nothing failed."""
    return "\n".join(one_line(f"failed {one.what}: {one.title}: {(one.message.splitlines() or [''])[0]} "
                              f"({one.traceback})")
                     for one in results.failures)


def _settings(ablations: Sequence[Ablation]) -> str:
    """Each ablation beside its method, where it has a subset; empty where none has."""
    lines = [["", "method", "settings", "target", "budget", "Jaccard", "loss less the method's", "p (Holm)", "verdict"]]
    for one in ablations:
        if one.jaccard is not None:
            lines.append([
                one.name, one.method, in_words(one.settings), one.target, one.budget, f"{one.jaccard:.2f}",
                shown_interval(Estimate(mean=one.difference, low=one.low, high=one.high), "{:+.3f}"),
                shown_p(one.p_value_holm), _verdict(one.verdict)])
    return aligned(lines) if len(lines) > 1 else ""


def _verdict(found: str | None) -> str:
    return "one training, no verdict" if found == "single training" else found or "-"


def _counts(rank: Rank) -> list[str]:
    """Better and worse; a method none of whose comparisons has a verdict is not one that was never better."""
    return ["no verdict", "no verdict"] if rank.judged == 0 else [str(rank.better), str(rank.worse)]


def _share(arm: Arm, metric: str, part: str | None = None) -> Estimate | None:
    """An arm's share of right answers, on all test rows or on those of a subtask."""
    return getattr(arm if part is None else arm.subtasks.get(part), metric, None)


def _share_title(metric: str, target: Target, whole: str = "") -> str:
    """With the rows that it is of, where these are counted."""
    rows = f" (n={target.offering})" if metric != "exact_match" and target.offering is not None else ""
    return f"{SHARES[metric]}{whole}{rows}"


def _table(arms: Sequence[Arm], target: Target, results: Results) -> str:
    shares = [metric for metric in SHARES if any(_share(arm, metric) for arm in arms)]
    tasks = list(dict.fromkeys(metric for a in arms for metric in a.lm_eval))
    head = ["", "budget", "rows", "tokens", "trainings", "loss",
            *(_share_title(metric, target) for metric in shares), *tasks, "less random", "p (Holm)", "verdict"]
    lines = [head]
    for arm in arms:
        test = results.test(arm.target, arm.budget, arm.name)
        trainings = str(arm.trainings) + (f"/{arm.wanted}" if arm.trainings < arm.wanted else "")
        lines.append([
            arm.name, arm.budget or "-", shown_number(arm.rows), shown_number(arm.tokens),
            trainings if arm.wanted else "-", shown_interval(arm.loss, "{:.3f}"),
            *(shown_interval(_share(arm, metric), "{:.0%}") for metric in shares),
            *(shown_interval(arm.lm_eval.get(metric), "{:.3g}") for metric in tasks),
            shown_interval(test and Estimate(mean=test.difference, low=test.low, high=test.high), "{:+.3f}"),
            shown_p(test.p_value_holm if test else None), _verdict(test.verdict if test else None)])
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of these lines, the first its head, with columns of one width."""
    lines = [[one_line(cell) for cell in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *padded[1:]])


def shown_number(value: float | None) -> str:
    """Whole, or a dash."""
    return "-" if value is None else f"{value:,.0f}"


def shown_p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def shown_interval(found: Estimate | None, form: str) -> str:
    """Mean and interval, or a dash."""
    if found is None or found.mean is None:
        return "-"
    ends = ", ".join("-" if end is None else form.format(end) for end in (found.low, found.high))
    return f"{form.format(found.mean)} [{ends}]"
