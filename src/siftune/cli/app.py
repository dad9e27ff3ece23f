"""The commands. Each parses, calls the library and prints; whatever is heavy is imported inside."""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from contextlib import nullcontext, redirect_stdout
from typing import Annotated, Any

import typer

from siftune._common.errors import ConfigError, SiftuneError
from siftune._common.registry import unknown_name
from siftune._common.terminal import Shown, protected
from siftune.cli import as_json
from siftune.cli.options import Grouped, SpeedsOption, complete_owner, with_options
from siftune.cli.output import SHORT_HELP, App, asked_for_json, show, tell_error
from siftune.config.choosing import NOT_HERE, ChooseConfig
from siftune.config.settings import CompareConfig, DataConfig, SelectConfig, load
from siftune.config.shared import FIRST, MODEL, RUN

app = App(
    name="siftune",
    help="Choose the part of an instruction pool that teaches a model your task, prove that it helps, hand it over.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_UsageError: Any = typer.BadParameter.__base__  # click's own, from wherever this version of typer has it

RunArgument = Annotated[str, typer.Argument(help="A run folder that `siftune select` has written.", metavar="RUN")]


def _command() -> str:
    return "siftune " + shlex.join(sys.argv[1:])


@app.command(cls=Grouped)
@with_options(SelectConfig)
def select(
    flags: dict[str, Any],
    config_file: str | None,
    choose: Annotated[bool, typer.Option("--choose", help="Measure which method is worth it first, as `siftune choose` "
                                         "does, and select with that one.", rich_help_panel=FIRST)] = False,
    shard: Annotated[str, typer.Option("--shard", help="Compute share I of N of the feature passes and stop; 0/N is "
                                       "what comes before them. See docs/scaling.md.", rich_help_panel=RUN,
                                       metavar="I/N")] = "",
) -> None:
    """Choose a subset of a pool: the main job."""
    if shard:
        if choose:
            raise ConfigError("--choose trains, which is no share of a pass", where="--shard", hint="leave one out")
        from siftune.pipeline.shares import compute_share

        show(print, as_json.shared, compute_share(load(SelectConfig, config_file, flags), shard, command=_command()))
        return
    if choose:
        _choose(flags, config_file)
        return
    from siftune.api import select as run
    from siftune.cli.printing import print_run

    show(print_run, as_json.run, run(load(SelectConfig, config_file, flags), command=_command()))


@app.command(cls=Grouped)
@with_options(ChooseConfig, leave_out=tuple(NOT_HERE))
def choose(
    flags: dict[str, Any],
    config_file: str | None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what will be trained, how long that takes and what "
                                          "is cut to fit; write nothing.", rich_help_panel=FIRST)] = False,
) -> None:
    """Measure which method is worth it on your targets, and select with it.

    Arms (random rows, the untuned model, methods) are trained on small subsets and scored on rows that did not select,
    in rounds that drop the hopeless ones. Run again, it continues. See docs/choosing.md.
    """
    _choose(flags, config_file, dry_run=dry_run)


def _choose(flags: dict[str, Any], config_file: str | None, *, dry_run: bool = False) -> None:
    config = load(ChooseConfig, config_file, flags)
    if dry_run:
        from siftune.experiments.choosing.prepared import preview

        show(print, as_json.text, preview(config))
        return
    from siftune.api import choose as run
    from siftune.cli.printing import print_choice

    chosen = run(config, command=_command())
    show(print_choice, as_json.choice, chosen)
    if chosen.results.failed:
        raise typer.Exit(1)


@app.command(cls=Grouped)
@with_options(CompareConfig)
def compare(flags: dict[str, Any], config_file: str | None) -> None:
    """Train on the subset and on baselines; score held-out rows."""
    from siftune.api import compare as run
    from siftune.cli.printing import print_comparison

    finished = run(load(CompareConfig, config_file, flags), command=_command())
    show(print_comparison, as_json.experiment, finished)
    if finished.failed:
        raise typer.Exit(1)


@app.command()
def study(
    config: Annotated[str, typer.Argument(help="YAML file that says what is studied, see docs/study.md.",
                                          metavar="STUDY.yaml")],
    output_dir: Annotated[str, typer.Option(help="Folder to write; wins over the file.", show_default=False)] = "",
    workers: Annotated[int, typer.Option(help="Processes; wins over the file.", show_default=False)] = 0,
    executor: Annotated[str, typer.Option(help="local or ray; wins over the file.", show_default=False)] = "",
    share: Annotated[bool, typer.Option("--share", help="Write the page without machine paths, names of users and "
                                                        "machines.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell the trainings, how many are done, and how long the "
                                                            "others will take.")] = False,
) -> None:
    """Methods x budgets x targets x seeds: select, train, score, analyse.

    Run again, it continues, and tries again what failed. Results come in STUDY/study.json after each training.
    """
    flags = {"output_dir": output_dir, "workers": workers, "executor": executor, "share": share}
    given = {name: value for name, value in flags.items() if value}
    if dry_run:
        from siftune.experiments.config import load_study
        from siftune.experiments.preview import preview

        show(print, as_json.text, preview(load_study(config, given)).text())
        return
    from siftune.api import study as run
    from siftune.cli.printing import print_study

    finished = run(config, flags=given)
    show(print_study, as_json.experiment, finished)
    if finished.failed:
        raise typer.Exit(1)


@app.command(cls=Grouped)
@with_options(SelectConfig)
def plan(flags: dict[str, Any], config_file: str | None, tokens_per_second: SpeedsOption = "") -> None:
    """Estimate time, memory and disk from a short probe, or from known speeds.

    Everything that `select` would check is checked, nothing is written.
    """
    from siftune.api import plan as run

    show(print, as_json.plan, run(load(SelectConfig, config_file, flags), tokens_per_second=tokens_per_second))


@app.command(cls=Grouped)
@with_options(DataConfig, leave_out=("pool", "target", "test"), positional=False)
def inspect(
    flags: dict[str, Any],
    config_file: str | None,
    pool: Annotated[list[str], typer.Argument(help="Files to look at.", metavar="POOL...")],
    model: Annotated[str, typer.Option(help="Model whose tokenizer and template are used.")] = "embedded",
    rows_shown: Annotated[int, typer.Option("--show", help="Rows whose mask is shown.")] = 3,
    output_dir: Annotated[str, typer.Option(help="Run folder that keeps what is read and rendered of a large pool, for "
                                                 "`select` and `compare` with the same folder.",
                                            show_default=False)] = "",
) -> None:
    """Look at a pool: counts, lengths, loss mask, unusable rows.

    Formats, sources, groups, lengths in tokens, duplicates, rows that cannot be used and why, and the first rows
    with what is supervised of them in colour.
    """
    from siftune.api import inspect as run
    from siftune.cli.printing import print_inspection

    found = run(load(DataConfig, config_file, {**flags, "pool": tuple(pool)}), model=model, show=rows_shown,
                output_dir=output_dir)
    show(print_inspection, as_json.inspection, found)


@app.command()
def report(
    run: RunArgument,
    share: Annotated[bool, typer.Option("--share", help="Without machine paths, names of users and machines, and "
                                                        "command lines, so that it can be given away.")] = False,
) -> None:
    """Write report.html and report.json of a run folder, or study.html of a study's, again."""
    from siftune.cli.printing import print_files
    from siftune.report import build

    show(print_files, as_json.files, build(run, share=share))


@app.command()
def export(
    run: RunArgument,
    to: Annotated[str, typer.Option(help="jsonl, trl, llamafactory, axolotl or hub.")] = "jsonl",
    output: Annotated[str, typer.Option(help="Folder to write; RUN/export-<to> when not given.")] = "",
    form: Annotated[str, typer.Option(help="messages (text), tokens (the ids and labels that were scored), or auto: "
                                           "messages where the trainer makes the same ids and labels of "
                                           "them.")] = "auto",
    model: Annotated[str, typer.Option(help="Model whose tokenizer is used; that of the run when not given.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Let the trainer load what was written, and compare it with "
                                                        "what was scored, row by row.")] = False,
    python: Annotated[str, typer.Option(help="The Python that the trainer is installed in, for --check.",
                                        metavar="PATH")] = "",
    repo: Annotated[str, typer.Option(help="Name of the data set on the hub.", metavar="ORG/NAME")] = "",
    licence: Annotated[str, typer.Option("--licence", "--license", help="Licence that the card of the data set says, "
                                         "as the hub spells it.")] = "",
    push: Annotated[bool, typer.Option("--push", help="Upload it to the hub, private.")] = False,
    public: Annotated[bool, typer.Option("--public", help="With --push: readable for everyone.")] = False,
) -> None:
    """Write the selected rows as a trainer reads them, or as a data set for the hub."""
    from siftune.api import export as write
    from siftune.cli.printing import print_export
    from siftune.export import Publication

    asked = Publication(repo, licence, push, public)
    written = write(run, to, output or None, form=form, model=model or None, check=check, python=python or None,
                    publication=None if asked == Publication() else asked)
    show(print_export, as_json.export, written)
    if written.checked and written.checked.differences:
        raise typer.Exit(1)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="A method or selector: shows all of its settings.",
                                               metavar="[NAME]", autocompletion=complete_owner)] = None,
) -> None:
    """List recipes, methods and selectors, or the settings of one.

    Each with its paper, what it needs and what it costs.
    """
    from siftune.cli.methods import check_name, print_method, print_methods

    if name is None:
        show(print_methods, as_json.methods)
    else:
        check_name(name)
        show(print_method, as_json.method, name)


@app.command()
def doctor(
    run: Annotated[str | None, typer.Argument(help="A run folder whose stores are to be verified.",
                                              metavar="[RUN]")] = None,
    model: Annotated[str, typer.Option(help="Model to check, or none; by default that of the run, else embedded.",
                                       show_default=False)] = "",
    repair: Annotated[bool, typer.Option(help="Remove broken shards, so that the next run makes them again.")] = False,
) -> None:
    """Check the environment, a model and the stores of a run.

    The model's gradients must not depend on the batch; the stores must match their checksums.
    """
    from siftune.pipeline.doctor import doctor as check

    told = io.StringIO()
    with redirect_stdout(told) if asked_for_json() else nullcontext():
        fine = check(run, model, repair=repair)
    show(lambda *_: None, as_json.doctor, told.getvalue().splitlines(), fine)
    if not fine:
        raise typer.Exit(1)


@app.command(cls=Grouped)
@with_options(DataConfig, leave_out=("pool", "existing"), positional=False)
def init(
    flags: dict[str, Any],
    config_file: str | None,
    pool: Annotated[list[str], typer.Argument(help="Files to choose from.", metavar="POOL...")],
    model: Annotated[str, typer.Option(help="Model that the settings name; it is not loaded.",
                                       rich_help_panel=MODEL)] = "embedded",
    output: Annotated[str, typer.Option(help="File to write.", rich_help_panel=RUN)] = "run.yaml",
    output_dir: Annotated[str, typer.Option(help="Run folder that the settings name.",
                                            rich_help_panel=RUN)] = "runs/first",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.",
                                        rich_help_panel=RUN)] = False,
) -> None:
    """Look into your files and write settings for them.

    Every line is explained; no model is loaded. The file is what `siftune plan`, `select` and `compare` take.
    """
    from siftune.cli.printing import print_files
    from siftune.pipeline.starting import write_settings

    config = load(DataConfig, config_file, {**flags, "pool": tuple(pool)})
    written = write_settings(config, output, model=model, output_dir=output_dir, replace=force)
    show(print_files, as_json.files, [written])


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="Command whose file is described: select, compare, choose or study.",
                                        metavar="[COMMAND]")] = "compare",
) -> None:
    """Print the JSON schema of settings files.

    It is for editors and programs. That of compare holds all that select, plan and compare read.
    """
    from siftune.config.schema import settings_schema
    from siftune.experiments.schema import study_schema

    made = {"select": lambda: settings_schema(SelectConfig), "compare": lambda: settings_schema(CompareConfig),
            "choose": lambda: settings_schema(ChooseConfig, without=tuple(NOT_HERE)), "study": study_schema}
    if kind not in made:
        raise unknown_name("kind of settings file", kind, made, flag="siftune schema")
    show(lambda found: print(json.dumps(found, indent=1)), dict, made[kind]())


@app.callback(invoke_without_command=True)
def _root(context: typer.Context,
          version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from siftune import __version__

        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(SHORT_HELP)


def _successor(option: str | None) -> str | None:
    """What to type instead of a flag that is the setting of a method or selector."""
    from siftune.config.earlier import HINTS, TRAINED
    from siftune.config.owned import owners_of

    if not option:
        return None
    flag, typed = option.partition("=")[0], sys.argv[1:]
    value = next((word.partition("=")[2] for word in typed if word.startswith(f"{flag}=")), "")
    if not value and flag in typed[:-1] and not typed[typed.index(flag) + 1].startswith("--"):
        value = typed[typed.index(flag) + 1]
    name = flag.lstrip("-").replace("-", "_")
    if name == "option":
        return f"--option is now --set: type --set {value or 'NAME=VALUE'}"
    if name.startswith("no_") and owners_of(name[3:]):
        name, value = name[3:], "false"
    if name in TRAINED:
        return f"type --set {TRAINED[name]}={value or 'VALUE'} for the warmup run of a method"
    if name in HINTS or owners_of(name):
        return f"it is a setting of {', '.join(owners_of(name))}: type --set {name}={value or 'true'}"
    return None


def main() -> None:
    """Run the command line; a user's mistake is printed without a traceback and ends with exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # they move the cursor, beside our own bars
    sys.excepthook = _fault
    with protected():
        _run()


def _fault(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """A traceback, which is a fault of siftune's; it may quote what a file holds."""
    import traceback

    print("".join(traceback.format_exception(kind, error, trace)), end="", file=Shown(sys.stderr))


def _run() -> None:
    try:
        # Its mistakes come back as exceptions, and are told as all others are.
        code = app(prog_name="siftune", standalone_mode=False)
        if code == 130:
            raise KeyboardInterrupt
        sys.exit(code)
    except SiftuneError as error:
        tell_error(error)
        sys.exit(error.exit_code)
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "siftune"
        option = getattr(error, "option_name", None)
        hint = _successor(option) or f"{command} --help tells what it takes"
        if option in ("--pool", "--target"):  # of a command that knows neither
            hint = f"files stand behind the command itself: {command} pool.jsonl"
        tell_error(ConfigError(error.format_message(), hint=hint))
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted: run the same command again to continue where it was", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has seen enough, as `head` does
        sys.stdout = sys.stderr = None  # type: ignore[assignment]  # Python would try to write the rest when it ends
        os._exit(141)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        from siftune._common.files import write_error

        tell_error(write_error(error.filename or "?", error))
        sys.exit(2)
