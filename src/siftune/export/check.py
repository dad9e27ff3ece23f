"""``siftune export --check``: what the trainer makes of an export, compared with what siftune scored, row by row.

The trainer loads the files in a process of its own (:mod:`siftune.export.consumers`), so that nothing it changes in the
libraries it shares with siftune is felt here, and so that it may be installed in another environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError, SiftuneError
from siftune._common.text import visible
from siftune.export.alignment import aligned
from siftune.export.consumers.jobs import NOT_INSTALLED
from siftune.export.scored import IGNORED, Scored
from siftune.export.written import Written

_SCRIPTS = Path(__file__).parent / "consumers"
_SHOWN = 10  # rows that differ that the text tells


@dataclass(frozen=True, slots=True)
class Difference:
    """A row of which the trainer makes something else than was scored.

    Attributes:
        id: The row.
        kind: ``ids``, ``mask``, ``missing`` (the trainer leaves the row out) or ``error`` (it refuses the row).
        detail: The first token that differs, or what the trainer said.
    """

    id: str
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.id}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a trainer made of an export.

    Attributes:
        trainer: ``trl``, ``axolotl`` or ``llamafactory``.
        versions: Of the trainer and what it loads with.
        rows: How many rows were compared.
        differences: Those that differ; all others have the ids and the mask that were scored.
    """

    trainer: str
    versions: dict[str, str]
    rows: int
    differences: list[Difference] = field(default_factory=list)

    @property
    def identical(self) -> int:
        return self.rows - len(self.differences)

    def __str__(self) -> str:
        names = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = [f"checked with {names}: {self.identical:,} of {self.rows:,} rows have the ids and the loss mask that "
                 "were scored"]
        lines += [f"  {visible(str(one))}" for one in self.differences[:_SHOWN]]
        if len(self.differences) > _SHOWN:
            lines.append(f"  ... and {len(self.differences) - _SHOWN:,} more rows")
        return "\n".join(lines)


def check_export(to: str, written: Written, scored: Scored, python: str | Path | None = None, *,
                 each: bool = False) -> Checked:
    """Let a trainer load an export, and compare.

    Args:
        to: The trainer.
        written: What the export wrote.
        scored: What was scored.
        python: The Python that the trainer is installed in; this one when not given.
        each: Load row by row where the file as a whole cannot be loaded.

    Raises:
        ConfigError: the trainer is not installed there, or there is no such Python.
        SiftuneError: the trainer refuses the file.
    """
    [checked] = check_exports(to, [(written, scored)], python, each=each)
    return checked


def check_exports(to: str, exports: Sequence[tuple[Written, Scored]], python: str | Path | None = None, *,
                  each: bool = False) -> list[Checked]:
    """The same for several exports, with one start of the trainer."""
    with tempfile.TemporaryDirectory(prefix="siftune-check-") as temporary:
        jobs = [_job(Path(temporary) / str(number), written, scored, each)
                for number, (written, scored) in enumerate(exports)]
        _run(to, python, jobs)
        results = []
        for job, (_, scored) in zip(jobs, exports, strict=True):
            made = json.loads(Path(job["output"]).read_text(encoding="utf-8"))
            if "error" in made:
                raise SiftuneError(f"{to} cannot load what was written", where=job["data"], why=made["error"],
                                   hint="export with --form tokens, which every trainer reads")
            results.append(Checked(to, made["versions"], len(scored.rows), compare(scored, made["rows"])))
        return results


def compare(scored: Scored, rows: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """The rows of which a trainer made something else.

    Args:
        scored: What was scored.
        rows: What the trainer has, in its order: ``input_ids``, ``labels``, and ``id`` where it keeps that; where it
            does not, its rows are taken to be in the order of the file, some left out.
    """
    ours = [one.ids.tolist() for one in scored.rendered]
    places: list[int | None]
    if all("id" in row for row in rows):
        by_id = {str(row["id"]): number for number, row in enumerate(rows)}
        places = [by_id.get(row.id) for row in scored.rows]
    else:
        places = aligned([(ids, scored.labels(i)) for i, ids in enumerate(ours)],
                         [(row["input_ids"], row["labels"]) for row in rows])
    differences = []
    for i, (row, place) in enumerate(zip(scored.rows, places, strict=True)):
        if place is None:
            differences.append(Difference(row.id, "missing", "the trainer leaves it out"))
        elif "error" in rows[place]:
            kind = "missing" if rows[place]["error"] == "dropped" else "error"
            differences.append(Difference(row.id, kind, rows[place]["error"]))
        elif (one := _difference(scored, i, rows[place])) is not None:
            differences.append(Difference(row.id, *one))
    return differences


def _difference(scored: Scored, i: int, theirs: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first token of a row that differs. The label of the first token says nothing: no token predicts it."""
    ours, labels = scored.rendered[i].ids.tolist(), scored.labels(i)
    ids, other = theirs["input_ids"], theirs["labels"]
    for t in range(max(len(ours), len(ids))):
        if ours[t : t + 1] != ids[t : t + 1]:
            return "ids", f"token {t}: {_shown(scored, ours, t)} was scored, the trainer has {_shown(scored, ids, t)}"
        if t and labels[t] != other[t]:
            more = "was scored, and the trainer leaves it out of the loss" if other[t] == IGNORED else (
                "was not scored, and the trainer has it in the loss")
            return "mask", f"token {t}: {_shown(scored, ours, t)} {more}"
    return None


def _shown(scored: Scored, ids: Sequence[int], t: int) -> str:
    return repr(scored.tokenizer.decode([ids[t]])) if t < len(ids) else "no more"


def _job(folder: Path, written: Written, scored: Scored, each: bool) -> dict[str, Any]:
    (folder / "model").mkdir(parents=True)
    (folder / "cache").mkdir()
    scored.tokenizer.save_pretrained(folder / "model")
    # A trainer wants a model beside the tokenizer; for what it makes of rows the smallest will do.
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 8,
              "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
              "vocab_size": len(scored.tokenizer), "max_position_embeddings": max(scored.max_length, 2048),
              "bos_token_id": scored.tokenizer.bos_token_id, "eos_token_id": scored.tokenizer.eos_token_id,
              "pad_token_id": scored.tokenizer.pad_token_id}
    (folder / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    job = {"settings": str(Path(written.settings or "").absolute()), "data": str(written.files[0].absolute()),
           "model": str(folder / "model"), "cache": str(folder / "cache"), "output": str(folder / "made.json"),
           "each": each}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return {**job, "job": str(folder / "job.json")}


def _run(to: str, python: str | Path | None, jobs: Sequence[Mapping[str, Any]]) -> None:
    # The Python path leads to the packages of this environment, which are not those of another.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [str(python or sys.executable), str(_SCRIPTS / f"load_{to}.py"), *(str(job["job"]) for job in jobs)]
    try:
        done = subprocess.run(command, env=environment, cwd=Path(jobs[0]["cache"]), capture_output=True, text=True,
                              check=False, errors="replace")
    except OSError as error:
        raise ConfigError("that Python cannot be run", where=str(python), why=error.strerror or str(error),
                          hint="give the path of the python that the trainer is installed in") from error
    if done.returncode == NOT_INSTALLED:
        raise ConfigError(f"{to} is not installed in this environment" if python is None else
                          f"{to} is not installed there", where=command[0],
                          why="What was written is not checked.",
                          hint="name the Python of the environment that it is in: --check --python PATH")
    if done.returncode or not all(Path(job["output"]).is_file() for job in jobs):
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["It said nothing."]
        raise SiftuneError(f"{to} could not be run", where=command[0], why=said[-1][:300],
                           hint="see that it starts by itself in that environment")
