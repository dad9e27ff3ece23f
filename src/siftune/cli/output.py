"""What all commands have in common about output: ``--json``, ``--quiet``, and the short help of a bare `siftune`."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from functools import wraps
from typing import Annotated, Any

import typer

from siftune._common.errors import SiftuneError
from siftune._common.progress import warnings_only

SHORT_HELP = """\
siftune chooses the part of an instruction pool that teaches a model your task, and proves that it helps.

Commands:
  siftune init POOL --target FILE  look into your files, write run.yaml with every line explained
  siftune plan run.yaml            how long it takes, how much memory and disk
  siftune select run.yaml          choose rows; writes them and a report
  siftune compare run.yaml         train on them and on random rows; says whether it helped
  siftune export RUN --to trl      hand them to your trainer

`siftune --help` names all commands, `siftune COMMAND --help` what one takes."""

_Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, and nothing else to stdout.",
                                     rich_help_panel="Run")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr; warnings and errors stay.",
                                      rich_help_panel="Run")]

_result: dict[str, Any] | None = None  # of the running command; None where it prints for people


class App(typer.Typer):
    """An application whose commands all take ``--json`` and ``--quiet``."""

    def command(self, *args: Any, **kwargs: Any) -> Any:
        register = super().command(*args, **kwargs)
        return lambda function: register(_with_output(function))


def show(printer: Callable[..., Any], as_json: Callable[..., dict[str, Any]], *results: Any) -> None:
    """Print a result of the running command for people, or keep it for ``--json``."""
    if _result is None:
        printer(*results)
    else:
        _result.update(as_json(*results))


def asked_for_json() -> bool:
    """Whether the running command keeps its result for ``--json``."""
    return _result is not None


def tell_error(error: SiftuneError) -> None:
    """A mistake on stderr and, where a program reads stdout, as JSON there too."""
    print(f"error: {error}", file=sys.stderr)
    if "--json" in sys.argv[1:]:
        told = {"what": error.what, "where": error.where, "why": error.why, "hint": error.hint}
        _write({"error": told, "exit_code": error.exit_code})


def _write(value: dict[str, Any]) -> None:
    print(json.dumps(value, default=str, allow_nan=False))


def _with_output(function: Callable[..., Any]) -> Callable[..., Any]:
    own = inspect.signature(function, eval_str=True).parameters.values()

    @wraps(function)
    def command(**values: Any) -> None:
        global _result
        as_json, quiet = values.pop("as_json"), values.pop("quiet")
        before, stdout = _result, sys.stdout
        _result = {"command": function.__name__} if as_json else None
        try:
            with ExitStack() as stack:
                stack.enter_context(warnings_only(quiet))
                if as_json:  # whatever else is printed is not the result
                    stack.enter_context(redirect_stdout(sys.stderr))
                try:
                    function(**values)
                except typer.Exit:  # a result that says that something failed
                    _write_to(stdout)
                    raise
            _write_to(stdout)
        finally:
            _result = before

    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
             for name, kind in (("as_json", _Json), ("quiet", _Quiet))]
    parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *added]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _write_to(stdout: Any) -> None:
    if _result is not None:
        with redirect_stdout(stdout):
            _write(_result)
