"""What trainers make of exports: ids and loss masks of what they load, row by row, against what siftune scored.

    python benchmarks/exports.py --consumer trl
    python benchmarks/exports.py --consumer axolotl --python /path/to/the/environment/bin/python
    python benchmarks/exports.py --consumer llamafactory --python ...

Each trainer loads with its own code: TRL by `SFTTrainer` and its collator, Axolotl by `load_datasets`, LLaMA-Factory by
`get_dataset` and its collator (`siftune export --check` does the same). Rows are conversations of all shapes
(`tests/data/test_families.py`), with turns that are not trained on, and the readable ones of `tests/data/cases`, under
the templates of several families, with a tokenizer of 384 tokens and each family's own special tokens. Results go to
`benchmarks/results/exports.json`, one entry a trainer.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from siftune._common.errors import DataError
from siftune._common.files import write_json
from siftune.data.problems import BadRow
from siftune.data.readers import read_rows
from siftune.data.render import Renderer
from siftune.data.rows import Message, Row, content_hash
from siftune.export import trainers
from siftune.export.check import check_exports
from siftune.export.scored import Scored
from siftune.export.tokens import write_tokens
from siftune.export.written import Written

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests import tiny  # noqa: E402
from tests.data.test_families import FOLDER, OTHERS, SHAPES  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "exports.json"
MAX_LENGTH = 512
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}")
# Template, and the family's tokens: begin of text (or none), end of text, others.
FAMILIES: dict[str, tuple[str, str | None, str, tuple[str, ...]]] = {
    "chatml": (tiny.CHATML, None, "<|im_end|>", ("<|im_start|>", "<|endoftext|>")),
    "smollm2": (SMOLLM2, None, "<|im_end|>", ("<|im_start|>", "<|endoftext|>")),
    "qwen2_5": ("", None, "<|im_end|>", ("<|im_start|>", "<|endoftext|>")),
    "qwen3": ("", None, "<|im_end|>", ("<|im_start|>", "<|endoftext|>")),
    "llama3": ("", "<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>")),
    "llama3_2": ("", "<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
                                                         "<|end_of_text|>")),
    "gemma": ("", "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>")),
    "gemma3": ("", "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>")),
    "mistral": (OTHERS["mistral"], "<s>", "</s>", ("[INST]", "[/INST]")),
    "llama2": (OTHERS["llama2"], "<s>", "</s>", ()),
    "phi3": ("", None, "<|endoftext|>", ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")),
    "zephyr": (OTHERS["zephyr"], "<s>", "</s>", ()),
    "deepseekv3": ("", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", (
        "<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁output▁begin｜>",
        "<｜tool▁output▁end｜>", "<｜tool▁outputs▁end｜>")),
    "glm4moe": ("", None, "<|endoftext|>", ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>",
                                            "<|observation|>")),
    "gptoss": ("", None, "<|return|>", ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>",
                                        "<|constrain|>", "<|endoftext|>")),
    "no template": (None, None, "<|endoftext|>", ()),  # type: ignore[dict-item]
}
CASES = ["toolcalls_text", "tools_sharegpt", "reasoning_content", "thinking_field", "weight0", "lossflag", "msg_topsys",
         "ds", "nemo", "ends_user", "phi_multi", "gptoss", "q3_multi", "gsm8k", "orca", "inout", "msswift", "msg_str"]


def tokenizer(family: str) -> Any:
    """A tokenizer of bytes and short words, with the family's template and special tokens."""
    template, begin, end, others = FAMILIES[family]
    if template == "":
        template = (FOLDER / f"{family}.jinja").read_text(encoding="utf-8")
    made = tiny.tokenizer(template)
    made.add_special_tokens({"eos_token": end, "additional_special_tokens": sorted({*others} - {end})})
    if begin:
        made.add_special_tokens({"bos_token": begin})
    made.pad_token = "<|endoftext|>"
    return made


def rows() -> list[Row]:
    """Conversations of all shapes."""
    found = dict(SHAPES)
    talk = SHAPES["multi"][0]
    found["first answer not trained on"] = ([replace(m, train=i != 1) for i, m in enumerate(talk)], None)
    found["middle answer not trained on"] = ([replace(m, train=i != 3) for i, m in enumerate(talk)], None)
    found["last answer not trained on"] = ([replace(m, train=i != 5) for i, m in enumerate(talk)], None)
    found["longer than the limit"] = ([Message("user", "word " * 200), Message("assistant", "answer " * 400)], None)
    made = [Row(name, "shapes", name, tuple(messages), "{}", content_hash(messages, tools), "messages", tools=tools)
            for name, (messages, tools) in found.items()]
    for case in CASES:
        read, _ = read_rows([ROOT / "tests" / "data" / "cases" / f"{case}.jsonl"], role="pool", format="mixed",
                            id_field="none")
        made += [replace(row, id=f"case {case} {number}") for number, row in enumerate(read)]
    return made


def scored(family: str, everything: Sequence[Row]) -> Scored:
    """The rows that the family's template can render."""
    renderer = Renderer(tokenizer(family), max_length=MAX_LENGTH)
    kept, rendered = [], []
    for row in everything:
        try:
            rendered.append(renderer.render(row.messages, row.tools))
        except BadRow:
            continue
        kept.append(row)
    return Scored(family, renderer, kept, rendered, [])


def of(whole: Scored, kept: Sequence[Row]) -> Scored:
    """The same for some of the rows."""
    ids = {row.id for row in kept}
    places = [i for i, row in enumerate(whole.rows) if row.id in ids]
    return replace(whole, rows=[whole.rows[i] for i in places], rendered=[whole.rendered[i] for i in places])


def as_messages(consumer: str, whole: Scored, folder: Path) -> Iterator[tuple[Written, Scored, dict[str, str]]]:
    """Exports as messages: one of the rows that one file holds, and for TRL another of those with turns untrained."""
    write = {"trl": trainers.write_trl, "axolotl": trainers.write_axolotl,
             "llamafactory": trainers.write_llamafactory}[consumer]
    parts = [whole.rows]
    if consumer == "trl":
        untrained = [row for row in whole.rows if any(m.role == "assistant" and not m.train for m in row.messages)]
        parts = [[row for row in whole.rows if row not in untrained], untrained]
    for number, part in enumerate(parts):
        held, refused = [], {}
        for row in part:
            try:
                write([row], folder / "try" / "selected.jsonl", of(whole, [row]))
                held.append(row)
            except DataError as error:
                refused[row.id] = error.what.partition(" rows have ")[2].partition(", which")[0]
        if held:
            some = of(whole, held)
            yield write(some.rows, folder / str(number) / "selected.jsonl", some), some, refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--consumer", choices=["trl", "axolotl", "llamafactory"], required=True)
    parser.add_argument("--python", help="the Python that the trainer is installed in; this one by default")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    everything = rows()
    with tempfile.TemporaryDirectory() as temporary:
        jobs: list[tuple[str, str, Written, Scored, dict[str, str]]] = []
        chosen = {}
        for family in asked.families:
            whole, folder = scored(family, everything), Path(temporary) / family
            jobs.append((family, "tokens", write_tokens(asked.consumer, whole, folder / "tokens" / "selected.jsonl"),
                         whole, {}))
            if FAMILIES[family][0] is not None:
                jobs += [(family, "messages", *made) for made in as_messages(asked.consumer, whole, folder)]
            plain = of(whole, [row for row in whole.rows if all(
                m.train and not m.tool_calls and not m.reasoning and m.role != "tool" for m in row.messages)
                and not row.tools])
            chosen[family] = "messages" if asked.consumer == "trl" and trainers.fits_trl(plain) else "tokens"
        checked = check_exports(asked.consumer, [(job[2], job[3]) for job in jobs], asked.python, each=True)
    found: dict[str, Any] = {}
    for (family, form, _, _, refused), one in zip(jobs, checked, strict=True):
        entry = found.setdefault(family, {"auto": chosen[family]}).setdefault(
            form, {"compared": 0, "identical": 0, "differences": {}, "refused": {}})
        entry["compared"] += one.rows
        entry["identical"] += one.identical
        for d in one.differences:
            what = f"{d.kind}: {re.sub(r'^token [0-9]+: ', '', d.detail)}"
            entry["differences"].setdefault(what, []).append(d.id)
        for row, why in refused.items():
            entry["refused"].setdefault(why, []).append(row)
    results = json.loads(asked.output.read_text(encoding="utf-8")) if asked.output.exists() else {}
    results[asked.consumer] = {"versions": checked[0].versions, "rows": len(everything), "max_length": MAX_LENGTH,
                               "families": found}
    write_json(asked.output, dict(sorted(results.items())))
    for family, forms in found.items():
        shown = {form: f"{one['identical']}/{one['compared']}, {sum(map(len, one['refused'].values()))} refused"
                 for form, one in forms.items() if form != "auto"}
        print(family, shown, forms["auto"])


if __name__ == "__main__":
    main()
