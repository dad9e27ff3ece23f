"""A study as Markdown tables: what `siftune study` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from siftune.experiments.ablations import in_words
from siftune.experiments.compare import aligned, shown_interval, shown_number
from siftune.experiments.schema import Arm, Rank, StudyResult, Test


def tables(result: StudyResult) -> str:
    """A table for each target, the ranking, and what the settings of ablations change."""
    model = result["settings"]["model"]
    parts = []
    for target in (t["name"] for t in result["targets"]):
        arms = [a for a in result["arms"] if (a["model"], a["target"]) == (model, target)]
        if arms:
            rows = len(next(t for t in result["targets"] if t["name"] == target)["test_ids"])
            parts.append(f"## {target} (n={rows})\n\n{_table(arms, result['tests'])}")
    if result["ranking"]:
        head = ["", "lower loss than random", "better", "worse", "of"]
        lines = [[r["name"], f"{r['improvement']:+.1%}", *_counts(r), str(r["comparisons"])]
                 for r in result["ranking"]]
        parts.append(f"## Ranking\n\n{aligned([head, *lines])}")
    if settings := _settings(result["analyses"].get("ablations", [])):
        parts.append(f"## What a setting changes\n\n{settings}")
    notes = "\n".join(result["notes"])
    family = [t for t in result["tests"] if t["against"] != "full" and t["p_value"] is not None]
    level = f"{result['settings']['confidence']:.0%}"
    parts.append(f"{notes}\nBrackets: {level} intervals over trainings and test rows; with one training on a side over "
                 "test rows alone. p: Student's t over trainings and rows, by Holm's method over "
                 f"{len(family)} comparisons.")
    return "\n\n".join(parts)


def failures(result: StudyResult) -> str:
    """One line for each failure, and where its traceback is; empty where nothing failed."""
    told = []
    for one in result["failures"]:
        first = one["message"].splitlines()[0]
        told.append(f"failed {one['what']}: {one['title']}: {first} ({one['traceback']})")
    return "\n".join(told)


def _settings(ablations: Sequence[dict[str, Any]]) -> str:
    """Each ablation beside its method, where it has a subset; empty where none has."""
    lines = [["", "method", "settings", "target", "budget", "Jaccard", "loss less the method's", "p (Holm)", "verdict"]]
    for one in ablations:
        if one["jaccard"] is not None:
            tested = one["difference"] is not None
            lines.append([
                one["name"], one["method"], in_words(one["settings"]), one["target"], one["budget"],
                f"{one['jaccard']:.2f}",
                shown_interval({"mean": one["difference"], **one}, "{:+.3f}") if tested else "-",
                _p(one["p_value_holm"]), _verdict(one["verdict"])])
    return aligned(lines) if len(lines) > 1 else ""


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _verdict(found: str | None) -> str:
    return "one training, no verdict" if found == "single training" else found or "-"


def _counts(rank: Rank) -> list[str]:
    """Better and worse; a method none of whose comparisons has a verdict is not one that was never better."""
    return [str(rank["better"]), str(rank["worse"])] if rank.get("judged", True) else ["no verdict", "no verdict"]


def _table(arms: Sequence[Arm], tests: Sequence[Test]) -> str:
    exact = any(a["exact_match"] for a in arms)
    tasks = list(dict.fromkeys(metric for a in arms for metric in a.get("lm_eval", {})))  # not in older results
    head = ["", "budget", "rows", "tokens", "trainings", "loss", *(["exact match"] if exact else []), *tasks,
            "less random", "p (Holm)", "verdict"]
    lines = [head]
    for arm in arms:
        found = next((t for t in tests if (t["target"], t["budget"], t["method"], t["against"], t["metric"])
                      == (arm["target"], arm["budget"], arm["name"], "random", "loss")), None)
        trainings = str(arm["trainings"]) + (f"/{arm['wanted']}" if arm["trainings"] < arm["wanted"] else "")
        lines.append([
            arm["name"], arm["budget"] or "-", shown_number(arm["rows"]), shown_number(arm["tokens"]),
            trainings if arm["wanted"] else "-", shown_interval(arm["loss"], "{:.3f}"),
            *([shown_interval(arm["exact_match"], "{:.0%}")] if exact else []),
            *(shown_interval(arm.get("lm_eval", {}).get(metric), "{:.3g}") for metric in tasks),
            shown_interval({"mean": found["difference"], **found}, "{:+.3f}") if found else "-",
            _p(found["p_value_holm"] if found else None), _verdict(found["verdict"] if found else None)])
    return aligned(lines)
