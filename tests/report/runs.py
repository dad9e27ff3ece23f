"""Synthetic run folders: the files of a run, written as `select` and `compare` write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TARGETS = ["gcd/00", "gcd/01", "spell/00", "spell/01"]


def write_run(folder: Path, n: int = 400, selected: int = 20, seed: int = 0) -> Path:
    """A whole run without a comparison: ``n`` usable rows, of which the ``selected`` best by score are taken."""
    folder.mkdir(parents=True, exist_ok=True)
    bits = np.random.default_rng(seed)
    scores = bits.normal(0.1, 0.05, n)
    order = np.argsort(-scores)
    rank = np.zeros(n, dtype=np.int64)
    rank[order[:selected]] = np.arange(1, selected + 1)
    source = np.array(["flan", "dolly", "oasst", "code"])[bits.integers(0, 4, n)]
    tokens = bits.integers(20, 300, n)
    nearest = np.array(TARGETS[:3])[bits.integers(0, 3, n)]  # the last target is never matched
    ids = [f"row-{index:06d}" for index in range(n)]
    write_scores(folder, {
        "id": ids, "source": source.tolist(), "group": source.tolist(), "score": scores.tolist(),
        "nearest_target": nearest.tolist(), "similarity": scores.tolist(), "tokens": tokens.tolist(),
        "supervised": (tokens // 3).tolist(), "selected": (rank > 0).tolist(),
        "rank": [int(value) or None for value in rank],
    })
    taken = order[:selected]
    write_selection(folder, {
        "id": [ids[i] for i in taken], "rank": list(range(1, selected + 1)), "score": scores[taken].tolist(),
        "nearest_target": nearest[taken].tolist(), "gain": scores[taken].tolist(), "tokens": tokens[taken].tolist(),
        "source": source[taken].tolist(), "group": source[taken].tolist(),
    })
    write_jsonl(folder / "selected.jsonl", [chat(f"Question number {i}?", f"Answer {i}.") for i in taken])
    write_jsonl(folder / "rejected_sample.jsonl", [
        {"rank": selected + 1 + k, "id": ids[i], "score": float(scores[i]), "nearest_target": str(nearest[i]),
         "row": {"instruction": "Spell the word", "input": f"w{i}", "output": "w"}}
        for k, i in enumerate(order[selected:selected + 12])
    ])
    write_jsonl(folder / "dropped.jsonl", [
        {"id": f"bad-{k}", "source": "flan", "where": f"pool/flan.jsonl:{k + 1}",
         "reason": "empty-response" if k % 3 else "prompt-longer-than-limit", "detail": "the assistant turn is empty"}
        for k in range(60)
    ])
    write_jsonl(folder / "targets.jsonl", [
        {"id": name, "subtask": name.partition("/")[0],
         "messages": [{"role": "user", "content": f"Find the answer to {name}."},
                      {"role": "assistant", "content": "It is 7."}],
         "best_similarity": 0.31 - 0.05 * k, "selected": int((nearest[taken] == name).sum())}
        for k, name in enumerate(TARGETS)
    ])
    (folder / "config.yaml").write_text("budget: 5%\nselector: round-robin\nseed: 0\n", encoding="utf-8")
    write_json(folder / "manifest.json", manifest(n, selected, int(tokens[taken].sum())))
    return folder


def manifest(usable: int, selected: int, tokens: int) -> dict[str, Any]:
    return {
        "siftune": "0.1.0", "created": "2026-03-01T10:00:00Z", "seed": 0,
        "command": "siftune select --pool pool/*.jsonl --target target.jsonl --budget 5% --output-dir run",
        "method": {"name": "less", "representation": "less", "selector": "round-robin", "paper": "arXiv 2402.04333",
                   "reason": "The budget is small, where gradients with round-robin do best."},
        "model": {"name": "SmolLM2-135M-Instruct", "class": "LlamaForCausalLM", "parameters": 134_515_008,
                  "dtype": "float32", "device": "cpu"},
        "data": {"pool_rows": usable + 60, "usable_rows": usable, "target_rows": 4, "truncated": 3,
                 "sources": [{"name": "flan", "rows": usable}],
                 "overlaps": [{"kind": "normalised", "pool_id": "row-000003", "other_id": "gcd/00",
                               "other": "target"}]},
        "budget": {"asked": "5%", "rows": selected, "tokens": tokens},
        "diagnostics": {"ties_at_cut": 0, "rounds": 5},
        "times": [{"step": "warmup", "seconds": 71.2, "reused": True},
                  {"step": "features", "seconds": 140.0, "reused": False},
                  {"step": "selection", "seconds": 0.4, "reused": False}],
        "store": {"folder": "run/store", "bytes": 4_200_000, "fingerprint": {"model": "SmolLM2", "dimension": 2048}},
        "warnings": ["3 rows were cut to 512 tokens."],
    }


def estimate(mean: float, half: float, seeds: int = 3) -> dict[str, Any]:
    steps = [0.0] if seeds == 1 else [half * (2 * k / (seeds - 1) - 1) / 2 for k in range(seeds)]
    return {"mean": mean, "low": mean - half, "high": mean + half, "per_seed": [mean + step for step in steps]}


def comparison(**changes: Any) -> dict[str, Any]:
    """LESS against random and zero-shot on two subtasks; better in all, no different on one subtask."""
    place = {"target": "target", "budget": "20"}

    def part(loss: float, half: float, exact: float | None) -> dict[str, Any]:
        return {"loss": estimate(loss, half), "exact_match": None if exact is None else estimate(exact, 0.05)}

    def arm(name: str, kind: str, loss: float, half: float, exact: float | None, **more: Any) -> dict[str, Any]:
        return {"model": "model", **place, "name": name, "kind": kind, **part(loss, half, exact), **more, "subtasks": {
            "gcd": {**part(loss + 0.1, half, exact), "n": 40}, "spell": {**part(loss - 0.1, half, exact), "n": 40}}}

    def difference(value: float, half: float, p: float, verdict: str, rows: int) -> dict[str, Any]:
        return {"difference": value, "low": value - half, "high": value + half, "p_value": p, "n_examples": rows,
                "n_seeds": 3, "verdict": verdict, "metric": "loss", "against": "random"}

    trained = {"trainings": 3, "wanted": 3, "steps": 12}
    return {
        "schema": 2, "kind": "comparison", "complete": True,
        "settings": {"model": "model", "budgets": ["20"], "confidence": 0.95, "learning_rate": 3e-4, "epochs": 4},
        "targets": [{"name": "target", "test_rows": 80}],
        "arms": [
            arm("less-round-robin", "method", 0.88, 0.06, 0.61, rows=20, tokens=3100, **trained),
            arm("random", "baseline", 1.0, 0.08, 0.52, rows=20, tokens=3050, **trained),
            arm("zero-shot", "baseline", 1.6, 0.1, None, steps=0) | {"budget": None},
        ],
        "tests": [{**place, "method": "less-round-robin", **difference(-0.12, 0.07, 0.0012, "better", 80)}],
        "analyses": {"subtasks": [
            {**place, "subtask": name, "name": "less-round-robin", "kind": "method", "loss": loss,
             "random_loss": random, **difference(*found, 40)}
            for name, loss, random, found in (("gcd", 0.98, 1.1, (-0.2, 0.05, 0.0004, "better")),
                                              ("spell", 0.78, 0.9, (-0.03, 0.06, 0.31, "no different")))]},
        "notes": ["p-values are corrected after Holm."],
        **changes,
    }


def earlier_comparison() -> dict[str, Any]:
    """The same as version 1 had it: results and tests by subtask, ``all`` among them."""
    def results(loss: float, half: float, exact: float) -> dict[str, Any]:
        return {name: {"loss": estimate(loss + shift, half), "exact_match": estimate(exact, 0.05), "n": rows}
                for name, shift, rows in (("gcd", 0.1, 40), ("spell", -0.1, 40), ("all", 0.0, 80))}

    def test(subtask: str, difference: float, half: float, p: float, verdict: str) -> dict[str, Any]:
        return {"method": "less+round-robin", "against": "random", "subtask": subtask, "metric": "loss",
                "difference": difference, "low": difference - half, "high": difference + half, "p_value": p,
                "n_examples": 80 if subtask == "all" else 40, "n_seeds": 3, "verdict": verdict}

    return {
        "arms": [
            {"name": "less+round-robin", "kind": "method", "rows": 20, "tokens": 3100, "seeds": [0, 1, 2],
             "steps": 12, "results": results(0.88, 0.06, 0.61)},
            {"name": "random", "kind": "baseline", "rows": 20, "tokens": 3050, "seeds": [0, 1, 2], "steps": 12,
             "results": results(1.0, 0.08, 0.52)},
            {"name": "zero-shot", "kind": "baseline", "rows": None, "tokens": None, "seeds": [], "steps": 0,
             "results": {name: {"loss": {"mean": 1.6, "low": 1.5, "high": 1.7, "per_seed": [1.6]},
                                "exact_match": None, "n": 80} for name in ("all", "gcd", "spell")}},
        ],
        "tests": [test("gcd", -0.2, 0.05, 0.0004, "better"), test("spell", -0.03, 0.06, 0.31, "no different"),
                  test("all", -0.12, 0.07, 0.0012, "better")],
        "confidence": 0.95, "learning_rate": 3e-4, "epochs": 4, "note": "p-values are corrected after Holm.",
    }


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_jsonl(path: Path, values: list[Any]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


_TYPES = {"rank": pa.int64(), "score": pa.float64(), "similarity": pa.float64(), "method_score": pa.float64(),
          "gain": pa.float64(), "tokens": pa.int64(), "supervised": pa.int64(), "selected": pa.bool_()}


def write_scores(folder: Path, columns: dict[str, list[Any]]) -> None:
    write_parquet(folder / "scores.parquet", columns)


def write_selection(folder: Path, columns: dict[str, list[Any]]) -> None:
    write_parquet(folder / "selection.parquet", columns)


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    pq.write_table(pa.table({name: pa.array(values, _TYPES.get(name, pa.string()))
                             for name, values in columns.items()}), path)
