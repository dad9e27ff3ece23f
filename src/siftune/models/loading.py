"""Load a causal language model and its tokenizer: hub id, local folder, PEFT adapter folder, or ``embedded``."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError, ModelError, first_line
from siftune._common.nearest import did_you_mean
from siftune._common.progress import log
from siftune.config.options import shown
from siftune.models.embedded import embedded_model
from siftune.models.half_precision import say_if_slow, slow_half
from siftune.models.lent import borrowed, is_object
from siftune.models.pretrained import (
    base_of_adapter,
    check_reads_onward,
    depends_on_batch,
    from_pretrained,
    load_checkpoint,
    merge_adapter,
    outline,
    refuse_pickles,
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass
class LoadedModel:
    """A model ready to be adapted.

    Attributes:
        model: the transformers model, in ``eval`` mode on its device, adapters merged.
        tokenizer: its tokenizer.
        name: what the user called it.
        device, dtype: what was chosen, e.g. ``cpu`` and ``float32``.
        weights: BLAKE2 of all parameters: equal for equal weights wherever they came from.
    """

    model: Any
    tokenizer: Any
    name: str
    device: str
    dtype: str
    weights: str

    @property
    def pad_id(self) -> int:
        """The id that fills up batches; masked everywhere, so any id that the embedding has serves."""
        known = self.model.get_input_embeddings().weight.shape[0]
        for candidate in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if candidate is not None and candidate < known:  # a token that was added without resizing is beyond
                return int(candidate)
        return 0

    @property
    def parameters(self) -> int:
        return int(self.model.num_parameters())  # of 4-bit weights too, two of which share a byte

    @property
    def identity(self) -> str:
        """Class and weights: what features depend on."""
        return f"{type(self.model).__name__} {self.weights}"

    @property
    def base_key(self) -> str:
        """Weights and dtype: names the frozen base of a training."""
        return f"{self.weights} {self.dtype}"

    def fingerprint(self) -> dict[str, Any]:
        return {"name": self.name, "class": type(self.model).__name__, "dtype": self.dtype, "weights": self.weights}


def choose_device(device: str) -> str:
    """``auto`` -> the accelerator if there is one, else ``cpu``.

    Raises:
        ConfigError: the named device is not there.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except Exception as error:  # of whatever kind of device: its package may be missing, or its driver
        raise ConfigError(f"the device {device!r} cannot be used", where="--device", why=first_line(error),
                          hint="use --device auto, or cpu") from error
    return device


def choose_dtype(dtype: str, device: str) -> str:
    """``auto`` -> float32 on CPU and MPS; on CUDA bfloat16 where the hardware has it and is no slower in it.

    On a CPU that has units for bfloat16 it would be faster, but what is chosen must not depend on the machine.
    """
    import torch

    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}", where="--dtype", hint=f"choose one of: {', '.join(DTYPES)}")
    if dtype != "auto":
        return dtype
    if not device.startswith("cuda") or not torch.cuda.is_bf16_supported():
        return "float32"
    return "float32" if slow_half("bfloat16", device) else "bfloat16"  # older cards compute it by way of float32


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer alone, for commands that need no weights."""
    if is_object(name):
        return borrowed(name).tokenizer
    path, base = locate(name)
    if base is not None and not (Path(path) / "tokenizer_config.json").exists():
        path = base  # an adapter folder without a tokenizer of its own
    return from_pretrained("AutoTokenizer", path, name, trust_remote_code=trust_remote_code)


def load_model(name: str = "embedded", *, device: str = "auto", dtype: str = "auto",
               trust_remote_code: bool = False) -> LoadedModel:
    """Load a model for feature extraction, training and evaluation.

    Args:
        name: ``embedded``, a hub id, a local folder, or a folder with a PEFT adapter (merged into its base model); or
            the name of an object that is lent (:mod:`siftune.models.lent`), which is returned as it is.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``auto``, ``float32``, ``bfloat16``, ``float16``.
        trust_remote_code: run code that comes with the model; never by default.

    Raises:
        ModelError: it cannot be found, read, or is not a decoder-only language model.
    """
    if is_object(name):
        loaded = borrowed(name, device=device, dtype=dtype)
        say_if_slow("--dtype", loaded.dtype, loaded.device)
        return loaded
    import torch

    device = choose_device(device)
    chosen = choose_dtype(dtype, device)
    log(f"model {name} on {device} in {chosen}")
    say_if_slow("--dtype", chosen, device)
    path, base = locate(name)
    options = {"dtype": getattr(torch, chosen), "trust_remote_code": trust_remote_code, "on": device}
    if device == "cpu" and chosen != "float32":
        # torch's fused attention takes nine times as long backward there as in float32 (torch 2.13, AMX): a quarter of
        # a training step. Written out, it does not.
        options["attn_implementation"] = "eager"
    for folder in (path, base):
        if isinstance(folder, Path):
            refuse_pickles(folder)
    model = load_checkpoint(base or path, name, **options)
    if base is not None:
        model = merge_adapter(model, Path(path))
    model.requires_grad_(False)
    model.eval()
    if not getattr(model, "hf_quantizer", None):
        model.to(device)
    loaded = LoadedModel(model, load_tokenizer(name, trust_remote_code=trust_remote_code), name, device, chosen, "")
    check_reads_onward(model, loaded.tokenizer, name)
    if told := depends_on_batch(model):
        log(f"warning: {told}")
    loaded.weights = weights_hash(model)
    return loaded


def load_outline(name: str = "embedded", *, device: str = "auto", dtype: str = "auto",
                 trust_remote_code: bool = False) -> LoadedModel:
    """A model's modules and shapes without its weights, which are neither downloaded nor read: for plans.

    Args:
        name: as for :func:`load_model`; an object is returned as it is, and an adapter folder stands for its base.
        device, dtype: what they will be; the device need not be there.
        trust_remote_code: run code that comes with the model; never by default.

    Raises:
        ModelError: it cannot be found, or is not a decoder-only language model.
    """
    if is_object(name):
        return borrowed(name, device="auto", dtype=dtype)
    path, base = locate(name)
    device = choose_device(device) if device == "auto" else device
    model = outline(base or path, name, trust_remote_code=trust_remote_code)
    model.requires_grad_(False)
    chosen = choose_dtype(dtype, device) if device == "cpu" else dtype
    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    return LoadedModel(model.eval(), tokenizer, name, device, chosen, "")


def locate(name: str, seen: tuple[Path, ...] = ()) -> tuple[Path | str, Path | str | None]:
    """(where the model is, base model if that is an adapter folder).

    Args:
        name: as for :func:`load_model`.
        seen: the adapter folders that led there.

    Raises:
        ModelError: there is no such model, or an adapter does not say what it belongs to.
    """
    if name == "embedded":
        return embedded_model(), None
    try:
        path = Path(name).expanduser()
        there = path.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long for a path, with a NUL, or a home folder of nobody
        path, there = Path(), False
    if there and path.resolve() in seen:
        raise ModelError("adapters name each other as their base model", where=str(path / "adapter_config.json"),
                         hint='give "base_model_name_or_path" the model that the adapter was trained on')
    if there:
        if (path / "adapter_config.json").exists():
            return path, base_of_adapter(path, partial(locate, seen=(*seen, path.resolve())))
        if not (path / "config.json").exists():
            raise ModelError("the folder holds no model", where=str(path), why="There is no config.json in it.",
                             hint="name the folder that `save_pretrained` wrote")
        return path, None
    looks_local = not _HUB_ID.fullmatch(name)
    if looks_local:
        near = difflib.get_close_matches(name[:80], ["embedded"], cutoff=0.6)
        hint = ("did you mean --model embedded?" if near else
                did_you_mean(path) or "give a folder that exists, a hub id, or embedded")
        raise ModelError(f"there is no model {shown(name)}", where="--model", hint=hint)
    return name, None


def weights_hash(model: Any) -> str:
    """BLAKE2 over name, dtype, shape and bytes of every parameter and persistent buffer (about 1 GB/s), and over how
    quantised weights are computed with."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    if (quantized := getattr(getattr(model, "config", None), "quantization_config", None)) is not None:
        settings = quantized if isinstance(quantized, dict) else quantized.to_dict()
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
