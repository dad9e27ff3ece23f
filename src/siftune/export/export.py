"""``siftune export``: one entry, one writer for each trainer and form."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError, ModelError
from siftune._common.registry import unknown_name
from siftune.config.options import shown
from siftune.config.settings import read_yaml
from siftune.data.rows import Dropped, Row
from siftune.export import trainers
from siftune.export.check import Checked, check_export
from siftune.export.hub import Publication, publish
from siftune.export.outputs import check_outputs
from siftune.export.scored import Scored, score
from siftune.export.selected import read_selected
from siftune.export.tokens import settings_file, tokenised_folder, write_tokens
from siftune.export.written import Written
from siftune.models.objects import named
from siftune.pipeline.run import Run

TRAINERS = ("trl", "llamafactory", "axolotl")
TARGETS = ("jsonl", *TRAINERS, "hub")
"""Where a selection can be exported to."""

FORMS = ("auto", "messages", "tokens")
"""What rows can be written as: text, or the ids and labels that were scored."""


_OTHERWISE = ("these messages may come out with other ids or another loss mask than were scored: --check compares, and "
              "--form tokens is exact")


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        files: The data file first, then what belongs to it.
        rows: How many rows it has.
        note: How to train on it.
        form: ``messages`` or ``tokens``; ``original`` for the records as they came.
        warnings: What is not as one would expect.
        left_out: Rows that the template of the model in use cannot render.
        checked: What the trainer made of it, where that was asked for.
    """

    files: list[Path]
    rows: int
    note: str
    form: str = "messages"
    warnings: list[str] = field(default_factory=list)
    left_out: list[Dropped] = field(default_factory=list)
    checked: Checked | None = None

    def __str__(self) -> str:
        lines = [*map(str, self.files), *([self.note] if self.note else []), *(f"warning: {w}" for w in self.warnings)]
        return "\n".join([*lines, *([str(self.checked)] if self.checked else [])])


def export(run: str | Path | Run, to: str = "jsonl", output: str | Path | None = None, *,
           form: str = "auto", model: Any = None, check: bool = False, python: str | Path | None = None,
           publication: Publication | None = None, format: str | None = None) -> Exported:
    """Write the selected rows of a run as a trainer reads them, best first, each with its id.

    Args:
        run: A run folder with ``selected.jsonl``, or the result of a selection.
        to: One of :data:`TARGETS`.
        output: The data file to write if it has an ending, otherwise a folder, where the file is
            ``selected.jsonl``; ``export-<to>`` inside the run folder when not given. Files that go with the data are
            written beside it. For ``hub`` a folder.
        form: One of :data:`FORMS`. ``auto`` writes messages where the trainer is known to make of them the ids and the
            loss mask that were scored, and these themselves otherwise; messages where the model is not known.
        model: Whose tokenizer renders the rows, as in ``select``; that of the run when not given.
        check: Let the trainer load what was written, and compare with what was scored, row by row.
        python: The Python that the trainer is installed in, for ``check``; this one when not given.
        publication: What an export ``to="hub"`` says of licence and place, and whether it is pushed.
        format: Format of the selected rows; that of the run's configuration when not given.

    Raises:
        ConfigError: ``to`` or ``form`` is not known or do not go together, ``run`` is no folder, the run is in a
            temporary folder and no other is named, or the output is a file that the run was made from, would be read
            as a part of its pool, or belongs to a run.
        DataError: the run has no readable selection, or the form cannot hold its rows.
        ModelError: the model that is named, or whose ids are asked for, cannot be found.
        SiftuneError: the operating system refused the write, or the trainer could not be run.
    """
    if to not in TARGETS:
        raise unknown_name("trainer", to, TARGETS, flag="--to")
    if form not in FORMS:
        raise unknown_name("form", form, FORMS, flag="--form")
    if to not in TRAINERS and (form == "tokens" or check):
        raise ConfigError(f"{'--check' if check else '--form tokens'} is for trainers, and {to} is none", where="--to",
                          hint=f"choose one of {', '.join(TRAINERS)}")
    if publication is not None and to != "hub":
        raise ConfigError("licence, place and push are for data sets on the hub", where="--to",
                          hint="add --to hub, or leave them out")
    if isinstance(run, Run):
        if run.temporary and not output:
            raise ConfigError("the run is in a temporary folder, which goes when the result does", where="output",
                              hint=f"name where to write: output=\"export-{to}\"")
        run = run.folder
    if not isinstance(run, str | Path):
        raise ConfigError(f"there is no run to export: {shown(run)}", where="run",
                          hint="name a run folder, or give the result of siftune.select")
    run = Path(run)
    config = read_yaml(run / "config.yaml") if (run / "config.yaml").is_file() else {}
    if format is None:
        format = str(config.get("format", "auto"))
    rows = read_selected(run, "mixed" if format == "auto" else format)
    output = Path(output) if output else run / f"export-{to}"
    if to == "hub":
        return _published(rows, run, config, output, publication or Publication())
    file = output if output.suffix else output / "selected.jsonl"
    check_outputs(_files(to, file), run, config)
    if to == "jsonl":
        return _exported(trainers.write_jsonl(rows, file), len(rows), "original")
    with ExitStack() as stack:
        name = None if model is None else stack.enter_context(named(model))
        scored, warnings = _scored(rows, run, config, name, needed=form == "tokens" or check)
        return _for_trainer(to, form, rows, file, scored, warnings, python if check else None, check)


def _for_trainer(to: str, form: str, rows: list[Row], file: Path, scored: Scored | None, warnings: list[str],
                 python: str | Path | None, check: bool) -> Exported:
    if scored is not None:
        rows = scored.rows
    fits = scored is not None and to == "trl" and form != "tokens" and trainers.fits_trl(scored)
    if form == "auto":
        form = "messages" if scored is None or fits else "tokens"
    if form == "tokens":
        assert scored is not None
        written = write_tokens(to, scored, file)
    else:
        write = {"trl": trainers.write_trl, "llamafactory": trainers.write_llamafactory,
                 "axolotl": trainers.write_axolotl}[to]
        written = write(rows, file, scored)
        if scored is not None and not fits:
            warnings = [*warnings, _OTHERWISE]
    checked = None
    if check:
        assert scored is not None
        checked = check_export(to, written, scored, python)
    return _exported(written, len(rows), form, warnings, scored.left_out if scored else [], checked)


def _exported(written: Written, rows: int, form: str, warnings: list[str] | None = None,
              left_out: list[Dropped] | None = None, checked: Checked | None = None) -> Exported:
    return Exported(written.files, rows, written.note, form, [*(warnings or []), *written.warnings], left_out or [],
                    checked)


def _scored(rows: list[Row], run: Path, config: Mapping[str, Any], model: str | None, *,
            needed: bool) -> tuple[Scored | None, list[str]]:
    """What was scored, with warnings; None where neither the run nor the caller names a model that can be loaded."""
    name = model or str(config.get("model") or "")
    if not name:
        if needed:
            raise ConfigError("the run does not say which model it was made with", where=str(run),
                              hint="name the model whose tokenizer the trainer uses: --model my-model")
        return None, []
    try:
        return score(rows, config, name, run / "manifest.json")
    except ModelError as error:
        if needed or model:
            raise
        return None, [f"the model of the run cannot be loaded ({error.what}): whether the trainer makes of these rows "
                      "what was scored cannot be config; name it with --model"]


def _published(rows: list[Row], run: Path, config: Mapping[str, Any], output: Path,
               publication: Publication) -> Exported:
    check_outputs([output / "README.md", output / "data" / "train.jsonl", output / "siftune.json"], run, config)
    return _exported(publish(rows, run, config, output, publication), len(rows), "messages")


def _files(to: str, file: Path) -> list[Path]:
    """All that an export may write, but for a ``dataset_info.json``, which only gets an entry."""
    files = [file]
    if to in TRAINERS:
        files.append(settings_file(file, to))
    if to == "llamafactory":
        files.append(tokenised_folder(file))
    return files
