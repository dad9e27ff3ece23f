"""Synthetic results of studies, as ``siftune study`` writes them: made-up losses, real statistics."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from siftune.evaluation.statistics import holm, interval, paired_difference
from siftune.experiments.analysis.break_even import against, against_random
from siftune.experiments.analysis.curves import efficiency, rows_needed
from siftune.experiments.analysis.overlap import jaccard_matrix
from siftune.experiments.analysis.ranks import spearman, spearman_over_rows
from siftune.experiments.analysis.transfer import relative_gain

MODEL, OTHER = "/models/SmolLM2-135M-Instruct", "Qwen/Qwen2.5-0.5B"
GAINS = {"less-round-robin": 0.22, "rds+": 0.14, "less-top-k": 0.09, "embed": 0.03, "bm25": 0.0, "ifd": -0.18}
"""How much lower than random's a method's loss is, but for noise; the first has three trainings, the others two."""
ROWS = {"1%": 100, "5%": 500, "20%": 2000}
POOL = 10_000


def study(targets: Sequence[str] = ("math", "code", "biomedical questions"), methods: Sequence[str] = tuple(GAINS),
          budgets: Sequence[str] = tuple(ROWS), *, test_rows: int = 40, singles: Sequence[str] = ("bm25",),
          model: str = MODEL, other: str | None = OTHER, deciles: Sequence[str] = ("embed",), full: bool = True,
          trainings: int = 5) -> dict[str, Any]:
    """A finished study.

    Args:
        singles: methods of one training, which have no verdict.
        other: a further model that is trained on the same subsets.
        deciles: methods whose order is cut into ten.
        trainings: of random and of methods but those of one training, and ``embed``, which has two.
    """
    bits = np.random.default_rng(7)
    gains = {name: GAINS.get(name, list(GAINS.values())[i % len(GAINS)]) for i, name in enumerate(methods)}
    hard = {t: bits.normal(2.0 - 0.3 * i, 0.4, test_rows).clip(0.3) for i, t in enumerate(targets)}

    def losses(target: str, level: float, trainings: int) -> np.ndarray:
        luck = bits.normal(0, 0.015, (trainings, 1))
        return hard[target] * (level + luck) + bits.normal(0, 0.04, (trainings, test_rows))

    result: dict[str, Any] = {
        "siftune": "0.1.0", "complete": True,
        "settings": {"pool": ["pool.jsonl"], "model": model, "train_models": [other] if other else [],
                     "methods": list(methods), "headline": list(methods[:1]), "budgets": list(budgets),
                     "seeds": trainings, "headline_seeds": trainings,
                     "baselines": {"random": trainings, "length-matched-random": 2},
                     "deciles": list(deciles), "steps": "epochs", "epochs": 4, "batch_size": 16,
                     "learning_rate": 3e-4, "lora_rank": 16, "max_length": 1024, "confidence": 0.95, "seed": 0,
                     "length_reference": methods[0] if methods else None},
        "pool": {"rows": POOL, "tokens": 2_400_000, "read": POOL + 12},
        "targets": [{"name": t, "target_rows": 10, "test_ids": [f"{t}/{i}" for i in range(test_rows)],
                     "subtasks": [None] * test_rows} for t in targets],
        "subsets": [], "cells": [], "arms": [], "tests": [], "ranking": [], "failures": [],
        "analyses": {"curves": [], "overlap": [], "distance_predicts_loss": [], "deciles": [], "transfer": [],
                     "break_even": []},
        "costs": {"feature_seconds": 5230.4, "select_seconds": 41.2, "train_seconds": 26_100.0, "trainings": 96,
                  "attribution": "Each method is charged with the whole of every feature pass that it needs, whichever "
                                 "method ran it first; feature_seconds counts each pass once."},
        "notes": ["Test rows were not used for selection or training.",
                  "All trainings have the same epochs, so that optimizer steps follow the rows."],
    }
    kept: dict[tuple[str, str, str | None, str], np.ndarray] = {}

    def arm(of: str, target: str, budget: str | None, kind: str, name: str, level: float, trainings: int) -> None:
        L = losses(target, level, trainings or 1)
        kept[of, target, budget, name] = L
        rows = ROWS.get(budget or "", POOL) if trainings else None
        correct = (bits.random(L.shape) < np.clip(1.4 - L / 2, 0, 1)).astype(float)
        pool_only = kind == "baseline" and name != "length-matched-random"
        result["arms"].append({
            "model": of, "target": target, "budget": budget, "kind": kind, "name": name, "trainings": trainings,
            "wanted": trainings, "rows": rows, "tokens": rows and rows * (310.0 if name == "ifd" else 240.0),
            "steps": float(rows or 0) / 4, "train_seconds": (rows or 0) * 0.31,
            "selection_seconds": (0.01 if pool_only else 900.0 + 40 * len(name)) if trainings else None,
            "loss": _estimate(L), "exact_match": _estimate(correct)})
        for k in range(trainings or 1):
            one = f"{kind}-{name}-{target if not pool_only else ''}-{budget}-{k}"
            if of == model and trainings and not (pool_only and target != targets[0]):
                result["subsets"].append({
                    "id": one, "kind": kind, "name": name, "target": None if pool_only else target, "budget": budget,
                    "draw": k, "rows": rows, "tokens": int((rows or 0) * 240), "file": f"selections/{one}.json",
                    "scores": {}, "select_seconds": 0.1, "feature_steps": [], "diagnostics": {}, "error": "",
                    "distances": {"embed": {t: {"nearest": 0.2 + 0.3 * level + float(bits.normal(0, 0.02)),
                                                "wasserstein": 0.4 + 0.3 * level + float(bits.normal(0, 0.05))}
                                            for t in (targets if pool_only else [target])}}})
            result["cells"].append({
                "id": f"{of}-{one}-{target}", "subset": one if trainings else None, "model": of, "seed": k,
                "status": "done", "epochs": 4, "steps": int((rows or 0) / 4), "train_seconds": 1.0, "lost_rows": 0,
                "results": {target: {"loss": L[k].tolist(), "correct": [bool(c) for c in correct[k]]}}, "error": "",
                "traceback": ""})

    for of, target in itertools.product([model, *([other] if other else [])], targets):
        shift = 1.0 if of == model else 0.8
        arm(of, target, None, "baseline", "zero-shot", 1.6 * shift, 0)
        if full and of == model:
            arm(of, target, None, "baseline", "full", 0.62 * shift, 1)
        for i, budget in enumerate(budgets):
            random = shift * (1.0 - 0.12 * i)
            arm(of, target, budget, "baseline", "random", random, trainings)
            if of == model:
                arm(of, target, budget, "baseline", "length-matched-random", random * 0.97, 2)
            for name in methods:
                count = 1 if name in singles else 2 if name == "embed" else trainings
                arm(of, target, budget, "method", name, random * (1 - gains[name] * (1 if of == model else 0.5)),
                    count)
    _tests(result, kept, model)
    _analyses(result, kept, model, other)
    return result


def _estimate(values: np.ndarray) -> dict[str, Any]:
    found = interval(values if len(values) > 1 else values[0], 0.95, 0)
    return {"mean": found.mean, "low": max(found.low, 0.0), "high": found.high,
            "per_seed": values.mean(axis=1).tolist()}


def _tests(result: dict[str, Any], kept: dict[Any, np.ndarray], model: str) -> None:
    for a in result["arms"]:
        if (a["model"], a["kind"]) != (model, "method"):
            continue
        for against_ in ("random", "length-matched-random"):
            ours, theirs = (kept[model, a["target"], a["budget"], n] for n in (a["name"], against_))
            found = paired_difference(ours, theirs, 0.95)
            result["tests"].append({
                "target": a["target"], "budget": a["budget"], "method": a["name"], "against": against_,
                "metric": "loss", "difference": found.interval.mean, "low": found.interval.low,
                "high": found.interval.high, "p_value": found.p_value, "n_examples": found.interval.examples,
                "n_seeds": found.interval.seeds, "covers": found.covers})
    for test, adjusted in zip(result["tests"], holm([t["p_value"] for t in result["tests"]]), strict=True):
        test["p_value_holm"] = adjusted
        test["verdict"] = ("single training" if adjusted is None else "no different" if adjusted >= 0.05 else
                           "better" if test["difference"] < 0 else "worse")


def _analyses(result: dict[str, Any], kept: dict[Any, np.ndarray], model: str, other: str | None) -> None:
    told, bits, settings = result["analyses"], np.random.default_rng(3), result["settings"]
    own = [a for a in result["arms"] if a["model"] == model]
    methods, budgets = settings["methods"], settings["budgets"]
    gains: dict[str, list[float]] = {}
    for target in (t["name"] for t in result["targets"]):
        mine = [a for a in own if a["target"] == target and a["rows"]]
        random = [a for a in mine if a["name"] in ("random", "full")]
        for name in dict.fromkeys(a["name"] for a in mine):
            some = [a for a in mine if a["name"] == name]
            points = [{"budget": a["budget"], "rows": float(a["rows"]), "tokens": a["tokens"],
                       "loss": a["loss"]["mean"]} for a in some]
            read = []
            for a in some if name not in ("random", "full") else ():
                needed = rows_needed([r["rows"] for r in random], [r["loss"]["mean"] for r in random],
                                     a["loss"]["mean"])
                ratio, relation = efficiency(needed, a["rows"])
                read.append({"budget": a["budget"], "rows_needed": needed.rows, "bound": needed.bound,
                             "limit": needed.limit, "ratio": ratio, "relation": relation})
                base = next(r for r in mine if (r["name"], r["budget"]) == ("random", a["budget"]))
                gains.setdefault(name, []).append(relative_gain(a["loss"]["mean"], base["loss"]["mean"]))
                if a["kind"] == "method":
                    full = next((r for r in random if r["name"] == "full"), None)
                    told["break_even"].append({
                        "target": target, "budget": a["budget"], "name": name,
                        "selection_seconds": a["selection_seconds"], "train_seconds": a["train_seconds"],
                        "against_random": asdict(against_random(a["selection_seconds"], a["train_seconds"], 1 / 0.31,
                                                                needed)),
                        "against_full": asdict(against(a["selection_seconds"], a["train_seconds"],
                                                       full["train_seconds"])) if full else None})
            told["curves"].append({"target": target, "name": name, "points": points, "efficiency": read})
        for budget in budgets:
            names = ["random", *methods]
            subsets = [bits.choice(POOL, ROWS[budget], replace=False) if i < 2 else None for i in range(len(names))]
            for i in range(2, len(names)):  # each has a part of the first method's rows
                first = subsets[1]
                assert first is not None
                subsets[i] = np.unique(np.concatenate([first[i * len(first) // len(names):],
                                                       bits.choice(POOL, ROWS[budget] // 3, replace=False)]))
            told["overlap"].append({"target": target, "budget": budget, "names": names,
                                    "jaccard": jaccard_matrix([s for s in subsets if s is not None]).tolist()})
            for measure in ("nearest", "wasserstein"):
                cells = {c["subset"]: np.mean(c["results"][target]["loss"]) for c in result["cells"]
                         if c["model"] == model and c["subset"] and target in c["results"]}
                pairs = [{"subset": s["id"], "distance": s["distances"]["embed"][target][measure],
                          "loss": float(cells[s["id"]]), "exact_match": None} for s in result["subsets"]
                         if s["budget"] == budget and target in s["distances"]["embed"] and s["id"] in cells]
                if len(pairs) >= 3:
                    x, y = (np.array([p[key] for p in pairs], np.float64) for key in ("distance", "loss"))
                    told["distance_predicts_loss"].append({"representation": "embed", "target": target,
                                                           "budget": budget, "measure": measure,
                                                           **asdict(spearman(x, y, 0.95, 0)), "pairs": pairs,
                                                           "exact_match": None})
            if other:
                there = {n: kept[other, target, budget, n] for n in names}
                here = [float(kept[model, target, budget, n].mean()) for n in names]
                rho = spearman([float(there[n].mean()) for n in names], here, 0.95, 0)
                listed = []
                for name, gain_here in zip(names[1:], here[1:], strict=True):
                    found = paired_difference(there[name], there["random"], 0.95)
                    i = found.interval
                    listed.append({"name": name, "gain": -i.mean / float(there["random"].mean()),
                                   "gain_here": relative_gain(gain_here, here[0]), "difference": i.mean,
                                   "low": i.low, "high": i.high, "p_value": found.p_value})
                told["transfer"].append({"model": other, "target": target, "budget": budget, "names": names,
                                         **asdict(rho), "gains": listed})
        for name in settings["deciles"]:
            losses = np.stack([1.2 + 0.05 * k + bits.normal(0, 0.1, 20) for k in range(10)])
            told["deciles"].append({"name": name, "target": target, "bins": list(range(10)), "rows": 200,
                                    "losses": losses.mean(axis=1).tolist(),
                                    **asdict(spearman_over_rows(range(10), losses, 0.95, 0))})
    tested = [gain for t in told["transfer"] for gain in t["gains"]]
    for gain, adjusted in zip(tested, holm([gain["p_value"] for gain in tested]), strict=True):
        gain["p_value_holm"] = adjusted
    kinds = {a["name"]: a["kind"] for a in own}
    verdicts = [(t["method"], t["verdict"]) for t in result["tests"] if t["against"] == "random"]
    result["ranking"] = sorted(
        ({"name": n, "kind": kinds[n], "improvement": float(np.mean(g)), "comparisons": len(g),
          "better": verdicts.count((n, "better")), "worse": verdicts.count((n, "worse"))} for n, g in gains.items()),
        key=lambda r: -float(r["improvement"]))


def with_ablations(result: dict[str, Any], settings: Sequence[dict[str, Any]] = ({"adam": "none"},),
                   subtasks: Sequence[str] = ("easy", "hard")) -> dict[str, Any]:
    """The same with ablations of its first method and subtasks of its targets: an arm and a test each."""
    bits, [first, *_] = np.random.default_rng(11), result["settings"]["methods"]
    model, told = result["settings"]["model"], result["analyses"]
    told |= {"ablations": [], "subtasks": []}
    for i, change in enumerate(settings):
        for arm in [a for a in result["arms"] if (a["model"], a["name"]) == (model, first)]:
            name, place = f"ABLATION-{i}", {"target": arm["target"], "budget": arm["budget"]}
            loss = {**arm["loss"], "mean": arm["loss"]["mean"] + 0.01 * (i + 1)}
            result["arms"].append({**arm, "kind": "ablation", "name": name, "loss": loss})
            test = {"metric": "loss", "difference": 0.01 * (i + 1), "low": -0.01, "high": 0.07, "p_value": 0.2,
                    "p_value_holm": 0.6, "n_examples": 12, "n_seeds": 2, "verdict": "no different"}
            result["tests"] += [{**place, "method": name, "against": against, **test} for against in ("random", first)]
            told["ablations"].append({"name": name, "method": first, "settings": change, **place, "rows": arm["rows"],
                                      "jaccard": float(bits.random()), "loss": loss["mean"],
                                      "method_loss": arm["loss"]["mean"], **test})
    for arm, subtask in itertools.product([a for a in result["arms"] if a["model"] == model], subtasks):
        found = {"difference": None, "low": None, "high": None, "p_value": None, "p_value_holm": None,
                 "n_seeds": None, "verdict": None, "family": None}
        if arm["kind"] != "baseline":
            difference = float(bits.normal(0, 0.1))
            found = {"difference": difference, "low": difference - 0.2, "high": difference + 0.2, "p_value": 0.3,
                     "p_value_holm": 1.0, "n_seeds": 2, "verdict": "no different", "family": 40}
        told["subtasks"].append({"target": arm["target"], "subtask": subtask, "budget": arm["budget"],
                                 "kind": arm["kind"], "name": arm["name"], "loss": arm["loss"]["mean"] * 1.1,
                                 "random_loss": None, "n_examples": 6, **found})
    return result


def begun() -> dict[str, Any]:
    """A study of which only zero-shot has finished: nothing is compared, all else is missing."""
    result = study(targets=("math",), other=None, deciles=())
    result["complete"] = False
    result["arms"] = [a for a in result["arms"] if a["name"] == "zero-shot"]
    for cell in result["cells"]:
        if cell["subset"]:
            cell |= {"status": "missing", "results": {}, "steps": None, "train_seconds": None}
    result |= {"tests": [], "ranking": []}
    result["analyses"] = {name: [] for name in result["analyses"]}
    return result


def with_failures(result: dict[str, Any]) -> dict[str, Any]:
    """One selection and one training have failed."""
    result["complete"] = False
    result["cells"][-1] |= {"status": "failed", "results": {}, "error": "out of memory", "traceback": "failures/1.txt"}
    result["failures"] = [
        {"what": "selection", "title": "less-ot for math at 5%", "message": "no row fits the budget\nhint: raise it",
         "traceback": "failures/less-ot.txt"},
        {"what": "training", "title": "embed, 20%, seed 1", "message": "out of memory", "traceback": "failures/1.txt"}]
    return result
