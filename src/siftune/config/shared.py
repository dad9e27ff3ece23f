"""The settings that all share, each once: a dataclass field is a command-line flag, a YAML key and a line of the
replayable config.

Those of a method or a selector stand in its own file and are reached through it, see :mod:`siftune.config.owned`.
Only the standard library is imported here, so that ``--help``, which is made from these fields, is instant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from siftune.config.catalogue import METHODS, SELECTORS, owner_of, recipe_named, settings_type
from siftune.config.options import (
    COUNT,
    COUNT_OR_NONE,
    POSITIVE,
    PROPER_SHARE,
    RATE,
    SHARE_OR_NONE,
    Rule,
    check_rules,
    option,
)
from siftune.config.owned import own_names

FeatureDtype = Literal["float32", "float16", "bfloat16", "int8", "1bit"]

FIRST, MODEL, DATA, SELECTION = "What everyone needs", "Model and adapter", "Data", "Selection"
TRAINING, RUN = "Training and scoring", "Run"


@dataclass(frozen=True)
class DataConfig:
    """Files, formats and what happens to rows that cannot be used.

    Raises:
        ConfigError: a number is out of its range.
    """

    pool: tuple[str, ...] = option((), "Pool to choose from: JSONL, JSON, Parquet, CSV, a datasets folder or a hub id; "
                                   "give it several times for several sources.", group=FIRST)
    target: tuple[str, ...] = option((), "A few examples of what the model must learn, in any of the formats; rows may "
                                     "name a subtask.", group=FIRST)
    test: tuple[str, ...] = option((), "Held-out rows for scoring; must not overlap with pool or target.", group=DATA)
    existing: tuple[str, ...] = option((), "Rows that the model was already trained on, for selectors that choose what "
                                       "they lack (flcg, flcmi).", group=DATA)
    format: str = option("auto", "auto, messages, sharegpt, alpaca, prompt-completion, question-answer, "
                         "query-response, input-output, or mixed (decide row by row).", group=DATA)
    columns: tuple[str, ...] = option((), "Columns by other names, as PART=COLUMN: prompt=question,completion=answer; "
                                      "also messages=, input=, system=, history=, tools=, reasoning=. PART= alone "
                                      "leaves a part out.", group=DATA)
    limits: tuple[str, ...] = option((), "What is too large to read, as NAME=NUMBER: line (bytes), row (characters), "
                                     "turns, nesting, expansion (of compressed files); may be given several times.",
                                     group=DATA, flag="--limit")
    id_field: str = option("auto", "Field with the row's id; auto uses `id` where every row has one; none makes ids.",
                           group=DATA)
    subtask_field: str = option("subtask", "Field of target and test rows that names their subtask.", group=DATA)
    group_field: str = option("group", "Field of pool rows that names their group.", group=DATA, decides="selection")
    bad_rows: Literal["error", "drop"] = option("error", "What to do with rows that cannot be used: stop, or leave "
                                                "them out and list them in dropped.jsonl.", group=DATA)
    overlap: Literal["error", "drop"] = option("error", "What to do with pool rows that also stand in the test file: "
                                               "stop, or leave them out (and those in the target file too).",
                                               group=DATA)
    max_length: int = option(2048, "Longest row in tokens; longer rows are cut at the end, and counted.",
                             group=DATA, rule=Rule("2 or more", lambda x: x >= 2, {"minimum": 2}))

    def __post_init__(self) -> None:
        check_rules(self, flag_of)


@dataclass(frozen=True)
class ModelConfig:
    """Which model, where it runs, which adapter it gets."""

    model: str = option("embedded", "Hub id, local folder, PEFT adapter folder, or embedded (SmolLM2-135M-Instruct, "
                        "offline).", group=MODEL)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.", group=MODEL, decides="nothing")
    dtype: str = option("auto", "Type of the weights: auto (float32; bfloat16 on a GPU that is no slower in it), "
                        "float32, bfloat16, float16.", group=MODEL)
    trust_remote_code: bool = option(False, "Run code that comes with the model.", group=MODEL)
    lora_rank: int = option(8, "Rank of the LoRA adapter.", group=MODEL, rule=COUNT, paper="LESS: 128")
    lora_alpha: float = option(16.0, "LoRA alpha.", group=MODEL, rule=POSITIVE, paper="LESS: 512 at rank 128")
    lora_dropout: float = option(0.1, "LoRA dropout in training; off for gradients.", group=MODEL, rule=RATE)
    lora_targets: tuple[str, ...] = option((), "Linear modules to adapt, by the end of their name; attention "
                                           "projections when not given.", group=MODEL)
    lora_layers: int = option(0, "Adapt only the last k layers; 0 for all.", group=MODEL, rule=COUNT_OR_NONE)


@dataclass(frozen=True)
class SelectConfig(DataConfig, ModelConfig):
    """What `siftune select` and `siftune plan` read.

    Attributes:
        own: settings of methods and selectors, by owner, as far as they differ from their defaults.
    """

    budget: str = option("5%", 'How much to select: a share ("5%"), rows ("500") or tokens ("20ktok").', group=FIRST,
                         decides="selection")
    method: str = option("auto", "auto, or a method of `siftune methods` (less, random, ...), or METHOD:SELECTOR.",
                         group=FIRST, decides="selection")
    own: Mapping[str, Mapping[str, Any]] = option(
        {}, "A setting of the method or selector in use, as NAME=VALUE, or OWNER.NAME=VALUE (`siftune methods NAME` "
        "lists them); may be given several times.", group=FIRST, flag="--set")
    representation: str = option("", "Method whose features are used instead of the recipe's own.", group=SELECTION,
                                 decides="selection")
    selector: str = option("", "Selector to use instead of the recipe's own.", group=SELECTION, decides="selection")
    quotas: tuple[str, ...] = option((), "How much of a group (or other part, see --strata) is taken at least and at "
                                     "most, as GROUP=FLOOR..CEILING in rows or shares of the budget: math=10%..40%, "
                                     "chat=..200; may be given several times.", group=SELECTION, flag="--quota",
                                     decides="selection")
    strata: str = option("group", "The parts of the pool that quotas speak of: group, source, format, length:K or "
                         "score:K (K parts of equal size by response length or by the method's score, named length-1 "
                         "to length-K).", group=SELECTION, decides="selection")
    must_include: str = option("", "File with ids of rows that must be selected, one a line.", group=SELECTION,
                               decides="selection")
    must_exclude: str = option("", "File with ids of rows that must not be selected, one a line.", group=SELECTION,
                               decides="selection")
    near_duplicates: float = option(0.0, "Take at most one of rows whose word shingles overlap by this Jaccard "
                                    "similarity or more (for example 0.8); 0 for off.",
                                    group=SELECTION, rule=SHARE_OR_NONE, decides="selection")

    output_dir: str = option("", "Run folder to write.", group=RUN, decides="nothing")
    from_run: str = option("", "Start from this run folder: its settings, its checkpoints and its features; of another "
                           "--pool, only rows that it does not have are computed.", group=RUN, flag="--from",
                           decides="nothing")
    share: bool = option(False, "Write the report without machine paths, names of users and machines, and command "
                         "lines, so that it can be given away.", group=RUN, decides="nothing")
    recompute: bool = option(False, "Replace stored features that were made with other settings.", group=RUN,
                             decides="nothing")
    seed: int = option(0, "The seed from which all others derive.", group=RUN,
                       rule=Rule("between -2^63 and 2^63", lambda x: -(2**63) <= x < 2**63,
                                 {"minimum": -(2**63), "exclusiveMaximum": 2**63}))
    collect: tuple[str, ...] = option((), "Further features to read in the same forward pass, for a later --from: rds, "
                                      "mads, nag, nait, loss, ifd; may be given several times.", group=RUN,
                                      decides="nothing")
    feature_dtype: FeatureDtype = option(  # the alias hides from ruff that this is a field
        "float32", "How features are stored; float16 and int8 rank nearly alike.", group=RUN)
    autocast: Literal["none", "bfloat16", "float16"] = option("none", "Run the feature passes in half precision, with "
                                                              "weights and gradients in the model's own.", group=RUN)
    checkpointing: bool = option(False, "Gradient checkpointing: less memory, a third more time.", group=RUN,
                                 decides="nothing")
    batch_tokens: int = option(0, "Padded tokens a batch may hold in feature and evaluation passes; 0 chooses by the "
                               "memory there is. It does not change the result.", group=RUN, rule=COUNT_OR_NONE,
                               decides="nothing")
    micro_batch_tokens: int = option(1024, "Padded tokens per forward pass in training: a step's rows are cut into "
                                     "such parts, which bounds memory.", group=RUN, rule=COUNT)
    shard_rows: int = option(256, "Rows per shard of the feature store: what an interruption can cost.",
                             group=RUN, rule=COUNT, decides="nothing")
    workers: int = option(1, "Processes for features and trainings, each with its own copy of the model: one per GPU, "
                          "or one per CPU core.", group=RUN, rule=COUNT, decides="nothing")
    executor: Literal["local", "ray"] = option("local", "Where the workers run: processes on this machine, or actors "
                                               "of a Ray cluster (of RAY_ADDRESS, else started here).", group=RUN,
                                               decides="nothing")
    storage: str = option("", "Where workers of --executor ray exchange files with this machine if they do not see its "
                          "folders: a URL that fsspec opens, such as s3://bucket/siftune, gs://bucket/siftune or "
                          "file:///folder.", group=RUN, decides="nothing")
    worker_tries: int = option(2, "How many workers a shard or training may cost (killed, out of memory, machine lost) "
                               "before it is set aside and named while the others go on.", group=RUN, rule=COUNT,
                               decides="nothing")
    ray_start_seconds: float = option(180.0, "Seconds that Ray and its actors may take to start; more on busy "
                                      "machines.", group=RUN, rule=POSITIVE, decides="nothing")

    def settings_of(self, owner: str) -> Any:
        """The settings of a method or selector: an instance of its ``Settings``.

        Args:
            owner: its name; ``file:PATH`` is ``file``.

        Raises:
            ConfigError: there is no such method or selector, or a number is out of its range.
        """
        name = owner_of(owner)
        return settings_type(name)(**self.own.get(name, {}))

    def recipes(self) -> list[tuple[str, str]]:
        """(method, selector) of what is to be run; empty where ``auto`` has still to choose.

        Raises:
            ConfigError: an unknown name.
        """
        names = getattr(self, "methods", ()) or (self.method,)
        found = []
        for name in names:
            if name == "auto":
                if not (self.representation and self.selector):
                    return []
                found.append((self.representation, self.selector))
                continue
            recipe = recipe_named(name, bool(self.target), bool(self.existing))
            found.append((self.representation or recipe.representation, self.selector or recipe.selector))
        return found

    def owners(self) -> list[str] | None:
        """The methods and selectors whose settings are read; None where ``auto`` has still to choose."""
        recipes = self.recipes()
        if not recipes:
            return None
        named = [owner_of(name) for pair in recipes for name in pair]
        return list(dict.fromkeys([*named, *(part for one in named for part in self.parts_of(one)), *self.collect]))

    def parts_of(self, owner: str) -> list[str]:
        """The methods that a method is made of, whose settings are read with its own: the ``parts`` of its settings.

        Raises:
            ConfigError: as :meth:`settings_of`.
        """
        if owner not in METHODS or not own_names(owner) or not hasattr(settings_type(owner), "parts"):
            return []
        return [owner_of(name) for name in self.settings_of(owner).parts]

    def candidates(self) -> list[str]:
        """Those whose settings may be read: :meth:`owners`, or whatever ``auto`` may choose."""
        open_to = ([owner_of(self.representation)] if self.representation else METHODS.names(),
                   [self.selector] if self.selector else SELECTORS.names())
        return self.owners() or [*open_to[0], *open_to[1]]

    def with_own(self, blocks: Mapping[str, Mapping[str, Any]]) -> Any:
        """The same with further settings of methods and selectors, which win over those there are."""
        names = dict.fromkeys([*self.own, *blocks])
        return dataclasses.replace(self, own={n: {**self.own.get(n, {}), **blocks.get(n, {})} for n in names})


@dataclass(frozen=True)
class CompareConfig(SelectConfig):
    """What `siftune compare` reads besides: how subsets are trained and scored."""

    methods: tuple[str, ...] = option((), "Methods to compare, as for --method; give it several times. The first one's "
                                      "subset is the run's selection.", group=FIRST, decides="selection")
    baselines: tuple[str, ...] = option(("random",), "Baselines beside zero-shot: random, length-matched-random, "
                                        "longest, full; give it several times.", group=TRAINING, decides="nothing")
    seeds: int = option(3, "Trainings of each method, and random subsets.", group=TRAINING, rule=COUNT,
                        decides="nothing")
    epochs: int = option(4, "Epochs of each training.", group=TRAINING, rule=COUNT, decides="nothing")
    learning_rate: float = option(3e-4, "Peak learning rate of each training.", group=TRAINING, rule=POSITIVE,
                                  decides="nothing")
    batch_size: int = option(8, "Rows per optimizer step of each training.", group=TRAINING, rule=COUNT,
                             decides="nothing")
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = option(
        "none", "Tracker that the loss of each training goes to, step by step.", group=TRAINING, decides="nothing")
    confidence: float = option(0.95, "Level of intervals and tests.", group=TRAINING, rule=PROPER_SHARE,
                               decides="nothing")
    exact_match_tokens: int = option(32, "Generate and compare answers of at most so many tokens; 0 for never.",
                                     group=TRAINING, rule=COUNT_OR_NONE, decides="nothing")
    choices: Literal["auto", "off"] = option("auto", "Score the answers that test rows offer by likelihood (acc, "
                                             "acc_norm), where at least 90% of a target's test rows offer some.",
                                             group=TRAINING, decides="nothing")
    lm_eval: tuple[str, ...] = option((), "A further score: a task of the lm-evaluation-harness by name, or the path "
                                      "of a task YAML or of a JSON(L) file of prompts and answers; may be given "
                                      "several times.", group=TRAINING, decides="nothing")
    lm_eval_code: bool = option(False, "Run code that comes with those tasks, and what the model writes where a task "
                                "does so.", group=TRAINING, decides="nothing")


def flag_of(config_field: dataclasses.Field[Any]) -> str:
    return config_field.metadata.get("flag") or "--" + config_field.name.replace("_", "-")


def shared_names(kind: type[DataConfig], *, without: Iterable[str] = ("own",)) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a config that are written as keys of their own."""
    return {f.name: f for f in dataclasses.fields(kind) if f.name not in without}
