"""What is known about each selector, for the front door and for ``siftune methods``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.selectors.core.selection import Selection


@dataclass(frozen=True)
class SelectorInfo:
    """A selector in a few words.

    Attributes:
        name: as written after ``--selector``.
        summary: one sentence, what it does.
        paper: where it was published; empty for a folk baseline.
        needs: what the problem must carry. ``scores`` is satisfied by similarities too,
            ``kernel`` by vectors.
        complexity: N pool rows, M targets, B selected rows.
        suits: the sizes it is meant for.
    """

    name: str
    summary: str
    paper: str
    needs: Literal["similarities", "scores", "vectors", "kernel", "sets", "lengths", "nothing"]
    complexity: str
    suits: str


@dataclass(frozen=True)
class Selector:
    """A function ``run(problem, budget, *, options...) -> Selection`` under a registered name.

    Attributes:
        info: its description.
        run: the function; its keyword-only parameters are the selector's options.
        preset: options that the name itself decides, not open to the user.
    """

    info: SelectorInfo
    run: Callable[..., Selection]
    preset: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> list[str]:
        """Names of the options a user may give."""
        parameters = inspect.signature(self.run).parameters.values()
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in self.preset]

    def checked(self, name: str, value: Any) -> Any:
        """The value of an option, as it was written by a user, if it is of the option's type.

        Raises:
            ConfigError: it is not.
        """
        wanted = get_type_hints(self.run)[name]
        if get_origin(wanted) is Literal:
            if value not in get_args(wanted):
                raise unknown_name(f"value of the option {name}:", str(value), map(str, get_args(wanted)),
                                   flag="--option")
            return value
        plain = [kind for kind in (get_args(wanted) or (wanted,)) if kind in (bool, int, float, str)]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if float in plain and number:
            return float(value)
        if plain and not any(type(value) is kind for kind in plain) and value is not None:
            raise ConfigError(f"the option {name} cannot be {value!r}", where="--option",
                              hint=f"give it a value of type {' or '.join(kind.__name__ for kind in plain)}")
        return value
