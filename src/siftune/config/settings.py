"""Every setting once: a dataclass field is a command-line flag, a YAML key and a line of the replayable config.

Flags win over the YAML file, the YAML file over the defaults; an unknown key is an error. Only the standard library
is imported here, so that ``--help``, which is made from these fields, is instant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.config.options import (
    COUNT,
    COUNT_OR_NONE,
    POSITIVE,
    PROPER_SHARE,
    RATE,
    SHARE,
    SHARE_OR_NONE,
    Rule,
    check_rules,
    option,
)

FeatureDtype = Literal["float32", "float16", "bfloat16", "int8", "1bit"]

DATA, MODEL, METHOD, GRADIENTS, TRAINING, RUN = "Data", "Model", "Method", "Gradient features", "Training", "Run"
OTHER = "Other features"


@dataclass(frozen=True)
class DataConfig:
    """Files, formats and what happens to rows that cannot be used.

    Raises:
        ConfigError: a number is out of its range.
    """

    pool: tuple[str, ...] = option((), "Pool to choose from: JSONL, JSON, Parquet, CSV, a datasets folder or a hub id; "
                                   "give it several times for several sources.", group=DATA)
    target: tuple[str, ...] = option((), "A few examples of what the model must learn, in any of the formats; rows may "
                                     "name a subtask.", group=DATA)
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
    group_field: str = option("group", "Field of pool rows that names their group.", group=DATA)
    bad_rows: Literal["error", "drop"] = option("error", "What to do with rows that cannot be used: stop, or leave "
                                                "them out and list them in dropped.jsonl.", group=DATA)
    overlap: Literal["error", "drop"] = option("error", "What to do with pool rows that also stand in the test file: "
                                               "stop, or leave them out (and those in the target file too).",
                                               group=DATA)
    max_length: int = option(2048, "Longest row in tokens; longer rows are cut at the end, and counted.",
                             group=DATA, rule=Rule("2 or more", lambda x: x >= 2))

    def __post_init__(self) -> None:
        check_rules(self, flag_of)


@dataclass(frozen=True)
class ModelConfig:
    """Which model, where it runs, which adapter it gets."""

    model: str = option("embedded", "Hub id, local folder, PEFT adapter folder, or embedded (SmolLM2-135M-Instruct, "
                        "offline).", group=MODEL)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.", group=MODEL)
    dtype: str = option("auto", "auto, float32, bfloat16, float16.", group=MODEL)
    trust_remote_code: bool = option(False, "Run code that comes with the model.", group=MODEL)
    lora_rank: int = option(8, "Rank of the LoRA adapter (LESS: 128).", group=MODEL, rule=COUNT)
    lora_alpha: float = option(16.0, "LoRA alpha (LESS: 512 at rank 128).", group=MODEL, rule=POSITIVE)
    lora_dropout: float = option(0.1, "LoRA dropout in training; off for gradients.", group=MODEL, rule=RATE)
    lora_targets: tuple[str, ...] = option((), "Linear modules to adapt, by the end of their name; attention "
                                           "projections when not given.", group=MODEL)
    lora_layers: int = option(0, "Adapt only the last k layers; 0 for all.", group=MODEL, rule=COUNT_OR_NONE)
    batch_tokens: int = option(0, "Padded tokens a batch may hold in feature and evaluation passes; 0 chooses by the "
                               "memory there is. It does not change the result.", group=MODEL, rule=COUNT_OR_NONE)


@dataclass(frozen=True)
class SelectConfig(DataConfig, ModelConfig):
    """What `siftune select` and `siftune plan` read."""

    method: str = option("auto", "auto, or a method of `siftune methods` (less, random, ...), or "
                         "REPRESENTATION:SELECTOR.", group=METHOD)
    representation: str = option("", "Representation to use instead of the method's own.", group=METHOD)
    selector: str = option("", "Selector to use instead of the method's own.", group=METHOD)
    budget: str = option("5%", 'How much to select: a share ("5%"), rows ("500") or tokens ("20ktok").', group=METHOD)
    on_taken: Literal["advance", "forfeit"] = option("advance", "Round-robin: what a target does when its next row is "
                                                     "taken (paper: advance; RDS+ code: forfeit).", group=METHOD)
    options: tuple[str, ...] = option((), "An option of the selector, as NAME=VALUE (`siftune methods` lists them); "
                                      "may be given several times.", group=METHOD, flag="--option")
    quotas: tuple[str, ...] = option((), "How much of a group (or other part, see --strata) is taken at least and at "
                                     "most, as GROUP=FLOOR..CEILING in rows or shares of the budget: math=10%..40%, "
                                     "chat=..200; may be given several times.", group=METHOD, flag="--quota")
    strata: str = option("group", "The parts of the pool that quotas speak of: group, source, format, length:K or "
                         "score:K (K parts of equal size by response length or by the method's score, named length-1 "
                         "to length-K).", group=METHOD)
    must_include: str = option("", "File with ids of rows that must be selected, one a line.", group=METHOD)
    must_exclude: str = option("", "File with ids of rows that must not be selected, one a line.", group=METHOD)
    center: bool = option(False, "Take what all rows of the pool share out of their vectors (gradients, hidden states, "
                          "embeddings) before they are compared. No paper does.", group=METHOD)
    near_duplicates: float = option(0.0, "Take at most one of rows whose word shingles overlap by this Jaccard "
                                    "similarity or more (for example 0.8); 0 for off.",
                                    group=METHOD, rule=SHARE_OR_NONE)

    warmup_share: float = option(0.05, "Share of the pool that the warmup run trains on.",
                                 group=GRADIENTS, rule=SHARE)
    warmup_rows: int = option(100, "At least so many warmup rows.", group=GRADIENTS, rule=COUNT_OR_NONE)
    warmup_epochs: int = option(4, "Epochs of the warmup run; each leaves a checkpoint to take gradients at.",
                                group=GRADIENTS, rule=COUNT)
    adam: Literal["paper", "less-code", "none"] = option("paper", "Direction of pool features: Adam's next step; as "
                                                         "the released code has it; or the plain gradient.",
                                                         group=GRADIENTS)
    target_mean: Literal["gradient", "cosine"] = option("gradient", "LESS score: cosine to the mean target gradient "
                                                        "(paper), or mean of the cosines (code).", group=GRADIENTS)
    gradient_score: Literal["cosine", "dot"] = option("cosine", "How a row's gradient is held against the targets': by "
                                                      "its cosine (paper), or by the inner product, which longer "
                                                      "gradients win, so shorter responses.", group=GRADIENTS)
    checkpoints: Literal["all", "last"] = option("all", "At which checkpoints of the warmup run gradients are taken: "
                                                 "all, weighed by their learning rate (LESS), or the last alone.",
                                                 group=GRADIENTS)
    projection: str = option("auto", "auto (sparse-jl; logra for full weights), sparse-jl, countsketch, srht, "
                             "rademacher (dense, slow, as LESS), grass, logra, factgrass, or none: score against the "
                             "unprojected targets, exact, but for these targets only.", group=GRADIENTS)
    projection_dim: int = option(8192, "Numbers per row and checkpoint.", group=GRADIENTS, rule=COUNT)
    feature_dtype: FeatureDtype = option(  # noqa: RUF009  # the alias hides from ruff that this is a field
        "float32", "How features are stored; float16 and int8 rank nearly alike.", group=GRADIENTS)
    directions: Literal["targets", "subtasks"] = option("targets", "With --projection none: keep a direction per "
                                                        "target, or only one per subtask (less memory).",
                                                        group=GRADIENTS)
    target_rank: float = option(0.95, "GIST: dimensions of the targets' subspace, as a share of explained variance "
                                "(below 1) or a number.", group=GRADIENTS, rule=POSITIVE)
    damping: float = option(0.0, "Precondition with the damped inverse of the pool's projected Gram matrix (TRAK, "
                            "LoGra): damping in mean eigenvalues, for example 0.1; 0 for off.", group=GRADIENTS,
                            rule=Rule("a finite number of 0 or more", lambda x: 0 <= x < float("inf")))
    checkpointing: bool = option(False, "Gradient checkpointing: less memory, a third more time.", group=GRADIENTS)
    autocast: Literal["none", "bfloat16", "float16"] = option("none", "Run the feature passes in half precision, with "
                                                              "weights and gradients in the model's own.",
                                                              group=GRADIENTS)
    shard_rows: int = option(256, "Rows per shard of the feature store: what an interruption can cost.",
                             group=GRADIENTS, rule=COUNT)

    collect: tuple[str, ...] = option((), "Further features to read in the same forward pass, for a later --from: rds, "
                                      "mads, nag, nait, loss, ifd; may be given several times.", group=OTHER)
    neurons: Literal["auto", "gated", "up"] = option("auto", "Whose activations count: the gated ones that enter the "
                                                     "MLP's down projection (mads, nait), or those of its up "
                                                     "projection (nag).", group=OTHER)
    span: Literal["auto", "response", "prompt", "all"] = option("auto", "Over which tokens activations are taken: the "
                                                                "response (mads, nait), the prompt or all (nag).",
                                                                group=OTHER)
    aggregate: Literal["auto", "mean", "max"] = option("auto", "How the tokens of a row are put together: mean or max.",
                                                       group=OTHER)
    active: int = option(20, "Neurons of each layer that count as active in a row: its so many strongest.",
                         group=OTHER, rule=COUNT)
    threshold: float = option(0.0, "Count every neuron above this magnitude as active instead, however many; longer "
                              "rows then have more of them. 0 for off.", group=OTHER,
                              rule=Rule("a finite number of 0 or more", lambda x: 0 <= x < float("inf")))
    nait_score: Literal["dot", "cosine"] = option("dot", "NAIT: inner product with the task's direction (paper), or "
                                                  "its cosine.", group=OTHER)
    embedding_model: str = option("minilm", "Sentence-embedding model: any of sentence-transformers, a folder, or "
                                  "minilm (all-MiniLM-L6-v2, offline).", group=OTHER)
    utility: Literal["distance", "logprob"] = option("distance", "DELIFT: how much an example in context helps: by "
                                                     "distance from certainty (paper), or by mean log-probability.",
                                                     group=OTHER)
    pairs: Literal["auto", "dense", "sparse"] = option("auto", "DELIFT: which pairs are scored: all, or those that "
                                                       "nearest neighbours and chance nominate; auto: all up to 256 "
                                                       "rows.", group=OTHER)
    nominees: int = option(24, "DELIFT: nearest rows by embedding that each example is scored on.", group=OTHER,
                           rule=COUNT_OR_NONE)
    random_nominees: int = option(8, "DELIFT: random rows that each example is scored on besides.", group=OTHER,
                                  rule=COUNT_OR_NONE)
    learning_percentage: Literal["full", "app"] = option("full", "Learning percentage: of what three epochs learn (the "
                                                         "paper's LP(1)), or of the first perplexity (LP_app: one "
                                                         "epoch).", group=OTHER)
    target_vectors: str = option("", "With --representation file:VECTORS.npy: the vectors of the target rows.",
                                 group=OTHER)
    ngram_buckets: int = option(10000, "DSIR: buckets of hashed words and word pairs.", group=OTHER, rule=COUNT)

    workers: int = option(1, "Processes for features and trainings, each with its own copy of the model: one per GPU, "
                          "or one per CPU core.", group=GRADIENTS, rule=COUNT)
    executor: Literal["local", "ray"] = option("local", "Where the workers run: processes on this machine, or actors "
                                               "of a Ray cluster (of RAY_ADDRESS, else started here).", group=GRADIENTS)

    learning_rate: float = option(3e-4, "Peak learning rate of the warmup run and of training.",
                                  group=TRAINING, rule=POSITIVE)
    batch_size: int = option(8, "Rows per optimizer step.", group=TRAINING, rule=COUNT)
    micro_batch_tokens: int = option(1024, "Padded tokens per forward pass in training: a step's rows are cut into "
                                     "such parts, which bounds memory.", group=TRAINING, rule=COUNT)

    output_dir: str = option("", "Run folder to write.", group=RUN)
    from_run: str = option("", "Reuse pool, model and features of this run folder.", group=RUN, flag="--from")
    recompute: bool = option(False, "Replace stored features that were made with other settings.", group=RUN)
    seed: int = option(0, "The seed from which all others derive.", group=RUN)


@dataclass(frozen=True)
class CompareConfig(SelectConfig):
    """What `siftune compare` reads besides: how subsets are trained and scored."""

    methods: tuple[str, ...] = option((), "Methods to compare, as for --method; give it several times. The first one's "
                                      "subset is the run's selection.", group=METHOD)
    baselines: tuple[str, ...] = option(("random",), "Baselines beside zero-shot: random, length-matched-random, "
                                        "longest, full; give it several times.", group=METHOD)
    seeds: int = option(3, "Trainings of each method, and random subsets.", group=TRAINING, rule=COUNT)
    epochs: int = option(4, "Epochs of each training.", group=TRAINING, rule=COUNT)
    confidence: float = option(0.95, "Level of intervals and tests.", group=TRAINING, rule=PROPER_SHARE)
    exact_match_tokens: int = option(32, "Generate and compare answers of at most so many tokens; 0 for never.",
                                     group=TRAINING, rule=COUNT_OR_NONE)
    lm_eval: tuple[str, ...] = option((), "A further score: a task of the lm-evaluation-harness by name, or the path "
                                      "of a task YAML or of a JSON(L) file of prompts and answers; may be given "
                                      "several times.", group=TRAINING)
    lm_eval_code: bool = option(False, "Run code that comes with those tasks, and what the model writes where a task "
                                "does so.", group=TRAINING)


C = TypeVar("C", bound=DataConfig)


def flag_of(config_field: dataclasses.Field[Any]) -> str:
    return config_field.metadata.get("flag") or "--" + config_field.name.replace("_", "-")


def from_mapping(kind: type[C], values: Mapping[str, Any], *, where: str | None = None) -> C:
    """Build a config from plain values, checking every name and type.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or a value of the wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    fields = {f.name: f for f in dataclasses.fields(kind)}
    values = {("from_run" if key == "from" else key.replace("-", "_")): value for key, value in values.items()}
    for key in values:
        if key not in fields:
            raise _unknown_key(key, fields, where)
    types = get_type_hints(kind)
    for name, value in values.items():
        if isinstance(value, str) and types[name] == tuple[str, ...]:  # one source may be written without a list
            values[name] = (value,)
    if isinstance(values.get("budget"), int | float) and not isinstance(values["budget"], bool):
        values["budget"] = str(values["budget"])  # YAML reads `budget: 500` as a number
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        flag = flag_of(fields[name])
        if first["type"] == "literal_error":
            known = get_args(get_type_hints(kind)[name])
            raise unknown_name(f"value of {flag}:", str(first["input"]), known, flag=where or flag) from error
        raise ConfigError(f"{flag} cannot be {first['input']!r}", where=where or flag, why=first["msg"],
                          hint=fields[name].metadata["help"]) from error
    except ConfigError as error:  # a number out of its range
        error.where = where or error.where
        raise


def _unknown_key(key: str, fields: Mapping[str, Any], where: str | None) -> ConfigError:
    if key in {f.name for f in dataclasses.fields(CompareConfig)}:
        return ConfigError(f"the setting {key!r} belongs to `siftune compare`", where=where,
                           hint="take it out, or run `siftune compare`")
    return unknown_name("setting", key, fields, flag=where)


def load(kind: type[C], path: str | Path | None, flags: Mapping[str, Any]) -> C:
    """Defaults, overridden by a YAML file (or by the run that ``from_run`` names), overridden by flags.

    With ``from_run`` the earlier run's own configuration is the starting point, so that only what differs need be
    said. What may not differ is not decided here: stored features refuse whatever they were not made from.

    Raises:
        ConfigError: a file is missing, not YAML, or holds an unknown key or a wrong value.
    """
    values: dict[str, Any] = {}
    if flags.get("from_run"):
        values = _earlier_run(kind, flags)
    if path is not None:
        own = {("from_run" if k == "from" else k.replace("-", "_")): v for k, v in read_yaml(path).items()}
        from_mapping(kind, own, where=str(path))  # so that an error names the file
        values.update(own)
    return from_mapping(kind, {**values, **flags})


def _earlier_run(kind: type[C], flags: Mapping[str, Any]) -> dict[str, Any]:
    source = Path(flags["from_run"]) / "config.yaml"
    if not source.is_file():
        raise ConfigError("there is no finished run to take features from", where=f"--from {flags['from_run']}",
                          hint="name a folder that `siftune select --output-dir` has written")
    known = {f.name for f in dataclasses.fields(kind)}
    values = {k: v for k, v in read_yaml(source).items() if k in known and k not in ("output_dir", "recompute")}
    if "method" in flags:  # another recipe: the parts named for the earlier one do not go with it
        values.pop("representation", None)
        values.pop("selector", None)
        values.pop("collect", None)
    return values


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ConfigError: it is missing or is not that.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration: {error.strerror}", where=str(path),
                          hint="give the path of a YAML file, such as the config.yaml of a run folder") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError("the configuration is not YAML", where=f"{path}:{mark.line + 1}" if mark else str(path),
                          why=str(error).splitlines()[0], hint="write one `key: value` a line") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError("the configuration is not a mapping", where=str(path), hint="write one `key: value` a line")
    return {str(key): value for key, value in values.items()}


def to_yaml(config: DataConfig) -> str:
    """All settings of a run, defaults included, as YAML that :func:`load` reads back."""
    import yaml

    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
