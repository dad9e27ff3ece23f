"""The commands. Each parses, calls the library and prints; whatever is heavy is imported inside."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated, Any

import typer

from siftune._common.errors import ConfigError, SiftuneError
from siftune._common.terminal import Shown, protected
from siftune._common.text import one_line
from siftune.cli.options import Grouped, with_options
from siftune.config.choosing import NOT_HERE, ChooseConfig
from siftune.config.settings import CompareConfig, DataConfig, SelectConfig, load
from siftune.config.shared import FIRST

app = typer.Typer(
    name="siftune",
    help="Choose the part of an instruction pool that teaches a model your task, prove that it helps, hand it over.",
    no_args_is_help=True,
    add_completion=False,
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
) -> None:
    """Choose a subset of a pool: the main job."""
    if choose:
        _choose(flags, config_file)
        return
    from siftune.api import select as run
    from siftune.cli.printing import print_run

    print_run(run(load(SelectConfig, config_file, flags), command=_command()))


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

        print(preview(config))
        return
    from siftune.api import choose as run
    from siftune.cli.printing import print_choice

    chosen = run(config, command=_command())
    print_choice(chosen)
    if chosen.results.failed:
        raise typer.Exit(1)


@app.command(cls=Grouped)
@with_options(CompareConfig)
def compare(flags: dict[str, Any], config_file: str | None) -> None:
    """Train on the subset and on baselines; score held-out rows."""
    from siftune.api import compare as run
    from siftune.cli.printing import print_comparison

    finished = run(load(CompareConfig, config_file, flags), command=_command())
    print_comparison(finished)
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

        print(preview(load_study(config, given)).text())
        return
    from siftune.api import study as run
    from siftune.cli.printing import print_study

    finished = run(config, flags=given)
    print_study(finished)
    if finished.failed:
        raise typer.Exit(1)


@app.command(cls=Grouped)
@with_options(SelectConfig)
def plan(flags: dict[str, Any], config_file: str | None) -> None:
    """Estimate time, memory and disk from a short probe.

    Everything that `select` would check is checked, nothing is written.
    """
    from siftune.api import plan as run

    print(run(load(SelectConfig, config_file, flags)))


@app.command(cls=Grouped)
@with_options(DataConfig, leave_out=("pool", "target", "test"))
def inspect(
    flags: dict[str, Any],
    config_file: str | None,
    pool: Annotated[list[str], typer.Argument(help="Files to look at.", metavar="POOL...")],
    model: Annotated[str, typer.Option(help="Model whose tokenizer and template are used.")] = "embedded",
    show: Annotated[int, typer.Option(help="Rows whose mask is shown.")] = 3,
) -> None:
    """Look at a pool: counts, lengths, loss mask, unusable rows.

    Formats, sources, groups, lengths in tokens, duplicates, rows that cannot be used and why, and the first rows
    with what is supervised of them in colour.
    """
    from siftune.api import inspect as run
    from siftune.cli.printing import print_inspection

    print_inspection(run(load(DataConfig, config_file, {**flags, "pool": tuple(pool)}), model=model, show=show))


@app.command()
def report(
    run: RunArgument,
    share: Annotated[bool, typer.Option("--share", help="Without machine paths, names of users and machines, and "
                                                        "command lines, so that it can be given away.")] = False,
) -> None:
    """Write report.html and report.json of a run folder, or study.html of a study's, again."""
    from siftune.report import build

    for path in build(run, share=share):
        print(one_line(path))


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
    print_export(written)
    if written.checked and written.checked.differences:
        raise typer.Exit(1)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="A method or selector: shows all of its settings.",
                                               metavar="[NAME]")] = None,
) -> None:
    """List recipes, methods and selectors, or the settings of one.

    Each with its paper, what it needs and what it costs.
    """
    from siftune.cli.methods import print_method, print_methods

    if name is None:
        print_methods()
    else:
        print_method(name)


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

    if not check(run, model, repair=repair):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from siftune import __version__

        print(__version__)
        raise typer.Exit


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
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "siftune"
        hint = _successor(getattr(error, "option_name", None)) or f"{command} --help tells what it takes"
        print(f"error: {ConfigError(error.format_message(), hint=hint)}", file=sys.stderr)
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

        print(f"error: {write_error(error.filename or '?', error)}", file=sys.stderr)
        sys.exit(2)
