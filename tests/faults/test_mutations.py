"""Files of a run are damaged in every way: what is damaged is made again, that alone, and the result is the same.

Each run is made once and copied. Many files are damaged at once, each in another way, since what is computed again is
counted one by one; what was remade has the very bytes that it had.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from siftune._common.artefacts import payload
from siftune._common.files import read_json
from tests.cli.command import Result, siftune
from tests.cli.runs import table
from tests.experiments.studies import SMALL as STUDY_SETTINGS
from tests.experiments.studies import study_file, timeless
from tests.faults.mutations import mutations_of, swap

SMALL = ("--budget", 8, "--lora-rank", 2, "--max-length", 128, "--config", Path(__file__).with_name("small.yaml"))


def command(files: dict[str, Path], *more: Any) -> tuple[Any, ...]:
    return ("select", "--model", files["model"], "--pool", files["pool"], "--target", files["target"], *SMALL, *more)


def selection(run: Path) -> Any:
    return (run / "selected.jsonl").read_bytes(), table(run / "selection.parquet"), table(run / "scores.parquet")


def damage(aside: Path, paths: Sequence[Path], seed: int, others: Sequence[Path] = ()) -> list[tuple[Path, str]]:
    """Damage each file in another way; as many as there are ways. (path, way) of those that were.

    Args:
        aside: a folder for copies of files as they were.
        paths: the files, of one format.
        seed: decides which gets what.
        others: files to put in their places; the files themselves where not given.
    """
    chance = random.Random(seed)
    ways = list(mutations_of(paths[0].suffix))
    chance.shuffle(ways)
    aside = aside / f"as-they-were-{seed}-{paths[0].name}"
    aside.mkdir()
    copies = [Path(shutil.copyfile(path, aside / f"{i}{path.suffix}")) for i, path in enumerate(others or paths)]
    done = []
    remaining = iter(ways)
    for path in paths:
        before = path.read_bytes()
        different = [copy for copy in copies if copy.read_bytes() != before]
        way = next((way for way in remaining if way(path, different, chance)), None)
        if way is None:
            break
        done.append((path, way.__name__))
    return done


def bytes_of(run: Path, *patterns: str) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for pattern in patterns for path in run.glob(pattern)
            if path.is_file()}


def whole(result: Result) -> Result:
    assert "Traceback" not in result.err
    return result.ok()


@pytest.fixture(scope="module")
def forward(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a shard for each of 40 rows."""
    run = tmp_path_factory.mktemp("forward") / "run"
    siftune(*command(files, "--method", "rds+", "--shard-rows", 1), "--output-dir", run).ok()
    return run


@pytest.fixture(scope="module")
def gradients(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of GIST at nine checkpoints, each with its subspace."""
    run = tmp_path_factory.mktemp("gradients") / "run"
    siftune(*command(files, "--method", "gist", "--set", "warmup_epochs=9"), "--output-dir", run).ok()
    return run


@pytest.mark.parametrize(("kind", "seed"), [(".safetensors", 0), (".json", 1), (".json", 2), (".safetensors", 3)])
@pytest.mark.parametrize("through", ["select", "--from"])
def test_damaged_shards_are_computed_again_and_no_others(kind: str, seed: int, through: str, forward: Path,
                                                         files: dict[str, Path], made: Counter[str], tmp_path: Path,
                                                         ) -> None:
    if through == "--from" and seed > 1:
        pytest.skip("one of each is enough through --from")
    run = Path(shutil.copytree(forward, tmp_path / "run"))
    before = bytes_of(run, "store/rds/pool/**/shard-*")
    shards = sorted((run / "store/rds/pool/base").glob(f"shard-*{kind}"))
    random.Random(seed).shuffle(shards)
    damaged = damage(tmp_path, shards, seed)
    assert len(damaged) >= (14 if kind == ".safetensors" else 19)
    wanted = Counter(f"pool/base/{path.stem}" for path, _ in damaged)
    if through == "select":
        done, told = run, whole(siftune(*command(files, "--method", "rds+"), "--output-dir", run))
    else:
        done = tmp_path / "done"
        told = whole(siftune("select", "--from", run, "--output-dir", done))
    assert made == wanted, damaged
    assert selection(done) == selection(forward)
    assert bytes_of(run, "store/rds/pool/**/shard-*[ns]") == before
    lost = sum(way == "delete" for _, way in damaged) if kind == ".json" else 0
    assert f"{len(damaged) - lost} of 40 shards of rds/pool/base were damaged" in told.err


@pytest.mark.parametrize("notes", [True, False])
def test_shards_that_have_changed_places_are_noticed_with_and_without_their_notes(
        notes: bool, forward: Path, files: dict[str, Path], made: Counter[str], tmp_path: Path) -> None:
    run = Path(shutil.copytree(forward, tmp_path / "run"))
    base = run / "store/rds/pool/base"
    for i in range(0, 20, 2):
        swap(base / f"shard-{i:05d}.safetensors", base / f"shard-{i + 1:05d}.safetensors")
        if notes:
            swap(base / f"shard-{i:05d}.json", base / f"shard-{i + 1:05d}.json")
    whole(siftune(*command(files, "--method", "rds+"), "--output-dir", run))
    # The pool repeats its texts: copies may have the same features to the bit, and changing their places changes none.
    assert made if not notes else len(made) == 20
    assert set(made.values()) == {1}
    assert selection(run) == selection(forward)


def test_stores_that_have_changed_places_are_refused_or_made_again(gradients: Path, files: dict[str, Path],
                                                                   made: Counter[str], tmp_path: Path) -> None:
    run = Path(shutil.copytree(gradients, tmp_path / "run"))
    [root] = (run / "store").glob("gist-*")
    swap(root / "pool/epoch-1", root / "pool/epoch-2")
    swap(root / "subspace/epoch-3.npy", root / "subspace/epoch-4.npy")
    swap(root / "subspace/epoch-3.npy.note.json", root / "subspace/epoch-4.npy.note.json")
    whole(siftune(*command(files, "--method", "gist", "--set", "warmup_epochs=9"), "--output-dir", run))
    assert made == {"pool/epoch-1/shard-00000": 1, "pool/epoch-2/shard-00000": 1}
    assert selection(run) == selection(gradients)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_heads_are_mended_and_nothing_is_computed_again(seed: int, gradients: Path, files: dict[str, Path],
                                                                made: Counter[str], tmp_path: Path) -> None:
    run = Path(shutil.copytree(gradients, tmp_path / "run"))
    heads = sorted(run.glob("store/**/fingerprint.json"))
    assert len(heads) == 10, "one of the method, one of each checkpoint"
    before = bytes_of(run, "store/**/*.json")
    random.Random(seed).shuffle(heads)
    damaged = damage(tmp_path, heads, seed)
    assert len(damaged) >= 9
    whole(siftune(*command(files, "--method", "gist", "--set", "warmup_epochs=9"), "--output-dir", run))
    assert not made, damaged
    assert bytes_of(run, "store/**/*[a-z0-9].json") == before
    assert selection(run) == selection(gradients)


@pytest.mark.parametrize(("pattern", "seed"), [
    *(("warmup*/epoch-*/adapter.safetensors", seed) for seed in range(2)),
    *(("warmup*/epoch-*/checkpoint.json", seed) for seed in range(2)),
    *(("store/*/subspace/epoch-*.npy", seed) for seed in range(2)),
    *(("store/*/subspace/epoch-*.npy.note.json", seed) for seed in range(2)),
])
def test_damaged_checkpoints_and_subspaces_are_made_again_and_no_features(
        pattern: str, seed: int, gradients: Path, files: dict[str, Path], made: Counter[str], tmp_path: Path) -> None:
    run = Path(shutil.copytree(gradients, tmp_path / "run"))
    before = bytes_of(run, pattern)
    assert len(before) == 9
    paths = [run / name for name in before]
    whole_ones = {path: path.stat().st_mtime_ns for path in paths}
    damaged = damage(tmp_path, paths, seed + 10)
    for path, _ in damaged:
        del whole_ones[path]
    whole(siftune(*command(files, "--method", "gist", "--set", "warmup_epochs=9"), "--output-dir", run))
    assert not made, damaged
    assert bytes_of(run, pattern) == before
    assert {path: path.stat().st_mtime_ns for path in whole_ones} == whole_ones, "what was whole was not written again"
    assert selection(run) == selection(gradients)


def test_damaged_directions_of_activations_are_made_again(files: dict[str, Path], made: Counter[str], tmp_path: Path,
                                                          ) -> None:
    calm = tmp_path / "calm"
    arguments = command(files, "--method", "nait")
    siftune(*arguments, "--output-dir", calm).ok()
    for seed, pattern in enumerate(("directions-*.npy", "directions-*.note.json") * 3):
        run = Path(shutil.copytree(calm, tmp_path / str(seed)))
        [path] = run.rglob(pattern)
        before = path.read_bytes()
        assert damage(tmp_path, [path], seed)
        made.clear()
        whole(siftune(*arguments, "--output-dir", run))
        assert not made
        assert path.read_bytes() == before
        assert selection(run) == selection(calm)


@pytest.fixture(scope="module")
def compared(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of 20 trainings."""
    run = tmp_path_factory.mktemp("compared") / "run"
    siftune(*comparing(files), "--output-dir", run).ok()
    return run


def comparing(files: dict[str, Path]) -> tuple[Any, ...]:
    return ("compare", *command(files, "--method", "bm25", "--test", files["test"], "--epochs", 1, "--seeds", 10,
                                "--exact-match-tokens", 2)[1:])


@pytest.mark.parametrize(("pattern", "least"), [("training/*/scores-*.json", 19), ("training/*/training.json", 18),
                                                ("training/*/adapter.safetensors", 14)])
def test_damaged_scores_and_trainings_are_made_again(pattern: str, least: int, compared: Path, files: dict[str, Path],
                                                     made: Counter[str], tmp_path: Path) -> None:
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    before = bytes_of(run, "training/*/adapter.safetensors", "training/*/scores-*.json")
    paths = sorted(run.glob(pattern))
    damaged = damage(tmp_path, paths, len(pattern))
    assert len(damaged) >= least
    if "scores" not in pattern:  # what is trained is looked at only where scores are missing
        for path in run.glob("training/*/scores-*.json"):
            path.unlink()
    whole(siftune(*comparing(files), "--output-dir", run))
    if "scores" in pattern:
        assert made == Counter(f"scores {path.parent.name}" for path, _ in damaged)
    after = bytes_of(run, "training/*/adapter.safetensors", "training/*/scores-*.json")
    assert set(after) == set(before)
    assert {name: content for name, content in after.items() if name.endswith("rs")} == {
        name: content for name, content in before.items() if name.endswith("rs")}
    assert results(run) == results(compared)


def results(run: Path) -> Any:
    return timeless(read_json(run / "comparison.json"))


@pytest.fixture(scope="module")
def studied(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studied")
    siftune("study", study_of(files, folder, folder / "run")).ok()
    return folder / "run"


def study_of(files: dict[str, Path], folder: Path, run: Path) -> Path:
    targets = [{"name": "sums", "target": [str(files["target"])], "test": [str(files["test"])]}]
    return study_file(folder / "study.yaml", {
        "model": str(files["model"]), "pool": [str(files["pool"])], **STUDY_SETTINGS, "targets": targets,
        "methods": ["bm25", "rds+"], "headline": ["bm25"], "headline_seeds": 1, "budgets": ["4", "6", "8"],
        "baselines": {"random": 3}, "output_dir": str(run)})


@pytest.mark.parametrize("seed", range(8))
def test_a_study_makes_again_what_is_damaged(seed: int, studied: Path, files: dict[str, Path], made: Counter[str],
                                             tmp_path: Path) -> None:
    """Its selections, costs, distances, map and rows, and the scores of its trainings, in one run."""
    run = Path(shutil.copytree(studied, tmp_path / "run"))
    selections, scores = sorted(run.glob("selections/*.json")), sorted(run.glob("training/*/scores-*.json"))
    before = bytes_of(run, "selections/*.json", "map.json", "rows.json", "distances.json")
    chance = random.Random(seed)
    damaged = damage(tmp_path, chance.sample(selections, 6), seed, selections)
    of_scores = damage(tmp_path, chance.sample(scores, 3), seed + 100, scores)
    for i, name in enumerate(("costs.json", "distances.json", "map.json", "rows.json")):
        damaged += damage(tmp_path, [run / name], 1000 * i + seed, [run / "study.json"])
    assert len(damaged) + len(of_scores) >= 12
    told = whole(siftune("study", study_of(files, tmp_path, run)))
    assert made == Counter(f"scores {path.parent.name}" for path, _ in of_scores)
    assert timeless(read_json(run / "study.json")) == timeless(read_json(studied / "study.json")), damaged
    after = bytes_of(run, "map.json", "rows.json", "distances.json")
    assert after == {name: before[name] for name in after}
    for path, way in damaged:
        if way not in ("delete", "copy_another_over_it"):  # another one, whole, is made from something else
            assert f"{path.name} was damaged" in told.err, (path, way)
    ids = {path.name: read_json(path)["ids"] for path in run.glob("selections/*.json")}
    assert ids == {path.name: read_json(path)["ids"] for path in studied.glob("selections/*.json")}


def test_what_is_damaged_between_two_reads_of_one_process_is_noticed(forward: Path, files: dict[str, Path],
                                                                     made: Counter[str], tmp_path: Path) -> None:
    """Checksums are remembered only while a file's times and inode stay as they were."""
    run = Path(shutil.copytree(forward, tmp_path / "run"))
    whole(siftune(*command(files, "--method", "rds+"), "--output-dir", run))
    assert not made
    assert any(name.startswith(str(run)) for name in payload._read)
    for n, path in enumerate(sorted(run.glob("store/rds/pool/base/shard-*.safetensors"))[:5]):
        damage(tmp_path, [path], n)
    whole(siftune(*command(files, "--method", "rds+"), "--output-dir", run))
    assert len(made) == 5
    assert selection(run) == selection(forward)
