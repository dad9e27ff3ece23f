"""How many padded tokens a batch may hold, where the user leaves it open."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from siftune.models.loading import LoadedModel

#: On a CPU larger batches are no faster; they only take more memory.
CPU_TOKENS = 1024
_SHARE = 0.5  # of the memory that is free: the estimate below is rough, and others use the device too
_LEAST, _MOST = 64, 65536


def batch_tokens(wanted: int, loaded: LoadedModel) -> int:
    """Padded tokens per batch of a forward and backward pass.

    Args:
        wanted: the user's number; 0 leaves it open.
        loaded: the model, on the device where it will run.
    """
    if wanted:
        return wanted
    device = torch.device(loaded.device)
    most = CPU_TOKENS if device.type == "cpu" else _MOST
    return fitting(free_memory(device), bytes_per_token(loaded.model), most)


def fitting(free: int | None, per_token: int, most: int) -> int:
    """The tokens that half of the free memory holds, within reason; ``most`` where nothing is known of it."""
    return most if free is None else max(_LEAST, min(most, int(_SHARE * free / per_token)))


def bytes_per_token(model: Any) -> int:
    """A rough upper estimate of what a token costs between the forward and the backward pass.

    Kept for each block: about 24 vectors of the hidden size (norms in float32, rotated queries and keys, attention)
    and 6 of the MLP's; for each supervised token the logits, their float32 copy, their softmax and their gradient.
    """
    config = getattr(model.config, "text_config", None) or model.config
    hidden = getattr(config, "hidden_size", 4096)
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    layers = getattr(config, "num_hidden_layers", 32)
    width = next(model.parameters()).element_size()
    return layers * (24 * hidden + 6 * inner) * width + 4 * 4 * getattr(config, "vocab_size", 32000)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on the device; None where it does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return _available() or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _available() -> int | None:
    """Linux counts what the file cache would give back; ``sysconf`` does not."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123  # a kernel file, not one of ours
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
