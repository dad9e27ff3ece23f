"""Build the demo data: a pool of small verifiable tasks, a target of two of them, and a held-out test set.

    python examples/build_demo.py [--output-dir examples/demo]

Every row comes from a generator of the `reasoning-gym` package (Apache-2.0) and its answer is scored by the package's
own verifier before it is written. Pool, target and test are drawn from different seeds, and no prompt (normalised)
occurs in two of them or twice in one. The same version of the package gives the same bytes on every machine.

The pool is a mixture of many families. A few per cent of it are the two target families; around them stand families
that only look like them, which is what makes selecting from it more than keyword matching.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from siftune._common.errors import DataError
from siftune._common.files import write_lines
from siftune._common.progress import log
from siftune._common.seeds import permutation

BUILT_WITH = "0.1.25"
"""The version of reasoning-gym whose output is committed; another one may word its tasks differently."""

SEED = 20
MAX_CHARACTERS = 420
"""Of prompt and answer together, so that no row is longer than about 160 tokens with the embedded model's template."""

TARGET_ROWS, TEST_ROWS = 6, 20
"""Of each target family."""


CANDIDATES = 1000
"""Tasks looked at in each family before giving up."""

UNWELCOME = re.compile("nigg")
"""The word lists are unabridged; prompts with words that read as slurs are passed over."""


@dataclass(frozen=True)
class Family:
    """How many rows of a task family the pool holds, and the generator options that keep them short."""

    rows: int
    options: Mapping[str, Any] = field(default_factory=dict)
    wrong: str = "(?!)"  # a regular expression of answers that the generator gets wrong; by default none


TARGETS = {
    # Asked what A is to B, it says "father-in-law" where B is A's father-in-law: the other way round.
    "family_relationships": Family(12, wrong="-in-law"),
    "word_sequence_reversal": Family(12, {"max_words": 3}),
}

# Left out: generators whose prompts are longer than MAX_CHARACTERS; those that draw from Python sets, whose order
# differs from process to process (isomorphic_strings, ransom_note, word_ladder); those whose texts or answers are not
# all sound on reading (gsm_symbolic, power_function, simple_geometry, syllogism); and one whose rows are nearly all
# boilerplate and so near-duplicates of each other (palindrome_generation).
OTHERS = {
    # numbers
    "basic_arithmetic": Family(11),
    "chain_sum": Family(11),
    "decimal_arithmetic": Family(6),
    "decimal_chain_sum": Family(11),
    "products": Family(9),
    "gcd": Family(9),
    "lcm": Family(11),
    "prime_factorization": Family(7),
    "fraction_simplification": Family(9),
    "count_primes": Family(6),
    "count_bits": Family(6),
    "base_conversion": Family(6),
    "bitwise_arithmetic": Family(4),
    "number_sequence": Family(11),
    "number_filtering": Family(7),
    "number_format": Family(4),
    "complex_arithmetic": Family(9),
    "simple_equations": Family(11),
    "puzzle24": Family(4),
    "countdown": Family(3),
    "dice": Family(4),
    "coin_flip": Family(11),
    "advanced_geometry": Family(3),
    # words
    "letter_counting": Family(11),
    "spell_backward": Family(11),
    "sentence_reordering": Family(9),
    "word_sorting": Family(4),
    "caesar_cipher": Family(7),
    # stories and logic
    "aiw": Family(11),
    "calendar_arithmetic": Family(9),
    "time_intervals": Family(9),
    "leg_counting": Family(6),
    "knights_knaves": Family(4),
    "color_cube_rotation": Family(4),
    "rotate_matrix": Family(4, {"max_n": 4}),
}


@dataclass(frozen=True)
class Task:
    """A question of a family with its verified answer."""

    family: str
    question: str
    answer: str

    @property
    def key(self) -> str:
        """The prompt with case and white space evened out: two tasks with one key count as the same."""
        return " ".join(self.question.casefold().split())


def tasks(name: str, family: Family, seed: int, max_characters: int) -> Iterator[Task]:
    """Verified tasks of one family in the generator's order, each shorter than ``max_characters``.

    Raises:
        DataError: the package's own verifier rejects an answer of its generator.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of its modules contain invalid escape sequences
        import reasoning_gym

    generator = reasoning_gym.create_dataset(name, size=CANDIDATES, seed=seed, **family.options)
    for entry in generator:
        task = Task(name, entry["question"].strip(), str(entry["answer"] or "").strip())
        if not task.answer or len(task.question) + len(task.answer) > max_characters:
            continue
        if re.search(family.wrong, task.answer) or UNWELCOME.search(task.key):
            continue
        if generator.score_answer(task.answer, entry) != 1.0:
            raise DataError(f"the verifier of {name} rejects the generator's answer {task.answer!r}")
        yield task


def draw(name: str, family: Family, count: int, seed: int, taken: set[str],
         max_characters: int = MAX_CHARACTERS) -> list[Task]:
    """The first ``count`` tasks of a family whose prompts are not in ``taken``, to which they are added.

    Raises:
        DataError: the family has not so many different short tasks.
    """
    drawn: list[Task] = []
    for task in tasks(name, family, seed, max_characters):
        if len(drawn) == count:
            break
        if task.key not in taken:
            taken.add(task.key)
            drawn.append(task)
    if len(drawn) < count:
        raise DataError(f"{name} has only {len(drawn)} of {count} different tasks below {max_characters} characters",
                        hint="ask for fewer rows, or raise max_characters")
    return drawn


def shuffled(rows: list[dict[str, Any]], seed: int, name: str) -> list[dict[str, Any]]:
    """The rows in random order, so that their position says nothing."""
    return [rows[i] for i in permutation(len(rows), seed, "demo", name)]


def row(split: str, number: int, task: Task, **labels: str) -> dict[str, Any]:
    return {
        "id": f"{split}-{task.family}-{number:03d}",
        "messages": [{"role": "user", "content": task.question}, {"role": "assistant", "content": task.answer}],
        **labels,
    }


def build() -> dict[str, list[dict[str, Any]]]:
    """Pool, target and test as rows ready to be written.

    Test and target are drawn first: what they hold, the pool cannot.
    """
    taken: set[str] = set()
    splits: dict[str, list[dict[str, Any]]] = {}
    for split, count in (("test", TEST_ROWS), ("target", TARGET_ROWS)):
        splits[split] = [
            row(split, number, task, subtask=name)
            for name, family in TARGETS.items()
            for number, task in enumerate(draw(name, family, count, seed_of(split), taken))
        ]
    splits["pool"] = [
        row("pool", number, task, group=name)
        for name, family in {**TARGETS, **OTHERS}.items()
        for number, task in enumerate(draw(name, family, family.rows, seed_of("pool"), taken))
    ]
    return {split: shuffled(rows, SEED, split) for split, rows in splits.items()}


def seed_of(split: str, seed: int = SEED) -> int:
    """The generators' seed of a split. They add the row number to it, so the splits stand far apart."""
    return seed * 1_000_000 + {"pool": 1, "target": 2, "test": 3}[split] * 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the demo data from reasoning-gym.")
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).parent / "demo")
    folder = parser.parse_args().output_dir
    if version("reasoning-gym") != BUILT_WITH:
        log(f"note: the committed files were built with reasoning-gym {BUILT_WITH}; this is {version('reasoning-gym')}")
    for split, rows in build().items():
        write_lines(folder / f"{split}.jsonl", (json.dumps(row, ensure_ascii=False) for row in rows))
        log(f"{folder / split}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
