"""Every setting says what it is and what it decides, and does just that.

By reflection over the fields of all methods, selectors and shared configs: a new setting that is in none of the classes
cannot exist, and one that is in the wrong class fails here.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from siftune._common.errors import ConfigError, StoreMismatch
from siftune.config.catalogue import METHODS, SELECTORS, settings_type
from siftune.config.options import Decides, deciding
from siftune.config.settings import CompareConfig, SelectConfig
from siftune.experiments.selecting import TOLD, shared_settings
from siftune.features.base import Computed, Context
from siftune.features.gradient_settings import gradient_fingerprint, settled
from siftune.methods.less import Less
from siftune.methods.logra import LoGra
from siftune.selectors import Problem, select
from tests.methods import contexts, texts

OWNERS = [*METHODS.own, *SELECTORS.own]
FIELDS = [(owner, f) for owner in OWNERS for f in dataclasses.fields(settings_type(owner))]
NAMES = [f"{owner}.{f.name}" for owner, f in FIELDS]
OF_METHODS = [(owner, f.name) for owner, f in FIELDS if owner in METHODS.own]

IN_FORCE: dict[str, dict[str, Any]] = {
    "less.directions": {"projection": "none"}, "less.keep_features": {"projection_dim": 8192},
    "utility.nominees": {"pairs": "sparse"},
    "utility.random_nominees": {"pairs": "sparse"}, "less.gradient_score": {}, "logra.damping": {},
}
"""Where a setting only matters under others: those."""

OTHER = {
    "projection": "srht", "target_rank": 3.0, "damping": 0.5, "threshold": 0.3, "pairs": "sparse", "active": 5,
    "embedding_model": "another", "nominees": 1, "random_nominees": 2, "warmup_share": 0.9, "warmup_rows": 9,
    "signals": ("bm25", "embed"), "first": ("bm25",), "second": "rds", "landmarks": 5, "weights": (2.0, 1.0, 0.5),
    "checkpoints": "last",
}
"""Another value, where the rule below makes none that a tiny run can take."""


def other_value(owner: str, name: str, settings: Any) -> Any:
    """A valid value that differs from what the settings have."""
    hint, value = get_type_hints(settings_type(owner))[name], getattr(settings, name)
    if name in OTHER and not (name == "projection" and owner == "logra"):
        return OTHER[name]
    if get_origin(hint) is Literal:
        return next(one for one in get_args(hint) if one != value)
    if hint is bool:
        return not value
    if hint is str:
        return "sparse-jl" if name == "projection" else "another"
    return value + 1 if hint is int else value / 2


@pytest.mark.parametrize(("owner", "field"), FIELDS, ids=NAMES)
def test_every_setting_has_words_a_range_and_says_what_it_decides(owner: str, field: dataclasses.Field[Any]) -> None:
    check_field(field, get_type_hints(settings_type(owner))[field.name])
    if owner in SELECTORS.own:
        assert field.metadata["decides"] == "selection"


@pytest.mark.parametrize("field", dataclasses.fields(CompareConfig), ids=lambda f: f.name)
def test_every_shared_setting_has_words_a_range_and_says_what_it_decides(field: dataclasses.Field[Any]) -> None:
    check_field(field, get_type_hints(CompareConfig)[field.name])
    assert field.metadata["group"]


def check_field(field: dataclasses.Field[Any], hint: Any) -> None:
    assert field.metadata["help"].strip().endswith(".")
    assert field.metadata["decides"] in get_args(Decides)
    if {int, float} & {hint, *get_args(hint)} and get_origin(hint) is not Literal:
        assert field.metadata["rule"], "a number has a range"
        assert not field.metadata["rule"].holds(float("nan"))
        assert field.default is None or field.metadata["rule"].holds(field.default)


@pytest.mark.parametrize("owner", OWNERS)
def test_settings_are_frozen_and_of_their_owner(owner: str) -> None:
    settings = settings_type(owner)()
    for field in dataclasses.fields(settings):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, field.name, field.default)


@pytest.mark.parametrize("name", SELECTORS.own)
def test_a_selector_has_the_settings_that_its_function_takes(name: str) -> None:
    found = SELECTORS.get(name)
    taken = {p.name: p.default for p in inspect.signature(found.run).parameters.values()
             if p.kind is p.KEYWORD_ONLY and p.name != "seed" and p.name not in found.preset}
    assert {f.name: f.default for f in dataclasses.fields(found.Settings)} == taken


def test_settings_of_selectors_are_keywords_and_checked() -> None:
    problem = Problem.from_similarities(np.array([[0.9, 0.8, 0.7], [0.8, 0.1, 0.2]]), ids=["a", "b", "c"])
    assert select(problem, 3, "round-robin", on_taken="forfeit").diagnostics["forfeited_turns"]
    with pytest.raises(ConfigError, match="did you mean 'forfeit'"):
        select(problem, 3, "round-robin", on_taken="forfiet")
    with pytest.raises(ConfigError, match="'on_taken'"):
        select(problem, 3, "round-robin", on_takn="forfeit")


# ----------------------------------------------------------------- what they decide, on a tiny model


def made(owner: str, folder: Path, **changes: Any) -> Context:
    """A run of the method, small enough for a test."""
    if owner in ("embed", "bm25", "dsir", "file"):
        pool, target = texts.demo("pool", 6), texts.demo("target", 2)
        return texts.context(folder, texts.examples(pool), texts.examples(target, "target"), owner=owner, **changes)
    small = {"warmup_epochs": 2} if owner in ("less", "gist") else {}
    return contexts.context(folder, owner=owner, **{**small, **changes})


def method_of(owner: str, folder: Path) -> Any:
    if owner == "file":
        path = folder.parent / "vectors.npy"
        np.save(path, np.random.default_rng(0).normal(size=(6, 3)))
        np.save(folder.parent / "another", np.random.default_rng(1).normal(size=(2, 3)))
        return METHODS.get(owner)(str(path))
    return METHODS.get(owner)()


def read(output: Computed) -> None:
    """Make whatever is only made when a selector asks for it."""
    for blocks in (output.blocks, output.subtask_blocks, output.existing):
        for _ in blocks() if blocks else ():
            pass
    for make in (output.kernel, output.sets):
        if make:
            make()


def key_of(output: Computed, folder: Path) -> Any:
    """What tells the features that are kept from others: where they are, and what they are made from."""
    return [sorted(str(store.relative_to(folder)) for store in output.stores), output.fingerprint]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory):
    """The method's run with default settings (and those under which a setting matters), made once."""
    kept: dict[tuple[str, str], tuple[Path, Any]] = {}

    def run(owner: str, base: dict[str, Any]) -> tuple[Path, Any]:
        key = owner, repr(sorted(base.items()))
        if key not in kept:
            folder = tmp_path_factory.mktemp(owner) / "run"
            folder.mkdir()
            context = made(owner, folder, **base)
            output = method_of(owner, folder).compute(context)
            read(output)
            kept[key] = folder, key_of(output, folder)
        return kept[key]

    return run


@pytest.mark.parametrize(("owner", "name"), OF_METHODS, ids=[f"{o}.{n}" for o, n in OF_METHODS])
def test_a_setting_decides_what_it_says(owner: str, name: str, known, tmp_path: Path) -> None:
    base = IN_FORCE.get(f"{owner}.{name}", {})
    if (owner, name) == ("embed", "embedding_model") or (owner == "learning-percentage" and name == "embedding_model"):
        pytest.skip("the other model would have to be there: tests/methods/test_embedding.py has one")
    folder, before = known(owner, base)
    field = next(f for f in dataclasses.fields(settings_type(owner)) if f.name == name)
    settings = made(owner, tmp_path, **base).settings
    value = other_value(owner, name, settings)
    if name == "target_vectors":
        value = str(folder.parent / "another.npy")
    again = made(owner, folder, **{**base, name: value})
    if field.metadata["decides"] == "features":
        try:
            output = method_of(owner, folder).compute(again)
            read(output)
        except StoreMismatch:  # another key: features of another value are refused
            return
        assert key_of(output, folder) != before, "it decides features, but those of another value would be used"
        return
    output = method_of(owner, folder).compute(again)
    read(output)
    stores, fingerprint = key_of(output, folder)
    assert set(stores) <= set(before[0]), "some of the very same features are read, or all of them"
    assert fingerprint == before[1]
    remade = [step["step"] for step in again.clock.steps if not step["reused"]]
    # What is made of kept features or beside them, and loading.
    allowed = ("preconditioner", "centre", "reference", "read vectors", "n-grams", "embedding model", "BM25 index",
               "fuse signals", "whiten", "carry scores", "keep the first stage's rows")
    assert not [step for step in remade if not step.startswith(allowed)]


# ----------------------------------------------------------------- the shared ones

BY_CONTENT = {"pool", "target", "test", "existing", "format", "columns", "limits", "id_field", "subtask_field",
              "bad_rows", "overlap",
              "max_length", "model", "dtype", "trust_remote_code"}
"""Shared settings that decide which rows there are, what a model sees of them, and which model: keys hold the content
of the rows, the renderer and the weights instead."""

OWN = {"own"}
"""The settings of methods and selectors, each of which is tested above."""

CHANGED: dict[str, Any] = {
    "lora_rank": 3, "lora_alpha": 4.0, "lora_dropout": 0.3, "lora_targets": ("q_proj",), "lora_layers": 1, "seed": 7,
    "feature_dtype": "int8", "autocast": "bfloat16", "micro_batch_tokens": 512,
}


@pytest.mark.parametrize("field", dataclasses.fields(SelectConfig), ids=lambda f: f.name)
def test_a_shared_setting_decides_what_it_says(field: dataclasses.Field[Any], tmp_path: Path) -> None:
    name, decides = field.name, field.metadata["decides"]
    if name in BY_CONTENT | OWN:
        assert decides == "features"
        return
    keys = [gradient_key(tmp_path, {}), gradient_key(tmp_path, {name: CHANGED.get(name, changed(field))})]
    if decides == "features":
        assert name in CHANGED
        assert keys[0] != keys[1], "features of another value would be used"
        assert name in shared_settings(SelectConfig())
    else:
        assert keys[0] == keys[1], "features would be made again for nothing"
        assert (name in shared_settings(SelectConfig())) == (decides == "selection" and name not in TOLD)


def gradient_key(folder: Path, changes: dict[str, Any]) -> Any:
    found = []
    for method in (Less(), LoGra()):
        context = contexts.context(folder, owner=method.name, **changes)
        found.append(gradient_fingerprint(context, method, settled(context, method)))
    return found


def changed(field: dataclasses.Field[Any]) -> Any:
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, int):
        return field.default + 3
    if isinstance(field.default, float):
        return field.default + 0.5
    return ("other",) if isinstance(field.default, tuple) else "other"


def test_what_only_compare_reads_decides_no_features_and_no_subset() -> None:
    own = {f.name for f in dataclasses.fields(CompareConfig)} - {f.name for f in dataclasses.fields(SelectConfig)}
    assert {"learning_rate", "batch_size", "epochs"} <= own
    assert not own & set(deciding(CompareConfig(), "features"))
