"""Two commands on one folder at once: one of them works, the other is told who does; no result is a mixture."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Result, process, siftune, start
from tests.cli.pools import jsonl, records
from tests.cli.runs import check_run_folder, table, temporary_files

fork = get_context("fork")
Command = tuple[Any, ...]

FIRST = ("rds+", "bm25", "loss", "mads", "less")
OTHER = ("the same", "another seed", "another pool", "another method")


@pytest.fixture(scope="module")
def command(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Command]:
    """``select`` without a folder, by what varies."""
    other = jsonl(tmp_path_factory.mktemp("pools") / "other.jsonl", records("messages", range(300, 340), "other"))

    def made(method: str, what: str = "") -> Command:
        pool, seed = (other if what == "another pool" else files["pool"]), (1 if what == "another seed" else 0)
        method = {"bm25": "rds+"}.get(method, "bm25") if what == "another method" else method
        return ("select", "--model", files["model"], "--pool", pool, "--target", files["target"], "--budget", 8,
                "--lora-rank", 2, "--max-length", 128, "--config", Path(__file__).with_name("short.yaml"),
                "--shard-rows", 4, "--method", method, "--seed", seed)

    return made


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Command], Any]:
    """The result of a command that is alone."""
    folder = tmp_path_factory.mktemp("calm")

    @cache
    def result(command: Command) -> Any:
        run = folder / str(len(list(folder.iterdir())))
        siftune(*command, "--output-dir", run).ok()
        return selection(run)

    return result


def selection(run: Path) -> Any:
    return (run / "selected.jsonl").read_bytes(), str(table(run / "selection.parquet")), str(
        table(run / "scores.parquet"))


def _run(command: Command, run: Path, together: Any, answers: Any, number: int) -> None:
    together.wait(60)
    found = siftune(*command, "--output-dir", run)
    answers.put((number, found.code, found.out, found.err))
    answers.close()
    answers.join_thread()
    os._exit(0)


def at_once(commands: tuple[Command, Command], run: Path) -> list[Result]:
    """Both in processes of their own, which have all that takes long to import already."""
    together, answers = fork.Barrier(2), fork.Queue()
    processes = [fork.Process(target=_run, args=(one, run, together, answers, i)) for i, one in enumerate(commands)]
    for one in processes:
        one.start()
    found = sorted(answers.get(timeout=120) for _ in commands)
    for one in processes:
        one.join(60)
    return [Result(*rest) for _, *rest in found]


def check(results: list[Result], commands: tuple[Command, Command], run: Path, calm: Callable[[Command], Any]) -> None:
    worked = [command for result, command in zip(results, commands, strict=True) if result.code == 0]
    assert worked, [result.err for result in results]
    for result in results:
        if result.code:
            result.refused()
            # The other one works there; or it has ended, and left features of another pool or seed.
            assert "another command is working in this folder" in result.err or (
                "the stored features were made with another" in result.err and commands[0] != commands[1])
    assert selection(run) in [calm(command) for command in worked]
    check_run_folder(run, pool_rows=40, selected=8)
    assert not temporary_files(run)
    assert not list(run.rglob(".siftune.lock"))


@pytest.mark.parametrize(("method", "other"), product(FIRST, OTHER))
def test_two_at_once_leave_the_result_of_one(method: str, other: str, command: Callable[..., Command],
                                             calm: Callable[[Command], Any], tmp_path: Path) -> None:
    run, commands = tmp_path / "run", (command(method), command(method, other))
    results = at_once(commands, run)
    check(results, commands, run, calm)
    for result, one in zip(results, commands, strict=True):
        if "another command is working" in result.err:
            assert "siftune select" in result.err, "the owner is named"
            again = siftune(*one, "--output-dir", run)  # alone, it works, or says what is really in its way
            if again.code:
                again.refused("the stored features were made with another", "--output-dir", "--recompute")
                assert one != commands[0] or commands[0] != commands[1]
            else:
                assert selection(run) == calm(one)


def test_a_run_that_takes_features_from_a_folder_is_refused_while_another_one_works_in_it(
        command: Callable[..., Command], calm: Callable[[Command], Any], tmp_path: Path) -> None:
    from siftune._common.artefacts import working_in

    run = tmp_path / "run"
    siftune(*command("rds+"), "--output-dir", run).ok()
    ready, go = fork.Event(), fork.Event()

    def hold() -> None:
        with working_in(run, command="siftune select --seed 7"):
            ready.set()
            go.wait(60)

    other = fork.Process(target=hold)
    other.start()
    assert ready.wait(30)
    siftune("select", "--from", run, "--output-dir", tmp_path / "more").refused(
        "another command is working in this folder", "siftune select --seed 7", str(run))
    siftune("doctor", run, "--model", "none").ok()  # looking is allowed
    siftune("report", run).ok()
    siftune("doctor", run, "--model", "none", "--repair").refused("siftune select --seed 7")
    go.set()
    other.join(30)
    siftune("select", "--from", run, "--output-dir", tmp_path / "more").ok()
    assert selection(tmp_path / "more") == calm(command("rds+"))


@pytest.mark.slow
def test_two_processes_at_once_and_a_killed_one(command: Callable[..., Command], calm: Callable[[Command], Any],
                                                tmp_path: Path) -> None:
    run, commands = tmp_path / "run", (command("less"), command("less", "another seed"))
    running = [start(*one, "--output-dir", run) for one in commands]
    results = []
    for one in running:
        out, err = one.communicate()
        results.append(Result(one.poll(), out, err))
    check(results, commands, run, calm)
    killed = start(*commands[0], "--recompute", "--output-dir", tmp_path / "killed")
    while not (tmp_path / "killed" / ".siftune.lock").exists():
        assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    process(*commands[0], "--output-dir", tmp_path / "killed").ok()
    assert selection(tmp_path / "killed") == calm(commands[0])
