"""What `siftune methods` prints: recipes, methods and selectors, or one of them with its settings."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any, Literal, get_args, get_origin, get_type_hints

from siftune._common.registry import unknown_name
from siftune.config.catalogue import METHODS, RECIPES, SELECTORS, Recipe, owner_named, owners
from siftune.config.options import OwnSettings
from siftune.config.owned import plainly

_INDENT = " " * 25


def print_methods() -> None:
    """Three tables: recipes, methods, selectors."""
    print("Recipes (--method): a method and a selector as published together\n")
    _print_entry("auto", "the published recipe for your target and budget; says what it chose and why")
    for recipe in RECIPES.values():
        _print_entry(recipe.name, together(recipe), paper=recipe.paper)
    print("Methods (--method METHOD:SELECTOR, or --representation): what is computed of rows\n")
    for name, found in METHODS.available().items():
        _print_entry(name, found.summary, paper=found.paper, needs=needs_of(found), cost=found.cost,
                     settings=", ".join(settings_of(found)))
    print("Selectors (--selector): how rows are chosen by that\n")
    for name, found in SELECTORS.available().items():
        info = found.info
        _print_entry(name, info.summary, paper=info.paper, needs=info.needs, cost=info.complexity, suits=info.suits,
                     settings=", ".join(settings_of(found)))
    print("`siftune methods NAME` shows all settings of one.")


def print_method(name: str) -> None:
    """One recipe, method or selector with every setting: default, range, the paper's value, and how to set it."""
    recipe = RECIPES.get(name)
    if recipe is not None:
        _print_entry(name, together(recipe), paper=recipe.paper)
        shown = [owner for owner in (recipe.representation, recipe.selector) if owner != "none"]
    else:
        shown = [owner_named(name) or name]
    for owner in shown:
        _print_owner(owner)


def check_name(name: str) -> None:
    """Refuse what is no method, selector or recipe.

    Raises:
        ConfigError: with the nearest name.
    """
    if name not in METHODS and name not in SELECTORS and name not in RECIPES:
        raise unknown_name("method or selector", name, [*owners(), *RECIPES], flag="siftune methods")


def _print_owner(owner: str) -> None:
    if owner in METHODS:
        found = METHODS.get(owner)
        _print_entry(owner, found.summary, paper=found.paper, needs=needs_of(found), cost=found.cost)
    else:
        found = SELECTORS.get(owner)
        info = found.info
        _print_entry(owner, info.summary, paper=info.paper, needs=info.needs, cost=info.complexity, suits=info.suits)
    fields = settings_of(found)
    if not fields:
        print(f"  {owner} has no settings of its own.\n")
        return
    hints = get_type_hints(getattr(found, "Settings", OwnSettings))
    print(f"Settings of {owner}: --set NAME=VALUE, or in YAML {owner}: {{NAME: VALUE}}\n")
    for name, field in fields.items():
        paper = field.metadata.get("paper")
        _print_entry(name, field.metadata.get("help", ""), default=plainly(field.default),
                     values=values_of(field, hints[name]), paper="" if paper is None else plainly(paper),
                     type=f"--set {name}={plainly(_example(field, hints[name]))}")


def values_of(field: dataclasses.Field[Any], hint: Any) -> str:
    """The choices or the range."""
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    if hint is bool:
        return "true, false"
    rule = field.metadata.get("rule")
    return rule.words if rule else ""


def _example(field: dataclasses.Field[Any], hint: Any) -> Any:
    """Another value than the default, where one is known."""
    if get_origin(hint) is Literal:
        return next((value for value in get_args(hint) if value != field.default), field.default)
    if hint is bool:
        return not field.default
    return field.default if isinstance(field.default, int | float) and field.default else "VALUE"


def settings_of(found: Any) -> dict[str, dataclasses.Field[Any]]:
    """The settings of a method or selector, by name."""
    return {f.name: f for f in dataclasses.fields(getattr(found, "Settings", OwnSettings))}


def needs_of(method: Any) -> str:
    """Model, target, or nothing."""
    needs = [name for name, needed in (("model", method.needs_model), ("target", method.needs_target)) if needed]
    return ", ".join(needs) or "nothing"


def together(recipe: Recipe) -> str:
    """A recipe in a sentence."""
    return f"{recipe.representation} + {recipe.selector}. {recipe.summary}"


def _print_entry(name: str, summary: str, **facts: str) -> None:
    print(textwrap.fill(summary, 100, initial_indent=f"  {name:22} ", subsequent_indent=_INDENT))
    told = "; ".join(f"{key}: {value}" for key, value in facts.items() if value)
    if told:
        print(textwrap.fill(told, 100, initial_indent=_INDENT, subsequent_indent=_INDENT))
    print()
