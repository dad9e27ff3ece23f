"""Nothing from a file, a flag or a name steers the terminal, or begins a line of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from siftune._common.files import read_json, write_json
from tests.cli.command import SMALL, Result, siftune
from tests.cli.conftest import Files
from tests.cli.pools import jsonl, records

EVIL = "x\x1b[31m\x1b]0;owned\x07\u202egpj.\u2066\r\x9b2J\x7f\nhint: rm -rf ~\nwarning: forged"
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def harmless(result: Result) -> Result:
    """No control, no reordering character, and no line that text from outside has begun."""
    for stream in (result.out, result.err):
        assert not FORBIDDEN.search(stream), ascii(FORBIDDEN.search(stream))
        for line in stream.splitlines():
            assert not line.startswith(("hint: rm", "warning: forged")), stream
    assert "Traceback" not in result.err
    return result


def evil_records(count: int) -> list[dict[str, object]]:
    return [{**one, "id": f"{EVIL}{i}", "group": f"{EVIL}{i % 2}", "subtask": EVIL, f"column{EVIL}": EVIL}
            for i, one in enumerate(records("messages", range(count)))]


@pytest.fixture(scope="module")
def hostile(files: Files, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A pool, a target and a run of them, with hostile text wherever there can be some."""
    folder = tmp_path_factory.mktemp("hostile")
    pool = jsonl(folder / "p\x1b[31m\u202e\nool.jsonl", evil_records(20))
    target = jsonl(folder / "target.jsonl", [{**one, "id": f"{EVIL}t{i}", "subtask": f"{EVIL}{i}"}
                                             for i, one in enumerate(records("messages", range(100, 104)))])
    run = folder / "run\x1b[0m\u2066\nhint: rm"
    harmless(siftune("select", "--model", files.model, "--pool", pool, "--target", target, "--budget", 3, *SMALL,
                     "--method", "bm25", "--output-dir", run)).ok()
    return pool, target, run


def test_every_command_spells_out_what_rows_and_names_hold(files: Files, hostile: tuple[Path, Path, Path],
                                                          tmp_path: Path) -> None:
    pool, target, run = hostile
    model = ("--model", files.model, "--max-length", 128)
    assert "[U+001B]" in harmless(siftune("inspect", pool, *model)).ok().out
    harmless(siftune("plan", "--pool", pool, "--target", target, "--method", "bm25", "--budget", 3, *model)).ok()
    harmless(siftune("report", run)).ok()
    harmless(siftune("export", run, "--to", "jsonl")).ok()
    harmless(siftune("doctor", run, "--model", "none"))
    harmless(siftune("select", "--from", run, "--quota", f"{EVIL}0=1..2", "--budget", 3, "--output-dir",
                     tmp_path / "b")).ok()
    harmless(siftune("methods", EVIL)).refused("unknown")


@pytest.mark.parametrize("arguments", [
    ("select", "--method", EVIL), ("select", "--set", f"{EVIL}=1"), ("select", "--set", f"less.adam={EVIL}"),
    ("select", "--quota", EVIL), ("select", "--budget", EVIL), ("select", "--pool", EVIL), ("select", f"--{EVIL}", "1"),
    ("select", "--columns", f"{EVIL}=x"), ("select", "--limit", f"{EVIL}=1"), ("select", "--strata", EVIL),
    ("select", "--model", EVIL), ("select", "--from", EVIL), ("select", "--config", EVIL), ("select", "--device", EVIL),
    ("select", "--must-include", EVIL), ("select", "--format", EVIL), ("select", "--output-dir", f"\0{EVIL}"),
    ("report", EVIL), ("export", EVIL), ("doctor", EVIL), ("study", EVIL), (EVIL,), ("inspect", EVIL),
], ids=range(23))
def test_a_refusal_spells_out_what_was_typed(arguments: tuple[str, ...], files: Files, tmp_path: Path) -> None:
    more = ("--pool", files.pool, "--target", files.target, "--model", files.model, "--output-dir", tmp_path / "out")
    given = [pair for i in range(0, len(more), 2) for pair in more[i : i + 2]
             if more[i] not in arguments] if arguments[0] == "select" else []
    harmless(siftune(arguments[0], *given, *arguments[1:])).refused()


def test_files_that_are_refused_are_spelled_out(files: Files, copy: Callable[[], Path], tmp_path: Path) -> None:
    lines = (b'{"messages": [{"role": "\x1b[31m\\n\\nhint: rm", "content": "x"}]}\n', EVIL.encode("utf-8", "replace"),
             json.dumps({EVIL: EVIL}).encode())
    for number, line in enumerate(lines):
        pool = tmp_path / f"{number}.jsonl"
        pool.write_bytes(line)
        harmless(siftune("inspect", pool, "--model", files.model))
        harmless(siftune("select", "--pool", pool, "--model", files.model, "--output-dir", tmp_path / "o")).refused()
    for text in (f"{json.dumps(EVIL)}: 1\n", f"budget: {json.dumps(EVIL)}\n", f"less: {{{json.dumps(EVIL)}: 1}}\n",
                 "a: \x1b[31m\n"):
        (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
        harmless(siftune("select", "--config", tmp_path / "c.yaml", "--pool", files.pool, "--model", files.model,
                         "--output-dir", tmp_path / "o")).refused()
    run = copy()
    manifest = read_json(run / "manifest.json")
    write_json(run / "manifest.json", {**manifest, "warnings": [EVIL], "times": EVIL})
    harmless(siftune("report", run)).refused("manifest.json")


def test_output_in_another_encoding_is_escaped_and_not_refused(files: Files, tmp_path: Path) -> None:
    pool = jsonl(tmp_path / "pool.jsonl", [{**one, "group": "größe \u4e00 \U0001f600", "id": f"ü{i}"}
                                           for i, one in enumerate(records("messages", range(6)))])
    for encoding in ("ascii", "latin-1"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONUTF8": "0"}
        done = subprocess.run([sys.executable, "-m", "siftune", "inspect", str(pool), "--model", str(files.model)],
                              capture_output=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert b"\\u4e00" in done.stdout


def test_a_reader_that_goes_away_is_no_error(files: Files) -> None:
    done = subprocess.run(f"{sys.executable} -m siftune methods | head -1", shell=True, capture_output=True, text=True,
                          check=False)
    assert done.stdout.startswith("Recipes")
    assert not done.stderr
