"""What a model does with one row, by the plainest means: one row, no padding, hooks on modules named by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from siftune.data.rows import Rendered


@dataclass
class Seen:
    """Of one row: ``hidden`` float64 [T, H]; ``gated`` and ``up`` float64 [L, T, I]; ``logits`` float64 [T, V]."""

    hidden: np.ndarray
    gated: np.ndarray
    up: np.ndarray
    logits: np.ndarray


def mlp_modules(model: Any, architecture: str) -> list[tuple[Any, Any]]:
    """(map to the neurons, map back) of each block."""
    if architecture == "gpt2":
        return [(block.mlp.c_fc, block.mlp.c_proj) for block in model.transformer.h]
    if architecture == "gpt_neox":
        return [(block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h) for block in model.gpt_neox.layers]
    return [(block.mlp.up_proj, block.mlp.down_proj) for block in model.model.layers]


def see(model: Any, architecture: str, row: Rendered) -> Seen:
    up: list[np.ndarray] = []
    gated: list[np.ndarray] = []
    handles = []
    for first, second in mlp_modules(model, architecture):
        handles.append(first.register_forward_hook(lambda module, args, out: up.append(out[0].double().numpy().copy())))
        handles.append(second.register_forward_hook(
            lambda module, args, out: gated.append(args[0][0].double().numpy().copy())))
    with torch.no_grad():
        out = model(input_ids=torch.from_numpy(row.ids.astype(np.int64))[None], output_hidden_states=True)
    for handle in handles:
        handle.remove()
    hidden, logits = out.hidden_states[-1][0], out.logits[0]
    return Seen(hidden.double().numpy(), np.array(gated), np.array(up), logits.double().numpy())


def loss(seen: Seen, row: Rendered) -> float:
    """Mean over the supervised tokens of -log p(token | tokens before it)."""
    terms = []
    for t in range(len(row)):
        if row.mask[t]:
            logits = seen.logits[t - 1]
            terms.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[row.ids[t]])
    return sum(terms) / len(terms)


def weighted_mean(seen: Seen) -> np.ndarray:
    """sum_t t h_t / sum_t t, of length 1."""
    total, weight = np.zeros(seen.hidden.shape[1]), 0
    for t, state in enumerate(seen.hidden, start=1):
        total, weight = total + t * state, weight + t
    return (total / weight) / np.linalg.norm(total / weight)


def magnitudes(seen: Seen, row: Rendered, neurons: str, span: str, aggregate: str) -> np.ndarray:
    """float64 [L, I]: mean or largest |activation| over the tokens of the span."""
    tokens = [t for t in range(len(row)) if span == "all" or bool(row.mask[t]) == (span == "response")]
    values = np.abs(getattr(seen, neurons))
    if aggregate == "max":
        return np.max([values[:, t] for t in tokens], axis=0)
    return sum(values[:, t] for t in tokens) / len(tokens)


def strongest(magnitude: np.ndarray, count: int) -> list[set[int]]:
    """For each layer the neurons with the largest magnitude; of equal ones the first."""
    return [set(sorted(range(len(layer)), key=lambda j: (-layer[j], j))[:count]) for layer in magnitude]


def delta(seen: Seen, row: Rendered) -> np.ndarray:
    """float64 [L, I]: gated activations at the last response token minus those at the first."""
    response = [t for t in range(len(row)) if row.mask[t]]
    return seen.gated[:, response[-1]] - seen.gated[:, response[0]]


def response_mean(seen: Seen, row: Rendered) -> np.ndarray:
    """float64 [L, I]."""
    response = [t for t in range(len(row)) if row.mask[t]]
    return sum(seen.gated[:, t] for t in response) / len(response)
