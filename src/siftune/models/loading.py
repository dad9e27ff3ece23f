"""Load a causal language model and its tokenizer: hub id, local folder, PEFT adapter folder, or ``embedded``."""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError, ModelError, first_line
from siftune._common.hub import hub_or_cache, not_reached
from siftune._common.progress import log
from siftune._common.reading import read_json_of
from siftune.config.options import shown
from siftune.models.embedded import embedded_model
from siftune.models.lent import borrowed, is_object

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_OF_TRAINING = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")  # beside the weights, never read
_ADAPTER = "the folder should be one that PEFT's `save_pretrained` wrote"

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
        """The id that fills up batches; masked everywhere, so any valid id serves."""
        for candidate in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if candidate is not None:
                return int(candidate)
        return 0

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

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
    """``auto`` -> float32 on CPU and MPS; on CUDA bfloat16 where the hardware has it, else float32."""
    import torch

    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}", where="--dtype", hint=f"choose one of: {', '.join(DTYPES)}")
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "float32"


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer alone, for commands that need no weights."""
    if is_object(name):
        return borrowed(name).tokenizer
    path, base = locate(name)
    if base is not None and not (Path(path) / "tokenizer_config.json").exists():
        path = base  # an adapter folder without a tokenizer of its own
    return _from_pretrained("AutoTokenizer", path, name, trust_remote_code=trust_remote_code)


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
        return borrowed(name, device=device, dtype=dtype)
    import torch

    device = choose_device(device)
    chosen = choose_dtype(dtype, device)
    log(f"model {name} on {device} in {chosen}")
    path, base = locate(name)
    options = {"dtype": getattr(torch, chosen), "trust_remote_code": trust_remote_code}
    if device == "cpu" and chosen != "float32":
        # torch's fused attention takes nine times as long backward there as in float32 (torch 2.13, AMX): a quarter of
        # a training step. Written out, it does not.
        options["attn_implementation"] = "eager"
    for folder in (path, base):
        if isinstance(folder, Path):
            _refuse_pickles(folder)
    model = _from_pretrained("AutoModelForCausalLM", base or path, name, use_safetensors=True, **options)
    if base is not None:
        from peft import PeftModel

        try:
            model = PeftModel.from_pretrained(model, str(path)).merge_and_unload()  # pyright: ignore[reportCallIssue]
        except Exception as error:  # as above
            raise ModelError("cannot load the adapter", where=str(path), why=_told(error),
                             hint="check that the adapter belongs to the base model that its adapter_config.json "
                                  "names") from error
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder model", where="--model",
                         hint="siftune works with decoder-only models (Llama, Qwen, Gemma, Mistral, GPT-2, ...)")
    model.requires_grad_(False)
    model.eval().to(device)
    return LoadedModel(model, load_tokenizer(name, trust_remote_code=trust_remote_code), name, device, chosen,
                       weights_hash(model))


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
            return path, locate(_base_of(path), (*seen, path.resolve()))[0]
        if not (path / "config.json").exists():
            raise ModelError("the folder holds no model", where=str(path), why="There is no config.json in it.",
                             hint="name the folder that `save_pretrained` wrote")
        return path, None
    looks_local = not _HUB_ID.fullmatch(name)
    if looks_local:
        near = difflib.get_close_matches(name[:80], ["embedded"], cutoff=0.6)
        hint = "did you mean --model embedded?" if near else "give a folder that exists, a hub id, or embedded"
        raise ModelError(f"there is no model {shown(name)}", where="--model", hint=hint)
    return name, None


def _from_pretrained(loader: str, path: Path | str, name: str, **options: Any) -> Any:
    import transformers
    transformers.utils.logging.disable_progress_bar()  # a bar of a second per load only hides what matters
    of_hub, silence = isinstance(path, str), None
    try:
        if not of_hub:
            return getattr(transformers, loader).from_pretrained(str(path), **options)
        with hub_or_cache() as silence:
            if silence is not None:
                options["local_files_only"] = True
            return getattr(transformers, loader).from_pretrained(path, **options)
    except Exception as error:  # files with whatever in them, read by as many packages
        raise ModelError(
            f"cannot load {'the tokenizer of ' if loader == 'AutoTokenizer' else ''}{name}",
            where="--model",
            why=not_reached(silence) if silence else _told(error),
            hint="check the id and your connection to the hub, or give a local folder; --model embedded works offline"
            if of_hub else "the folder should be one that `save_pretrained` wrote, with model and tokenizer",
        ) from error


def _told(error: Exception) -> str:
    """The first line of an error, with its kind where the text alone says little (as that of a missing key)."""
    plain = isinstance(error, OSError | ValueError | ImportError | RuntimeError)
    return first_line(error) if plain else f"{type(error).__name__}: {first_line(error)}"


def _base_of(adapter: Path) -> str:
    """The base model that an adapter folder names."""
    file = adapter / "adapter_config.json"
    told = read_json_of(file, _ADAPTER)
    base = told.get("base_model_name_or_path") if isinstance(told, dict) else None
    if not isinstance(base, str) or not base:
        raise ModelError("the adapter does not say which base model it belongs to", where=str(file),
                         why=None if base is None else f"It says {shown(base)}, which is no name.",
                         hint='give "base_model_name_or_path" in it the name of a model')
    return base


def _refuse_pickles(folder: Path) -> None:
    """Raises: ModelError: the folder has weights only in a form that can run code when it is read."""
    files = {file.name for file in folder.iterdir()}
    pickled = sorted(name for name in files if name.endswith(_PICKLED) and not name.startswith(_OF_TRAINING))
    if pickled and not any(name.endswith((".safetensors", ".safetensors.index.json", ".gguf")) for name in files):
        raise ModelError(f"the weights in {folder.name} are pickled ({pickled[0]})", where=str(folder / pickled[0]),
                         why="Reading a pickle can run code that stands in it; siftune reads safetensors alone.",
                         hint="if you trust the file, save the model again: model.save_pretrained(folder) writes "
                              "safetensors")


def weights_hash(model: Any) -> str:
    """BLAKE2 over name, dtype, shape and bytes of every parameter and persistent buffer (about 1 GB/s)."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
