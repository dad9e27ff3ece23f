"""`siftune init`: a settings file with comments, written for files of the user's after a look into them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError
from siftune._common.files import write_text
from siftune.config.options import plain
from siftune.config.settings import DataConfig, SelectConfig, load
from siftune.data.load import read
from siftune.data.readers import Reading, Role
from siftune.data.rows import column

_WIDTH = 30  # of a setting before its comment
_MOST = 6  # names in a comment


def write_settings(config: DataConfig, path: str | Path, *, model: str, output_dir: str, replace: bool = False) -> Path:
    """Look into the files that a configuration names, and write settings for them.

    Args:
        config: names the pool, and target and test where they are known; how they are read.
        path: of the file to write.
        model: as for ``--model``; it is not loaded.
        output_dir: where a run goes.
        replace: write over a file that is there.

    Returns:
        The path.

    Raises:
        ConfigError: the file is there already, or a setting is not what it must be.
        DataError: a file cannot be read, or no row of it can be used.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise ConfigError(f"{path.name} is there already", where=str(path),
                          hint="name another file with --output, or type --force to write over it")
    if not config.pool:
        raise ConfigError("no pool is named", where="POOL",
                          hint="name the files to choose from, as in `siftune init pool.jsonl`")
    looked = dataclasses.replace(config, bad_rows="drop")
    roles: tuple[Role, ...] = ("pool", "target", "test")
    found: dict[Role, Reading] = {role: read(looked, getattr(config, role), role) for role in roles}
    write_text(path, _text(config, found, str(path), model, output_dir))
    load(SelectConfig, path, {})  # what was written is what is read
    return path


def _text(config: DataConfig, found: dict[Role, Reading], path: str, model: str, output_dir: str) -> str:
    fields = {f.name: f for f in dataclasses.fields(SelectConfig)}
    pool, target = found["pool"], found["target"]

    def line(name: str, value: Any, comment: str = "", *, off: bool = False) -> str:
        written = f"{'# ' if off else ''}{name}: {_yaml(value)}"
        return f"{written:{_WIDTH}}  # {comment}" if comment else written

    def asked(name: str, comment: str = "") -> str:
        """A setting of how data is read: on where it was asked for."""
        value = getattr(config, name)
        return line(name, plain(value), comment, off=value == fields[name].default)

    bad = f"{len(pool.dropped):,} of the pool cannot be used" if pool.dropped else "all rows can be used"
    lines = [
        "# Settings that `siftune init` wrote. Flags on the command line win over them; what begins with # is off.",
        f"#   siftune plan    {path}     how long it takes, how much memory and disk",
        f"#   siftune select  {path}     choose rows; writes them and a report",
        f"#   siftune compare {path}     the same, and trains on them and on random rows (needs a test file)",
        "# `siftune select --help` explains every setting, `siftune schema` writes a schema for editors.",
        "",
        *_seen("Pool", pool),
        line("pool", list(config.pool)),
        *(_seen("Target", target) if config.target else
          ["# Target: a few examples of what the model must learn. Without one, rows are chosen that cover the pool."]),
        line("target", list(config.target) or ["examples.jsonl"], off=not config.target),
        *(_seen("Test", found["test"]) if config.test else
          ["# Test: rows held out of pool and target, for `siftune compare`."]),
        line("test", list(config.test) or ["held_out.jsonl"], off=not config.test),
        "",
        line("budget", fields["budget"].default, "a share, rows (500) or tokens (20ktok)"),
        line("method", fields["method"].default, "`siftune methods` lists them; auto says what it took and why"),
        line("model", model, "a hub id, a local folder, an adapter folder, or embedded"),
        line("output_dir", output_dir, "the run folder; run again, it goes on where it was"),
        "",
        "# How rows are read",
        asked("format", "formats are told row by row with mixed"),
        line("columns", list(config.columns) or ["prompt=question", "completion=answer"],
             "PART=COLUMN where columns have other names", off=not config.columns),
        asked("id_field", "the field with a row's id"),
        asked("group_field", _counted("groups of the pool", column(pool.rows, "group"))),
        asked("subtask_field", _counted("subtasks of the target", column(target.rows, "subtask"))),
        line("bad_rows", "drop", bad, off=not pool.dropped and config.bad_rows == "error"),
        line("max_length", config.max_length, "tokens; longer rows are cut, and counted"),
        "",
        "# The adapter that gradients are taken of, and that `compare` trains",
        line("lora_rank", fields["lora_rank"].default, off=True),
        line("seed", fields["seed"].default, fields["seed"].metadata["help"].rstrip("."), off=True),
        line("workers", 2, "processes: one a GPU, or one a CPU core", off=True),
        "",
        "# Settings of a method or selector stand in a block of its name; `siftune methods less` lists those of LESS.",
        "# less:",
        "#   warmup_epochs: 2",
    ]
    return "\n".join(lines) + "\n"


def _seen(role: str, reading: Reading) -> list[str]:
    def columns(counts: Mapping[str, int]) -> list[str]:
        return [name for name in counts if "[]" not in name]  # those of turns are many

    told = []
    for source in reading.sources:
        formats = ", ".join(f"{name} {count:,}" for name, count in source.formats.items()) or "no usable row"
        told.append(_comment(f"{role}: {source.location}, {formats}. Used: {_some(columns(source.used))}."
                             + (f" Kept with the rows: {_some(columns(source.kept))}." if source.kept else "")))
    return told


def _counted(what: str, values: Sequence[str | None]) -> str:
    counts = Counter(value for value in values if value)
    return f"{len(counts):,} {what}: {_some(list(counts))}" if counts else f"no {what} are named"


def _some(names: Sequence[str]) -> str:
    more = f", ... and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return (", ".join(_comment(name, mark="")[:60] for name in names[:_MOST]) or "none") + more


def _comment(text: str, mark: str = "# ") -> str:
    """One line, whatever a file or column is called."""
    return mark + "".join(c if c.isprintable() else " " for c in text)


def _yaml(value: Any) -> str:
    import yaml

    written = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return written.strip().removesuffix("...").strip()


