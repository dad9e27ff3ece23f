"""Runs that are killed, whose workers are killed, whose files are damaged, whose disk is full: does the rerun agree?

    python benchmarks/faults.py --campaign kills --trials 200
    python benchmarks/faults.py --campaign ray --trials 20
    python benchmarks/faults.py --campaign damage --trials 60     # some files a trial
    python benchmarks/faults.py --campaign disk --trials 60

Every trial is drawn from its seed and its number, and written to ``benchmarks/results/faults.json`` when it has ended:
started again, a campaign goes on where it was stopped. A tiny random model and 24 rows, so that a command takes a
second or two. Commands are forked from a process that has imported everything and run nothing, and their workers from a
server that is shared by all trials.

kills    SIGKILL to the command after a time drawn from 0 to what an undisturbed run takes; with two workers to the
         command or to one of its workers, by turns. Then the same command again (a command that only lost a worker has
         to end by itself). The result must be that of the undisturbed run, and what was complete when the kill came
         (shards with their notes, checkpoints, scores, selections) must still have the times that it had.
ray      The same with ``--executor ray``: SIGKILL to an actor's process in one half, to the command in the other.
damage   Files of a finished run are damaged by ``tests/faults/mutations.py``. A command that reads the folder (doctor,
         report, export, ``select --from``) must not end with a traceback; then the same command again: it has to
         give the same result, or say in words (exit 2, no traceback) what it refuses, and then give it when what its
         hint says is done (``--recompute``, or a folder that stands where a file belongs is moved away).
disk     ``space``: a tmpfs of a random size, which is full at a random moment (ENOSPC of the kernel). ``read-only``:
         from a random moment on Python's calls that write there fail with EROFS (made in the process, since Linux
         refuses to make a file system read-only while a file is open). ``access``: all folders of the run lose the
         right to write at a random moment, for a process without root's privilege to write anyway (EACCES of the
         kernel). ``size``: a random limit on the size of files (RLIMIT_FSIZE, EFBIG of the kernel). Each has to end
         with exit 2 and words, or to have ended before; then, with room and rights, the same command again. Needs root,
         for mounting.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1",
                  PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))

from tests import tiny  # noqa: E402
from tests.cli.pools import jsonl, records  # noqa: E402
from tests.cli.runs import table  # noqa: E402
from tests.experiments.studies import study_file, timeless  # noqa: E402
from tests.faults.mutations import mutations_of  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "faults.json"
IMPORTS = ["torch", "transformers.models.auto.modeling_auto", "peft", "siftune.api", "siftune.cli.app",
           "siftune.experiments.run", "siftune.report", "siftune.features.gradient_passes",
           "siftune.features.forward_passes", "siftune.features.utility_passes", "siftune.training.sft",
           "pyarrow.parquet", "bm25s", "siftune.models.lora", "siftune.evaluation.loss", "siftune.selectors"]
FAMILIES = {"lexical": "bm25", "embedding": "embed", "forward": "rds+", "gradient": "less", "utility": "delift"}
COMMANDS = [*FAMILIES, "compare", "study"]
LIMIT = 600  # seconds after which a command hangs
SETTINGS = """
less: {projection_dim: 32, warmup_epochs: 2, warmup_rows: 4, warmup_batch_size: 4}
delift: {pairs: sparse, nominees: 1, random_nominees: 1}
"""
COMPLETE = {"store/**/shard-*.safetensors": lambda path: path.with_suffix(".json"),
            "warmup*/epoch-*/adapter.safetensors": lambda path: path.with_name("checkpoint.json"),
            "training/*/scores-*.json": None, "selections/*.json": None}
"""Files that are complete once they are there, or once the file is there that is written after them."""


@dataclass(frozen=True)
class Ended:
    """How a command ended; the code is negative where a signal ended it, None where it had to be killed as it hung."""

    code: int | None
    err: str

    @property
    def is_refusal(self) -> bool:
        return self.code in (1, 2) and "Traceback" not in self.err and "hint: " in self.err


class Bench:
    """Files, undisturbed runs, and commands, in a folder of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        tiny.save(folder / "model")
        self.pool = jsonl(folder / "pool.jsonl", records("messages", range(24)))
        self.target = jsonl(folder / "target.jsonl", records("messages", range(100, 104), "target"))
        self.test = jsonl(folder / "test.jsonl", records("messages", range(200, 203), "test"))
        (folder / "settings.yaml").write_text(SETTINGS)
        self._calm: dict[str, tuple[Path, Any]] = {}
        self.seconds: dict[tuple[str, int, str], float] = {}

    def arguments(self, command: str, run: Path, workers: int = 1, executor: str = "local", *more: str) -> list[str]:
        where = ["--output-dir", str(run), *(["--workers", str(workers)] if workers > 1 or executor == "ray" else []),
                 *(["--executor", executor] if executor != "local" else []), *more]
        if command == "study":
            values = {"model": str(self.folder / "model"), "pool": [str(self.pool)], "lora_rank": 2, "batch_size": 4,
                      "max_length": 128, "shard_rows": 8, "epochs": 1, "exact_match_tokens": 2,
                      "targets": [{"name": "sums", "target": [str(self.target)], "test": [str(self.test)]}],
                      "methods": ["bm25", "rds+"], "budgets": ["4", "8"], "headline": ["bm25"], "seeds": 1,
                      "headline_seeds": 1, "baselines": {"random": 1}, "output_dir": str(run)}
            return ["study", str(study_file(self.folder / f"{run.name}.yaml", values)), *where]
        shared = ["--model", str(self.folder / "model"), "--pool", str(self.pool), "--target", str(self.target),
                  "--budget", "8", "--lora-rank", "2", "--max-length", "128", "--shard-rows", "4",
                  "--config", str(self.folder / "settings.yaml")]
        if command == "compare":
            return ["compare", *shared, "--method", "bm25", "--test", str(self.test), "--epochs", "1", "--seeds", "2",
                    "--batch-size", "4", "--exact-match-tokens", "2", *where]
        return ["select", *shared, "--method", FAMILIES[command], *where]

    def calm(self, command: str) -> tuple[Path, Any]:
        """The folder and the result of an undisturbed run with one worker."""
        if command not in self._calm:
            run = self.folder / "calm" / command
            began = time.monotonic()
            done = run_to_end(self.arguments(command, run))
            if done.code:
                raise SystemExit(f"the undisturbed {command} ended with {done.code}\n{done.err}")
            self.seconds[command, 1, "local"] = time.monotonic() - began
            self._calm[command] = run, result(run)
        return self._calm[command]

    def calm_seconds(self, command: str, workers: int, executor: str) -> float:
        """How long an undisturbed run takes; its result is compared as well."""
        self.calm(command)
        if (command, workers, executor) not in self.seconds:
            run, began = self.folder / f"calm-{command}-{workers}-{executor}", time.monotonic()
            done = run_to_end(self.arguments(command, run, workers, executor))
            self.seconds[command, workers, executor] = time.monotonic() - began
            if done.code or result(run) != self.calm(command)[1]:
                raise SystemExit(f"a calm {command}, {workers} {executor} workers, differs ({done.code})\n{done.err}")
            shutil.rmtree(run)
        return self.seconds[command, workers, executor]


def result(run: Path) -> dict[str, Any]:
    """Everything that must not depend on what happened on the way."""
    found: dict[str, Any] = {}
    for name in ("selected.jsonl", "rejected_sample.jsonl", "targets.jsonl", "dropped.jsonl"):
        if (run / name).exists():
            found[name] = (run / name).read_bytes()
    for name in ("selection.parquet", "scores.parquet"):
        if (run / name).exists():
            found[name] = str(table(run / name))
    for name in ("comparison.json", "study.json"):
        if (run / name).exists():
            found[name] = timeless(json.loads((run / name).read_text()))
    shards = run.glob("store/**/shard-*.safetensors")
    found["shards"] = {str(path.relative_to(run)): path.read_bytes() for path in shards}
    return found


def complete(run: Path, command: str) -> dict[str, int]:
    """Whatever is complete -> when it was written. ``compare`` chooses anew, out of features that are kept."""
    return {str(path.relative_to(run)): path.stat().st_mtime_ns for pattern, after in COMPLETE.items()
            for path in run.glob(pattern) if after is None or after(path).exists()
            if not (command == "compare" and pattern.startswith("selections"))}


def left_over(run: Path) -> list[str]:
    return sorted(path.name for path in run.rglob(".*") if path.is_file())


# Commands


def begin(arguments: list[str], prepare: Callable[[], None] = lambda: None) -> tuple[int, Path]:
    """Start a command in a fork of this process: (its number, the file of what it says)."""
    handle, told = tempfile.mkstemp(prefix="siftune-faults-")
    process = os.fork()
    if process:
        os.close(handle)
        return process, Path(told)
    code = 70
    try:
        os.setpgid(0, 0)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(handle), "w", buffering=1) for _ in range(2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # The server of workers is the parent's, which answers whoever knows its socket.
        forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
        os.chdir(ROOT)
        prepare()
        from siftune.cli.app import main

        sys.argv = ["siftune", *arguments]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(process: int, told: Path, limit: float = LIMIT) -> Ended:
    until = time.monotonic() + limit
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            code: int | None = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() > until:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            code = None
            break
        time.sleep(0.003)
    err = told.read_text(errors="replace")
    told.unlink()
    return Ended(code, err)


def run_to_end(arguments: list[str], prepare: Callable[[], None] = lambda: None) -> Ended:
    return wait(*begin(arguments, prepare))


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def named(process: int, name: str) -> bool:
    try:
        return name in Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False


def of_command(process: int) -> list[int]:
    """All that a command has started, and what these have: its cluster, where it is one on Ray."""
    found, more = [], [process]
    while more:
        more = [child for parent in more for child in children(parent)]
        found += more
    return found


# Campaigns: each trial returns what it has seen; an empty "wrong" means that it went as promised.


def kill(bench: Bench, run: Path, chance: random.Random, number: int, executor: str = "local") -> dict[str, Any]:
    if executor == "ray":
        command, workers = ["forward", "gradient", "utility", "study", "compare"][number // 2 % 5], 2
        whom = ("worker", "command")[number % 2]
    else:
        command, workers = COMMANDS[number % len(COMMANDS)], 1 + number // len(COMMANDS) % 2
        is_by_workers = workers > 1 and command != "lexical"  # which has nothing for workers to do
        whom = "worker" if is_by_workers and number // (2 * len(COMMANDS)) % 2 == 0 else "command"
    seconds = bench.calm_seconds(command, workers, executor)
    arguments = bench.arguments(command, run, workers, executor)
    process, told = begin(arguments)
    began = time.monotonic()
    after = chance.uniform(0, seconds)
    cluster: set[int] = set()  # of Ray, all processes that were ever seen

    def workers_of() -> list[int]:
        if executor == "local":
            return children(server())
        found = of_command(process)
        cluster.update(found)
        return [one for one in found if named(one, "ray::_Worker")]

    is_killed = False
    victims = [process]
    if whom == "worker":  # soon or late in the life of those of one of its passes
        victims = []
        while not victims and running(process):
            while not workers_of() and running(process):
                time.sleep(0.005)
            time.sleep(chance.uniform(0, seconds / (8 if executor == "ray" else 2)))
            victims = workers_of()
    else:
        time.sleep(max(0.0, began + after - time.monotonic()))
        workers_of()
    before: dict[str, int] = {}
    if victims and running(process):
        victim = chance.choice(victims)
        try:
            if whom == "command":
                os.kill(victim, signal.SIGSTOP)  # so that what is looked at does not change
                before = complete(run, command)
            os.kill(victim, signal.SIGKILL)
            is_killed = True
        except ProcessLookupError:
            pass
        if whom == "worker":
            before = complete(run, command)
    first = wait(process, told)
    seen: dict[str, Any] = {"command": command, "workers": workers, "executor": executor, "whom": whom,
                            "killed": is_killed, "first": first.code, "complete": len(before)}
    wrong = []
    if whom == "worker":
        if first.code != 0:
            wrong.append(f"did not end by itself: {first.code}: {first.err[-1500:]}")
        seen["replaced"] = first.err.count("another one takes it over") + first.err.count("lost while it started")
    ended = first
    if first.code != 0:
        ended = run_to_end(arguments)
        if ended.code != 0:
            wrong.append(f"the rerun ended with {ended.code}: {ended.err[-1500:]}")
    wrong += differences(bench, command, run, before)
    if "Traceback" in first.err + ended.err:
        wrong.append(f"traceback: {(first.err + ended.err)[-1500:]}")
    if executor == "ray":
        def left() -> list[int]:
            return [one for one in cluster if running(one) and any(
                named(one, part) for part in ("ray::", "/raylet/raylet", "gcs_server"))]

        until = time.monotonic() + 120  # Ray's own agents look for their head for about a minute
        while left() and time.monotonic() < until:
            time.sleep(0.5)
        if left():
            wrong.append(f"{len(left())} processes of Ray are left")
    else:
        until = time.monotonic() + 30
        while workers_of() and time.monotonic() < until:
            time.sleep(0.05)
        if workers_of():
            wrong.append(f"{len(workers_of())} workers are left")
    return {**seen, "wrong": wrong}


def running(process: int) -> bool:
    """Whether a command still runs; it is not waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def differences(bench: Bench, command: str, run: Path, before: dict[str, int]) -> list[str]:
    wrong = []
    undisturbed, found = bench.calm(command)[1], result(run)
    if found != undisturbed:
        names = [name for name in undisturbed if found.get(name) != undisturbed[name]]
        wrong.append(f"another result: {names or sorted(set(found) - set(undisturbed))}")
    after = complete(run, command)
    again = [name for name, when in before.items() if after.get(name) != when]
    if again:
        wrong.append(f"complete, and made again: {again[:5]}")
    if left_over(run):
        wrong.append(f"left over: {left_over(run)[:5]}")
    return wrong


def on_ray(bench: Bench, run: Path, chance: random.Random, number: int) -> dict[str, Any]:
    return kill(bench, run, chance, number, "ray")


def damage(bench: Bench, run: Path, chance: random.Random, number: int) -> dict[str, Any]:
    command = COMMANDS[number % len(COMMANDS)]
    finished, _ = bench.calm(command)
    shutil.copytree(finished, run)
    arguments = bench.arguments(command, run)
    is_scored_again = chance.random() < 0.5  # what is trained is looked at only where scores are missing
    if is_scored_again:
        for path in run.glob("training/*/scores-*.json"):
            path.unlink()
    aside = run.with_name(f"{run.name}-aside")
    files = sorted(path for path in run.rglob("*") if path.is_file())
    copies: dict[Path, Path] = {}
    for i, path in enumerate(files):
        copies[path] = aside / f"{i}{path.suffix}"
        aside.mkdir(exist_ok=True)
        shutil.copyfile(path, copies[path])
    damaged = []
    kinds: dict[str, list[Path]] = {}
    for path in files:
        kinds.setdefault(kind_of(run, path), []).append(path)
    for kind in chance.sample(sorted(kinds), min(8, len(kinds))):
        path = chance.choice(kinds[kind])
        if not path.stat().st_size:
            continue
        ways = list(mutations_of(path.suffix))
        chance.shuffle(ways)
        others = [copies[o] for o in files if o.suffix == path.suffix and o != path]
        for way in ways:
            try:
                if way(path, others, chance):
                    damaged.append([kind, way.__name__])
                    break
            except (ValueError, KeyError, TypeError, AttributeError, IndexError):  # a way for files of another content
                shutil.copyfile(copies[path], path)
    wrong = []
    readers = [["doctor", str(run), "--model", "none"], ["report", str(run)], *(
        [] if command == "study" else [["export", str(run)], ["select", "--from", str(run), "--budget", "4",
                                                              "--output-dir", str(run.with_name(f"{run.name}-from"))]])]
    reader = chance.choice(readers)
    looked = run_to_end(reader)
    if looked.code not in (0, 1, 2) or "Traceback" in looked.err:
        wrong.append(f"{reader[0]} of the damaged folder: {looked.code}: {looked.err[-1500:]}")
    ended = run_to_end(arguments)
    seen = {"command": command, "damaged": damaged, "first": ended.code, "scored_again": is_scored_again,
            "reader": reader[0], "read": looked.code}
    if "Traceback" in ended.err:
        wrong.append(f"traceback: {ended.err[-1500:]}")
    if ended.code != 0:
        if not ended.is_refusal:
            wrong.append(f"no clear error: {ended.code}: {ended.err[-1500:]}")
        seen["refused"] = next((line for line in ended.err.splitlines() if line.startswith("error: ")), "")[:200]
        more: list[str] = []
        for _ in range(10):  # what the hints say
            if "move it away" in ended.err:
                shutil.rmtree(next(line[6:] for line in ended.err.splitlines() if line.startswith("  --> ")))
            else:
                more = ["--recompute"]
            ended = run_to_end([*arguments, *more])
            if ended.code == 0 or command == "study" or not ended.is_refusal:
                break
        if ended.code != 0:
            wrong.append(f"after what the hint said it ended with {ended.code}: {ended.err[-1500:]}")
    if ended.code == 0:
        wrong += differences(bench, command, run, {})
    shutil.rmtree(aside)
    shutil.rmtree(run.with_name(f"{run.name}-from"), ignore_errors=True)
    return {**seen, "wrong": wrong}


def kind_of(run: Path, path: Path) -> str:
    """What a file is, without numbers and hashes."""
    parts = path.relative_to(run).parts
    name = "".join("#" if c.isdigit() else c for c in parts[-1])
    if parts[0] in ("training", "selections", "failures"):
        stem = {"selections": "*.json"}.get(parts[0], parts[-1].partition("-")[0] + path.suffix)
        return f"{parts[0]}/{stem}"
    return f"{parts[0]}/{name}" if len(parts) > 1 else name


def disk(bench: Bench, run: Path, chance: random.Random, number: int) -> dict[str, Any]:
    how = ("space", "read-only", "access", "size")[number % 4]
    command = COMMANDS[number // 4 % len(COMMANDS)]
    seconds = bench.calm_seconds(command, 1, "local")
    size = sum(path.stat().st_size for path in bench.calm(command)[0].rglob("*") if path.is_file())
    biggest = max(path.stat().st_size for path in bench.calm(command)[0].rglob("*") if path.is_file())
    seen: dict[str, Any] = {"command": command, "how": how}
    with mounted(run.parent / f"{run.name}-disk", chance.randrange(16, max(17, 2 * size // 1024)) if how == "space"
                 else 1 << 18) as mount:
        run = mount / "run"
        arguments = bench.arguments(command, run)
        prepare: Callable[[], None] = lambda: None  # noqa: E731
        if how == "size":
            limit = chance.randrange(512, biggest)

            def prepare() -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        elif how == "access":
            prepare = obey_permissions
        elif how == "read-only":
            moment = chance.uniform(0, seconds)

            def prepare() -> None:
                refuse_writes(mount, time.monotonic() + moment)
        process, told = begin(arguments, prepare)
        if how == "access":
            time.sleep(chance.uniform(0, seconds))
            for path in (mount, *(p for p in mount.rglob("*") if p.is_dir())):
                path.chmod(0o555)
        first = wait(process, told)
        if how == "access":
            for path in (mount, *(p for p in mount.rglob("*") if p.is_dir())):
                path.chmod(0o755)
        else:
            subprocess.run(["mount", "-o", "remount,size=256m", str(mount)], check=True)
        seen |= {"first": first.code, "error": next((line for line in first.err.splitlines()
                                                     if line.startswith("error: ")), "")[:160]}
        wrong = []
        if "Traceback" in first.err:
            wrong.append(f"traceback: {first.err[-1500:]}")
        if first.code != 0 and not first.is_refusal:
            wrong.append(f"no clear error: {first.code}: {first.err[-1500:]}")
        before = complete(run, command)
        ended = run_to_end(arguments)
        if ended.code != 0:
            wrong.append(f"the rerun ended with {ended.code}: {ended.err[-1500:]}")
        wrong += differences(bench, command, run, before)
    return {**seen, "wrong": wrong}


def obey_permissions() -> None:
    """Give up root's right to write where nobody may (CAP_DAC_OVERRIDE), as an ordinary owner of the files."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    for i in (0, 1):  # effective, permitted
        data[i] &= ~(0b11 << 1)
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def refuse_writes(folder: Path, moment: float) -> None:
    """From a moment on, Python's calls that write below a folder fail with EROFS.

    A file system cannot be made read-only while a file is open for writing, and the lock of a run always is: so this
    one fault is made in the process, not by the kernel.
    """
    import builtins
    import errno
    import io

    root = str(folder)

    def refused(path: Any) -> bool:
        try:
            text = os.fsdecode(os.fspath(path))
        except TypeError:
            return False
        return time.monotonic() >= moment and text.startswith(root)

    def wrap(owner: Any, name: str, writes: Callable[..., bool] = lambda *a, **k: True) -> None:
        real = getattr(owner, name)

        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if refused(path) and writes(*args, **kwargs):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))
            return real(path, *args, **kwargs)

        setattr(owner, name, call)

    for name in ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "chmod", "utime", "truncate", "symlink"):
        wrap(os, name)
    wrap(os, "open", lambda flags=0, *a, **k: bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
    real_open = io.open
    wrap(io, "open", lambda mode="r", *a, **k: any(letter in mode for letter in "wax+"))
    assert real_open is not io.open
    builtins.open = io.open


@contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


CAMPAIGNS: dict[str, Callable[[Bench, Path, random.Random, int], dict[str, Any]]] = {
    "kills": kill, "ray": on_ray, "damage": damage, "disk": disk}


def server() -> int:
    """The process that workers are forked from."""
    found = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    assert found is not None
    return found


def warm() -> None:
    """Import everything here and in the server of workers, and run nothing."""
    from importlib import import_module

    import torch

    torch.set_num_threads(1)
    for name in IMPORTS:
        import_module(name)
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    one = context.Process(target=int)
    one.start()
    one.join()


def totals(trials: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"trials": len(trials), "wrong": sum(bool(one["wrong"]) for one in trials)}
    if any("killed" in one for one in trials):
        found["kills"] = sum(one["killed"] for one in trials)
        found["by"] = dict(sorted(Counter(f"{one['command']}, {one['workers']} workers, {one['whom']}"
                                          for one in trials if one["killed"]).items()))
    if any("damaged" in one for one in trials):
        found["files"] = sum(len(one["damaged"]) for one in trials)
        found["by"] = dict(sorted(Counter(kind for one in trials for kind, _ in one["damaged"]).items()))
        found["refused"] = sum("refused" in one for one in trials)
    if any("how" in one for one in trials):
        found["by"] = dict(sorted(Counter(f"{one['how']}, {'told' if one['first'] else 'ended before'}"
                                          for one in trials).items()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaign", choices=CAMPAIGNS, required=True)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, default=-1, help="the number of one trial, which is told and not kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    warm()
    with tempfile.TemporaryDirectory(prefix="siftune-faults-") as folder:
        Path(folder).chmod(0o755)
        bench = Bench(Path(folder))
        for number in [options.only] if options.only >= 0 else range(options.trials):
            kept = read(options.results, options.campaign, options.seed)
            if options.only < 0 and any(one["trial"] == number for one in kept):
                continue
            chance = random.Random(f"{options.campaign} {options.seed} {number}")
            run, began = Path(folder) / f"run-{number}", time.monotonic()
            found = {"trial": number, **CAMPAIGNS[options.campaign](bench, run, chance, number)}
            found["wrong"] = [text.replace(folder, "...").replace(str(ROOT), "...") for text in found["wrong"]]
            print(f"{number:4} {time.monotonic() - began:6.1f} s  {json.dumps(found)}", flush=True)
            if options.only < 0:
                keep(options.results, options.campaign, options.seed, found)
            shutil.rmtree(run, ignore_errors=True)


def read(path: Path, campaign: str, seed: int) -> list[dict[str, Any]]:
    found = json.loads(path.read_text()) if path.exists() else {}
    return found.get(f"{campaign}, seed {seed}", {}).get("each", [])


def keep(path: Path, campaign: str, seed: int, one: dict[str, Any]) -> None:
    """Add a trial; other campaigns may be writing to the same file."""
    import fcntl

    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = json.loads(path.read_text()) if path.exists() else {}
        each = sorted([*found.get(f"{campaign}, seed {seed}", {}).get("each", []), one], key=lambda one: one["trial"])
        found[f"{campaign}, seed {seed}"] = {**totals(each), "each": each}
        lines = json.dumps(found, indent=1)
        path.with_suffix(".part").write_text(lines + "\n")
        path.with_suffix(".part").replace(path)


if __name__ == "__main__":
    main()
