"""Files go to a storage and come back; what is half there, damaged or unreachable is never taken for whole."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from siftune._common.artefacts import KeptFile, Payload, keep_file
from siftune._common.artefacts.kept import with_files
from siftune._common.errors import ConfigError, SiftuneError
from siftune.config.settings import SelectConfig
from siftune.execution import check_storage
from siftune.execution.storage import Storage
from siftune.features.remote import RemoteJob, RemoteWorker, fetch_missing, run_remotely, shard_names
from siftune.features.store import FeatureStore


@pytest.fixture(params=["file", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    where = tmp_path / "bucket" if request.param == "file" else f"/{tmp_path.name}"
    return Storage.at(f"{request.param}://{where}")


def test_what_is_published_is_fetched_and_listed(storage: Storage, tmp_path: Path):
    storage.check()
    assert storage.sizes("") == {}, "nothing is left of the check"
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"another")
    storage.publish(tmp_path / "a", "x/y/a.bin")
    storage.publish(tmp_path / "b", "x/b.bin")
    assert storage.fetch("x/y/a.bin", tmp_path / "deep" / "c")
    assert (tmp_path / "deep" / "c").read_bytes() == b"one"
    assert storage.sizes("x") == {"x/y/a.bin": 3, "x/b.bin": 7}
    storage.publish(tmp_path / "b", "x/y/a.bin")
    assert storage.fetch("x/y/a.bin", tmp_path / "deep" / "c")
    assert (tmp_path / "deep" / "c").read_bytes() == b"another"
    storage.remove("x/b.bin")
    storage.remove("x/b.bin")
    assert storage.sizes("") == {"x/y/a.bin": 7}


def test_what_is_not_there_is_told_and_leaves_what_is_here(storage: Storage, tmp_path: Path):
    (tmp_path / "mine").write_bytes(b"mine")
    assert not storage.fetch("nothing", tmp_path / "mine")
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert storage.sizes("nowhere") == {}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mine"]


def test_a_url_means_the_same_in_every_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    relative = Storage.at("bucket")
    assert relative == Storage.at(f"file://{tmp_path}/bucket")
    monkeypatch.chdir("/")
    relative.check()
    assert (tmp_path / "bucket").is_dir()


@pytest.mark.parametrize(("url", "said", "hint"), [
    ("s3://bucket/runs", "the driver of s3:// is not installed", "pip install s3fs"),
    ("gs://bucket/runs", "the driver of gs:// is not installed", "pip install gcsfs"),
    ("nonsense://x", "no storage that can be reached", "s3://bucket/siftune"),
])
def test_a_storage_that_cannot_be_opened_is_refused_with_what_to_do(url: str, said: str, hint: str):
    with pytest.raises(ConfigError, match=said) as caught:
        check_storage(SelectConfig(executor="ray", storage=url))
    assert hint in str(caught.value.hint)
    assert url in str(caught.value.where)


def test_a_storage_that_cannot_be_written_to_is_refused_before_any_work(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="the storage cannot be used") as caught:
        check_storage(SelectConfig(executor="ray", storage=f"file://{tmp_path}/file/runs"))
    assert "Error: " in str(caught.value.why)


def test_a_storage_without_ray_and_one_of_a_single_process_are_refused(tmp_path: Path):
    check_storage(SelectConfig())
    with pytest.raises(ConfigError, match="for workers on other machines") as caught:
        check_storage(SelectConfig(storage=f"file://{tmp_path}"))
    assert "--executor ray" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="the memory of a process"):
        check_storage(SelectConfig(executor="ray", storage="memory://x"))


# ----------------------------------------------------------------- jobs that travel


@dataclasses.dataclass(frozen=True)
class Wanted:
    file: KeptFile | None
    more: tuple[object, ...] = ()


@dataclasses.dataclass(frozen=True)
class Job:
    """As one of :mod:`siftune.features.passes`."""

    of: Wanted
    stores: tuple[FeatureStore, ...]
    shard: object
    title: str


class Worker:
    """Keeps the number in its job's file, in every row of the shard."""

    def __init__(self, number: int):
        self.read: list[Path] = []

    def __call__(self, job: Job) -> int:
        assert job.of.file is not None
        self.read.append(job.of.file.path)
        value = float(job.of.file.path.read_text())
        for store in job.stores:
            self.write(store, job.shard, {"x": np.full((len(job.shard), 2), value, np.float32)})
        return len(job.shard)

    def close(self) -> None:
        pass


class Here:
    """Runs jobs in this process, by as many workers as there are jobs divided by two."""

    elsewhere = True

    def map(self, start, jobs):
        workers = [start(k) for k in range(max(1, len(jobs) // 2))]
        for i, job in enumerate(jobs):
            yield workers[i % len(workers)](job)
        for worker in workers:
            worker.close()


def prepared(folder: Path) -> tuple[FeatureStore, list[Job]]:
    (folder / "inputs").mkdir(parents=True)
    path = folder / "inputs" / "seven.npy"
    path.write_text("7")
    file = keep_file(path, "number", "key")
    store = FeatureStore.open(folder / "store" / "rds" / "pool" / "base", {"model": "m"}, rows=10, shard_rows=3)
    return store, [Job(Wanted(file), (store,), shard, shard.name) for shard in store.missing()]


def test_jobs_are_done_without_a_path_of_the_run_folder(storage: Storage, tmp_path: Path):
    store, jobs = prepared(tmp_path / "run")
    sent: list[RemoteJob] = []

    class Watched(Here):
        def map(self, start, jobs):
            sent.extend(jobs)
            yield from super().map(start, jobs)

    done: list[float] = []
    run_remotely(jobs, Watched(), storage, Worker, done.append)
    assert sum(done) == 10
    assert str(tmp_path) not in repr([(r, [vars(s) for s in r.job.stores]) for r in sent])
    assert store.missing() == []
    assert (store.array("x") == 7).all()
    assert sorted(storage.sizes("")) == sorted(
        [f"files/{jobs[0].of.file.artefact}.npy", *(n for s in store.shards() for n in shard_names(store, s))])


def test_a_worker_leaves_nothing_behind(storage: Storage, tmp_path: Path):
    _, jobs = prepared(tmp_path / "run")
    made: list[RemoteWorker] = []

    class Watched(Here):
        def map(self, start, jobs):
            def watched(number: int) -> RemoteWorker:
                made.append(start(number))
                return made[-1]
            for result in super().map(watched, jobs):
                assert not any(path.suffix == ".safetensors" for one in made for path in one.folder.rglob("*"))
                yield result

    run_remotely(jobs, Watched(), storage, Worker, lambda tokens: None)
    assert len(made) == 2
    assert not any(worker.folder.exists() for worker in made)


def test_what_is_in_the_storage_is_verified_and_not_computed_again(storage: Storage, tmp_path: Path, capsys):
    _, jobs = prepared(tmp_path / "run")
    run_remotely(jobs, Here(), storage, Worker, lambda tokens: None)
    other = FeatureStore.open(tmp_path / "other" / "rds" / "pool" / "base", {"model": "m"}, rows=10, shard_rows=3)
    data, _ = shard_names(other, other.shards()[1])
    (tmp_path / "junk").write_bytes(b"junk")
    storage.publish(tmp_path / "junk", data)
    storage.remove(shard_names(other, other.shards()[2])[1])  # its worker was lost before it wrote the note
    fetch_missing(storage, [other])
    assert [shard.index for shard in other.missing()] == [1, 2]
    told = capsys.readouterr().err
    assert "shard-00001 of rds/pool/base was damaged in the storage (its bytes have changed)" in told
    assert "2 of 4 missing shards of rds/pool/base were in the storage" in told
    assert sorted(p.name for p in other.folder.iterdir()) == sorted(
        ["fingerprint.json", *(f"shard-0000{i}.{end}" for i in (0, 3) for end in ("json", "safetensors"))])
    run_remotely([dataclasses.replace(job, stores=(other,)) for job in jobs[1:3]], Here(), storage, Worker,
                 lambda tokens: None)
    assert other.missing() == []
    again = FeatureStore.open(tmp_path / "third" / "rds" / "pool" / "base", {"model": "m"}, rows=10, shard_rows=3)
    fetch_missing(storage, [again])
    assert again.missing() == [], "and what was damaged there is whole again"


def test_features_of_something_else_are_never_taken(storage: Storage, tmp_path: Path):
    _, jobs = prepared(tmp_path / "run")
    run_remotely(jobs, Here(), storage, Worker, lambda tokens: None)
    for changes in ({"rows": 11}, {"fingerprint": {"model": "n"}}, {"shard_rows": 5}):
        made = {"fingerprint": {"model": "m"}, "rows": 10, "shard_rows": 3, **changes}
        other = FeatureStore.open(tmp_path / f"other-{len(str(changes))}", **made)
        fetch_missing(storage, [other])
        assert other.missing() == other.shards()


def test_a_damaged_file_that_a_job_reads_is_told_with_what_to_do(storage: Storage, tmp_path: Path):
    _, jobs = prepared(tmp_path / "run")
    (tmp_path / "eight").write_text("8")
    name = f"files/{jobs[0].of.file.artefact}.npy"
    storage.publish(tmp_path / "eight", name)  # as long as the right one, so that it is not seen before it is read
    with pytest.raises(SiftuneError, match="damaged in the storage") as caught:
        run_remotely(jobs, Here(), storage, Worker, lambda tokens: None)
    assert str(caught.value.where).endswith(name)
    (tmp_path / "half").write_bytes(b"")
    storage.publish(tmp_path / "half", name)
    run_remotely(jobs, Here(), storage, Worker, lambda tokens: None)  # a half upload is written again


def test_files_are_exchanged_however_deep_they_stand_and_all_else_is_the_same_object():
    one, other = (KeptFile(Path(name), name, Payload(1, name)) for name in ("a", "b"))
    value = ({"k": [Wanted(one, (1, one))]}, "text", Wanted(None))
    changed = with_files(value, lambda file: other if file is one else file)
    assert changed == ({"k": [Wanted(other, (1, other))]}, "text", Wanted(None))
    assert changed[2] is value[2]
    assert with_files(value, lambda file: file) is value


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs permissions that hold")
def test_a_folder_without_permission_is_refused(tmp_path: Path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="cannot be used"):
        check_storage(SelectConfig(executor="ray", storage=f"file://{tmp_path}/closed/x"))
