"""The command as a user types it: inside this process, since importing torch costs seconds, or as a process."""

from __future__ import annotations

import io
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from siftune.cli.app import main

ROOT = Path(__file__).parents[2]
SMALL = ("--lora-rank", 2, "--max-length", 128, "--shard-rows", 8, "--config", Path(__file__).with_name("small.yaml"))
"""Settings with which a run on a tiny model takes a second or two."""

TRAINING = ("--batch-size", 4, "--epochs", 1, "--seeds", 2, "--exact-match-tokens", 16)


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def ok(self) -> Result:
        assert self.code == 0, f"exit {self.code}\n{self.err}"
        return self

    def refused(self, *parts: str) -> Result:
        """A mistake of the user's: exit code 2, no traceback, a hint, and every one of these parts is said."""
        assert self.code == 2, f"exit {self.code}\n{self.err}"
        assert "Traceback" not in self.err
        assert self.err.count("error: ") == 1, self.err
        assert "\nhint: " in self.err, self.err
        for part in parts:
            assert part in self.err, f"{part!r} is not in:\n{self.err}"
        return self


def siftune(*arguments: Any) -> Result:
    """Run ``siftune ...`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["siftune", *map(str, arguments)]
    code: Any = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as done:
        code = done.code
    finally:
        sys.argv = before
    return Result(int(code or 0), out.getvalue(), err.getvalue())


class Running:
    """``siftune ...`` as a process of its own, to be killed at any moment.

    Forked from a process that has imported torch and siftune and run nothing (as siftune starts its own workers), since
    every start of Python costs seconds of imports.
    """

    def __init__(self, arguments: list[str]):
        context = get_context("forkserver")
        # Of no effect where the server runs already, started by a test with several workers.
        context.set_forkserver_preload(["torch", "transformers.models.auto.modeling_auto", "peft", "siftune.api",
                                        "siftune.cli.app", "siftune.experiments.run"])
        self._folder = Path(tempfile.mkdtemp(prefix="siftune-"))
        self._process = context.Process(target=_as_typed, args=(arguments, str(self._folder)))
        self._process.start()

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.exitcode

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Wait for the end: stdout, stderr."""
        self._process.join()
        out, err = ((self._folder / name).read_text() for name in ("out", "err"))
        shutil.rmtree(self._folder)
        return out, err


def _as_typed(arguments: list[str], folder: str) -> None:
    for number, name in ((1, "out"), (2, "err")):
        with (Path(folder) / name).open("w") as file:
            os.dup2(file.fileno(), number)
    os.setpgid(0, 0)  # a group of its own, as a shell starts it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal, however the tests were started
    os.chdir(ROOT)
    sys.argv = ["siftune", *arguments]
    runpy.run_module("siftune", run_name="__main__", alter_sys=False)


def start(*arguments: Any) -> Running:
    """Start ``python -m siftune ...`` as a process of its own."""
    return Running(list(map(str, arguments)))


def process(*arguments: Any, **options: Any) -> Result:
    """Run ``python -m siftune ...`` as a process that imports everything itself."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"}
    done = subprocess.run([sys.executable, "-m", "siftune", *map(str, arguments)], cwd=ROOT, env=environment,
                          capture_output=True, text=True, check=False, **options)
    return Result(done.returncode, done.stdout, done.stderr)
