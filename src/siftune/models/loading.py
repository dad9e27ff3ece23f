"""Load a causal language model and its tokenizer: hub id, local folder, PEFT adapter folder, or ``embedded``."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError, ModelError, first_line
from siftune._common.progress import log
from siftune.models.embedded import embedded_model
from siftune.models.lent import borrowed, is_object

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
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"the device {device!r} cannot be used", where="--device", why=str(error).splitlines()[0],
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
    model = _from_pretrained("AutoModelForCausalLM", base or path, name, **options)
    if base is not None:
        from peft import PeftModel

        try:
            model = PeftModel.from_pretrained(model, str(path)).merge_and_unload()  # pyright: ignore[reportCallIssue]
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError("cannot load the adapter", where=str(path), why=first_line(error),
                             hint="check that the adapter belongs to the base model that its adapter_config.json "
                                  "names") from error
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder model", where="--model",
                         hint="siftune works with decoder-only models (Llama, Qwen, Gemma, Mistral, GPT-2, ...)")
    model.requires_grad_(False)
    model.eval().to(device)
    return LoadedModel(model, load_tokenizer(name, trust_remote_code=trust_remote_code), name, device, chosen,
                       weights_hash(model))


def locate(name: str) -> tuple[Path | str, Path | str | None]:
    """(where the model is, base model if that is an adapter folder)."""
    if name == "embedded":
        return embedded_model(), None
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "adapter_config.json").exists():
            base = json.loads((path / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
            if not base:
                raise ModelError("the adapter does not say which base model it belongs to",
                                 where=str(path / "adapter_config.json"),
                                 hint='add "base_model_name_or_path" to it')
            return path, locate(base)[0]
        if not (path / "config.json").exists():
            raise ModelError("the folder holds no model", where=str(path), why="There is no config.json in it.",
                             hint="name the folder that `save_pretrained` wrote")
        return path, None
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_local:
        near = difflib.get_close_matches(name, ["embedded"], cutoff=0.6)
        hint = "did you mean --model embedded?" if near else "give a folder that exists, a hub id, or embedded"
        raise ModelError(f"there is no model {name!r}", where="--model", hint=hint)
    return name, None


def _from_pretrained(loader: str, path: Path | str, name: str, **options: Any) -> Any:
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.disable_progress_bar()  # a bar of a second per load only hides what matters
    try:
        return getattr(transformers, loader).from_pretrained(str(path), **options)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        offline = isinstance(path, str)
        raise ModelError(
            f"cannot load {'the tokenizer of ' if loader == 'AutoTokenizer' else ''}{name}",
            where="--model",
            why=first_line(error),
            hint="check the id and your connection to the hub, or give a local folder; --model embedded works offline"
            if offline else "the folder should be one that `save_pretrained` wrote, with model and tokenizer",
        ) from error


def weights_hash(model: Any) -> str:
    """BLAKE2 over name, dtype, shape and bytes of every parameter and persistent buffer (about 1 GB/s)."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
