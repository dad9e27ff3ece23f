"""Write docs/claims.md's tables and verdicts from the recorded studies.

    python benchmarks/study/write_results.py            # from benchmarks/study/results/*.json
    python benchmarks/study/write_results.py --collect  # first take study.json and the page's numbers from runs/

A recorded study is the ``study.json`` of ``siftune study benchmarks/study/NAME.yaml``, as it was written, in
``results/NAME.json``. What stands between `<!-- table: NAME -->` and `<!-- end -->` is made here; the text around it is
written by hand. The verdicts on the claims follow from rules, which are in the functions below and told beside them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.files import read_json, write_json
from siftune.experiments.estimates import difference, judge
from siftune.experiments.results import read_results

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from write_tables import fill, markdown  # noqa: E402  # pyright: ignore[reportMissingImports]

RESULTS = ROOT / "benchmarks" / "study" / "results"
RUNS = {"study": "runs/study", "mads15": "runs/study-mads15", "delift30": "runs/study-delift30",
        "transfer": "runs/study-transfer", "ablations": "runs/study-ablations"}
CONFIDENCE = 0.95


@dataclass
class Recorded:
    """One study.

    Attributes:
        name: of its file.
        told: ``study.json``.
    """

    name: str
    told: dict[str, Any]

    @property
    def targets(self) -> list[str]:
        return [t["name"] for t in self.told["targets"]]

    @property
    def model(self) -> str:
        return self.told["settings"]["model"]

    def losses(self, target: str, name: str, budget: str | None, model: str | None = None, *, metric: str = "loss",
               ) -> np.ndarray | None:
        """float64 [trainings, test rows] of an arm, losses or ``correct`` answers; None where there is none."""
        subsets = {s["id"]: s for s in self.told["subsets"]}
        found = []
        for cell in self.told["cells"]:
            subset = subsets.get(cell["subset"])
            if cell["model"] != (model or self.model) or target not in cell["results"]:
                continue
            if (subset["name"], subset["budget"]) == (name, budget) and subset["target"] in (None, target) \
                    if subset else name == "zero-shot":
                found.append(cell["results"][target][metric])
        return np.array(found, dtype=np.float64) if found else None

    def test(self, target: str, budget: str, method: str, against: str = "random") -> dict[str, Any] | None:
        return next((t for t in self.told["tests"] if (t["target"], t["budget"], t["method"], t["against"], t["metric"])
                     == (target, budget, method, against, "loss")), None)

    def arm(self, target: str, name: str, budget: str | None, model: str | None = None) -> dict[str, Any] | None:
        return next((a for a in self.told["arms"] if (a["target"], a["name"], a["budget"], a["model"])
                     == (target, name, budget, model or self.model)), None)


@dataclass
class Compared:
    """A paired comparison of two arms on a target: negative is better."""

    target: str
    name: str
    ours: float
    theirs: float
    low: float
    high: float
    holm: float | None
    verdict: str

    @property
    def relative(self) -> float:
        return (self.ours - self.theirs) / self.theirs

    @property
    def sign(self) -> int:
        """-1 lower loss, 1 higher, 0 cannot be told, by the adjusted p; or because one training has no verdict."""
        return {"better": -1, "worse": 1}.get(self.verdict, 0)

    @property
    def words(self) -> str:
        return {"better": "lower", "worse": "higher", "no different": "no difference shown"}.get(
            self.verdict, "one training, no verdict")

    @property
    def p(self) -> str:
        return "" if self.holm is None else f"{self.holm:.2g}"


def compared(study: Recorded, pairs: Sequence[tuple[str, str, str | None, str, str | None]], *,
             model: str | None = None) -> list[Compared]:
    """(target, name, budget, other, other's budget) -> comparisons, Holm's adjustment over all of them."""
    made, tests = [], []
    for target, name, budget, other, other_budget in pairs:
        ours, theirs = study.losses(target, name, budget, model), study.losses(target, other, other_budget, model)
        told = difference(ours, theirs, "loss", CONFIDENCE) if ours is not None and theirs is not None else None
        if told and ours is not None and theirs is not None:
            made.append(Compared(target, f"{name} {budget or ''}".strip(), float(ours.mean()), float(theirs.mean()),
                                 told["low"], told["high"], None, ""))
            tests.append(told)
    judge(tests, CONFIDENCE)
    for one, told in zip(made, tests, strict=True):
        one.holm, one.verdict = told["p_value_holm"], told["verdict"]
    return made


def shown_p(test: dict[str, Any] | None) -> str:
    return "" if test is None or test["p_value_holm"] is None else f"{test['p_value_holm']:.2g}"


def shown_verdict(verdict: str) -> str:
    return "one training, no verdict" if verdict == "single training" else verdict


def signed(value: float) -> str:
    return f"{100 * value:+.1f}%"


def against_table(found: Sequence[Compared], other: str) -> str:
    return markdown(["target", "subset", "loss", f"loss of {other}", "difference [95%]", "", "p (Holm)", "loss is"],
                    [[c.target, c.name, f"{c.ours:.3f}", f"{c.theirs:.3f}",
                      f"{c.ours - c.theirs:+.3f} [{c.low:+.3f}, {c.high:+.3f}]", signed(c.relative), c.p, c.words]
                     for c in found])


# ------------------------------------------------------------------------------------------------ tables of the study

def ranking(study: Recorded) -> str:
    of = {r["name"]: r for r in study.told["ranking"]}
    names = [r["name"] for r in study.told["ranking"]]
    budgets = study.told["settings"]["budgets"]
    rows = []
    for name in names:
        cells = []
        for target in study.targets:
            for budget in budgets:
                arm, random = study.arm(target, name, budget), study.arm(target, "random", budget)
                if arm is None or random is None:
                    cells.append("")
                    continue
                gain = (random["loss"]["mean"] - arm["loss"]["mean"]) / random["loss"]["mean"]
                test = study.test(target, budget, name)
                mark = {"better": " \u25b2", "worse": " \u25bc"}.get(test["verdict"], "") if test else ""
                cells.append(f"{100 * gain:+.1f}{mark}")
        rows.append([name, f"{100 * of[name]['improvement']:+.1f}", *cells])
    head = ["lower loss than random, %", "mean", *(f"{t} {b}" for t in study.targets for b in budgets)]
    return markdown(head, rows)


def arms(study: Recorded) -> str:
    parts = []
    for target in study.targets:
        rows = []
        for a in (a for a in study.told["arms"] if (a["target"], a["model"]) == (target, study.model)):
            loss, test = a["loss"], study.test(target, a["budget"], a["name"])
            matched = study.test(target, a["budget"], a["name"], "length-matched-random")
            rows.append([a["name"], a["budget"] or "", "" if a["rows"] is None else f"{a['rows']:.0f}",
                         "" if a["tokens"] is None else f"{a['tokens']:,.0f}", str(a["trainings"] or ""),
                         f"{loss['mean']:.3f} [{loss['low']:.3f}, {loss['high']:.3f}]",
                         *(f"{t['difference']:+.3f} [{t['low']:+.3f}, {t['high']:+.3f}]" if t else ""
                           for t in (test, matched)),
                         shown_p(test), shown_verdict(test["verdict"]) if test else ""])
        parts.append(f"**{target}** ({len(next(t for t in study.told['targets'] if t['name'] == target)['test_ids'])} "
                     "test rows)\n\n" + markdown(
                         ["", "budget", "rows", "tokens", "trainings", "loss", "less random", "less length-matched",
                          "p (Holm)", "verdict"], rows))
    return "\n".join(parts)


def distances(study: Recorded) -> str:
    rows = []
    for d in study.told["analyses"]["distance_predicts_loss"]:
        if d["rho"] is not None:
            rows.append([d["representation"], d["measure"], d["target"], d["budget"],
                         f"{d['rho']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]", str(d["n"])])
    return markdown(["distance in", "measure", "target", "budget", "Spearman's rho with the loss", "subsets"],
                    sorted(rows))


def costs(study: Recorded) -> str:
    seen: dict[str, list[dict[str, Any]]] = {}
    for b in study.told["analyses"]["break_even"]:
        seen.setdefault(b["name"], []).append(b)
    rows = []
    for name, found in sorted(seen.items(), key=lambda e: e[1][0]["selection_seconds"] or 0):
        seconds = [b["selection_seconds"] for b in found if b["selection_seconds"] is not None]
        full = [b["against_full"]["trainings"] for b in found if b["against_full"] and b["against_full"]["trainings"]]
        rows.append([name, f"{np.mean(seconds):,.0f}" if seconds else "not known",
                     f"{np.mean([b['train_seconds'] for b in found]):,.0f}",
                     f"{min(full)} to {max(full)}" if full else "never" if seconds else "not known"])
    return markdown(["method", "selection, s", "training, s", "trainings until it has paid against the full pool"],
                    rows)


def separation() -> str:
    told = read_json(RESULTS / "separation.json")["separation"]
    targets = list(next(iter(told.values())))
    own = next(iter(told.values()))
    return markdown(["area under the ROC curve (own rows among the nearest 51)",
                     *(f"{t}: {own[t]['own']} own rows" for t in targets)],
                    [[name, *(f"{of[t]['auc']:.2f} ({of[t]['own_in_top_51']})" for t in targets)]
                     for name, of in told.items()])


def common_direction() -> str:
    path = RESULTS / "common_direction.json"
    if not path.is_file():
        return "Not run yet.\n"
    told = read_json(path)["checkpoints"]
    rows = []
    for epoch, forms in told.items():
        for form, found in forms.items():
            topics = [f"{found[how][topic]:.2f}" for topic in found["centred"] for how in ("as they are", "centred")]
            rows.append([epoch, form, f"{found['shared_by_all_rows']:.2f}", *topics])
    topics = next(iter(next(iter(told.values())).values()))["centred"]
    return markdown(["checkpoint", "directions of the pool", "length of their mean",
                     *(f"{t}, {how}" for t in topics for how in ("as they are", "centred"))], rows)


def settings_table(study: Recorded) -> str:
    """What each setting changes, method by method: of all test rows of a target and budget."""
    words = {"better": "lower", "worse": "higher", "no different": "no difference shown"}
    rows = [[a["name"], a["method"], a["target"], a["budget"], f"{a['jaccard']:.2f}", f"{a['method_loss']:.3f}",
             f"{a['loss']:.3f}", f"{a['difference']:+.3f} [{a['low']:+.3f}, {a['high']:+.3f}]",
             shown_p(a), words.get(a["verdict"], shown_verdict(a["verdict"]))]
            for a in study.told["analyses"]["ablations"] if a["difference"] is not None]
    return markdown(["with the setting", "method", "target", "budget", "Jaccard", "loss without", "loss with",
                     "difference [95%]", "p (Holm)", "loss is"], rows)


# -------------------------------------------------------------------------------------------------------- the claims

@dataclass
class Claim:
    """A claim and what came of it.

    Attributes:
        title: the claim.
        verdict: holds here; does not hold here; cannot be told at this size.
        why: in one sentence, with numbers.
        table: the numbers.
        source: files of results.
    """

    title: str
    verdict: str
    why: str
    table: str
    source: str


HOLDS, NOT, OPEN = "Holds here", "Does not hold here", "Cannot be told at this size"


def by_signs(found: Sequence[Compared], targets: Sequence[str]) -> str:
    """Holds with a lower loss on most targets and a higher one on none; does not with a higher one on most, or with
    higher ones and none lower."""
    lower, higher = ({c.target for c in found if c.sign == s} for s in (-1, 1))
    if len(lower) > len(targets) / 2 and not higher:
        return HOLDS
    if len(higher) >= len(targets) / 2 or (higher and not lower):
        return NOT
    return OPEN


def less_beats_full(study: Recorded) -> Claim:
    names = ["less", "less-round-robin", "less-ot"]
    found = compared(study, [(t, n, "5%", "full", None) for t in study.targets for n in names])
    lower, higher = (sum((c.ours - c.theirs) * s > 0 for c in found) for s in (-1, 1))
    mean = float(np.mean([c.relative for c in found])) if found else float("nan")
    return Claim("5% chosen by LESS beats the full pool (LESS)", by_signs(found, study.targets),
                 f"Of {len(found)} comparisons (three selectors, {len(study.targets)} targets) the loss is lower in "
                 f"{lower}, higher in {higher}; on average it differs by {signed(mean)}. One training on the full "
                 "pool, so there is no verdict: its own luck is in there.", against_table(found, "the full pool"),
                 study.name)


def costs_halve(study: Recorded) -> Claim:
    rows, halves, fewer, total = [], 0, 0, 0
    for c in study.told["analyses"]["curves"]:
        if c["name"] not in ("less-round-robin", "less", "less-ot"):
            continue
        for e in c["efficiency"]:
            total += 1
            enough = bool(e["ratio"]) and e["relation"] in ("=", ">") and e["ratio"] >= 2
            halves += enough
            fewer += bool(e["ratio"]) and e["relation"] in ("=", "<") and e["ratio"] < 2
            pays = next(b for b in study.told["analyses"]["break_even"]
                        if (b["target"], b["budget"], b["name"]) == (c["target"], e["budget"], c["name"]))
            trainings = (pays["against_random"] or {}).get("trainings")
            known = pays["selection_seconds"] is not None
            paid = str(trainings or "never") if known else "not known"
            bound = "" if e["relation"] == "=" else f"{e['relation']} "
            rows.append([c["target"], c["name"], e["budget"], "" if e["ratio"] is None else f"{bound}{e['ratio']:.1f}x",
                         paid])
    verdict = HOLDS if halves > total / 2 else NOT if fewer > total / 2 else OPEN
    return Claim("Training costs halve (targeted instruction selection)", verdict,
                 f"In {halves} of {total} cases (three selectors, two budgets, four targets) it takes at least twice "
                 f"as many random rows to reach the same loss, in {fewer} fewer. That counts training alone; "
                 "how often one must train before the selection has paid stands in the last column of the numbers.",
                 markdown(["target", "method", "budget", "random rows for the same loss", "paid after, trainings"],
                          rows), study.name)


def gradient_distance(study: Recorded) -> Claim:
    """Holds with rho of the gradient distance clearly above zero in most cases and that of embeddings not; does not
    with that of embeddings clearly above zero in most cases."""
    rows, clear = [], {}
    for name in ("less", "gist", "rds", "embed"):
        for measure in ("nearest", "wasserstein"):
            found = [d for d in study.told["analyses"]["distance_predicts_loss"]
                     if (d["representation"], d["measure"]) == (name, measure) and d["rho"] is not None]
            if not found:
                continue
            sure = sum(d["low"] > 0 for d in found)
            wrong = sum(d["high"] < 0 for d in found)
            clear[name, measure] = (sure, len(found))
            rows.append([name, measure, f"{np.mean([d['rho'] for d in found]):+.2f}",
                         f"{min(d['rho'] for d in found):+.2f} to {max(d['rho'] for d in found):+.2f}",
                         f"{sure} of {len(found)}", f"{wrong} of {len(found)}"])
    gradients = max((s / n for (name, _), (s, n) in clear.items() if name == "less"), default=0.0)
    embeddings = max((s / n for (name, _), (s, n) in clear.items() if name == "embed"), default=0.0)
    verdict = HOLDS if gradients > 0.5 >= embeddings else NOT if embeddings > 0.5 else OPEN
    return Claim("Gradient distance predicts the loss, embedding distance does not (targeted instruction selection)",
                 verdict, "By the better of two measures the gradient distance orders the losses beyond doubt in "
                 f"{gradients:.0%} of the cases, that of embeddings in {embeddings:.0%}.",
                 markdown(["distance in", "measure", "mean rho", "range", "clearly above 0", "clearly below 0"], rows),
                 study.name)


def budgets_and_selectors(study: Recorded) -> Claim:
    budgets = study.told["settings"]["budgets"]
    found = compared(study, [(t, "less-round-robin", b, "less-ot", b) for b in budgets for t in study.targets])
    small = [c for c in found if c.name.endswith(budgets[0])]
    large = [c for c in found if c.name.endswith(budgets[-1])]
    ok = sum(c.sign < 0 for c in small) > len(small) / 2 and sum(c.sign > 0 for c in large) > len(large) / 2
    against = sum(c.sign > 0 for c in small) > len(small) / 2 or sum(c.sign < 0 for c in large) > len(large) / 2
    return Claim("Small budgets: round-robin; larger ones: optimal transport (targeted instruction selection)",
                 HOLDS if ok else NOT if against else OPEN,
                 f"At {budgets[0]} round-robin's loss differs from optimal transport's by "
                 f"{signed(float(np.mean([c.relative for c in small])))} on average, at {budgets[-1]} by "
                 f"{signed(float(np.mean([c.relative for c in large])))}.",
                 against_table(found, "optimal transport"), study.name)


def small_share_beats_full(study: Recorded, name: str, budget: str, title: str, *, within: float | None) -> Claim:
    """``within``: the share by which the loss may be higher and still count as no loss; None where it must be lower."""
    found = compared(study, [(t, name, budget, "full", None) for t in study.targets])
    others = compared(study, [(t, name, budget, "random", budget) for t in study.targets])
    mean = float(np.mean([c.relative for c in found])) if found else float("nan")
    if within is None:
        verdict = by_signs(found, study.targets)
    else:
        inside = [c for c in found if c.holm is not None and c.high <= within * c.theirs]
        verdict = HOLDS if len(inside) == len(found) else NOT if any(c.sign > 0 for c in found) else OPEN
    table = against_table(found, "the full pool") + "\n" + against_table(others, "random rows")
    why = (f"Against the full pool the loss is {signed(mean)} on average, against as many random rows "
           f"{signed(float(np.mean([c.relative for c in others])))}.") if found else "Not run."
    return Claim(title, verdict, why, table, study.name)


def transfers(study: Recorded) -> Claim:
    """Holds with a lower loss than random on most targets of the other model for a method that has it on its own."""
    rows, found = [], []
    for model in study.told["settings"]["train_models"]:
        budgets = study.told["settings"]["budgets"]
        found = compared(study, [(t, n, b, "random", b) for b in budgets for n in study.told["settings"]["methods"]
                                 for t in study.targets], model=model)
        here = compared(study, [(t, n, b, "random", b) for b in budgets for n in study.told["settings"]["methods"]
                                for t in study.targets])
        own = {(c.target, c.name): c for c in here}
        rows += [[c.name, c.target, f"{c.ours:.3f}", f"{c.theirs:.3f}", signed(c.relative),
                  signed(own[c.target, c.name].relative) if (c.target, c.name) in own else "", c.p, c.words]
                 for c in found]
    lower, higher = sum(c.sign < 0 for c in found), sum(c.sign > 0 for c in found)
    verdict = HOLDS if found and lower > len(found) / 2 and not higher else NOT if higher > lower else OPEN
    return Claim("A small model chooses for a larger one (LESS, MADS)", verdict,
                 "Subsets chosen by the 135M-parameter model, trained on by Gemma 3 270M, another family: lower loss "
                 f"than random in {lower} of {len(found)} cases, higher in {higher}.",
                 markdown(["subset", "target", "loss there", "of random there", "there", "on the model that chose",
                           "p (Holm)", "loss is"], rows), study.name)


def claims() -> Iterator[Claim]:
    if study := recorded("study"):
        if study.losses(study.targets[0], "full", None) is not None:
            yield less_beats_full(study)
        yield costs_halve(study)
        yield gradient_distance(study)
        if study.losses(study.targets[0], "less-ot", "5%") is not None:
            yield budgets_and_selectors(study)
    if study := recorded("mads15"):
        yield small_share_beats_full(study, "mads", "15%", "15% chosen by MADS beats the full pool (MADS)", within=None)
    if study := recorded("delift30"):
        yield small_share_beats_full(study, "utility:facility-location", "30%",
                                     "DELIFT drops 70% of the pool without loss (DELIFT)", within=0.02)
    if study := recorded("transfer"):
        yield transfers(study)


def verdicts() -> str:
    return markdown(["claim", "verdict", "", "numbers"],
                    [[c.title, f"**{c.verdict}**", c.why, f"`results/{c.source}.json`"] for c in claims()])


def details() -> str:
    return "\n".join(f"### {c.title}\n\n**{c.verdict}.** {c.why}\n\n{c.table}" for c in claims())


def recorded(name: str) -> Recorded | None:
    path = RESULTS / f"{name}.json"
    return Recorded(name, read_results(path).to_dict()) if path.is_file() else None


def state() -> str:
    rows = []
    for name in RUNS:
        if study := recorded(name):
            done = sum(c["status"] == "done" for c in study.told["cells"])
            costs = study.told["costs"]
            rows.append([f"`benchmarks/study/{name}.yaml`", f"{done} of {len(study.told['cells'])}",
                         f"{costs['feature_seconds'] / 60:.0f} min", f"{costs['train_seconds'] / 60:.0f} min",
                         str(len(study.told["failures"]))])
    return markdown(["study", "trainings and zero-shot scorings done", "features", "trainings (two at a time)",
                     "failed"], rows)


def of(name: str, make: Callable[[Recorded], str]) -> Callable[[], str]:
    return lambda: make(study) if (study := recorded(name)) else "Not run yet.\n"


TABLES: dict[str, Callable[[], str]] = {
    "state": state, "separation": separation,
    "claims": verdicts, "details": details, "ranking": of("study", ranking), "arms": of("study", arms),
    "distances": of("study", distances), "costs": of("study", costs), "common": common_direction,
    "settings-ranking": of("ablations", ranking), "settings": of("ablations", settings_table),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--collect", action="store_true", help="take study.json of every study from runs/ first")
    if arguments.parse_args().collect:
        for name, folder in RUNS.items():
            path = ROOT / folder / "study.json"
            if path.is_file():
                write_json(RESULTS / f"{name}.json", read_json(path))
    fill("claims.md", TABLES)


if __name__ == "__main__":
    main()
