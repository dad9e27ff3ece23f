"""One cell of an experiment: train on some rows with one seed (or not at all), score on the test rows, keep both.

Cells are kept by content: the folder's name is a hash of the rows, the settings, the seed and the base model. No arm,
run or repetition that shares a feature home trains on the same rows with the same seed twice, and a killed run
continues with the cells that are missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siftune._common.artefacts import digest, read_sealed, read_usable, write_sealed
from siftune._common.seeds import derive
from siftune.config.settings import CompareConfig
from siftune.data.render import Renderer
from siftune.data.rows import Examples, Rendered
from siftune.evaluation.choices import MIN_SHARE, find_choices
from siftune.features.gradient_settings import lora_settings

if TYPE_CHECKING:
    from siftune.evaluation.harness import HarnessTask
    from siftune.evaluation.likelihood import RenderedChoices
    from siftune.models.loading import LoadedModel
    from siftune.training.settings import TrainSettings


VERSION = 2
"""Of the scores: whoever changes how rows are scored counts up."""

SCORES, HARNESS_SCORES = "scores", "harness scores"
"""Kinds of artefacts."""

_PROMPT_TOKENS = 256
"""About what a prompt of a benchmark has: the harness takes a number of prompts for a batch, not of tokens."""


@dataclass(frozen=True)
class Cell:
    """One training and its scores.

    Attributes:
        title: for the progress bar.
        seed: k; with the run's seed it decides the adapter's initial weights, row order and dropout.
        rows: what is trained on; None for the model as it is (zero-shot).
        epochs: of the training; those of the configuration when not given.
    """

    title: str
    seed: int
    rows: tuple[Rendered, ...] | None
    epochs: int | None = None


@dataclass(frozen=True)
class TestRows:
    """What every cell is scored on.

    Attributes:
        ids: of the rows.
        rendered: for the loss.
        prompts, references: for exact match; empty where it is off.
        choices: what each row offers as answers, None where it offers none; empty where they are not scored.
        offering: rows that offer answers, scored or not.
    """

    __test__ = False  # not a test case of pytest's

    ids: list[str]
    rendered: Sequence[Rendered]
    prompts: list[np.ndarray]
    references: list[str]
    choices: Sequence[RenderedChoices | None] = ()
    offering: int = 0

    @property
    def tokens(self) -> int:
        """What scoring a training on them reads; about, where answers are generated."""
        count = sum(map(len, self.rendered)) + 2 * sum(map(len, self.prompts))
        return count + sum(len(option) for one in self.choices if one for option in one.options)

    def key(self, limit: int) -> str:
        """Of all that decides scores, but for the model: the rows, the prompts, what is asked of the answers.

        Args:
            limit: the most tokens of an answer.
        """
        made_from = {"ids": self.ids, "limit": limit, "references": self.references, "rows": _rows_key(self.rendered),
                     "prompts": _ids_key(self.prompts), "code": VERSION}
        if self.choices:
            made_from["choices"] = [one and [one.answer, list(one.sizes), _rows_key(one.options)]
                                    for one in self.choices]
        return digest(made_from)[:16]


def test_rows(examples: Examples, tokenizer: Any, config: CompareConfig) -> TestRows:
    """Test rows as every cell of a model is scored on them."""
    prompts, references = [], []
    if config.exact_match_tokens:
        renderer = Renderer(tokenizer, max_length=config.max_length)
        for row in examples.rows:
            prompt, reference = renderer.generation_prompt(row.messages, row.tools)
            prompts.append(prompt)
            references.append(reference)
    if config.choices == "off":
        return TestRows(examples.ids, examples.rendered, prompts, references)
    choices = _offered(examples, Renderer(tokenizer, max_length=config.max_length))
    offering = sum(one is not None for one in choices)
    is_scored = offering >= max(1, MIN_SHARE * len(choices))
    return TestRows(examples.ids, examples.rendered, prompts, references, choices if is_scored else (), offering)


test_rows.__test__ = False  # type: ignore[attr-defined]


def _offered(examples: Examples, renderer: Renderer) -> list[RenderedChoices | None]:
    from siftune.evaluation.likelihood import render_choices

    return [found and render_choices(row, found, renderer)
            for row, found in zip(examples.rows, find_choices(examples.rows), strict=True)]


def settings_of(config: CompareConfig, cell: Cell) -> TrainSettings:
    """How a cell is trained."""
    from siftune.training.settings import TrainSettings

    return TrainSettings(learning_rate=config.learning_rate, batch_size=config.batch_size,
                         micro_batch_tokens=config.micro_batch_tokens, epochs=cell.epochs or config.epochs,
                         seed=derive(config.seed, "training", cell.seed) % 2**31, report_to=config.report_to)


def scores_path(folder: Path, test: str) -> Path:
    """Of a cell's scores on the test rows of a key, in the cell's folder."""
    return folder / f"scores-{test}.json"


def harness_path(folder: Path, task: HarnessTask) -> Path:
    """Of a cell's scores on a task, in the cell's folder."""
    return folder / f"lm-eval-{task.key}.json"


def kept_scores(folder: Path, test: str) -> dict[str, Any] | None:
    """The scores of the cell in a folder on the test rows of a key; None where it has to be scored (again)."""
    return read_usable(scores_path(folder, test), SCORES, _made_from(folder, test))


def kept_harness_scores(folder: Path, task: HarnessTask) -> dict[str, Any] | None:
    """Likewise, its scores on a task of the harness."""
    return read_usable(harness_path(folder, task), HARNESS_SCORES, _made_from(folder, task.key))


def _made_from(folder: Path, test: str) -> str:
    """Key of a cell's scores: the cell's folder is named by all that it was trained on."""
    return f"{folder.name} {test}"


@dataclass(frozen=True)
class TrainingCache:
    """Where cells are kept: ``<root>/<content>/`` with the adapter and one score file for each set of test rows.

    Attributes:
        root: the folder.
        config: the run's settings.
        base: hash and dtype of the base model.
        harness: tasks of the lm-evaluation-harness that every cell is scored on besides.
    """

    root: Path
    config: CompareConfig
    base: str
    harness: tuple[HarnessTask, ...] = ()

    def folder(self, cell: Cell) -> Path:
        if cell.rows is None:
            return self.root / f"zero-shot-{digest(self.base)[:16]}"
        made_from = {"base": self.base, "lora": lora_settings(self.config), "adapter": self.config.seed,
                     "seed": cell.seed, "train": settings_of(self.config, cell), "rows": _rows_key(cell.rows)}
        return self.root / digest(made_from)[:16]

    def scores_file(self, cell: Cell, test: str) -> Path:
        """Where the scores on the test rows of that key (:meth:`TestRows.key`) are kept."""
        return scores_path(self.folder(cell), test)

    def has(self, cell: Cell, test: str) -> bool:
        return kept_scores(self.folder(cell), test) is not None

    def harness_file(self, cell: Cell, task: HarnessTask) -> Path:
        """Where what :func:`~siftune.evaluation.harness.harness_scores` tells is kept."""
        return harness_path(self.folder(cell), task)

    def unscored(self, cell: Cell) -> list[HarnessTask]:
        """The tasks of the harness that the cell has no scores of."""
        return [task for task in self.harness if kept_harness_scores(self.folder(cell), task) is None]

    def harness_scores(self, cell: Cell) -> dict[str, Any]:
        """Those of all tasks, as :func:`~siftune.evaluation.harness.harness_scores` tells them."""
        return {name: told for task in self.harness for name, told in read_sealed(
            self.harness_file(cell, task), HARNESS_SCORES, _made_from(self.folder(cell), task.key)).items()}

    def scores(self, cell: Cell, test: str) -> dict[str, Any]:
        """``loss`` [test rows], ``correct`` [test rows] of true, false or null, ``answers``, ``steps``, ``seconds``;
        where options are scored, ``acc`` and ``acc_norm`` [test rows] of true, false or null."""
        return read_sealed(self.scores_file(cell, test), SCORES, _made_from(self.folder(cell), test))


def train_and_score(loaded: LoadedModel, shelf: TrainingCache, cell: Cell, tests: Mapping[str, TestRows]) -> None:
    """Train a cell, unless its adapter is there, and score it on those test rows and tasks that it has no scores of."""
    from siftune.models.lora import attach_lora, detach_lora
    from siftune.training.sft import train_lora

    config = shelf.config
    missing = {key: rows for key, rows in tests.items() if not shelf.has(cell, key)}
    if not missing and not shelf.unscored(cell):
        return
    if cell.rows is None:
        for key, rows in missing.items():
            _score(loaded, loaded.model, shelf, cell, key, rows, steps=0, seconds=0.0)
        _score_harness(loaded, loaded.model, shelf, cell)
        return
    model = attach_lora(loaded.model, lora_settings(config), derive(config.seed, "training adapter", cell.seed))
    try:
        result = train_lora(model, cell.rows, settings_of(config, cell), shelf.folder(cell), pad_id=loaded.pad_id,
                            device=loaded.device, base_key=shelf.base, title=cell.title)
        for key, rows in missing.items():
            _score(loaded, model, shelf, cell, key, rows, result.steps, result.seconds)
        _score_harness(loaded, model, shelf, cell)
    finally:
        detach_lora(model).requires_grad_(False)


def _score(loaded: LoadedModel, model: Any, shelf: TrainingCache, cell: Cell, key: str, test: TestRows, steps: int,
           seconds: float) -> None:
    from siftune.evaluation.answers import score_answers
    from siftune.models.memory import batch_tokens

    config = shelf.config
    found = score_answers(model, loaded.tokenizer, test.rendered, test.prompts, test.references, test.choices,
                          max_reference_tokens=config.exact_match_tokens,
                          batch_tokens=batch_tokens(config.batch_tokens, loaded), device=loaded.device,
                          pad_id=loaded.pad_id, title=f"{cell.title}: scores")
    scores: dict[str, Any] = {"ids": test.ids, "steps": steps, "seconds": seconds, "loss": found.loss.tolist(),
                              "correct": [None] * len(test.ids), "answers": [None] * len(test.ids)}
    if found.matches is not None:
        scores["correct"] = [bool(c) if a else None
                             for c, a in zip(found.matches.correct, found.matches.applicable, strict=True)]
        scores["answers"] = found.matches.outputs
    if found.choices is not None:
        for name, right in (("acc", found.choices.acc), ("acc_norm", found.choices.acc_norm)):
            scores[name] = [bool(r) if a else None for r, a in zip(right, found.choices.applicable, strict=True)]
    write_sealed(shelf.scores_file(cell, key), SCORES, _made_from(shelf.folder(cell), key), scores)


def _score_harness(loaded: LoadedModel, model: Any, shelf: TrainingCache, cell: Cell) -> None:
    from siftune.models.memory import batch_tokens

    for task in shelf.unscored(cell):
        from siftune.evaluation.harness import harness_scores

        size = max(1, batch_tokens(shelf.config.batch_tokens, loaded) // _PROMPT_TOKENS)
        write_sealed(shelf.harness_file(cell, task), HARNESS_SCORES, _made_from(shelf.folder(cell), task.key),
                     harness_scores(model, loaded.tokenizer, task, batch_size=size))


def _rows_key(rows: Sequence[Rendered]) -> str:
    """Of token ids and masks, in order."""
    found = hashlib.blake2b(digest_size=16)
    for row in rows:
        found.update(len(row).to_bytes(4, "little"))
        found.update(np.ascontiguousarray(row.ids, dtype="<i4").tobytes() + np.packbits(row.mask).tobytes())
    return found.hexdigest()


def _ids_key(prompts: Sequence[np.ndarray]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for prompt in prompts:
        found.update(len(prompt).to_bytes(4, "little") + np.ascontiguousarray(prompt, dtype="<i4").tobytes())
    return found.hexdigest()
