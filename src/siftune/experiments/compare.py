"""Does the selection help? Train on each subset and on the baselines, score on rows that were never selected with.

Every arm is trained from the same base model with the same settings. Seed k decides the adapter's initial weights,
the order of the rows and the dropout, the same for every arm, and for `random` also which rows are drawn; the spread
over seeds is therefore that of training for a method, and of drawing and training for random. Losses of all arms are
measured on the same test rows, so that differences are paired by row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siftune._common.artefacts import working_in
from siftune._common.errors import ConfigError
from siftune._common.files import read_json, write_json
from siftune._common.progress import bar, log
from siftune._common.seeds import derive
from siftune.config.settings import CompareConfig
from siftune.data.load import Inputs
from siftune.data.rows import Examples
from siftune.evaluation.harness import example_scores, harness_tasks
from siftune.experiments.cells import Cell, CellWorker, Shelf, test_rows
from siftune.experiments.estimates import difference, estimate, judge
from siftune.features.base import Context, Evidence
from siftune.pipeline.runfolder import Outcome
from siftune.pipeline.select import choose, complete, method_of, reused_folders
from siftune.selectors import select as run_selector

if TYPE_CHECKING:
    from siftune.models.loading import LoadedModel

BASELINES = ("random", "length-matched-random", "longest", "full")
ALL = "all"


@dataclass
class Arm:
    """One thing that is trained (or, for zero-shot, not) and scored.

    Attributes:
        name: as in the tables.
        kind: ``baseline`` or ``method``.
        subsets: pool rows of each seed, in selection order; empty for zero-shot.
        losses: float64 [seeds, test rows].
        correct: float64 [seeds, test rows], 1 or 0, NaN where exact match does not apply.
        harness: ``task:metric`` of the lm-evaluation-harness -> float64 [seeds, examples].
        steps: optimizer steps of one training.
        seconds: training time over all seeds.
    """

    name: str
    kind: str
    subsets: list[np.ndarray] = field(default_factory=list)
    losses: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    correct: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    harness: dict[str, np.ndarray] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0


@dataclass
class Comparison:
    """A finished comparison.

    Attributes:
        folder: the run folder, with ``comparison.json`` and the report.
        result: what ``comparison.json`` holds.
        report: path of ``report.html``.
        verdict: the report's verdict and cautions in plain words, a line each.
    """

    folder: Path
    result: dict[str, Any]
    report: Path
    verdict: str


def compare(config: CompareConfig, finish: Callable[[Outcome], Any], *, command: str = "") -> Comparison:
    """Select with every method, train on every subset and baseline, score, and write the report.

    Interrupted anywhere, it continues; finished trainings and scores are never computed again.

    Raises:
        ConfigError: no test file, or an unknown method or baseline.
        SiftuneError: anything else the user can mend.
    """
    config = complete(config)  # type: ignore[assignment]
    _check(config)
    with working_in(config.output_dir, *reused_folders(config), command=command or "siftune.compare"):
        return _compare(config, finish, command)


def _compare(config: CompareConfig, finish: Callable[[Outcome], Any], command: str) -> Comparison:
    outcomes = _select(config, command)
    inputs, context = outcomes[0].inputs, outcomes[0].context
    finish(outcomes[0])  # the selection is of use whatever happens to the trainings
    arms = _arms(config, outcomes)
    _train_and_score(config, context, inputs, arms)
    result = summarise(config, inputs, arms)
    write_json(Path(config.output_dir) / "comparison.json", result)
    run = finish(outcomes[0])  # once more, now with all the times and the comparison
    told = read_json(run.folder / "report.json")["verdict"]
    return Comparison(run.folder, result, run.report, "\n".join([*told["sentences"], *told["cautions"]]))


def _check(config: CompareConfig) -> None:
    if not config.test:
        raise ConfigError("there is nothing to score on", where="--test",
                          why="Scoring on the target examples that chose the data would prove nothing.",
                          hint="give held-out rows of the target task with --test")
    for name in config.baselines:
        if name not in BASELINES:
            from siftune._common.registry import unknown_name

            raise unknown_name("baseline", name, BASELINES, flag="--baselines")
    harness_tasks(config.lm_eval, code=config.lm_eval_code, tokenizer=None)  # what is missing is told now
    for name in config.methods:  # a misspelt second method is refused now, not after the first one's features
        method_of(dataclasses.replace(config, method=name))
    if config.seeds < 1:
        raise ConfigError("at least one seed is needed", where="--seeds", hint="give 3 or more for honest intervals")


def _select(config: CompareConfig, command: str) -> list[Outcome]:
    """One outcome per method; features and files are read once."""
    outcomes: list[Outcome] = []
    inputs: Inputs | None = None
    context: Context | None = None
    known: dict[str, Evidence] = {}
    for name in config.methods or (config.method,):
        one = dataclasses.replace(config, method=name)
        representation = method_of(one, inputs, context).representation
        outcome = choose(one, inputs=inputs, context=context, evidence=known.get(representation), command=command)
        inputs, context = outcome.inputs, outcome.context
        known[representation] = outcome.evidence
        outcomes.append(outcome)
    return outcomes


def _arms(config: CompareConfig, outcomes: Sequence[Outcome]) -> list[Arm]:
    """Zero-shot, the baselines, then the methods."""
    first = outcomes[0]
    inputs, problem = first.inputs, first.bare  # baselines draw from all rows, also from those that a method rules out
    lengths = np.array([r.supervised for r in inputs.pool.rendered], dtype=np.int64)
    arms = [Arm("zero-shot", "baseline")]
    for name in dict.fromkeys(("random", *config.baselines)):  # random is always in
        if name == "full":
            subsets = [np.flatnonzero(~problem.exclude)] * config.seeds
        else:
            plain = dataclasses.replace(problem, lengths=lengths, reference_lengths=lengths[first.selection.indices])
            subsets = [run_selector(plain, config.budget, name, seed=derive(config.seed, "baseline", name, k)).indices
                       for k in range(config.seeds)]
        arms.append(Arm(name, "baseline", subsets))
    names = [_label(outcome) for outcome in outcomes]
    for name, outcome in zip(names, outcomes, strict=True):
        if outcome.method.representation == "none":
            continue  # a baseline named as a method: it is in already, or has nothing to prove
        arms.append(Arm(name, "method", [outcome.selection.indices] * config.seeds))
    _note_lengths(inputs, arms)
    return arms


def _label(outcome: Outcome) -> str:
    method = outcome.method
    return f"{method.representation}+{method.selector}"


def _note_lengths(inputs: Inputs, arms: Sequence[Arm]) -> None:
    tokens = inputs.pool.tokens
    for arm in arms:
        if arm.subsets:
            mean = np.mean([tokens[subset].sum() for subset in arm.subsets])
            log(f"{arm.name}: {len(arm.subsets[0]):,} rows, {mean:,.0f} tokens")


def _train_and_score(config: CompareConfig, context: Context, inputs: Inputs, arms: Sequence[Arm]) -> None:
    """Fill in every arm, training and scoring only what is not kept from an earlier run."""
    from siftune.execution import executor_of

    loaded = context.model
    rows = test_rows(inputs.test, loaded.tokenizer, config)
    test = rows.key(config.exact_match_tokens)
    harness = harness_tasks(config.lm_eval, code=config.lm_eval_code, tokenizer=loaded.tokenizer)
    shelf = Shelf(context.folder / "training", config, loaded.base_key, harness)
    cells = {arm.name: [_cell(arm, k, inputs) for k in range(max(1, len(arm.subsets)))] for arm in arms}
    missing = {shelf.folder(cell): cell for of_arm in cells.values() for cell in of_arm
               if not shelf.has(cell, test) or shelf.unscored(cell)}
    todo = [replace(cell, title=f"[{i}/{len(missing)}] {cell.title}") for i, cell in enumerate(missing.values(), 1)]
    with context.clock.measure(f"train and score ({len(todo)} trainings)") as entry:
        entry["reused"] = not todo
        executor = executor_of(config, context.folder, len(todo))
        load = context.load if executor.elsewhere else _AlreadyLoaded(loaded)
        start = partial(CellWorker, load=load, shelf=shelf, tests={test: rows})
        if todo:
            with bar("trainings", len(todo), "trainings") if executor.elsewhere else nullcontext() as progress:
                for _ in executor.map(start, todo):
                    if progress:
                        progress.advance()
    for arm in arms:
        kept = [shelf.scores(cell, test) for cell in cells[arm.name]]
        arm.losses = np.array([scores["loss"] for scores in kept], dtype=np.float64)
        arm.correct = np.array([[np.nan if c is None else float(c) for c in scores["correct"]] for scores in kept])
        arm.harness = example_scores([shelf.harness_scores(cell) for cell in cells[arm.name]])
        arm.steps = kept[0]["steps"]
        arm.seconds = sum(scores["seconds"] for scores in kept)


@dataclass(frozen=True)
class _AlreadyLoaded:
    """Stands for loading where the model is in this process already."""

    loaded: LoadedModel

    def __call__(self, config: Any) -> LoadedModel:
        return self.loaded


def _cell(arm: Arm, k: int, inputs: Inputs) -> Cell:
    if not arm.subsets:
        return Cell(arm.name, 0, None)
    return Cell(f"{arm.name}, seed {k}", k, tuple(inputs.pool.rendered[i] for i in arm.subsets[k]))


def summarise(config: CompareConfig, inputs: Inputs, arms: Sequence[Arm]) -> dict[str, Any]:
    """What ``comparison.json`` holds: every arm on every subtask, and paired tests of the methods against random."""
    parts = dict(_parts(inputs.test))
    tokens = inputs.pool.tokens
    seed = derive(config.seed, "bootstrap")

    told = [{
        "name": arm.name, "kind": arm.kind,
        "rows": len(arm.subsets[0]) if arm.subsets else None,
        "tokens": round(float(np.mean([tokens[s].sum() for s in arm.subsets]))) if arm.subsets else None,
        "seeds": list(range(len(arm.subsets))), "steps": arm.steps, "train_seconds": round(arm.seconds, 1),
        "results": {name: {"loss": estimate(arm.losses[:, rows], "loss", config.confidence, seed),
                           "exact_match": estimate(arm.correct[:, rows], "exact_match", config.confidence, seed),
                           "n": len(rows)}
                    for name, rows in parts.items()},
        "lm_eval": {m: estimate(values, m, config.confidence, seed) for m, values in arm.harness.items()},
    } for arm in arms]
    tests = list(_tests(config, arms, parts))
    # As in a study: what the comparison is for, whether the rest of the pool can go, and single subtasks are asked
    # apart, so that many subtasks do not drown the main question.
    families = [[t for t in tests if _family(t) == name] for name in dict.fromkeys(map(_family, tests))]
    for family in families:
        judge(family, config.confidence)
    return {"arms": told, "tests": tests, "confidence": config.confidence, "learning_rate": config.learning_rate,
            "epochs": config.epochs, "seeds": config.seeds, "budget": config.budget,
            "note": "Test rows were not used for selection or training. Equal rows; tokens differ as shown."}


def _family(test: Mapping[str, Any]) -> str:
    return "subtasks" if test["subtask"] != ALL else "full" if test["against"] == "full" else "main"


def _parts(test: Examples) -> Iterator[tuple[str, np.ndarray]]:
    yield ALL, np.arange(len(test))
    subtasks = [row.subtask for row in test.rows]
    names = [name for name in dict.fromkeys(subtasks) if name is not None]
    if len(names) > 1:
        for name in names:
            yield name, np.array([i for i, s in enumerate(subtasks) if s == name])


def _tests(config: CompareConfig, arms: Sequence[Arm], parts: dict[str, np.ndarray],
           ) -> Iterator[dict[str, Any]]:
    random = next(arm for arm in arms if arm.name == "random")
    others = [arm for arm in arms if arm.kind == "baseline" and arm.name not in ("random", "zero-shot")]
    for arm in (arm for arm in arms if arm.kind == "method"):
        for against in (random, *others):
            for subtask, rows in parts.items():
                for metric in ("loss", "exact_match"):
                    ours, theirs = (a.losses if metric == "loss" else a.correct for a in (arm, against))
                    found = difference(ours[:, rows], theirs[:, rows], metric, config.confidence)
                    if found:
                        yield {"method": arm.name, "against": against.name, "subtask": subtask, "metric": metric,
                               **found}
            for metric, values in arm.harness.items():
                found = difference(values, against.harness[metric], metric, config.confidence)
                if found:
                    yield {"method": arm.name, "against": against.name, "subtask": ALL, "metric": metric, **found}


def table(result: dict[str, Any]) -> str:
    """The comparison as a Markdown table: one line an arm, loss and exact match with intervals, per subtask."""
    parts = list(result["arms"][0]["results"])
    exact = [p for p in parts if any(arm["results"][p]["exact_match"] for arm in result["arms"])]
    head = ["", "rows", "tokens", *(f"loss {p} (n={result['arms'][0]['results'][p]['n']})" for p in parts),
            *(f"exact match {p}" for p in exact)]
    tasks = list(result["arms"][0].get("lm_eval", {}))  # not in older results
    lines = [[*head, *tasks]]
    for arm in result["arms"]:
        cells = [arm["name"], shown_number(arm["rows"]), shown_number(arm["tokens"])]
        cells += [shown_interval(arm["results"][p]["loss"], "{:.3f}") for p in parts]
        cells += [shown_interval(arm["results"][p]["exact_match"], "{:.0%}") for p in exact]
        cells += [shown_interval(arm["lm_eval"].get(metric), "{:.3g}") for metric in tasks]
        lines.append(cells)
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of these lines, the first its head, with columns of one width."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *padded[1:]])


def shown_number(value: float | None) -> str:
    """Whole, or a dash."""
    return "-" if value is None else f"{value:,.0f}"


def shown_interval(found: Mapping[str, Any] | None, form: str) -> str:
    """Mean and interval, or a dash."""
    if found is None:
        return "-"
    return f"{form.format(found['mean'])} [{form.format(found['low'])}, {form.format(found['high'])}]"
