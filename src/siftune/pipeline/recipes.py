"""What ``--method`` means: the recipe of a name, its parts replaced where the user names them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from siftune._common.errors import ConfigError
from siftune.config.catalogue import METHODS, SELECTORS, Recipe, recipe_named
from siftune.pipeline.auto import Situation, recommend


def representation_of(name: str, *, flag: str = "--representation") -> Any:
    """The method of a name, or of ``file:PATH``: an instance of its class.

    Raises:
        ConfigError: there is no such name.
    """
    if name == "file":
        raise ConfigError("no file with vectors or scores is named", where=flag, hint=f"write {flag} file:PATH")
    if name.startswith("file:"):
        return METHODS.get("file", flag=flag)(name.removeprefix("file:"))
    return METHODS.get(name, flag=flag)()


def resolve(method: str, representation: str = "", selector: str = "", *, has_target: bool = True,
            has_existing: bool = False, situation: Situation | None = None) -> Recipe:
    """The recipe of a name, with its parts replaced where the user names them.

    Args:
        method: a name that :func:`siftune.config.catalogue.recipe_named` knows, or ``auto``.
        representation, selector: replacements; empty to keep the method's own.
        has_target, has_existing: whether there are such files.
        situation: what ``auto`` looks at besides; as good as a small pool when not given.

    Raises:
        ConfigError: an unknown name, or a method that needs a target and has none.
    """
    if method == "auto":
        advice = recommend(situation or Situation(has_target, has_existing))
        chosen = recipe_named(advice.method, has_target, has_existing)
        chosen = replace(chosen, selector=advice.selector or chosen.selector, reason=advice.reason)
    else:
        chosen = recipe_named(method, has_target, has_existing)
    if representation or selector:
        rep, sel = representation or chosen.representation, selector or chosen.selector
        representation_of(rep)
        SELECTORS.get(sel, flag="--selector")
        chosen = Recipe(f"{rep}:{sel}", rep, sel, "A free combination.")
    found = representation_of(chosen.representation)
    needs = SELECTORS.get(chosen.selector).info.needs
    if not has_target and found.needs_target and needs not in getattr(found, "without_target", ()):
        raise ConfigError(f"the method {chosen.name} compares with targets, and there are none", where="--target",
                          hint="give a file with a few examples of what the model must learn, or choose a method that "
                               "needs none: --method mads, or random")
    return chosen

