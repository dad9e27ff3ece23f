"""Where tokens start, counted from their bytes, is what the tokenizer's own offsets say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from siftune.data.token_starts import Encoder, starts_by_offsets
from tests import tiny

CORPUS = ["The capital of France is Paris.", "What is  the capital?\n\nI do not know.",
          "naïve über Zoë 東京 🙂 x = {1: 2}"] * 5
SPECIAL = ["<s>", "</s>", "<|im_end|>"]
TEXTS = st.lists(st.sampled_from(
    ["The", " capital", "  ", "\n", "é", "東京", "🙂", "\u2581", "<0x0A>", "ß", "e\u0301", "\t", "1", "x=", *SPECIAL,
     "<mask>", " <mask> ", "\u00a0", "Ġ", "<0xZZ>"]) | st.text(max_size=4).filter(str.isprintable),
    max_size=12).map("".join)


def byte_level(prefix_space: bool = False, normalizer: Any = None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    made.decoder = decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL,
                                                         initial_alphabet=alphabet, show_progress=False))
    return made


def sentence_piece(prepend: str) -> Tokenizer:
    """As the tokenizers of Gemma (nothing before the first word) and Llama 2 (a space before it)."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(prepend)] * bool(prepend)
                                           + [normalizers.Replace(" ", "\u2581")])
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "<0xZZ>"],
        show_progress=False))
    state = json.loads(made.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", *SPECIAL],
                                                               show_progress=False))
    return made


KINDS = {
    "byte-level": byte_level(), "byte-level after a space": byte_level(prefix_space=True),
    "byte-level, composed": byte_level(normalizer=normalizers.NFC()),
    "byte-level, lower case": byte_level(normalizer=normalizers.Lowercase()),
    "sentencepiece": sentence_piece(""), "sentencepiece after a space": sentence_piece("\u2581"),
    "wordpiece": word_piece(),
}
COUNTED = {"byte-level", "byte-level, composed", "sentencepiece"}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> tuple[str, PreTrainedTokenizerFast]:
    made = PreTrainedTokenizerFast(tokenizer_object=KINDS[request.param], eos_token="</s>", bos_token="<s>",
                                   add_prefix_space="after a space" in request.param)  # which 4.57 else takes back
    made.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=True, special=True)})  # type: ignore[dict-item]
    return request.param, made


@settings(max_examples=120, deadline=None)
@given(text=TEXTS)
@example(text="The capital\n\n of <mask> 東京 is Zoë's 🙂.</s>")
@example(text="\u2581 The<0x0A>Ġ")
@example(text="")
def test_starts_are_those_of_the_offsets(kind: tuple[str, PreTrainedTokenizerFast], text: str) -> None:
    _, tokenizer = kind
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, starts = Encoder(tokenizer).encode(text, [])
    assert ids.tolist() == encoded["input_ids"]
    assert ids.dtype == np.int32
    assert starts.tolist() == starts_by_offsets(encoded["offset_mapping"], encoded.tokens, text).tolist()


def test_what_spells_the_text_needs_no_offsets(kind: tuple[str, PreTrainedTokenizerFast],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all of this would be tested by comparing the offsets with themselves."""
    name, tokenizer = kind
    asked: list[str] = []

    def noted(offsets: Any, spelled: Any, text: str) -> np.ndarray:
        asked.append(text)
        return starts_by_offsets(offsets, spelled, text)

    monkeypatch.setattr("siftune.data.token_starts.starts_by_offsets", noted)
    encoder = Encoder(tokenizer)
    encoder.encode("The capital of 東京\n\nis Zoë.</s>", [])
    assert bool(asked) == (name not in COUNTED)
    encoder.encode("x <mask> y", [])  # the token takes the space before it, which its spelling does not show
    assert asked[-1] == "x <mask> y"


def test_a_tokenizer_left_set_to_cut_is_asked_as_transformers_asks_it() -> None:
    tokenizer = tiny.tokenizer()
    encoder = Encoder(tokenizer)
    whole, _ = encoder.encode("What is the capital of France?", [])
    tokenizer("cut", truncation=True, max_length=2)
    ids, _ = encoder.encode("What is the capital of France?", [])
    assert ids.tolist() == whole.tolist()
