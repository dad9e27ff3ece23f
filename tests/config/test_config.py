"""Settings come from defaults, a YAML file and flags, in that order; every mistake names the key."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from siftune._common.errors import ConfigError
from siftune.config.settings import CompareConfig, SelectConfig, from_mapping, load, to_yaml

ROOT = Path(__file__).parents[2]


def test_a_config_written_as_yaml_is_read_back_the_same(tmp_path):
    config = CompareConfig(pool=("a.jsonl", "b.csv"), budget="2.5%", seeds=5, methods=("less",), learning_rate=1e-3)
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    again = load(CompareConfig, tmp_path / "c.yaml", {})
    assert dataclasses.replace(again, own={}) == config
    assert {owner: again.settings_of(owner) for owner in again.own} == {"less": config.settings_of("less")}
    assert to_yaml(again) == to_yaml(config)


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("budget: 10%\nmax-length: 99\n")
    config = load(SelectConfig, tmp_path / "c.yaml", {"budget": "20%"})
    assert (config.budget, config.max_length, config.shard_rows) == ("20%", 99, SelectConfig().shard_rows)


@pytest.mark.parametrize(("text", "budget"), [("budget: 500", "500"), ("budget: 5%", "5%"), ('budget: "500"', "500")])
def test_a_budget_may_be_a_number_in_yaml(tmp_path, text, budget):
    (tmp_path / "c.yaml").write_text(text)
    assert load(SelectConfig, tmp_path / "c.yaml", {}).budget == budget


def test_one_source_needs_no_list():
    assert from_mapping(SelectConfig, {"pool": "a.jsonl"}).pool == ("a.jsonl",)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(CompareConfig) if isinstance(f.default, tuple)])
def test_nor_does_any_other_setting_that_may_be_given_several_times(name):
    assert getattr(from_mapping(CompareConfig, {name: "one"}), name) == ("one",)


@pytest.mark.parametrize(("text", "message", "hint"), [
    ("buget: 5%", "unknown setting 'buget'", "did you mean 'budget'"),
    ("max_length: many", "--max-length cannot be 'many'", ""),
    ("less: {adam: adamw}", "less.adam: 'adamw'", "choose one of: less-code, none, paper"),
    ("- a\n- b", "not a mapping", "key: value"),
    ("a: [", "not YAML", "key: value"),
])
def test_a_mistake_in_the_file_names_file_and_key(tmp_path, text, message, hint):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(SelectConfig, path, {})
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(("name", "kind"), [("demo", CompareConfig), ("smoke", SelectConfig)])
def test_the_shipped_configurations_are_valid(name, kind):
    path = ROOT / "examples" / "demo" / f"{name}.yaml"
    assert load(kind, path, {}).pool
