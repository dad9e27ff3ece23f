"""Actors of Ray do what worker processes do: the same features and trainings, errors that come through, an end that
leaves what is finished."""

from __future__ import annotations

import os
import shutil
import sys
import time
from functools import partial
from itertools import combinations_with_replacement, islice
from pathlib import Path

import pytest

from siftune import execution
from siftune._common.errors import ConfigError, DataError, SiftuneError
from siftune._common.files import read_json
from siftune.config.settings import SelectConfig
from siftune.execution import SetAside, executor_of
from siftune.execution.ray import RayExecutor, share_of
from siftune.experiments.run import study
from tests.cli.command import siftune
from tests.execution.test_local import Kills, Squares, kills
from tests.experiments.studies import check_same, config, timeless, write_files
from tests.faults.deadly import deadly

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    """One cluster for all tests of this file: starting one takes seconds."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


class Notes:
    """Writes down that it began and that it was closed."""

    def __init__(self, worker: int):
        self.worker = worker

    def __call__(self, job: tuple[str, float]) -> int:
        path, seconds = job
        Path(path).write_text(str(os.getpid()))
        time.sleep(seconds)
        return self.worker

    def close(self) -> None:
        Path(f"closed-{self.worker}").touch()


def test_every_job_is_done_once_elsewhere_by_actors_that_start_once(cluster):
    found = list(RayExecutor(2).map(Squares, range(8)))
    assert sorted(square for square, _, _ in found) == [i * i for i in range(8)]
    processes = {pid for _, pid, _ in found}
    assert os.getpid() not in processes
    for process in processes:
        calls = [calls for _, pid, calls in found if pid == process]
        assert calls == list(range(1, len(calls) + 1))
    assert list(RayExecutor(2).map(Squares, [])) == []


def test_an_error_of_a_job_comes_through_whole(cluster):
    results = RayExecutor(1).map(Squares, [1, 13, 2])
    assert next(results)[0] == 1
    with pytest.raises(DataError) as caught:
        next(results)
    assert str(caught.value) == "job 13 cannot be done\n  --> here:13\nhint: leave it out"
    with pytest.raises(TypeError, match="can't multiply"):  # a bug stays what it is
        list(RayExecutor(1).map(Squares, ["one"]))


def test_the_job_of_a_killed_actor_goes_to_another_one_and_what_kills_again_is_set_aside(cluster, tmp_path):
    results = RayExecutor(2).map(Kills, kills(tmp_path, 0, 1, 0, 9, 0, 0))
    assert sorted(name for name, _ in islice(results, 5)) == ["0", "1", "2", "4", "5"]
    with pytest.raises(SetAside) as caught:
        next(results)
    assert [name for name, _, _ in caught.value.jobs] == ["3"]
    assert len(list(tmp_path.iterdir())) == 3
    assert "--workers" in str(caught.value.hint)


def test_actors_that_do_not_come_to_be_are_not_waited_for_for_ever(cluster):
    taken = ray.remote(num_cpus=2)(Squares).remote(0)
    ray.get(taken.__call__.remote(1))
    with pytest.raises(SiftuneError, match=r"no actor came to be within 0\.5 s") as caught:
        list(RayExecutor(1, start_seconds=0.5).map(Squares, [1]))
    assert "--ray-start-seconds" in str(caught.value.hint)
    ray.kill(taken)


def test_closed_early_it_kills_its_actors(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick, slow = tmp_path / "quick", tmp_path / "slow"
    results = RayExecutor(2).map(Notes, [(str(quick), 0.0), (str(slow), 600.0)])
    next(results)
    while not (slow.exists() and slow.read_text()):
        time.sleep(0.05)
    results.close()
    process = int(slow.read_text())
    while Path(f"/proc/{process}").exists() and "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2]:
        time.sleep(0.05)  # the limit of the test is the limit of this
    assert not list(tmp_path.glob("closed-*"))


def test_at_the_end_tasks_are_closed_where_the_command_was_typed(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worked = list(RayExecutor(2, folder="run").map(Notes, [("a", 0.0), ("b", 0.0)]))
    assert len(worked) == 2
    names = {p.name for p in tmp_path.iterdir()}
    assert {"a", "b", "run", *(f"closed-{worker}" for worker in worked)} <= names  # the other may have come too late
    assert names <= {"a", "b", "run", "closed-0", "closed-1"}
    assert list((tmp_path / "run").iterdir()) == []


def test_more_workers_than_there_is_room_for_are_refused(cluster):
    with pytest.raises(ConfigError, match="2 CPUs, too few for 3 workers"):
        list(RayExecutor(3).map(Squares, [1, 2, 3]))
    with pytest.raises(ConfigError, match="0 GPUs") as caught:
        list(RayExecutor(1, "cuda").map(Squares, [1]))
    assert caught.value.hint == "give --device cpu"


def test_features_and_trainings_are_those_of_this_process_which_goes_on_where_actors_ended(cluster, tmp_path):
    values = write_files(tmp_path)
    brief = {"methods": ["logra"], "headline": None, "budgets": ["10%"], "headline_seeds": None}
    there = config(tmp_path, values, "there", executor="ray", workers=2, **brief)

    class Interrupted(RayExecutor):
        def map(self, start, jobs):
            yield from islice(super().map(start, jobs), 3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(there, executor=Interrupted(2, folder=there.common.output_dir))
    partial = read_json(Path(there.common.output_dir) / "study.json")
    assert sum(cell["status"] == "done" for cell in partial["cells"]) == 3
    here = study(config(tmp_path, values, "here", **brief))
    finished = study(config(tmp_path, values, "there", **brief))
    assert finished.results.to_dict()["complete"]
    check_same(timeless(finished.results.to_dict()), timeless(here.results.to_dict()))
    shards = sorted(p.relative_to(tmp_path / "here") for p in (tmp_path / "here" / "store").rglob("*.safetensors"))
    assert len(shards) >= 4
    for shard in shards:
        assert (tmp_path / "here" / shard).read_bytes() == (tmp_path / "there" / shard).read_bytes()


def test_features_are_those_of_this_process_though_an_actor_is_killed(cluster, tmp_path, monkeypatch):
    files = write_files(tmp_path)
    arguments = ("select", "--model", files["model"], "--pool", files["pool"][0], "--target", tmp_path / "sums.jsonl",
                 "--budget", 8, "--max-length", 128, "--method", "rds+", "--shard-rows", 4)
    siftune(*arguments, "--output-dir", tmp_path / "here").ok()
    real = execution.executor_of
    monkeypatch.setattr(execution, "executor_of", lambda *a, **k: deadly(
        real(*a, **k), {"shard-00002 of rds/pool": 1}, tmp_path / "marks"))
    told = siftune(*arguments, "--executor", "ray", "--workers", 2, "--output-dir", tmp_path / "there").ok()
    assert len(list((tmp_path / "marks").iterdir())) == 1
    assert "the worker of shard-00002 of rds/pool/base was lost" in told.err
    for name in ("selected.jsonl", *(f"store/rds/pool/base/shard-0000{i}.safetensors" for i in range(10))):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert not [path for path in (tmp_path / "there").rglob(".*") if path.is_file()]


class Watched:
    """A task in a process that must not touch a folder: whatever Python opens, lists, makes or moves there is noted."""

    def __init__(self, worker: int, *, start, folder: str, marks: str):
        def look(event: str, arguments: tuple) -> None:
            if event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.chdir") and any(
                    str(one).startswith(folder) for one in arguments[:2]):
                Path(marks).touch()

        sys.addaudithook(look)
        self.task = start(worker)

    def __call__(self, job):
        return self.task(job)

    def close(self) -> None:
        self.task.close()


def test_actors_that_share_no_folder_give_the_selection_of_this_process(cluster, tmp_path, monkeypatch):
    files = write_files(tmp_path)
    arguments = ("select", "--model", files["model"], "--pool", files["pool"][0], "--target", tmp_path / "sums.jsonl",
                 "--budget", 8, "--max-length", 128, "--shard-rows", 10, "--lora-rank", 2, "--method", "less",
                 "--set", "warmup_epochs=2", "--set", "warmup_rows=8")
    siftune(*arguments, "--output-dir", tmp_path / "here").ok()
    real, sent, run = execution.executor_of, [], tmp_path / "there"

    def watched(*given, **named):
        class WatchedExecutor(RayExecutor):
            def map(self, start, jobs):
                sent.append((ray.cloudpickle.dumps(start), [ray.cloudpickle.dumps(job) for job in jobs]))
                yield from super().map(partial(Watched, start=start, folder=str(run), marks=str(tmp_path / "touched")),
                                       jobs)

        made = real(*given, **named)
        assert not made.shared
        object.__setattr__(made, "__class__", WatchedExecutor)
        return made

    monkeypatch.setattr(execution, "executor_of", watched)
    there = (*arguments, "--executor", "ray", "--workers", 2, "--storage", f"file://{tmp_path}/bucket")
    siftune(*there, "--output-dir", run).ok()
    jobs = [job for _, some in sent for job in some]
    assert len(jobs) == 8, "four shards at two checkpoints"
    assert not [one for start, some in sent for one in (start, *some) if str(run).encode() in one]
    assert not (tmp_path / "touched").exists()
    shards = sorted(p.relative_to(tmp_path / "here") for p in (tmp_path / "here" / "store").rglob("*.safetensors"))
    assert len(shards) == 8
    for name in ("selected.jsonl", *shards):
        assert (tmp_path / "here" / name).read_bytes() == (run / name).read_bytes()
    # A run folder that is lost has its features back from the storage, whoever asks.
    shutil.rmtree(run / "store")
    again = siftune(*there, "--output-dir", run).ok()
    assert len(sent) == 1, "nothing was computed"
    assert "4 of 4 missing shards of" in again.err
    assert (tmp_path / "here" / "selected.jsonl").read_bytes() == (run / "selected.jsonl").read_bytes()


def test_trainings_of_actors_that_share_no_folder_are_those_of_this_process(cluster, tmp_path, monkeypatch):
    values = write_files(tmp_path)
    brief = {"methods": ["logra"], "headline": None, "budgets": ["10%"], "headline_seeds": None}
    here = study(config(tmp_path, values, "here", **brief))
    sent = []

    class WatchedExecutor(RayExecutor):
        def map(self, start, jobs):
            sent.extend([ray.cloudpickle.dumps(start), *map(ray.cloudpickle.dumps, jobs)])
            yield from super().map(partial(Watched, start=start, folder=str(tmp_path / "there"),
                                           marks=str(tmp_path / "touched")), jobs)

    asked = {**brief, "executor": "ray", "workers": 2, "storage": f"file://{tmp_path}/bucket"}
    first = study(config(tmp_path, values, "there", **asked), executor=WatchedExecutor(2, shared=False))
    assert len(sent) > 3
    assert not [one for one in sent if str(tmp_path / "there").encode() in one]
    assert not (tmp_path / "touched").exists()
    assert first.results.to_dict()["complete"]
    check_same(timeless(first.results.to_dict()), timeless(here.results.to_dict()))
    shutil.rmtree(tmp_path / "there" / "training")
    kept = {path: path.read_bytes() for path in (tmp_path / "bucket" / "trainings").glob("*/*")}
    one = next(path for path in kept if path.name.startswith("scores-"))
    one.write_text(one.read_text().replace("loss", "lost"))  # damaged there: made again, that alone
    sent.clear()
    again = study(config(tmp_path, values, "there", **asked), executor=WatchedExecutor(2, shared=False))
    assert len(sent) == 2
    assert again.results.to_dict()["complete"]
    there = {path: path.read_bytes() for path in kept}
    assert [path for path in kept if path != one and there[path] != kept[path]] == []
    assert {path.parts[-2:]: path.read_bytes() for path in (tmp_path / "there" / "training").glob("*/*")} == {
        path.parts[-2:]: content for path, content in there.items()}


def test_a_task_in_a_file_is_no_task_for_workers_that_see_no_file(tmp_path):
    values = write_files(tmp_path)
    (tmp_path / "task.yaml").write_text("task: mine")
    asked = config(tmp_path, values, "run", executor="ray", storage=f"file://{tmp_path}/bucket",
                   lm_eval=[str(tmp_path / "task.yaml")])
    with pytest.raises(ConfigError, match="is a file, which workers on other machines do not have"):
        study(asked)


def test_the_settings_decide_what_runs_the_jobs(tmp_path):
    made = executor_of(SelectConfig(executor="ray", workers=4), tmp_path, 3)
    assert made == RayExecutor(3, executor_of(SelectConfig(executor="ray"), tmp_path, 1).device, str(tmp_path))
    assert made.elsewhere
    assert not executor_of(SelectConfig(workers=4), tmp_path, 1).elsewhere
    with pytest.raises(ConfigError, match="Ray gives out the GPUs"):
        executor_of(SelectConfig(executor="ray", device="cuda:1"), tmp_path, 1)
    with pytest.raises(ConfigError, match="0 workers"):
        RayExecutor(0)


def test_shares_are_the_largest_that_leave_room_for_all():
    for machines in combinations_with_replacement(range(6), 3):
        for workers in range(1, 8):
            def room(share: int, machines: tuple[int, ...] = machines) -> int:
                left, placed = list(machines), 0
                for k in range(len(left)):
                    while left[k] >= share:
                        left[k], placed = left[k] - share, placed + 1
                return placed
            possible = [share for share in range(1, 7) if room(share) >= workers]
            assert share_of(machines, workers) == max(possible, default=0)
