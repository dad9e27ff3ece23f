"""The JSON schema of settings files takes what siftune takes, and is made from the settings themselves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from siftune._common.errors import ConfigError
from siftune.config.catalogue import METHODS, RECIPES, SELECTORS, settings_type
from siftune.config.choosing import NOT_HERE, ChooseConfig
from siftune.config.schema import settings_schema
from siftune.config.settings import CompareConfig, SelectConfig, load, to_yaml
from siftune.experiments.config import OWN_KEYS
from siftune.experiments.schema import OWN, study_schema

ROOT = Path(__file__).parents[2]
COMPARE, STUDY = settings_schema(CompareConfig), study_schema()
CHOOSE = settings_schema(ChooseConfig, without=tuple(NOT_HERE))


def check(values: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(values)


def shipped() -> list[Path]:
    found = sorted(path for folder in ("examples", "benchmarks") for path in (ROOT / folder).rglob("*.yaml"))
    assert len(found) >= 7
    return found


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_every_settings_file_that_is_shipped_is_valid(path: Path) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    check(values, STUDY if "targets" in values else CHOOSE if path.stem == "choose" else COMPARE)


def test_a_configuration_that_a_run_writes_is_valid() -> None:
    config = CompareConfig(pool=("a.jsonl",), methods=("less", "fusion"))
    check(yaml.safe_load(to_yaml(config, ["deita", "dsir"])), {**COMPARE, "properties": {
        **COMPARE["properties"], "from_run": {"type": "string"}}})


def test_every_setting_of_every_method_and_selector_is_there() -> None:
    assert set(COMPARE["properties"]) >= {*METHODS.names(), *SELECTORS.names()}
    assert COMPARE["properties"]["less-round-robin"] == {"$ref": "#/$defs/less"}
    for owner in (*METHODS.names(), *SELECTORS.names()):
        assert set(COMPARE["$defs"][owner]["properties"]) == {f.name for f in dataclasses.fields(settings_type(owner))}
    assert set(RECIPES) - set(COMPARE["properties"]) <= {"random", "length-matched-random", "longest"}
    assert set(OWN) == set(OWN_KEYS)


@pytest.mark.parametrize(("values", "right"), [
    ({"budget": 500}, True), ({"budget": "5%"}, True), ({"pool": "a.jsonl"}, True), ({"pool": ["a", "b"]}, True),
    ({"lora_rank": 0}, False), ({"lora_rank": "many"}, False), ({"bad_rows": "keep"}, False), ({"lora_rnak": 2}, False),
    ({"less": {"adam": "none"}}, True), ({"less": {"adam": "some"}}, False), ({"less": {"adm": "none"}}, False),
    ({"less": None}, True), ({"less": {"warmup_share": 0.0}}, False), ({"seeds": 3}, False), ({"max_length": 1}, False),
    ({"from": "runs/a"}, True), ({"deita": {"threshold": 2.0}}, False), ({"deita": {"threshold": 1.9}}, True),
])
def test_the_schema_refuses_what_reading_refuses(tmp_path: Path, values: dict[str, Any], right: bool) -> None:
    schema = settings_schema(SelectConfig)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    if right:
        check(values, schema)
        load(SelectConfig, tmp_path / "run.yaml", {})
    else:
        with pytest.raises(jsonschema.ValidationError):
            check(values, schema)
        with pytest.raises(ConfigError):
            load(SelectConfig, tmp_path / "run.yaml", {})


def test_bounds_of_the_schema_are_those_of_the_rules() -> None:
    """Around each bound, the rule and the schema say the same."""
    seen = 0
    for owner in ("", *METHODS.names(), *SELECTORS.names()):
        for field in dataclasses.fields(settings_type(owner) if owner else CompareConfig):
            rule = field.metadata.get("rule")
            if rule is None or isinstance(field.default, tuple):
                continue
            assert rule.schema, (owner, field.name)
            step = 1 if isinstance(field.default, int) else 1e-6
            for bound in rule.schema.values():
                for value in (bound - step, bound, bound + step):
                    valid = jsonschema.Draft202012Validator(dict(rule.schema)).is_valid(value)
                    assert valid == bool(rule.holds(value)), (owner, field.name, value)
                    seen += 1
    assert seen > 60
