"""What the forms of a gradient signal change: two stages, projections, centring, momentum. No training.

    python benchmarks/signal_forms.py --pool POOL.jsonl --targets FOLDER --run runs/forms [--config small.yaml]
        [--budget 5%] [--arms paper centred ...] [--dims 512 8192] [--results FILE.json] [--skills skills.json]

FOLDER holds a `NAME.jsonl` for each target, or `NAME/target.jsonl`; `--config` is a configuration as `siftune select`
reads it (model, adapter, lengths, a block `less:`). One exact pass over the pool serves all targets in each of

* `paper`: LESS's Adam directions; `centred`: the same scores, centred (no pass of their own over the targets' rows);
* `no-momentum`, `no-momentum-centred`: without Adam's momentum;
* `last-checkpoint`: gradients at the last checkpoint of the warmup run alone;

and with `--dims` there is a pass for each number of dimensions, projected (sparse-jl). What the run folder holds is
read, so the script can be killed and run again; the results are written after each arm. Told are, as means over targets
with 95% intervals (Student's t over targets):

* **two stages** (`--first less` is LESS at its last checkpoint): for `keep` = 2, 4, 8 and 16 budgets and each first
  stage, the share of the exact selection (the targets' rows take turns until the budget is full) that the first stage
  keeps, the share of it that the second stage then selects, what random rows would keep, and the share of the pool's
  tokens that the gradient pass sees;
* **projected**: how much of the exact top 5% of a single target row, of the mean over a target's rows (LESS's score),
  and of the selection is left;
* **forms**: how much of the selection is the same with another form, and how the mean score goes with the length of the
  response (Spearman).

With `--selections` (`cells.jsonl` of `benchmarks/skills`) no gradient is taken: the exact selections are the ids that
the study of the skills kept for the same pool, targets and budget (`centred` is its less-round-robin, `paper` its
less-paper). What the second stage then selects cannot be told from ids, what the first stage keeps can.

With `--skills` (target -> `direct` families; `group_field: family` in the configuration) the share of the selection in
these families, less the pool's, stands beside it. Only numbers are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from siftune._common.files import write_json
from siftune._common.progress import log
from siftune.config.settings import SelectConfig
from siftune.config.settings import load as load_config
from siftune.data.rows import Examples
from siftune.features.base import Computed, Context
from siftune.methods.fusion import Fusion
from siftune.methods.less import Less
from siftune.methods.two_stage import first_stage, kept_rows
from siftune.pipeline.select import load, read_inputs
from siftune.selectors import Budget, Problem, select

RESULTS = Path(__file__).resolve().parent / "results" / "signal-forms.json"
ARMS: dict[str, dict[str, Any]] = {
    "centred": {"center": True}, "paper": {},  # in this order: one pass gives both
    "no-momentum-centred": {"adam": "no-momentum", "center": True}, "no-momentum": {"adam": "no-momentum"},
    "last-checkpoint": {"checkpoints": "last"},  # of the same passes
}
PAIRS = (("centred", "paper"), ("no-momentum", "paper"), ("no-momentum-centred", "centred"),
         ("no-momentum-centred", "no-momentum"), ("last-checkpoint", "paper"))
KEEP = (2, 4, 8, 16)
FIRST = ("bm25", "embed", "bm25+embed", "bm25+embed+rds")
TOP = 0.05


class Forms:
    """Similarities of every target in every arm, computed once.

    Args:
        config: with pool, targets, run folder and the settings of the methods.
        names: of the targets, in the order of the configuration's files.
    """

    def __init__(self, config: SelectConfig, names: Sequence[str]):
        self.config = config
        inputs = read_inputs(config)
        self.pool, self.shared = inputs.pool, {}
        self._fused: dict[tuple[str, str], Computed] = {}
        self._kept: dict[tuple[str, str, float], np.ndarray] = {}
        places = {Path(file).resolve(): name for file, name in zip(config.target, names, strict=True)}
        of = [places[Path(row.where.rpartition(":")[0]).resolve()] for row in inputs.target.rows]
        self.targets = {name: Examples([row for row, at in zip(inputs.target.rows, of, strict=True) if at == name],
                                       [r for r, at in zip(inputs.target.rendered, of, strict=True) if at == name])
                        for name in names}
        self.render = inputs.render
        self.budget = Budget.parse(config.budget).resolve(len(self.pool), int(self.pool.tokens.sum()))

    def context(self, target: str, owner: str, own: Mapping[str, Mapping[str, Any]], folder: str = "") -> Context:
        """What a method is computed in for a target; those of one arm share their passes."""
        home = Path(self.config.output_dir)
        others = [one for one in self.targets if one != target]
        return Context(self.config.with_own(own), self.pool, self.targets[target], self.render,
                       home / folder if folder else home, load, owner=owner, shared=self.shared,
                       trained=home if folder else None,
                       siblings=lambda: [self.context(one, owner, own, folder) for one in others])

    def exact(self, arm: str, target: str) -> tuple[np.ndarray, np.ndarray]:
        """(S [M, N], scores by subtask [K, N])."""
        changes = {"projection": "none", **ARMS[arm]}
        return self._less(target, changes, f"forms/{changes['adam']}" if "adam" in changes else "")

    def projected(self, dim: int, target: str) -> tuple[np.ndarray, np.ndarray]:
        return self._less(target, {"projection": "sparse-jl", "projection_dim": dim}, f"forms/projected-{dim}")

    def _less(self, target: str, changes: dict[str, Any], folder: str) -> tuple[np.ndarray, np.ndarray]:
        found = Less().compute(self.context(target, "less", {"less": changes}, folder))
        assert found.blocks is not None
        assert found.subtask_blocks is not None
        return joined(found.blocks), joined(found.subtask_blocks)

    def kept(self, first: str, target: str, keep: float) -> np.ndarray:
        """The rows that a first stage keeps, as the method two-stage does it; computed once for all arms."""
        signals = tuple(first.split("+"))
        context = self.context(target, "two-stage", {"two-stage": {"first": signals, "keep": keep}})
        if (first, target) not in self._fused:
            self._fused[first, target] = Fusion().compute(first_stage(context))
        if (first, target, keep) not in self._kept:
            self._kept[first, target, keep] = kept_rows(context, self._fused[first, target])
        return self._kept[first, target, keep]

    def selected(self, S: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        """What targets that take turns select, of the whole pool or some rows."""
        exclude = np.zeros(len(self.pool), dtype=bool)
        if among is not None:
            exclude[:] = True
            exclude[among] = False
        problem = Problem(ids=self.pool.ids, tokens=self.pool.tokens, blocks=lambda: iter([(0, S)]),
                          targets=[str(i) for i in range(len(S))], exclude=exclude)
        unit = "" if self.budget.kind == "rows" else " tokens"
        return select(problem, f"{self.budget.limit}{unit}", "round-robin").indices


def joined(blocks: Callable[[], Any]) -> np.ndarray:
    return np.concatenate([block for _, block in blocks()], axis=1).astype(np.float64)


def common(left: np.ndarray, right: np.ndarray) -> float:
    """The share of the first rows that are among the second."""
    return float(np.isin(left, right).mean())


def top(line: np.ndarray, share: float = TOP) -> np.ndarray:
    """The rows with the largest scores; the first among equals."""
    return np.argsort(-line, kind="stable")[: max(1, int(share * len(line)))]


def told(values: Mapping[str, float]) -> dict[str, Any]:
    """Mean over targets with a 95% interval (none for a single target), and each."""
    known = np.array(list(values.values()))
    mean, found = float(known.mean()), {name: round(value, 4) for name, value in values.items()}
    if len(known) < 2:
        return {"mean": round(mean, 4), "by_target": found}
    half = float(student.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4), "by_target": found}


def two_stages(forms: Forms, exact: Mapping[str, np.ndarray], firsts: Sequence[str]) -> dict[str, Any]:
    """For each first stage and keep: what is kept of the exact selection, and what it takes."""
    tokens, made = forms.pool.tokens, {}
    selections = {name: forms.selected(S) for name, S in exact.items()}
    for first in firsts:
        for keep in KEEP:
            rows = {name: forms.kept(first, name, keep) for name in exact}
            made.setdefault(first, {})[str(keep)] = {
                "recall": told({n: common(selections[n], rows[n]) for n in exact}),
                "selected": told({n: common(selections[n], forms.selected(exact[n], rows[n])) for n in exact}),
                "by_chance": told({n: len(rows[n]) / len(forms.pool) for n in exact}),
                "share_of_tokens": told({n: float(tokens[rows[n]].sum() / tokens.sum()) for n in exact})}
    return made


def left_of_exact(forms: Forms, exact: Mapping[str, tuple[np.ndarray, np.ndarray]],
                  other: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """How much of exact rankings others have."""
    def lines(which: int) -> dict[str, Any]:
        return told({name: float(np.mean([common(top(x), top(y)) for x, y in zip(exact[name][which], other[name][which],
                                                                                 strict=True)])) for name in exact})

    selections = {name: common(forms.selected(exact[name][0]), forms.selected(other[name][0])) for name in exact}
    return {"single_rows": lines(0), "score": lines(1), "selection": told(selections)}


def about(forms: Forms, found: Mapping[str, tuple[np.ndarray, np.ndarray]],
          skills: Mapping[str, Any]) -> dict[str, Any]:
    """What an arm's selections look like."""
    lengths = np.array([row.supervised for row in forms.pool.rendered])
    ranks = rankdata(lengths)
    made = {"length_correlation": told({n: float(np.corrcoef(rankdata(S.mean(axis=0)), ranks)[0, 1])
                                        for n, (S, _) in found.items()})}
    if skills:
        groups = np.array([row.group for row in forms.pool.rows])
        direct = {n: np.isin(groups, skills[n]["direct"]) for n in found}
        made["direct_families_above_pool"] = told({
            n: float(direct[n][forms.selected(S)].mean() - direct[n].mean()) for n, (S, _) in found.items()})
    return made


def kept_selections(path: Path, ids: Sequence[str], targets: Sequence[str], budget: int
                    ) -> dict[str, dict[str, np.ndarray]]:
    """Arm -> target -> rows of the pool, as a study selected them."""
    place = {row: i for i, row in enumerate(ids)}
    found: dict[str, dict[str, np.ndarray]] = {"centred": {}, "paper": {}}
    arms = {"less-round-robin": "centred", "less-paper": "paper"}
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        one = line["content"]
        if line["kind"] == "selection" and one["name"] in arms and one["target"] in targets and len(
                one["ids"]) == budget:
            found[arms[one["name"]]][one["target"]] = np.array([place[row] for row in one["ids"]])
    return {arm: some for arm, some in found.items() if some}


def measure_kept(forms: Forms, selections: Mapping[str, Mapping[str, np.ndarray]], firsts: Sequence[str]
                 ) -> dict[str, Any]:
    """The tables that need nothing but the selected rows."""
    tokens = forms.pool.tokens
    two_stage: dict[str, Any] = {}
    for arm, exact in selections.items():
        for first in firsts:
            for keep in KEEP:
                rows = {name: forms.kept(first, name, keep) for name in exact}
                two_stage.setdefault(arm, {}).setdefault(first, {})[str(keep)] = {
                    "recall": told({n: common(exact[n], rows[n]) for n in exact}),
                    "by_chance": told({n: len(rows[n]) / len(forms.pool) for n in exact}),
                    "share_of_tokens": told({n: float(tokens[rows[n]].sum() / tokens.sum()) for n in exact})}
    both = [name for name in selections.get("centred", ()) if name in selections.get("paper", ())]
    same = {"centred / paper": {"selection": told({n: common(selections["paper"][n], selections["centred"][n])
                                                   for n in both})}} if both else {}
    return {"two_stage": two_stage, "forms": same}


def target_files(folder: Path) -> dict[str, Path]:
    """Target name -> file."""
    found = {file.stem: file for file in sorted(folder.glob("*.jsonl"))}
    found |= {file.parent.name: file for file in sorted(folder.glob("*/target.jsonl"))}
    if not found:
        raise SystemExit(f"{folder} holds neither NAME.jsonl nor NAME/target.jsonl")
    return found


def measure(forms: Forms, arms: Sequence[str], dims: Sequence[int], firsts: Sequence[str], skills: Mapping[str, Any],
            write: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All tables; ``write`` is given them after each arm."""
    results: dict[str, Any] = {"arms": {}, "two_stage": {}, "projected": {}, "forms": {}}
    exact: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for arm in (one for one in ARMS if one in arms):
        log(f"arm {arm}")
        exact[arm] = {name: forms.exact(arm, name) for name in forms.targets}
        results["arms"][arm] = about(forms, exact[arm], skills)
        results["two_stage"][arm] = two_stages(forms, {name: S for name, (S, _) in exact[arm].items()}, firsts)
        results["forms"] = {f"{a} / {b}": left_of_exact(forms, exact[b], exact[a])
                            for a, b in PAIRS if a in exact and b in exact}
        write(results)
    for dim in dims if "paper" in exact else ():
        log(f"projected to {dim}")
        projected = {name: forms.projected(dim, name) for name in forms.targets}
        results["projected"][str(dim)] = left_of_exact(forms, exact["paper"], projected)
        write(results)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--targets", type=Path, required=True, help="folder with the target files")
    parser.add_argument("--names", nargs="*", help="only these targets")
    parser.add_argument("--run", type=Path, required=True, help="run folder, where features are kept")
    parser.add_argument("--config", type=Path, help="YAML with model, adapter, lengths and a block `less:`")
    parser.add_argument("--budget", default="5%")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--dims", nargs="*", type=int, default=[], help="numbers of dimensions, a pass each")
    parser.add_argument("--first", nargs="*", default=list(FIRST), help="first stages, as A+B")
    parser.add_argument("--skills", type=Path)
    parser.add_argument("--selections", type=Path, help="cells.jsonl of benchmarks/skills")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    files = target_files(args.targets)
    unknown = set(args.names or ()) - set(files)
    if unknown:
        raise SystemExit(f"{args.targets} has no target {sorted(unknown)[0]}; there are {', '.join(files)}")
    files = {name: file for name, file in files.items() if not args.names or name in args.names}
    signals = sorted({"less", *(one for first in args.first for one in first.split("+"))})
    config = load_config(SelectConfig, args.config, {
        "pool": (str(args.pool),), "target": tuple(map(str, files.values())), "output_dir": str(args.run),
        "budget": args.budget, "method": "fusion", "own": [f"signals=[{', '.join(signals)}]"]})
    forms = Forms(config, list(files))
    head = {"pool": {"rows": len(forms.pool), "tokens": int(forms.pool.tokens.sum())}, "targets": {
        name: len(rows) for name, rows in forms.targets.items()}, "budget": {forms.budget.kind: forms.budget.limit},
        "model": config.model, "lora_rank": config.lora_rank, "top": TOP}
    skills = json.loads(args.skills.read_text()) if args.skills else {}
    args.results.parent.mkdir(parents=True, exist_ok=True)
    if args.selections:
        kept = kept_selections(args.selections, forms.pool.ids, list(files), forms.budget.limit)
        write_json(args.results, {**head, **measure_kept(forms, kept, args.first)})
        return
    measure(forms, args.arms, args.dims, args.first, skills, lambda found: write_json(args.results, {**head, **found}))


if __name__ == "__main__":
    main()
