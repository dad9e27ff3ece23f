"""What a program calls: paths or objects in, result objects out. The command line is a thin layer over this.

Everywhere rows are read (``pool``, ``target``, ``test``, ``existing``) they may be

* a path or hub id, as on the command line, or a list of them;
* a list of dicts, in any of the formats;
* a ``datasets.Dataset`` (or a ``DatasetDict`` of one split), a pandas ``DataFrame``, a pyarrow ``Table``;

or a list of any of these. Objects are written once, as JSON lines, into the run folder, so that it can be replayed; see
:meth:`siftune.data.objects.ObjectFiles.paths`. ``model`` is a name or a folder, or ``(model, tokenizer)`` as
transformers loads them: that model is used where it is and comes back unchanged, and no weights are written.

Settings are those of the command line by their names, ``lora_rank=16`` for ``--lora-rank 16``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftune._common.artefacts import working_in
from siftune._common.artefacts.sealed import remove
from siftune._common.errors import ConfigError, DataError
from siftune._common.files import read_json
from siftune._common.progress import log
from siftune._common.text import one_line, writable
from siftune.config.choosing import ChooseConfig
from siftune.config.settings import CompareConfig, DataConfig, SelectConfig
from siftune.pipeline.findings import findings, shortfall
from siftune.pipeline.outcome import Outcome
from siftune.pipeline.run import Run, load_run
from siftune.pipeline.runfolder import write_run

if TYPE_CHECKING:
    from siftune.experiments.choosing.finished import Chosen
    from siftune.experiments.config import StudyConfig
    from siftune.experiments.finished import Experiment
    from siftune.export import Exported, Publication
    from siftune.pipeline.encode import Features
    from siftune.pipeline.inspection import Inspection
    from siftune.pipeline.plan import Plan

__all__ = ["Run", "choose", "compare", "encode", "export", "finish", "inspect", "load_run", "plan", "select", "study"]


def select(config: SelectConfig | None = None, *, pool: Any = None, target: Any = None, existing: Any = None,
           test: Any = None, model: Any = None, method: str | None = None, budget: Any = None, command: str = "",
           **settings: Any) -> Run:
    """Choose a subset and write its run folder.

    Features and checkpoints that the folder (or the run named by ``from_run``) already holds are reused; an
    interrupted run continues where it was.

    Args:
        config: all settings at once, instead of those below.
        pool, target: what to choose from, and a few examples of what the model must learn.
        existing: rows that the model was already trained on. ``test``: held-out rows, kept out of the pool.
        model: ``embedded`` when not given (or that of ``from_run``).
        method: ``auto`` when not given, as are all of these.
        budget: ``"5%"`` when not given; a share, ``"20ktok"``, or a number of rows.
        command: the command line, for the manifest.
        settings: any other, such as ``output_dir="runs/a"``. Without an output folder a temporary one is used, which
            goes when the result does. ``from_run`` takes a folder, or the result of an earlier call.

    Raises:
        SiftuneError: anything the user can mend; see its hint.
    """
    from siftune.pipeline.features_home import reused_folders
    from siftune.pipeline.request import requested
    from siftune.pipeline.select import choose, complete

    given = {"pool": pool, "target": target, "existing": existing, "test": test, "model": model, "method": method,
             "budget": budget, **settings}
    command = writable(command)
    with requested(SelectConfig, config, given) as request:
        config = complete(request.config)
        with working_in(config.output_dir, *reused_folders(config), command=command or "siftune.select"):
            outcome = choose(config, command=command)
            run = finish(outcome)
        outcome.context.__dict__.pop("model", None)  # the result need not keep it in memory
        run.temporary = request.temporary is not None
        request.keep_with(run, settings.get("from_run"))
        return run


def finish(outcome: Outcome) -> Run:
    """Write the run folder of an outcome, with its report."""
    from siftune.report import build

    folder = Path(outcome.config.output_dir)
    for finding in findings(outcome):
        if finding != shortfall(outcome):  # told as soon as it was known
            log(f"warning: {finding}")
    write_run(folder, outcome)
    try:
        build(folder, share=outcome.config.share)
    except DataError as error:
        damaged = folder / "comparison.json"
        if not str(error.where).startswith(str(damaged)) or "newer" in error.what:
            raise
        # All other files have just been written. It is a result of other commands, which can make it again; with it in
        # the way, none of them could.
        log(f"{damaged.name} was damaged and is removed: {error.what}; `siftune compare` makes it again")
        remove(damaged)
        build(folder, share=outcome.config.share)
    return Run(folder, outcome)


def choose(config: ChooseConfig | None = None, *, pool: Any = None, target: Any = None, validation: Any = None,
           test: Any = None, existing: Any = None, model: Any = None, budget: Any = None, command: str = "",
           **settings: Any) -> Chosen:
    """Measure methods on the user's own targets, and select with the one that is worth it; see
    :func:`siftune.experiments.choosing.run.choose_arm` and docs/choosing.md.

    Args:
        config: all settings at once, instead of those below, which are as for :func:`select`.
        pool, target, existing, model, budget: what is selected, from what and for which model.
        validation: labelled rows of the task to score on; without them the target rows are, in folds.
        test: held-out rows, kept out of the pool and never looked at.
        command: the command line, for the manifest.
        settings: any other, such as ``arms=["bm25", "less-round-robin"]``, ``within="2h"``, ``epochs=2``.

    Returns:
        What was chosen and why, with the winner's selection (``.run``), the page and its first sentences.

    Raises:
        SiftuneError: anything the user can mend; see its hint.
    """
    from siftune.experiments.choosing.finished import Chosen
    from siftune.experiments.choosing.run import choose_arm
    from siftune.experiments.results.choice import CHOICE, read_choice
    from siftune.pipeline.request import requested
    from siftune.pipeline.select import complete
    from siftune.report import build
    from siftune.report.choice import sentences

    given = {"pool": pool, "target": target, "validation": validation, "test": test, "existing": existing,
             "model": model, "budget": budget, **settings}
    with requested(ChooseConfig, config, given) as request:
        config = complete(request.config, "choose")
        runs: list[Run] = []
        choose_arm(config, lambda outcome: runs.append(finish(outcome)), command=command)
        folder = Path(config.output_dir)
        results = read_choice(folder / CHOICE)  # what was written, not what was meant
        page, _ = build(folder)
        for run in runs:
            run.temporary = request.temporary is not None
            if run.outcome:
                run.outcome.context.__dict__.pop("model", None)
        chosen = Chosen(folder / CHOICE, results, runs[0] if runs else None, page, "\n".join(sentences(results)))
        request.keep_with(chosen, settings.get("from_run"), runs)
        return chosen


def encode(rows: Any, *, model: Any = None, representation: str = "rds", target: Any = None,
           **settings: Any) -> Features:
    """Features of rows as arrays, with their ids.

    ==============================  ====================================================================
    ``representation``              what comes
    ==============================  ====================================================================
    rds, embed, file:VECTORS        float32 [N, D], of length 1
    less, logra                     float32 [N, D]: of all checkpoints side by side, so that inner products are the
                                    weighted cosines; Adam's directions for less
    loss, ifd, learning-percentage  float64 [N]: scores
    mads                            sparse 0/1 [N, F]: active neurons
    gist, bm25, nag, nait, dsir     need ``target``: float32 [N, M] similarities to targets or subtasks (gist: vectors
                                    inside the targets' span where it keeps them; dsir: scores [N])
    ==============================  ====================================================================

    Args:
        rows: what to encode; rows that cannot be used are an error, or left out with ``bad_rows="drop"``.
        model: ``embedded`` when not given.
        representation: as above; or a method, for its representation.
        target: where it is needed.
        settings: any other; with ``output_dir`` features are kept there and reused, without they are not kept.

    Raises:
        SiftuneError: anything the user can mend; see its hint.
    """
    from siftune.pipeline.encode import encode as run
    from siftune.pipeline.request import requested

    given = {"pool": rows, "model": model, "target": target, **settings}
    with requested(SelectConfig, None, given, called={"pool": "rows"}) as request:
        return run(request.config, representation)


def compare(config: CompareConfig | None = None, *, pool: Any = None, target: Any = None, test: Any = None,
            existing: Any = None, model: Any = None, budget: Any = None, command: str = "",
            **settings: Any) -> Experiment:
    """Select, train and score; see :func:`siftune.experiments.compare.compare`.

    Args:
        config: all settings at once, instead of those below, which are as for :func:`select`.
        pool, target, existing, model, budget: what is selected, from what and for which model.
        test: held-out rows of the target task, to score on.
        command: the command line, for the manifest.
        settings: any other, such as ``methods=["less-round-robin", "bm25"]``, ``seeds=3``, ``epochs=2``.

    Returns:
        The results, with the page of the run and its verdict.

    Raises:
        SiftuneError: anything the user can mend; see its hint.
    """
    from siftune.experiments.compare import compare as run
    from siftune.pipeline.request import requested

    given = {"pool": pool, "target": target, "test": test, "existing": existing, "model": model, "budget": budget,
             **settings}
    command = writable(command)
    with requested(CompareConfig, config, given) as request:
        finished = run(request.config, finish, command=command)
        judged = read_json(finished.folder / "report.json")["verdict"]
        finished.report = finished.folder / "report.html"
        finished.verdict = "\n".join(map(one_line, [*judged["sentences"], *judged["cautions"]]))
        request.keep_with(finished, settings.get("from_run"))
        return finished


def study(config: StudyConfig | str | Path, *, flags: Mapping[str, Any] | None = None) -> Experiment:
    """Methods x budgets x targets x seeds; see :func:`siftune.experiments.run.study`.

    The page is made anew whenever results are written, so that an interrupted study has one too.

    Args:
        config: the study, or the path of the YAML file that says what it is.
        flags: settings that win over the file, such as ``output_dir``.

    Returns:
        The results, with the page of the study and its verdict.

    Raises:
        SiftuneError: anything the user can mend; see its hint.
    """
    from siftune.experiments.config import StudyConfig, load_study
    from siftune.experiments.run import study as run
    from siftune.report.study import build, verdict_of

    if not isinstance(config, str | Path | StudyConfig):
        raise ConfigError(f"a study is not made from {type(config).__name__}", where="siftune.study",
                          hint="give the path of a study file, as in docs/study.md, or a StudyConfig")

    wanted = config if isinstance(config, StudyConfig) else load_study(config, flags)

    def page(so_far: Experiment) -> None:
        so_far.report = build(so_far.folder, share=wanted.common.share)
        so_far.verdict = verdict_of(so_far.results)

    return run(wanted, after=page)


def plan(config: SelectConfig | None = None, *, pool: Any = None, target: Any = None, existing: Any = None,
         model: Any = None, method: str | None = None, budget: Any = None, tokens_per_second: str | float = "",
         **settings: Any) -> Plan:
    """What :func:`select` with the same arguments would take, from a short probe; printed, it is a small table.

    Args:
        config, pool, target, existing, model, method, budget, settings: as for :func:`select`.
        tokens_per_second: speeds that are known, and so not measured: of passes with gradients, or as
            ``"gradients=900,forward=2700"`` (also ``training``, ``sentences``). Where gradients are among them, the
            model's weights are not read.

    Raises:
        SiftuneError: whatever :func:`select` would refuse; no speeds.
    """
    from siftune.pipeline.plan import Speeds
    from siftune.pipeline.plan import plan as run
    from siftune.pipeline.request import requested

    given = {"pool": pool, "target": target, "existing": existing, "model": model, "method": method, "budget": budget,
             **settings}
    speeds = Speeds.parse(str(tokens_per_second)) if tokens_per_second else Speeds()
    with requested(SelectConfig, config, given, folder=False) as request:
        return run(request.config, speeds)


def inspect(pool: Any, *, model: Any = "embedded", show: int = 3, output_dir: str | Path = "",
            **settings: Any) -> Inspection:
    """Look at a pool: counts, lengths, rows that cannot be used, and what is supervised of the first rows.

    Args:
        pool: to look at.
        model: whose tokenizer and template are used.
        show: of how many rows the text shows what is supervised.
        output_dir: folder of a run: of a large pool it keeps what is read and rendered, and `select` and `compare`
            with the same folder read that.
        settings: those that say how data is read, such as ``format``.

    Raises:
        SiftuneError: anything the user can mend; see its hint.
    """
    from siftune.models.objects import named
    from siftune.pipeline.inspection import inspect as run
    from siftune.pipeline.request import requested

    if pool is None:
        raise ConfigError("no pool is given", where="pool", hint="give a path, or rows")
    if not isinstance(show, int) or isinstance(show, bool) or show < 0:
        raise ConfigError(f"show cannot be {show!r}", where="show", hint="give a number of rows, 0 or more")
    kept = Path(output_dir) if output_dir else None
    holding = working_in(kept, command="siftune.inspect") if kept else nullcontext()
    if isinstance(pool, DataConfig):
        with holding, named(model) as name:
            return run(pool, name, show=show, run=kept)
    with holding, named(model) as name, requested(DataConfig, None, {"pool": pool, **settings}) as request:
        return run(request.config, name, show=show, run=kept)


def export(run: str | Path | Run, to: str = "jsonl", output: str | Path | None = None, *, form: str = "auto",
           model: Any = None, check: bool = False, python: str | Path | None = None,
           publication: Publication | None = None) -> Exported:
    """Write the selected rows as a trainer reads them; see :func:`siftune.export.export.export`."""
    from siftune.export.export import export as write

    return write(run, to, output, form=form, model=model, check=check, python=python, publication=publication)
