"""Settings come from defaults, a YAML file and flags, in that order; every mistake names the key."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from siftune._common.errors import ConfigError
from siftune.config.catalogue import settings_type
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
    ("less: {adam: adamw}", "less.adam: 'adamw'", "choose one of: less-code, no-momentum, none, paper"),
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


# ----------------------------------------------------------------- settings of methods and selectors


@pytest.mark.parametrize(("method", "values", "own"), [
    ("less", {"adam": "none"}, {"less": {"adam": "none"}}),
    ("less-round-robin", {"on_taken": "forfeit", "center": True},
     {"round-robin": {"on_taken": "forfeit"}, "less": {"center": True}}),
    ("delift", {"nominees": 2, "utility": "logprob"}, {"utility": {"nominees": 2, "utility": "logprob"}}),
    ("less", {"less": {"adam": "none"}, "damping": 1}, {"less": {"adam": "none", "damping": 1.0}}),
    ("less-round-robin", {"round_robin": {"on_taken": "forfeit"}}, {"round-robin": {"on_taken": "forfeit"}}),
    ("rds+", {"rds+": {"center": True}}, {"rds": {"center": True}}),
    ("less:deita", {"threshold": 0.5}, {"deita": {"threshold": 0.5}}),
])
def test_python_names_a_setting_with_or_without_its_owner(method, values, own):
    assert from_mapping(SelectConfig, {"method": method, **values}).own == own


def test_settings_of_a_method_are_an_object_with_defaults():
    config = from_mapping(SelectConfig, {"method": "less", "adam": "none"})
    assert (config.settings_of("less").adam, config.settings_of("less").warmup_epochs) == ("none", 4)
    assert config.settings_of("top-k-subtask") == config.settings_of("bm25")  # neither has any


@pytest.mark.parametrize(("values", "parts"), [
    ({"method": "rds+", "adam": "none"}, ("rds and round-robin have no setting 'adam'", "less",
                                          "center, whiten, on_taken")),
    ({"method": "mads:deita", "threshold": 1}, ("of mads and of deita", "--set mads.threshold=1",
                                                      "--set deita.threshold=1")),
    ({"method": "less", "adm": "none"}, ("unknown setting 'adm'", "did you mean 'adam'?")),
    ({"method": "less", "adam": 5}, ("less.adam: '5'", "choose one of")),
    ({"method": "less", "warmup_epochs": 0}, ("less.warmup_epochs cannot be 0", "1 or more")),
    ({"method": "less", "warmup_epochs": True}, ("less.warmup_epochs cannot be True",)),
    ({"method": "less", "warmup_epochs": 10**400}, ("less.warmup_epochs cannot be",)),
    ({"method": "less", "lesss": {"adam": "none"}}, ("did you mean 'less'?",)),
])
def test_a_foreign_ambiguous_or_wrong_setting_is_refused(values, parts):
    with pytest.raises(ConfigError) as caught:
        from_mapping(SelectConfig, values)
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.hint


def test_what_auto_may_choose_gets_a_setting_by_its_bare_name():
    config = load(SelectConfig, None, {"own": ("warmup_epochs=2",)})
    assert config.settings_of("less").warmup_epochs == 2


def test_flags_win_over_a_block_and_a_block_over_the_earlier_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    earlier = from_mapping(SelectConfig, {"method": "less", "pool": "p", "adam": "none", "warmup_rows": 7,
                                          "center": True})
    (run / "config.yaml").write_text(to_yaml(earlier))
    (tmp_path / "c.yaml").write_text("less: {warmup_rows: 8, center: false}\n")
    made = load(SelectConfig, tmp_path / "c.yaml", {"from_run": str(run), "own": ("center=yes",)})
    settings = made.settings_of("less")
    assert (settings.adam, settings.warmup_rows, settings.center) == ("none", 8, True)
    other = load(SelectConfig, None, {"from_run": str(run), "method": "rds+"})
    assert not other.own, "another method: the settings of the earlier one do not go with it"


def test_a_block_that_nothing_reads_is_told(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("less: {adam: none}\ngist: {target_rank: 3}\n")
    assert load(SelectConfig, tmp_path / "c.yaml", {"method": "less"}).own["gist"] == {"target_rank": 3.0}
    assert "the settings of gist in" in capsys.readouterr().err


def test_the_configuration_of_a_run_of_the_first_edition_is_still_read(tmp_path):
    file = Path(__file__).with_name("first_edition.yaml")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(file.read_text())
    for config in (load(SelectConfig, file, {}), load(SelectConfig, None, {"from_run": str(run)})):
        less = config.settings_of("less")
        assert (config.method, config.seed, config.pool) == ("less-round-robin", 3, ("pool.jsonl",))
        assert (less.warmup_epochs, less.warmup_learning_rate, less.warmup_batch_size) == (2, 1e-3, 4)
        assert (less.projection_dim, less.center, less.adam) == (512, True, "paper")
        assert config.settings_of("round-robin").on_taken == "forfeit"
    mads = load(SelectConfig, None, {"from_run": str(run), "method": "mads"})
    assert mads.settings_of("mads").neurons == "gated", "auto stood for the method's own"


def test_every_setting_of_the_first_edition_has_a_successor():
    from siftune.config.earlier import OWNERS, TRAINED

    for name, found in OWNERS.items():
        for owner in found:
            assert name in {f.name for f in dataclasses.fields(settings_type(owner))}, f"{owner}.{name}"
    for name in TRAINED.values():
        assert name in {f.name for f in dataclasses.fields(settings_type("less"))}
