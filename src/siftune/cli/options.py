"""Command-line flags made from the fields of a config, so that flag, YAML key and help text have one source."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from siftune._common.errors import ConfigError
from siftune.config.catalogue import METHODS, RECIPES, SELECTORS
from siftune.config.settings import DataConfig, flag_of
from siftune.config.shared import DATA, FIRST, MODEL, RUN, SELECTION, TRAINING

_METAVARS = {int: "N", float: "X", bool: None}
_GROUPS = (FIRST, MODEL, DATA, SELECTION, TRAINING, RUN)
_FIRST = ("--pool", "--target", "--validation", "--budget", "--within", "--method", "--methods", "--arms", "--set")


class Grouped(TyperCommand):
    """A command whose ``--help`` has its options in titled groups, what everyone needs first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[Any]] = {name: [] for name in (*_GROUPS, "Other")}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and parameter.param_type_name == "option":
                group = getattr(parameter, "rich_help_panel", None) or "Other"
                groups.setdefault(group, []).append((parameter.opts[0], record))
        for name, found in groups.items():
            if name == FIRST:
                found.sort(key=lambda entry: _FIRST.index(entry[0]) if entry[0] in _FIRST else len(_FIRST))
            if found:
                with formatter.section(name):
                    formatter.write_dl([record for _, record in found])


def with_options(kind: type[DataConfig], *, leave_out: tuple[str, ...] = (), positional: bool = True,
                 ) -> Callable[[Any], Any]:
    """Give a function ``f(flags, config_file, **own)`` one command-line option per field of a config.

    The function receives only the flags that were typed, by field name; defaults stay with the config, so that a
    YAML file can provide what the command line does not.

    Args:
        kind: which config.
        leave_out: fields that are no flags of this command.
        positional: whether the YAML file may stand by itself, without ``--config``.
    """

    def decorate(function: Any) -> Any:
        hints = get_type_hints(kind)
        fields = [f for f in dataclasses.fields(kind) if f.name not in leave_out]
        own = [p for p in inspect.signature(function, eval_str=True).parameters.values()
               if p.name not in ("flags", "config_file")]

        def command(**values: Any) -> None:
            config_file = settings_file(values.pop("settings", None), values.pop("config_file"),
                                        f"siftune {function.__name__}")
            rest = {p.name: values.pop(p.name) for p in own}
            typed = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if v not in (None, [])}
            function(typed, config_file, **rest)

        parameters = [*own, *([_SETTINGS] if positional else []), _config_file(),
                      *(_parameter(f, hints[f.name]) for f in fields)]
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters])
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__doc__, command.__name__ = function.__doc__, function.__name__
        return command

    return decorate


SpeedsOption = Annotated[str, typer.Option(
    help="Known speeds, which are not measured then: a number for passes with gradients, or "
         "gradients=900,forward=2700. With these the model's weights are not read.", metavar="SPEEDS",
    show_default=False)]

_SETTINGS = inspect.Parameter("settings", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[
    str | None, typer.Argument(help="YAML file with settings, as for --config.", metavar="SETTINGS.yaml")])


def settings_file(given: str | None, config: str | None, command: str) -> str | None:
    """The settings file, named by itself or with ``--config``.

    Raises:
        ConfigError: both are named, or what stands by itself is no YAML file.
    """
    if given is None:
        return config
    if config is not None:
        raise ConfigError("two settings files are named", where=f"{command} {given} --config {config}",
                          hint="name one of them")
    if not given.endswith((".yaml", ".yml")):
        raise ConfigError(f"{command} takes a settings file by itself, and {given} is no YAML file", where=command,
                          hint=f"for rows type --pool {given}; `siftune init {given}` writes a settings file")
    return given


def _complete(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


complete_method = _complete(lambda: dict.fromkeys(["auto", *RECIPES, *METHODS.names()]))
"""The shell's completion of what ``--method`` takes."""

complete_owner = _complete(lambda: dict.fromkeys([*RECIPES, *METHODS.names(), *SELECTORS.names()]))
"""Of what ``siftune methods`` takes."""

_COMPLETED = {"method": complete_method, "methods": complete_method, "representation": _complete(METHODS.names),
              "selector": _complete(SELECTORS.names)}


def _config_file() -> inspect.Parameter:
    option = typer.Option("--config", help="YAML file with any of these settings; flags win. Settings of a method or "
                          "selector stand there in a block of its name.", metavar="FILE", rich_help_panel=RUN)
    return inspect.Parameter("config_file", inspect.Parameter.KEYWORD_ONLY, default=None,
                             annotation=Annotated[str | None, option])


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    blocks = get_origin(hint) not in (None, tuple, Literal) and issubclass(get_origin(hint), Mapping)
    many = get_origin(hint) is tuple or blocks
    # Texts but for switches: the config reads numbers and choices, and tells mistakes the same way as for YAML.
    kind: Any = list[str] if many else bool if hint is bool else str
    default: Any = () if blocks else field.default
    shown = "" if default in ((), "", None) else f" [default: {', '.join(default) if many else default}]"
    paper = field.metadata["paper"]
    shown += f" [{paper}]" if paper is not None else ""
    flag = flag_of(field)
    names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
    metavar = ("|".join(get_args(hint)) if get_origin(hint) is Literal else "NAME=VALUE" if blocks
               else _METAVARS.get(hint, "TEXT"))
    option = typer.Option(*names, help=field.metadata["help"] + shown, rich_help_panel=field.metadata["group"],
                          metavar=metavar, show_default=False, autocompletion=_COMPLETED.get(field.name))
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None,
                             annotation=Annotated[kind | None, option])
