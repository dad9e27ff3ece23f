"""Mistakes: each is named with its place and a way out, ends with exit code 2, and leaves nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siftune._common.files import read_json
from tests.cli.command import SMALL, Result, siftune
from tests.cli.conftest import Files
from tests.cli.pools import jsonl, record, records
from tests.cli.runs import check_run_folder, objects

Run = Callable[..., Result]


@pytest.fixture
def select(files: Files, tmp_path: Path) -> Run:
    """``select`` with changes; whatever it said, it must not have begun to write a run."""
    out = tmp_path / "out"

    def run(*more: Any, pool: Path = files.pool, target: Path = files.target, command: str = "select") -> Result:
        result = siftune(command, "--model", files.model, "--pool", pool, "--target", target, "--budget", 3, *SMALL,
                         "--output-dir", out, *more)
        assert not out.exists() or not list(out.iterdir())
        return result

    return run


def text(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


GOOD = json.dumps(record("messages", 1, id="good"))


@pytest.mark.parametrize(("name", "content", "line", "said"), [
    ("broken.jsonl", f'{GOOD}\n{{"messages": [\n', 2, "broken-json"),
    ("broken.json", f'[{GOOD},\n {{"id": }}]', 2, "element 2"),
    ("unknown.jsonl", f'{GOOD}\n\n{{"text": "x"}}\n', 3, "unknown-format"),
    ("number.jsonl", f"{GOOD}\n17\n", 2, "not-an-object"),
    ("two-formats.jsonl", f'{GOOD}\n{{"id": "b", "instruction": "a", "output": "b"}}\n', 2, "--format mixed"),
    ("no-answer.jsonl", f'{GOOD}\n{{"id": "b", "messages": [{{"role": "user", "content": "x"}}]}}', 2,
     "no-assistant-turn"),
    ("role.jsonl", f'{GOOD}\n{{"id": "b", "messages": [{{"role": "king", "content": "x"}}]}}', 2, "'king'"),
    ("image.jsonl", f'{GOOD}\n{{"id": "b", "messages": [{{"role": "user", "content": [{{"type": "image"}}]}}]}}', 2,
     "image"),
    ("latin.jsonl", GOOD.encode() + b'\n{"id": "b", "prompt": "\xe9", "completion": "x"}\n', 2, "iconv"),
    ("latin.csv", b"id,prompt,completion\na,b,c\nd,\xe9,f\n", 3, "iconv"),
    ("cells.csv", "id,prompt,completion\na,b,c\nd,e\n", 3, "broken-csv"),
    ("twice.jsonl", f"{GOOD}\n{json.dumps(record('messages', 2, id='other'))}\n{GOOD}\n", 3, "'good'"),
])
def test_a_bad_line_is_named(select: Run, tmp_path: Path, name: str, content: str, line: int, said: str) -> None:
    pool = text(tmp_path / name, content)
    select(pool=pool).refused(f"--> {pool}:{line}\n", said)
    select(target=pool).refused(f"--> {pool}:{line}\n", said)


@pytest.mark.parametrize(("name", "content"), [
    ("empty.jsonl", ""), ("blank.jsonl", "\n \n"), ("empty.json", ""), ("array.json", "[]"), ("empty.csv", ""),
    ("header.csv", "prompt,completion\n"), ("empty.parquet", ""), ("text.parquet", "id,prompt"),
    ("file.txt", "hello"), ("broken.jsonl.gz", "not gzip"),
])
def test_a_file_without_readable_rows_is_named(select: Run, tmp_path: Path, name: str, content: str) -> None:
    file = text(tmp_path / name, content)
    select(pool=file).refused(str(file), name)
    select(target=file).refused(str(file), name)


def test_a_missing_file_is_named_with_the_nearest_name(select: Run, files: Files, tmp_path: Path) -> None:
    select(pool=files.pool.with_name("poool.jsonl")).refused("no such file: poool.jsonl", f"did you mean {files.pool}?")
    select(target=tmp_path / "no" / "target.jsonl").refused("no such folder", str(tmp_path / "no" / "target.jsonl"))
    select("--test", tmp_path / "no.jsonl").refused("no such file: no.jsonl")


def test_prompts_longer_than_the_limit_say_which_limit_would_do(select: Run, files: Files, tmp_path: Path) -> None:
    message = select("--max-length", 25).refused("prompt-longer-than-limit", f"--> {files.pool}:", "--max-length").err
    enough = message.split("to at least ")[1].split(",")[0].strip()
    siftune(*files.select, "--method", "random", "--output-dir", tmp_path / "run", "--max-length", enough).ok()


@pytest.mark.parametrize(("budget", "said"), [
    ("0", "selects nothing"), ("-3", "selects nothing"), ("0%", "selects nothing"), ("41", "40 usable rows"),
    ("101%", "more than the whole pool"), ("1Mtok", "more than the pool"), ("lots", "cannot read"),
    ("", "cannot read"), ("0.05", "ambiguous"), ("2.5", "not a whole number"), ("5 %%", "cannot read"),
])
def test_budgets_that_cannot_be_met(select: Run, budget: str, said: str) -> None:
    select("--budget", budget).refused("--> --budget", said)


@pytest.mark.parametrize(("flags", "meant"), [
    (("--method", "les"), "less"), (("--method", "less:topk"), "top-k"), (("--method", "lesss:top-k"), "less"),
    (("--selector", "round-robbin"), "round-robin"), (("--representation", "lesss"), "less"),
    (("--set", "adam=papr"), "paper"), (("--format", "alpacca"), "alpaca"), (("--set", "target_mean=cosin"), "cosine"),
    (("--set", "adm=paper"), "adam"), (("--set", "lesss.adam=paper"), "less"), (("--set", "less.adm=none"), "adam"),
])
def test_unknown_names_come_with_the_nearest_known_one(select: Run, flags: tuple[str, str], meant: str) -> None:
    select(*flags).refused("unknown", f"did you mean '{meant}'?", flags[0])


@pytest.mark.parametrize("flags", [
    "--seed x", "--max-length 0", "--lora-rank 0", "--lora-alpha nan", "--lora-dropout 1", "--lora-layers -1",
    "--batch-tokens -1", "--near-duplicates 2", "--shard-rows 0", "--workers 0", "--bad-rows x", "--overlap x",
    "--feature-dtype int4", "--dtype float8", "--device gpu",
    "--id-field none-such", "--must-include no-such-file", "--must-exclude no-such-file", "--from no-such-run",
    "--model no-such-model",
])
def test_values_that_cannot_be_used(select: Run, flags: str) -> None:
    name, value = flags.split()
    select(name, value).refused(name, value)


@pytest.mark.parametrize("setting", [
    "warmup_share=0", "warmup_rows=-1", "warmup_epochs=0", "projection_dim=0", "warmup_batch_size=0",
    "warmup_learning_rate=-1", "warmup_learning_rate=inf", "damping=-1", "damping=nan", "warmup_epochs=two",
    "warmup_epochs=true", "center=2", "warmup_epochs=2.5", "projection_dim=2024-01-01", "projection_dim=2024-13-45",
    "projection_dim=[1, 2]", "projection_dim={a: 1}", "projection_dim=!!python/object:os.system x",
    "projection_dim=!!timestamp x", "projection_dim=!!float", "projection_dim=!!binary @", "projection_dim=&a [*a]",
    "projection_dim=[", f"projection_dim={'9' * 5000}", f"projection_dim={'[' * 3000}", "projection_dim=",
    f"projection_dim={'9' * 20_000}", "projection_dim",
])
def test_settings_of_a_method_that_cannot_be_used(select: Run, setting: str) -> None:
    select("--method", "less", "--set", setting).refused("--set", setting.partition("=")[0])


@pytest.mark.parametrize(("flags", "meant"), [
    (("--warmup-epochs", "2"), "--set warmup_epochs=2"), (("--warmup-epochs=2",), "--set warmup_epochs=2"),
    (("--on-taken", "forfeit"), "--set on_taken=forfeit"), (("--option", "eta=2"), "--set eta=2"),
    (("--center",), "--set center=true"), (("--no-center",), "--set center=false"),
    (("--learning-rate", "1e-4"), "--set warmup_learning_rate=1e-4"),
])
def test_a_flag_of_the_first_edition_says_what_to_type_now(select: Run, flags: tuple[str, ...], meant: str) -> None:
    select(*flags).refused(flags[0].partition("=")[0], f"type {meant}")


@pytest.mark.parametrize(("flags", "said"), [
    (("--baselines", "randm"), "did you mean 'random'?"), (("--methods", "lesss"), "did you mean 'less'?"),
    (("--seeds", "0"), "--seeds"), (("--epochs", "0"), "--epochs"),
    (("--batch-size", "0"), "--batch-size"), (("--learning-rate", "-1"), "--learning-rate"),
    (("--learning-rate", "inf"), "--learning-rate"), (("--confidence", "95"), "--confidence"),
    (("--exact-match-tokens", "-1"), "--exact-match-tokens"),
])
def test_compare_refuses_before_it_begins(select: Run, files: Files, flags: tuple[str, str], said: str) -> None:
    select("--test", files.test, "--methods", "less", *flags, command="compare").refused(said)


def test_compare_without_held_out_rows_is_refused(select: Run) -> None:
    select(command="compare").refused("nothing to score on", "--test")


@pytest.mark.parametrize(("content", "said"), [
    ("bugdet: 3\n", ("unknown setting 'bugdet'", "did you mean 'budget'?")),
    ("seed: many\n", ("--seed cannot be 'many'",)),
    ("less: {warmup_epochs: 0}\n", ("less.warmup_epochs cannot be 0",)),
    ("less:\n  adam: papr\n", ("did you mean 'paper'?",)),
    ("less:\n  adm: paper\n", ("did you mean 'adam'?",)),
    ("less: {target_rank: 3}\n", ("less has no setting 'target_rank'", "gist")),
    ("less: 3\n", ("the settings of less cannot be 3",)),
    ("lesss: {adam: none}\n", ("unknown", "did you mean 'less'?")),
    ("warmup_epochs: 2\n", ("one of less, gist", "less: {warmup_epochs: 2}", "--set warmup_epochs=2")),
    ("option: [eta=2]\n", ("--set NAME=VALUE",)),
    ("learning_rate: 1\n", ("warmup_learning_rate",)),
    ("budget: 2024-01-01\n", ("--budget",)), ("budget: 2024-13-45\n", ("cannot be read",)),
    ("budget: !!python/name:os.system\n", ("not YAML",)), (f"seed: {'9' * 5000}\n", ("cannot be read",)),
    (f"budget: {'[' * 3000}\n", ("config.yaml",)), (f"seed: {'9' * 400}\n", ("--seed",)),
    ("less: {projection_dim: 2024-01-01}\n", ("less.projection_dim",)),
    ("seeds: 3\n", ("belongs to `siftune compare`",)),
    ("- a\n", ("not a mapping",)),
    ("just text\n", ("not a mapping",)),
    ("seed: 1\na: [\n", (".yaml:3", "not YAML")),
    (b"seed: \xff\n", ("not YAML",)),
])
def test_a_configuration_that_cannot_be_used_is_named(select: Run, tmp_path: Path, content: str,
                                                      said: tuple[str, ...]) -> None:
    file = text(tmp_path / "config.yaml", content)
    select("--config", file).refused(str(file), *said)


def test_rows_that_must_be_selected_must_exist(select: Run, tmp_path: Path) -> None:
    select("--must-include", text(tmp_path / "ids", "no-such-row\n")).refused("'no-such-row'", "--must-include")


def test_a_test_row_in_the_target_file_is_refused_and_cannot_be_dropped(select: Run, files: Files,
                                                                        tmp_path: Path) -> None:
    test = jsonl(tmp_path / "test.jsonl", [*records("messages", range(200, 203)), record("messages", 102, id="same")])
    for more in ((), ("--overlap", "drop")):
        select("--test", test, *more).refused(f"--> {test}:4", f"{files.target}:3")


def test_pool_rows_in_the_test_file_are_refused_or_left_out(select: Run, files: Files, tmp_path: Path) -> None:
    shouted = record("messages", 7, id="shouted")
    shouted["messages"][1]["content"] = shouted["messages"][1]["content"].upper()
    test = jsonl(tmp_path / "test.jsonl", [*records("messages", range(200, 203)), record("messages", 4, id="same"),
                                           shouted])
    select("--test", test).refused("2 pool rows are also in the test file", f"--> {files.pool}:5", f"{test}:4",
                                   f"{files.pool}:8", f"{test}:5", "--overlap drop")
    siftune(*files.select, "--test", test, "--overlap", "drop", "--output-dir", tmp_path / "run").ok()
    check_run_folder(tmp_path / "run", pool_rows=40, selected=8)
    assert [(row["id"], row["reason"]) for row in objects(tmp_path / "run/dropped.jsonl")] == [
        ("row004", "in-test"), ("row007", "in-test")]
    told = read_json(tmp_path / "run/manifest.json")["data"]["overlaps"]
    assert [(o["kind"], o["pool_id"], o["other_id"], o["other"], o["dropped"]) for o in told] == [
        ("exact", "row004", "same", "test", True), ("normalised", "row007", "shouted", "test", True)]


def test_a_file_where_the_run_folder_should_be_is_refused(files: Files, tmp_path: Path) -> None:
    file = text(tmp_path / "file", "mine")
    for out in (file, file / "run"):
        siftune(*files.select, "--output-dir", out).refused(str(out), "choose another --output-dir")
    assert file.read_text() == "mine"
    siftune(*files.select).refused("no run folder is named", "--output-dir")


def test_features_of_another_model_or_setting_are_refused_until_told(files: Files, copy: Callable[[], Path],
                                                                    tmp_path: Path) -> None:
    from tests import tiny

    run, before = copy(), {}
    other = tiny.save(tmp_path / "other", seed=1)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    siftune(*files.select, "--model", other, "--output-dir", run).refused("another model", "--recompute")
    siftune(*files.select, "--seed", 1, "--output-dir", run).refused("another ", "--recompute")
    siftune(*files.select, "--lora-rank", 3, "--output-dir", run).refused("another lora.rank", "stored: 2; now: 3")
    siftune("select", "--from", run, "--model", other, "--output-dir", tmp_path / "b").refused("another model")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    siftune(*files.select, "--model", other, "--output-dir", run, "--recompute").ok()
    check_run_folder(run, pool_rows=40, selected=8)


@pytest.mark.parametrize("arguments", [
    ("report",), ("export",), ("doctor", "--model", "none"), ("select", "--output-dir", "x", "--from"),
])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        siftune(*arguments, folder).refused(str(folder))
    assert not list(tmp_path.iterdir())


def test_unknown_commands_and_missing_arguments(files: Files, finished: Path) -> None:
    siftune("selct").refused("'selct'", "'select'")
    siftune("export").refused("'RUN'", "siftune export --help")
    siftune("export", finished, "--to", "tlr").refused("did you mean 'trl'?")
    siftune("select", "--bugdet", 3).refused("--bugdet", "--budget")
    siftune("select", "surplus").refused("surplus")
    siftune("select", "--config", "no-such.yaml").refused("no-such.yaml")
    siftune("inspect").refused("POOL")
    siftune("inspect", files.pool, "--model", "no-such-model").refused("no-such-model")
    siftune("plan").refused("no pool is named", "--pool")
