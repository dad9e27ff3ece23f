"""The command as a user types it: inside this process, since importing torch costs seconds, or as a process."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siftune.cli.app import main

ROOT = Path(__file__).parents[2]
SMALL = ("--lora-rank", 2, "--projection-dim", 64, "--warmup-epochs", 2, "--warmup-rows", 8, "--batch-size", 4,
         "--max-length", 128, "--shard-rows", 8)
"""Settings with which a run on a tiny model takes a second or two."""

TRAINING = ("--epochs", 1, "--seeds", 2, "--exact-match-tokens", 16)


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


def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
    """Start ``python -m siftune ...`` as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"}
    return subprocess.Popen([sys.executable, "-m", "siftune", *map(str, arguments)], cwd=ROOT, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def process(*arguments: Any, **options: Any) -> Result:
    """Run ``python -m siftune ...`` as a process of its own."""
    running = start(*arguments, **options)
    out, err = running.communicate()
    return Result(running.returncode, out, err)
