"""What siftune scored of the selected rows: their token ids and loss masks, rendered again as the selection did it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siftune._common.errors import DataError
from siftune._common.files import read_json
from siftune.data.chat import as_record
from siftune.data.problems import BadRow
from siftune.data.render import Renderer
from siftune.data.rows import Dropped, Message, Rendered, Row
from siftune.data.training_templates import training_template

IGNORED = -100
"""The label of a token that is not supervised, in all trainers."""


@dataclass(frozen=True)
class Scored:
    """Rows with the ids and masks that they were scored by.

    Attributes:
        model: Name of the model whose tokenizer rendered them.
        renderer: What rendered them.
        rows: Those that could be rendered, in order of rank.
        rendered: Ids and mask of each.
        left_out: Rows that another model's template cannot render, where the run leaves such rows out.
    """

    model: str
    renderer: Renderer
    rows: list[Row]
    rendered: Sequence[Rendered]
    left_out: list[Dropped]

    @property
    def tokenizer(self) -> Any:
        return self.renderer.tokenizer

    @property
    def max_length(self) -> int:
        return self.renderer.max_length

    def labels(self, i: int) -> list[int]:
        """The labels of row ``i``: its ids where they are supervised, :data:`IGNORED` elsewhere."""
        one = self.rendered[i]
        return [token if taken else IGNORED for token, taken in zip(one.ids.tolist(), one.mask.tolist(), strict=True)]

    def messages(self, row: Row) -> Sequence[Message]:
        """The messages as the template takes them: a refused system message stands in the first user turn."""
        return self.renderer.template.accepted(row.messages, row.tools)[0]

    @property
    def ends_of_turn(self) -> list[str]:
        """The special tokens that supervised turns end with, most frequent first."""
        special = set(self.tokenizer.all_special_ids) | {
            number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        counts: Counter[int] = Counter()
        for one in self.rendered:
            ids, mask = one.ids.tolist(), [*one.mask.tolist(), False]
            for t in range(len(ids)):
                if mask[t] and ids[t] in special and (not mask[t + 1] or t + 2 == len(ids) or not mask[t + 2]):
                    counts[ids[t]] += 1
        return [self.tokenizer.convert_ids_to_tokens(number) for number, _ in counts.most_common()]


def score(rows: Sequence[Row], config: Mapping[str, Any], model: str, manifest: Path) -> tuple[Scored, list[str]]:
    """Render rows as a run did, or as it would have with another model.

    Args:
        rows: The selected rows.
        config: The run's configuration.
        model: Name of the model.
        manifest: The run's manifest, which knows what it rendered with.

    Returns:
        What was scored, and what the user should know: that tokenizer or template have changed since.

    Raises:
        ModelError: there is no such model.
        DataError: rows cannot be rendered, and the run does not leave such rows out.
    """
    from siftune.models.loading import load_tokenizer
    from siftune.models.shape import model_shape

    trusted = bool(config.get("trust_remote_code", False))
    renderer = Renderer(load_tokenizer(model, trust_remote_code=trusted),
                        max_length=int(config.get("max_length", 2048)),
                        shape=model_shape(model, trust_remote_code=trusted))
    kept, rendered, left_out = [], [], []
    for row in rows:
        try:
            rendered.append(renderer.render(row.messages, row.tools))
            kept.append(row)
        except BadRow as problem:
            left_out.append(Dropped(row.id, row.source, row.where, problem.reason, problem.detail))
    if left_out and (config.get("bad_rows") != "drop" or not kept):
        first = left_out[0]
        raise DataError(f"{model} cannot be trained on {len(left_out):,} of {len(rows):,} selected rows",
                        where=first.where, why=f"The first is {first.id!r}: {first.reason}: {first.detail}",
                        hint="name another model, or export --to jsonl for the original records")
    warnings = []
    if model == config.get("model") and (changed := _changed(renderer, manifest)):
        warnings.append(f"the run was scored with another {' and '.join(changed)} than {model} has now: ids and masks "
                        "are those of now")
    return Scored(model, renderer, kept, rendered, left_out), warnings


def _changed(renderer: Renderer, manifest: Path) -> list[str]:
    """What of tokenizer, template and mask is not as the run's manifest says; nothing where it does not say."""
    if not manifest.is_file():
        return []
    try:
        then = read_json(manifest)["store"]["fingerprint"]["render"]
        now = renderer.fingerprint()
        return [name.replace("_", " ") for name in ("tokenizer", "chat_template", "mask_version", "max_length")
                if name in then and then[name] != now[name]]
    except (ValueError, KeyError, TypeError):
        return []


def marks_hold(scored: Scored, *, after_prompt: Sequence[int] | None = None) -> bool:
    """Whether the tokenizer's own way from messages to ids and mask gives what was scored, for every row.

    That is how a trainer does it that follows ``{% generation %}`` markers: the family's training template where there
    is one, the tokenizer's own otherwise, read by ``apply_chat_template``. Rows with tools, calls or thoughts are said
    not to hold: ``datasets`` fills such fields with nulls, and versions differ in how.

    Args:
        scored: The rows.
        after_prompt: For the form of prompt and completion, how many messages of each row are its prompt.
    """
    given = scored.tokenizer.chat_template
    if not isinstance(given, str) or any(_has_more(row) for row in scored.rows):
        return False
    template = training_template(given) or given
    if not scored.renderer.template.has_markers():
        return False
    for i, row in enumerate(scored.rows):
        turns = json.loads(json.dumps([as_record(message) for message in scored.messages(row)]))
        made = _marked(scored.tokenizer, template, turns, None if after_prompt is None else after_prompt[i])
        if made is None or not _same(made, scored.rendered[i], scored.max_length):
            return False
    return True


def _marked(tokenizer: Any, template: str, turns: list[dict[str, Any]],
            prompt: int | None) -> tuple[list[int], list[int]] | None:
    """Ids and mask as transformers reads the marks; None where the template refuses the turns."""
    from jinja2 import TemplateError

    options = {"chat_template": template, "tokenize": True, "return_dict": True}
    try:
        made = tokenizer.apply_chat_template(turns, return_assistant_tokens_mask=True, **options)
        ids, mask = list(made["input_ids"]), list(made["assistant_masks"])
        if prompt is not None:
            asked = tokenizer.apply_chat_template(turns[:prompt], add_generation_prompt=True, **options)["input_ids"]
            shared = next((t for t, (a, b) in enumerate(zip(asked, ids, strict=False)) if a != b),
                          min(len(asked), len(ids)))
            mask[:shared] = [0] * shared
    except (TemplateError, BadRow, TypeError, ValueError, LookupError, AttributeError):
        return None
    return ids, mask


def _same(made: tuple[list[int], list[int]], rendered: Rendered, max_length: int) -> bool:
    ids, mask = made[0][:max_length], made[1][:max_length]
    return ids == rendered.ids.tolist() and [bool(x) for x in mask[1:]] == rendered.mask.tolist()[1:]


def _has_more(row: Row) -> bool:
    return bool(row.tools) or any(m.tool_calls or m.reasoning or m.role == "tool" or m.name is not None
                                  for m in row.messages)
