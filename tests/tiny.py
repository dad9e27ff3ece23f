"""Throwaway tokenizers and random tiny models of the real architectures, so that tests need no download."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TEXT = [
    "What is the capital of France? The capital of France is Paris.",
    "Add 12 and 30. The answer is 42, since 12 + 30 = 42.",
    "Sort these words: pear, apple, fig. apple, fig, pear",
    "Translate the sentence. Count the letters in banana. There are 3 a's, 2 n's and 1 b.",
    "user assistant system tool\n0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ ,.;:!?()[]{}<>/\\'\"",
]


@cache
def _backend() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    return tokenizer


def tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 384 tokens; ``chat_template=None`` makes it a base model's tokenizer."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=_backend(),
        eos_token="<|im_end|>" if chat_template else "<|endoftext|>",
        pad_token="<|endoftext|>",
        bos_token=None,
    )
    made.chat_template = chat_template
    return made


_SHARED = dict(vocab_size=384, bos_token_id=0, eos_token_id=2, pad_token_id=0)
_LLAMA_LIKE = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=512,
)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": dict(**_LLAMA_LIKE, tie_word_embeddings=True),
    "qwen2": dict(**_LLAMA_LIKE),  # biases on q, k, v
    "qwen3": dict(**_LLAMA_LIKE, head_dim=8),
    "gemma2": dict(**_LLAMA_LIKE, head_dim=8, sliding_window=16, query_pre_attn_scalar=8),  # soft-capped logits
    "gemma3_text": dict(**_LLAMA_LIKE, head_dim=8, sliding_window=16, query_pre_attn_scalar=8),
    "mistral": dict(**_LLAMA_LIKE, head_dim=8, sliding_window=16),
    "gpt2": dict(n_embd=32, n_layer=3, n_head=4, n_positions=512),  # Conv1D, fused q,k,v
    "gpt_neox": dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=512
    ),
}


def model(architecture: str, seed: int = 0, **changes: Any) -> Any:
    """A random tiny model of that architecture in float32, deterministic for a seed."""
    config = AutoConfig.for_model(architecture, **{**_SHARED, **ARCHITECTURES[architecture], **changes})
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(config).to(torch.float32)
    # The default initialisation is so small that all logits are alike; spread the weights so gradients matter.
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    torch.set_rng_state(generator_state)
    return made.eval()


def save(folder: Any, architecture: str = "llama", seed: int = 0, chat_template: str | None = CHATML) -> str:
    """Save a tiny model with its tokenizer as a local folder, as a user would have one."""
    model(architecture, seed).save_pretrained(folder)
    tokenizer(chat_template).save_pretrained(folder)
    return str(folder)
