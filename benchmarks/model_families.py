"""Every text model family of the installed transformers, tiny and with random weights, through siftune's own passes.

    python benchmarks/model_families.py [FAMILY ...]

A model of each family is made from its configuration class, saved, and loaded again as a user's would be. Then, in
float32 on the CPU:

* LoRA on what `auto` chooses (or on what siftune's own refusal suggests, for models without attention), adapters away
  from their start. Per-row gradients of a padded batch against one row at a time by autograd, no padding: the largest
  relative error of any row.
* The same for the base's own linear weights, as LoGra takes them.
* A training step: loss and backward pass in training mode, finite.
* RDS+'s hidden states and MADS's activations: a padded batch against one row at a time, or why there are none.

Results: benchmarks/results/model_families.json, written after every family; a family that is recorded for this version
of transformers is not run again unless it is named. `write_tables.py` makes the table of docs/models.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from siftune._common.errors import ModelError, SiftuneError
from siftune._common.files import read_json, write_json
from siftune._common.progress import quiet
from siftune.data.rows import Rendered
from siftune.features.forward.active_sets import ActiveNeurons
from siftune.features.forward.engine import forward_features
from siftune.features.forward.hidden import PositionWeightedMean
from siftune.features.gradients.engine import GradientEngine, train_linear_weights
from siftune.models.batching import collate
from siftune.models.loading import LoadedModel, load_model
from siftune.models.lora import LoraSettings, adapted_layers, attach_lora, block_modules, detach_lora, target_modules

RESULTS = Path(__file__).resolve().parent / "results" / "model_families.json"
LIMIT = 1e-3
"""A larger relative error is wrong, not rounding."""

SIZES: dict[str, Any] = dict(
    vocab_size=384, bos_token_id=0, eos_token_id=2, pad_token_id=0, hidden_size=32, intermediate_size=64,
    num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=512,
    sliding_window=16, embedding_size=32,
    # the same by older names
    n_embd=32, n_layer=4, n_head=4, n_positions=512, n_inner=64, d_model=32, n_layers=4, n_heads=4, d_ff=64, d_kv=8,
    num_layers=4, num_heads=4, embed_dim=32, ffn_dim=64, hidden_dim=32, rotary_dim=4, decoder_layers=2,
    encoder_layers=2, decoder_attention_heads=4, encoder_attention_heads=4, decoder_ffn_dim=64, encoder_ffn_dim=64,
    # experts
    num_experts=4, num_local_experts=4, n_routed_experts=4, num_experts_per_tok=2, moe_topk=2, moe_intermediate_size=32,
    n_shared_experts=1, shared_expert_intermediate_size=32, moe_shared_expert_intermediate_size=32, n_group=1,
    topk_group=1, expert_ffn_hidden_size=32, ffn_hidden_size=64,
    # latent and sparse attention
    q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, index_topk=8,
    index_head_dim=16, index_n_heads=16,
    # state spaces and linear attention
    state_size=8, mamba_d_state=8, mamba_n_heads=8, mamba_d_head=8, mamba_expand=2, mamba_n_groups=1,
    mamba_chunk_size=16, mamba_num_heads=8, mamba_head_dim=8, mamba_dt_rank=4, ssm_state_size=8, n_groups=1,
    chunk_size=16, time_step_rank=4, lru_width=32, block_size=16, linear_num_key_heads=2, linear_num_value_heads=4,
    linear_key_head_dim=8, linear_value_head_dim=8,
    # towers
    image_size=28, patch_size=14, depth=2, out_hidden_size=32,
)

#: What a family needs besides, or otherwise: the same sizes by names that it alone has, and what its rules ask for.
OWN: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {}, "cpmant": {"prompt_types": 4, "prompt_length": 4, "segment_types": 4, "dim_head": 8,
                                     "dim_ff": 64},
    "bamba": {"attn_layer_indices": [1, 3]},
    "chameleon": {"vocabulary_map": {"<image>": 5}}, "emu3": {"vocabulary_map": {"<image>": 5}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "ctrl": {"dff": 64}, "dbrx": {"attn_config": {"kv_n_heads": 2},
                                  "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2,
                                                 "hidden_size": 32}},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 16},
    "gemma3n_text": {"num_kv_shared_layers": 0, "laurel_rank": 8, "hidden_size_per_layer_input": 8,
                     "vocab_size_per_layer_input": 384, "altup_num_inputs": 2,
                     "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
                     "intermediate_size": 64, "activation_sparsity_pattern": [0.0, 0.0, 0.0, 0.0]},
    "gemma4_text": {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 384,
                    "global_head_dim": 8},
    "glm5_next": {"index_topk": 16}, "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "lfm2": {"full_attn_idxs": [1, 3], "block_ff_dim": 64},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2}, "mistral4": {"num_key_value_heads": 4},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "moe", "attention"]},
    "prophetnet": {"num_decoder_layers": 2, "num_encoder_layers": 2, "num_decoder_attention_heads": 4,
                   "num_encoder_attention_heads": 4},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 32],
                 "attn_layers": ["local"] * 4, "local_attn_chunk_length": 16, "attention_head_size": 8},
    "rembert": {"input_embedding_size": 32, "output_embedding_size": 32},
    "zaya": {"num_experts_per_tok": 1},
    "zamba": {"layer_types": ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid",
                              "linear_attention"], "num_hidden_layers": 6, "attention_head_dim": 16,
              "attention_hidden_size": 64, "mamba_d_state": 8, "n_mamba_heads": 2},
    "zamba2": {"layer_types": ["linear_attention", "hybrid", "linear_attention", "hybrid"], "attention_head_dim": 16,
               "n_mamba_heads": 8, "mamba_headdim": 8, "hybrid_layer_ids": [1, 3], "num_mem_blocks": 1,
               "adapter_rank": 4},
}

#: Text configurations whose rotary embedding has sections for the axes of an image without saying so by default.
MROPE = ("Qwen2VLTextConfig", "Qwen2_5_VLTextConfig", "Glm4vTextConfig", "Glm46VTextConfig", "Glm4vMoeTextConfig",
         "GlmOcrTextConfig", "PaddleOCRTextConfig", "GlmgaTextConfig")

#: Families that read a text with nothing but what every row has are run; these need more.
NOT_RUN = {
    "musicgen": "makes sounds", "musicgen_melody": "makes sounds", "gemma4_assistant": "a draft for another model",
    "gemma4_unified_assistant": "a draft for another model",
}

TEXT = "the quick brown fox jumps over the lazy dog and then it sleeps for a while"


def families() -> list[str]:
    """Model types that transformers loads as causal language models, or as models of images and text."""
    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES})


def is_multimodal(family: str) -> bool:
    return family in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def tiny_config(kind: type, depth: int = 0, **own: Any) -> Any:
    """A configuration of a class with every size it has a name for made small, in its parts too."""
    default = kind()
    names = default.to_dict()
    given: dict[str, Any] = {}
    for name, value in SIZES.items():
        real = getattr(kind, "attribute_map", {}).get(name, name)
        if real not in names or real in given:
            continue
        given[real] = [value] * 2 if isinstance(names[real], (list, tuple)) and isinstance(value, int) else value
    if "kv_lora_rank" in given and "num_key_value_heads" in given:
        given["num_key_value_heads"] = SIZES["num_attention_heads"]
    rope = names.get("rope_parameters")
    if "mrope" in f"{rope} {kind.__module__}" or kind.__name__ in MROPE:  # positions in time, height and width
        given["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    for part in getattr(kind, "sub_configs", {}):
        inside = getattr(default, part, None)
        if inside is not None and depth < 3:
            given[part] = tiny_config(type(inside), depth + 1, **OWN.get(inside.model_type, {}))
    return kind(**{**given, **own})


def tiny_model(family: str, seed: int = 0, **own: Any) -> Any:
    """A random tiny model of a family in float32, deterministic for a seed, its weights spread so that they matter."""
    config = tiny_config(CONFIG_MAPPING[family], **{**OWN.get(family, {}), **own})
    saved = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(family)
    loader = AutoModelForImageTextToText if saved else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = loader.from_config(config).to(torch.float32)
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(3.0)
    return made.eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, for there must be one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    made.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    made.train_from_iterator([TEXT], trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>", "<|start|>", "<|stop|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|stop|>", pad_token="<|end|>")


def rows(lengths: Sequence[int] = (9, 30, 17, 5, 24)) -> list[Rendered]:
    """Rows of mixed length, longer and shorter than windows and chunks of 16, several turns in some."""
    rng = np.random.default_rng(0)
    made = []
    for i, length in enumerate(lengths):
        mask = np.zeros(length, bool)
        mask[-1 - (i % 4) * (length // 5):] = True
        mask[length // 3] = i % 2 == 0
        mask[0] = False
        made.append(Rendered(rng.integers(20, 290, length).astype(np.int32), mask))
    return made


def one_row(model: Any, row: Rendered) -> dict[str, torch.Tensor]:
    """Plain autograd: one row, one loss, ``backward``; nothing of siftune's."""
    model.zero_grad()
    ids = torch.from_numpy(row.ids.astype(np.int64))[None]
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0].float()
    places = np.flatnonzero(row.mask)
    nn.functional.cross_entropy(logits[places - 1], ids[0, places]).backward()
    return {name: (torch.zeros_like(p) if p.grad is None else p.grad).detach().flatten().clone()
            for name, p in model.named_parameters() if p.requires_grad}


def batched(model: Any, examples: Sequence[Rendered]) -> dict[str, torch.Tensor]:
    """Per-row gradients [rows, n] of one padded batch by parameter name."""
    engine = GradientEngine(model)
    found: dict[str, torch.Tensor] = {}

    def consume(gradient: Any) -> None:
        assert gradient.name not in found, f"{gradient.name} arrived twice"
        found[gradient.name] = gradient.full().clone()

    with engine.capture():
        engine.backward(collate(examples, pad_id=0), consume)
    return found


def largest_error(model: Any, examples: Sequence[Rendered], *, alone: bool = False) -> tuple[float, int]:
    """(largest relative error of a row's gradient, parameters whose gradient is zero for all rows).

    Args:
        model: with its trainable parameters.
        examples: the rows; in one padded batch, or each in a batch of its own.
        alone: the latter.
    """
    batch = {} if alone else batched(model, examples)
    worst, seen = 0.0, set()
    for i, row in enumerate(examples):
        found = {n: g[0] for n, g in batched(model, [row]).items()} if alone else {n: g[i] for n, g in batch.items()}
        want = one_row(model, row)
        whole = torch.cat(list(want.values()))
        got = torch.cat([found[name] if name in found else torch.zeros_like(g) for name, g in want.items()])
        seen |= {name for name, g in want.items() if bool(g.any())}
        worst = max(worst, float((got - whole).norm() / whole.norm()))
    return worst, sum(p.requires_grad for p in model.parameters()) - len(seen)


def trains(model: Any, examples: Sequence[Rendered]) -> bool:
    """Whether a step in training mode gives a finite loss and finite gradients."""
    from siftune.models.supervised_logits import mean_loss_per_row, supervised_logits

    batch = collate(examples, pad_id=0)
    model.train()
    try:
        with supervised_logits(model, batch.supervised):
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits[0]
        loss = mean_loss_per_row(logits, batch.input_ids, batch.supervised).mean()
        loss.backward()
        own = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
        return bool(loss.isfinite()) and all(bool(g.isfinite().all()) for g in own) and any(bool(g.any()) for g in own)
    finally:
        model.zero_grad()
        model.eval()


def readings(loaded: LoadedModel, examples: Sequence[Rendered], reader: Any) -> str:
    """Empty where a reader sees the same in a padded batch as of each row alone; else why not."""
    try:
        batch, alone = (forward_features(loaded.model, examples, [reader], pad_id=0, batch_tokens=tokens)[0]
                        for tokens in (10_000, 1))
    except ModelError as error:
        return error.what
    for name, values in batch.items():
        if not np.allclose(values, alone[name], rtol=1e-3, atol=1e-4):
            return f"{name} depends on the batch"
    return ""


@dataclass
class Case:
    """One family, loaded."""

    family: str
    loaded: LoadedModel

    def record(self) -> dict[str, Any]:
        model, examples = self.loaded.model, rows()
        made: dict[str, Any] = {"class": type(model).__name__, "parameters": self.loaded.parameters,
                                "layers": adapted_layers(model, [])[1]}
        settings = LoraSettings(rank=4, alpha=8, dropout=0.0)
        try:
            names = target_modules(model, settings)
        except ModelError as error:
            made["without_targets"] = error.what
            suggested = (error.hint or "").rpartition("--lora-targets ")[2].split(",")
            settings = LoraSettings(rank=4, alpha=8, dropout=0.0, targets=tuple(suggested))
            names = target_modules(model, settings)
            made["targets"] = suggested
        made["kind"] = kind_of(self.family, model, names, "targets" in made)
        made["adapted_layers"], made["adapted_modules"] = adapted_layers(model, names)[0], len(names)
        made["modules"] = sorted({name.rpartition(".")[2] for name in names})
        adapted = attach_lora(model, settings, seed=0)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(parameter, std=0.3)
        try:
            made["error"], made["without_gradient"] = largest_error(adapted, examples)
            made["trains"] = trains(adapted, examples)
        except (SiftuneError, RuntimeError, ValueError) as error:
            made["failed"] = _first(error)
        finally:
            model = self.loaded.model = detach_lora(adapted)
        model.requires_grad_(False)
        made["hidden"] = readings(self.loaded, examples, PositionWeightedMean())
        made["activations"] = readings(self.loaded, examples, ActiveNeurons("gated", "response", "mean", 4, 0.0))
        try:
            train_linear_weights(model, block_modules(model))
            made["full_error"], _ = largest_error(model, examples)
        except (SiftuneError, RuntimeError, ValueError) as error:
            made["full_failed"] = _first(error)
        finally:
            model.requires_grad_(False)
        return made


def kind_of(family: str, model: Any, names: Sequence[str], suggested: bool) -> str:
    """What is special about a family, in words."""
    some, blocks = adapted_layers(model, list(names))
    parts = {
        "multimodal": is_multimodal(family),
        "state space": suggested,
        "hybrid": some < blocks and not suggested,
        "latent attention": any(name.endswith("kv_b_proj") for name in names),
        "experts": any("expert" in name for name, _ in model.named_parameters()),
    }
    return ", ".join(part for part, true in parts.items() if true) or "dense"


def _first(error: Exception) -> str:
    return error.what if isinstance(error, SiftuneError) else f"{type(error).__name__}: {error}".splitlines()[0][:200]


@contextmanager
def _saved(family: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        tiny_model(family).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        yield folder


def run(family: str) -> dict[str, Any]:
    """What is recorded of a family."""
    if family in NOT_RUN:
        return {"not_run": NOT_RUN[family]}
    start = time.monotonic()
    try:
        with _saved(family) as folder, quiet():
            try:
                made = Case(family, load_model(folder, device="cpu", dtype="float32")).record()
            except SiftuneError as error:
                made = {"refused": error.what.replace(folder, family), "hint": error.hint, "why": error.why}
    except Exception as error:  # no tiny configuration of it could be made: that is recorded, too
        made = {"not_made": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}
    return {**made, "seconds": round(time.monotonic() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__.partition("+")[0]}
    kept = read_json(args.results) if args.results.exists() else {}
    found = kept.get("families", {}) if kept.get("versions") == versions else {}
    for family in args.families or [name for name in families() if name not in found]:
        found[family] = run(family)
        write_json(args.results, {"command": "python benchmarks/model_families.py", "versions": versions,
                                  "device": "cpu", "dtype": "float32",
                                  "families": dict(sorted(found.items()))})
        one = found[family]
        print(family, *(f"{key}={one[key]}" for key in (
            "class", "not_run", "not_made", "refused", "why", "failed", "adapted_layers", "layers", "error",
            "without_gradient", "trains", "hidden", "activations", "full_error", "full_failed") if key in one),
            flush=True)


if __name__ == "__main__":
    main()
