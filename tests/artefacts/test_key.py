"""What an artefact was made from: no field of an object is forgotten, and equal objects have equal keys."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune._common.artefacts import described, digest, first_difference
from siftune._common.artefacts.key import differences, only_artefacts_differ
from siftune.config.options import option
from siftune.features.forward.active_sets import ActiveNeurons
from siftune.features.forward.directions import Deltas
from siftune.features.forward.loss import Loss, ResponseAloneLoss
from siftune.features.gradient_passes import Pass
from siftune.features.gradients.warmup import WarmupSettings
from siftune.models.lora import LoraSettings
from siftune.training.settings import TrainSettings

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3))


@dataclasses.dataclass(frozen=True)
class Made:
    value: object = 1
    fast: int = dataclasses.field(default=1, metadata={"decides": "nothing"})
    later: int = option(1, "Read when rows are chosen.", decides="selection")
    new: int = option(1, "A setting whose author said nothing more.")


@given(JSON, JSON)
def test_keys_are_equal_exactly_where_values_are(one, other):
    assert digest(one) == digest(json.loads(json.dumps(one)))
    assert (digest(one) == digest(other)) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


def test_every_field_is_part_of_the_key_unless_it_says_that_it_decides_something_else():
    assert digest(Made(2)) != digest(Made())
    assert digest(Made(new=2)) != digest(Made())
    assert digest(Made(fast=2)) == digest(Made(later=2)) == digest(Made())
    assert digest(dataclasses.make_dataclass("Other", ["value", "new"])(1, 1)) != digest(Made())


@pytest.mark.parametrize("made", [
    Loss(), ResponseAloneLoss((1, 2)), ActiveNeurons(), Deltas("up", (3,)), Pass(), WarmupSettings(), TrainSettings(),
    LoraSettings(),
], ids=lambda made: type(made).__name__)
def test_changing_any_field_of_what_computes_changes_the_key(made):
    """By reflection: a field that is added tomorrow is in the key tomorrow."""
    for field in dataclasses.fields(made):
        other = object.__new__(type(made))
        for each in dataclasses.fields(made):
            object.__setattr__(other, each.name, getattr(made, each.name))
        object.__setattr__(other, field.name, "another value")
        same = field.metadata.get("decides", "features") != "features"
        assert (digest(other) == digest(made)) is same, field.name


@pytest.mark.parametrize("value", [Path("store"), object(), b"bytes", {"deep": [Path()]}, float])
def test_what_cannot_be_described_is_refused_rather_than_left_out(value):
    with pytest.raises(TypeError, match="cannot be part of a key"):
        described(value)


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)))
def test_a_description_equals_itself_after_json(fields):
    assert first_difference(json.loads(json.dumps(fields)), fields) is None


def test_differences_are_named_in_the_order_of_what_is_wanted():
    stored, wanted = {"a": 1, "gone": 1, "b": {"c": 1}}, {"b": {"c": 2}, "a": 2}
    assert [name for name, _, _ in differences(stored, wanted)] == ["b.c", "a", "gone"]


def test_only_other_artefacts_may_be_replaced_unasked():
    stored = {"checkpoint": {"file": {"artefact": "x"}}, "seed": 1}
    assert only_artefacts_differ(differences(stored, {"checkpoint": {"file": {"artefact": "y"}}, "seed": 1}))
    assert not only_artefacts_differ(differences(stored, {"checkpoint": {"file": {"artefact": "y"}}, "seed": 2}))
    assert not only_artefacts_differ([])
