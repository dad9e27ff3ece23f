"""From what a program gives (paths or objects, keyword arguments) to the settings that every job reads."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any, Generic, TypeVar

from siftune._common.errors import ConfigError, SiftuneError
from siftune.config.options import shown
from siftune.config.settings import DataConfig, SelectConfig, load
from siftune.data.objects import ObjectFiles
from siftune.models.lent import is_object
from siftune.selectors.core.budget import Budget

ROLES = ("pool", "target", "test", "existing", "validation")

C = TypeVar("C", bound=DataConfig)


@dataclasses.dataclass
class Request(Generic[C]):
    """Settings, and the temporary folder that they may name.

    Attributes:
        config: complete but for what a job derives itself.
        temporary: the folder, where none was named.
    """

    config: C
    temporary: Path | None = None
    _kept: bool = False

    def keep_with(self, result: Any, *more: Any) -> None:
        """Let the temporary folder live as long as a result does, and so whatever else is given."""
        self._kept = True
        weakref.finalize(result, _let_go, self.temporary, more)


def _let_go(temporary: Path | None, more: Any) -> None:
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def requested(kind: type[C], config: Any, given: Mapping[str, Any], *, folder: bool = True,
              called: Mapping[str, str] | None = None) -> Iterator[Request[C]]:
    """The settings of a job, for the time of the block: a model object is lent for that long.

    Args:
        kind: of the settings.
        config: settings that are complete already, or None.
        given: what was given by name instead; None stands for not given. ``pool``, ``target``, ``test``, ``existing``
            and (where there is such a setting) ``validation`` are paths or objects, ``model`` is a name or an object,
            ``from_run`` a folder or a :class:`~siftune.pipeline.run.Run`; all others are settings.
        folder: whether the job writes a run folder. One that does not has its objects in a temporary folder.
        called: how messages call ``pool`` and the others, where their arguments have other names.

    Raises:
        ConfigError: both or neither of them; an unknown setting, a wrong value, or one that an object does not go with.
        SiftuneError: whatever the block raises; places in files that were written of objects are named as the program
            knows them.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if config is not None:
        if not isinstance(config, kind):
            raise ConfigError(f"the first argument cannot be a {type(config).__name__}", where=kind.__name__,
                              hint="name what you give: pool=..., target=...")
        if given:
            raise ConfigError(f"settings were given twice: as a {kind.__name__}, and as {', '.join(given)}",
                              where=kind.__name__, hint="write all of them into the one or the other")
        yield Request(config)
        return
    from siftune.models.objects import named

    roles = [role for role in ROLES if role in {f.name for f in dataclasses.fields(kind)}]
    values = {name: _setting(name, value) for name, value in given.items() if name not in (*roles, "model")}
    with ExitStack() as stack:
        has_model = any(f.name == "model" for f in dataclasses.fields(kind))
        if "model" in given and has_model:
            values["model"] = stack.enter_context(named(given["model"]))
        settings = load(kind, None, values)
        if isinstance(settings, SelectConfig):
            _check_workers(settings)
        temporary = None
        place = str(values.get("output_dir") or "")
        if not (place and folder):
            temporary = Path(tempfile.mkdtemp(prefix="siftune-"))
            place = str(temporary / "run")
        files = ObjectFiles(Path(place) / "inputs")
        request = Request(settings, temporary)
        try:
            paths = {role: files.paths(given[role], role, (called or {}).get(role, ""))
                     for role in roles if role in given}
            named_folder = {"output_dir": place} if folder and isinstance(settings, SelectConfig) else {}
            request.config = dataclasses.replace(settings, **paths, **named_folder)
            yield request
        except SiftuneError as error:
            raise files.renamed(error) from error.__cause__
        finally:
            if temporary is not None and not request._kept:
                shutil.rmtree(temporary, ignore_errors=True)


def _setting(name: str, value: Any) -> Any:
    """A value as the settings have it."""
    if name in ("columns", "limits") and isinstance(value, Mapping):
        return tuple(f"{key}={item}" for key, item in value.items())
    if name == "quotas" and isinstance(value, Mapping):
        return tuple(_quota(group, limits) for group, limits in value.items())
    if isinstance(getattr(value, "folder", None), Path):  # the result of a selection or a comparison
        return str(value.folder)
    if isinstance(value, Budget):
        return value.asked
    if isinstance(value, Integral) and not isinstance(value, bool):  # numpy's whole numbers too
        return int(value)
    return str(value) if isinstance(value, Path) else value


def _quota(group: Any, limits: Any) -> str:
    """``GROUP=FLOOR..CEILING`` of a pair, either of which may be None."""
    if not isinstance(limits, (tuple, list)) or len(limits) != 2:
        raise ConfigError(f"the quota of {group!r} cannot be {shown(limits)}", where="quotas",
                          hint='give floor and ceiling: quotas={"math": ("10%", None)}')
    floor, ceiling = ("" if limit is None else str(limit) for limit in limits)
    return f"{group}={floor}..{ceiling}"


def _check_workers(config: SelectConfig) -> None:
    if is_object(config.model) and (config.workers > 1 or config.executor != "local"):
        given = f"--workers {config.workers}" if config.workers > 1 else f"--executor {config.executor}"
        raise ConfigError("a model object cannot be handed to other processes", where=given,
                          why="Each worker loads a model of its own, by its name.",
                          hint="leave it out, or save the model and name its folder: model.save_pretrained(folder), "
                               "tokenizer.save_pretrained(folder), model=folder")
