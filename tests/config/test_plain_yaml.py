"""Files of settings that are dates, tags, aliases or nesting without end are refused in a moment, with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from siftune._common.errors import ConfigError
from siftune.config.owned import read_sets
from siftune.config.plain_yaml import load_yaml
from siftune.config.settings import SelectConfig, from_mapping, load
from siftune.data.limits import Limits
from siftune.pipeline.select import read_quota_texts


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(("text", "said"), [
    (laughs(20), "more than 100,000 values"), ("a: &a [*a]", "inside itself"), ("a: &a {b: *a}", "inside itself"),
    ("a: " + "[" * 300 + "]" * 300, "deep"), ("a: " + "{b: " * 60 + "1" + "}" * 60, "deep"),
    ("a: 1\na: 2", "not YAML"), ("less: {adam: none, adam: paper}", "not YAML"), ("a: 2024-13-45", "cannot be read"),
    (f"a: {'9' * 5000}", "cannot be read"), ("a: !!python/object:os.system x", "not YAML"), ("a: !!float x", "cannot"),
    ("\x00", ""), ("a" * 1_000_001, "1,000,001 characters"), ("a: 'x", "not YAML"),
])
def test_what_is_no_plain_setting_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="configuration") as refused:
        load_yaml(text, "file.yaml")
    assert said in str(refused.value)
    assert str(refused.value.where).startswith("file.yaml")
    assert refused.value.hint


def test_aliases_that_repeat_a_little_are_read() -> None:
    assert load_yaml("a: &a [1, 2]\nb: *a\n<<: {c: 3}", "x") == {"a": [1, 2], "b": [1, 2], "c": 3}


@pytest.mark.parametrize("entries", [["adam=none", "adam=paper"], ["adam=none", "adam=none"],
                                     ["adam=none", "less.adam=none"]])
def test_a_setting_that_is_given_twice_is_refused(entries: list[str]) -> None:
    with pytest.raises(ConfigError, match="set twice"):
        read_sets(entries, ["less", "top-k"])


def test_quotas_and_limits_that_are_given_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match="two quotas"):
        read_quota_texts(["a=1..", "a=..2"])
    with pytest.raises(ConfigError, match="two limits"):
        Limits.parse(["row=1m", "row=2m"])
    assert read_quota_texts(["a=b=1..2", "c=..5%"]) == {"a=b": ("1", "2"), "c": (None, "5%")}


@pytest.mark.parametrize("value", ["a\ud800", "a\0b"])
def test_text_that_no_file_can_hold_is_refused_wherever_it_is_given(value: str, tmp_path: Path) -> None:
    for given in ({"output_dir": value}, {"model": value}, {"pool": [value]}, {"collect": [value]}):
        with pytest.raises(ConfigError, match="cannot be written"):
            from_mapping(SelectConfig, given)
    (tmp_path / "c.yaml").write_text(f'output_dir: "{"a" + chr(92) + ("ud800" if value[1] != chr(0) else "0")}"\n')
    with pytest.raises(ConfigError, match=r"cannot be written|not YAML|cannot be read"):
        load(SelectConfig, tmp_path / "c.yaml", {})
