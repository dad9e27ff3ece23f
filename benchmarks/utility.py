"""DELIFT's utility on real rows: what kept keys and values save, what a sparse kernel loses, what the stages choose.

    OMP_NUM_THREADS=1 python benchmarks/utility.py [--folder runs/utility-benchmark] [--parts reuse,pairs,targets,...]

The embedded model, one thread. Rows are those of the demo (`examples/demo`): its two target families and those with the
shortest rows, so many rows each. `pairs` and `targets` score all pairs, some 200 to 300 tokens a second on a free core
(interrupted, they continue); `sparse` and `stages` only read them. `extremes` shows the pairs with the highest and
the lowest utility. Results go to `benchmarks/results/utility.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from siftune._common.files import read_json, write_json
from siftune.config.settings import SelectConfig
from siftune.data.load import Inputs
from siftune.data.rows import Examples, Rendered
from siftune.features.base import Context
from siftune.features.in_context.nomination import nominated
from siftune.methods.utility import Stages
from siftune.models.loading import LoadedModel
from siftune.pipeline import select as api
from siftune.selectors import Problem, select

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "utility.json"
DEMO = HERE.parent / "examples" / "demo"
BUDGETS = (4, 8, 16)
KNOWN_FAMILIES, KNOWN_EACH = 3, 4
TARGETS_EACH = 3


# --- rows ------------------------------------------------------------------------------------------------------------


def demo_rows(inputs: Inputs, families_wanted: int, rows_each: int) -> Examples:
    """The shortest rows of the target families and of the families with the shortest rows."""
    families: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(inputs.pool.rows):
        families[str(row.group)].append(i)
    wanted = {str(row.subtask) for row in inputs.target.rows}
    length = {family: np.mean([len(inputs.pool.rendered[i]) for i in rows]) for family, rows in families.items()}
    large = sorted((f for f, rows in families.items() if len(rows) >= rows_each and f not in wanted), key=length.get)
    chosen = [i for family in [*sorted(wanted), *large][:families_wanted]
              for i in sorted(families[family], key=lambda i: len(inputs.pool.rendered[i]))[:rows_each]]
    return Examples([inputs.pool.rows[i] for i in chosen], [inputs.pool.rendered[i] for i in chosen])


def demo_targets(inputs: Inputs) -> Examples:
    """The shortest targets of each subtask, in their order."""
    target = inputs.target
    by_length = sorted(range(len(target)), key=lambda i: len(target.rendered[i]))
    chosen = sorted(i for name in {row.subtask for row in target.rows}
                    for i in [i for i in by_length if target.rows[i].subtask == name][:TARGETS_EACH])
    return Examples([target.rows[i] for i in chosen], [target.rendered[i] for i in chosen])


def prepared(folder: Path, families: int, rows_each: int) -> Stages:
    config = SelectConfig(pool=(str(DEMO / "pool.jsonl"),), target=(str(DEMO / "target.jsonl"),),
                          output_dir=str(folder), own={"utility": {"pairs": "dense"}})
    inputs = api.read_inputs(config)
    return Stages(Context(config, demo_rows(inputs, families, rows_each), demo_targets(inputs), inputs.render, folder,
                          api.load, owner="utility"))


# --- 1. keys and values kept, or not ---------------------------------------------------------------------------------


def reuse(loaded: LoadedModel, rows: Examples, *, tokens: int = 100, batch: int = 8, batches: int = 4,
          rounds: int = 3) -> dict[str, Any]:
    """CPU seconds of both arms, taking turns, where example and row have as many tokens: cuts of real rows,
    and an example is shown to 32 rows, as it is by default at least."""
    from siftune.features.in_context.scoring import Scorer

    text = np.concatenate([r.ids for r in rows.rendered])
    cuts = [text[at : at + tokens] for at in range(0, len(text) - tokens, tokens)]
    supervised = np.arange(tokens) >= tokens - 20
    some = [Rendered(ids, supervised) for ids in cuts[: batch * batches]]
    example = cuts[batch * batches]
    arms = {name: Scorer(loaded, batch_tokens=batch * tokens, limit=4096, reuse=kept)
            for name, kept in (("kept", True), ("not kept", False))}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    found = {}
    for scorer in arms.values():
        scorer.after(example, some[:batch])
    for _ in range(rounds):
        for name, scorer in arms.items():
            start = time.process_time()
            found[name] = scorer.after(example, some)
            seconds[name].append(time.process_time() - start)
    ratios = [slow / fast for fast, slow in zip(seconds["kept"], seconds["not kept"], strict=True)]
    return {"tokens_each": tokens, "rows": len(some), "rows_a_batch": batch,
            "cpu_seconds": {name: [round(s, 3) for s in times] for name, times in seconds.items()},
            "cpu_seconds_a_pair": round(median(seconds["kept"]) / len(some), 3),
            "ratio": round(median(ratios), 3), "ratios": [round(r, 3) for r in ratios],
            "largest_difference": float(np.abs(found["kept"].distance - found["not kept"].distance).max())}


# --- 2. sparse against dense -----------------------------------------------------------------------------------------


def value(kernel: np.ndarray, chosen: np.ndarray) -> float:
    """Facility location: how well the chosen rows represent all."""
    return float(kernel[:, chosen].max(axis=1).sum(dtype=np.float64))


def sparse(stages: Stages, draws: int = 200) -> dict[str, Any]:
    from scipy.sparse import csc_array

    dense = stages.kernel()
    n, ids = len(dense), stages.context.pool.ids
    by_id = np.argsort(ids)  # the order in which contents are kept
    vectors = {"last hidden state": stages.alone(stages.pool, "pool").array("vector")}
    vectors["sentence embedding"] = embeddings(stages)
    told: dict[str, Any] = {"rows": n, "positive": stages.notes["pairs"]["positive"],
                            "mean_utility": stages.notes["pairs"]["mean"], "budgets": {}}
    best = {budget: select(Problem(ids=ids, kernel=dense), budget, "facility-location") for budget in BUDGETS}
    generator = np.random.default_rng(0)
    for budget, found in best.items():
        whole = value(dense, found.indices)
        chance = [value(dense, generator.permutation(n)[:budget]) / whole for _ in range(draws)]
        told["budgets"][budget] = {"value": round(whole, 4), "random": round(float(np.mean(chance)), 4),
                                   "random_best_of_200": round(max(chance), 4)}
    arms = {f"{name}, {near} nearest + {drawn} random": (vectors[name], near, drawn)
            for name in vectors for near, drawn in ((4, 2), (3, 1), (5, 0))}
    arms["6 random"] = (vectors["last hidden state"], 0, 6)
    for arm, (of, near, drawn) in arms.items():
        pairs = nominated(of, None, np.arange(n), [ids[i] for i in by_id], nominees=near, random_nominees=drawn, seed=0)
        kept = np.zeros((n, n), dtype=bool)
        for example, rows in enumerate(pairs):
            kept[by_id[rows], by_id[example]] = True
        some = np.where(kept, dense, 0)
        np.fill_diagonal(some, some.max(axis=1))
        for budget in BUDGETS:
            found = select(Problem(ids=ids, kernel=csc_array(some)), budget, "facility-location")
            line = told["budgets"][budget]
            line[arm] = {"share_of_pairs": round(float(kept.sum()) / n / (n - 1), 4),
                         "value_against_dense": round(value(dense, found.indices) / line["value"], 4)}
    return told


def embeddings(stages: Stages) -> np.ndarray:
    from siftune.methods.embedding import embedding_vectors

    context = replace(stages.context, pool=stages.pool.examples)
    return np.concatenate([block for _, block in embedding_vectors(context)()])


# --- 3. stages -------------------------------------------------------------------------------------------------------


def stages_(stages: Stages, budget: int = 8) -> dict[str, Any]:
    rows, target = stages.context.pool, stages.context.target
    dense, ids = stages.kernel(), rows.ids
    family = np.array([row.group for row in rows.rows])
    U = np.concatenate([block for _, block in stages.to_targets()], axis=1)
    wanted = {str(row.subtask) for row in target.rows}
    told: dict[str, Any] = {"budget": budget}

    def shares(problem: Problem, of: set[str], which: np.ndarray, selectors: tuple[str, ...]) -> dict[str, Any]:
        found = {name: which[select(problem, budget, name).indices] for name in selectors}
        return {name: {"share": round(float(np.isin(family[some], list(of)).mean()), 3),
                       "families": dict(zip(*[x.tolist() for x in np.unique(family[some], return_counts=True)],
                                            strict=True))} for name, some in found.items()}

    everything = np.arange(len(rows))
    told["targets"] = {"families": sorted(wanted),
                       "share_of_pool": round(float(np.isin(family, list(wanted)).mean()), 3),
                       **shares(Problem.from_similarities(U, ids=ids, targets=target.ids, kernel=dense), wanted,
                                everything, ("facility-location", "flqmi", "flmi", "top-k"))}
    names = sorted(set(family.tolist()))
    told["existing"] = []
    for start in range(0, len(names), KNOWN_FAMILIES):
        known = set(names[start : start + KNOWN_FAMILIES])
        old = np.concatenate([np.flatnonzero(family == name)[:KNOWN_EACH] for name in sorted(known)])
        new = np.setdiff1d(everything, old)
        helped = dense[np.ix_(new, old)]  # U[i, p], at least 0
        problem = Problem(ids=[ids[i] for i in new], kernel=dense[np.ix_(new, new)],
                          existing=lambda helped=helped: iter([(0, helped.T)]))
        line = shares(problem, known, new, ("facility-location", "flcg"))
        for name in ("facility-location", "flcg"):
            picked = select(problem, budget, name).indices
            line[name]["mean_largest_utility_of_known"] = round(float(helped[picked].max(axis=1).mean()), 4)
        told["existing"].append({"known_families": sorted(known), "known_rows": len(old), **line})
    return told


def extremes(stages: Stages, count: int = 20) -> list[str]:
    """The pairs with the highest and the lowest utility, to be looked at."""
    found, rows = stages.among_pool, stages.pool.examples.rows
    order = np.argsort(-found.utility)
    lines = []
    for k in [*order[:count], *order[-count:]]:
        helped, shown = rows[found.rows[k]], rows[found.examples[k]]
        lines.append(f"{found.utility[k]:+.3f}  {shown.id}: {_short(shown)}  ->  {helped.id}: {_short(helped)}")
    return lines


def _short(row: Any) -> str:
    question, answer = row.messages[0].content, row.messages[-1].content
    return f"{question[-60:]!r} = {answer[:40]!r}"


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=HERE.parent / "runs" / "utility-benchmark")
    parser.add_argument("--parts", default="reuse,pairs,targets,sparse,stages")
    parser.add_argument("--families", type=int, default=8)
    parser.add_argument("--rows-each", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    stages = prepared(asked.folder, asked.families, asked.rows_each)
    results: dict[str, Any] = {}
    results["setting"] = {"model": "embedded", "threads": 1, "python": platform.python_version(),
                          "torch": torch.__version__, "rows": len(stages.context.pool),
                          "targets": len(stages.context.target)}
    for part in asked.parts.split(","):
        if part == "reuse":
            results["reuse"] = reuse(stages.context.model, stages.context.pool)
        elif part == "pairs":
            stages.kernel()
            results["pairs"] = stages.notes["pairs"]
        elif part == "targets":
            list(stages.to_targets())
            results["targets"] = stages.notes["target_pairs"]
        elif part == "extremes":
            print("\n".join(extremes(stages)))
            continue
        else:
            stages.kernel()
            results[part] = {"sparse": sparse, "stages": stages_}[part](stages)
        write_json(RESULTS, {**(read_json(RESULTS) if RESULTS.exists() else {}), **results})
        print(part, json.dumps(results[part], indent=1), flush=True)


if __name__ == "__main__":
    main()
