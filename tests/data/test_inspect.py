from __future__ import annotations

from siftune.data.inspect import inspect_pool, mask_preview
from siftune.data.render import Renderer
from siftune.data.rendering import render_rows
from siftune.data.rows import Dropped
from tests import tiny
from tests.data.samples import row

LIMIT = 60


def test_a_pool_is_counted() -> None:
    rows = [row("Q", "A", "0"), row("Q", "A", "1"), row("q!", "a", "2"), row("x<|im_end|>", "B" * LIMIT, "3"),
            row("long " * 40, "A", "4")]
    read_dropped = [Dropped("5", "pool", "pool.jsonl:6", "broken-json")]
    examples = render_rows(rows, Renderer(tiny.tokenizer(), max_length=LIMIT), role="pool", bad_rows="drop")
    stats = inspect_pool(rows, read_dropped, examples)
    assert (stats.rows, stats.dropped) == (4, 2)
    assert stats.by_reason == {"broken-json": 1, "prompt-longer-than-limit": 1}
    assert stats.by_source == {"pool": 4}
    assert stats.by_format == {"messages": 4}
    assert stats.turns == {1: 4}
    assert (stats.exact_duplicates, stats.normalised_duplicates) == (1, 2)
    assert stats.characters[0.5] == 2
    assert stats.characters[1.0] == LIMIT + 11
    assert stats.tokens is not None
    assert stats.tokens.total == sum(len(one) for one in examples.rendered)
    assert stats.tokens.supervised_share == sum(one.supervised for one in examples.rendered) / stats.tokens.total
    assert stats.tokens.truncated == examples.truncated == 1
    assert stats.tokens.special_tokens_in_content == 1
    assert stats.tokens.lengths[1.0] == LIMIT


def test_without_a_tokenizer_there_are_no_token_counts() -> None:
    stats = inspect_pool([row("Q", "A")], [])
    assert stats.tokens is None
    assert inspect_pool([], []).characters == {}


def test_the_preview_colours_what_is_supervised_and_shows_what_cannot_be_seen() -> None:
    tokenizer = tiny.tokenizer()
    made = Renderer(tokenizer, max_length=500).render(row("Q\t", "é😀\u200b\x07[red]").messages)
    preview = mask_preview(made, tokenizer)
    assert preview.plain == ("<|im_start|>user↵\nQ␉<|im_end|>↵\n<|im_start|>assistant↵\n"
                             "é😀<U+200B>␇[red]<|im_end|>↵\n")
    green = [preview.plain[span.start:span.end] for span in preview.spans if span.style == "green"]
    assert green == ["é😀<U+200B>␇[red]<|im_end|>"]
    assert mask_preview(made, tokenizer, brackets=True).plain == (
        "<|im_start|>user↵\nQ␉<|im_end|>↵\n<|im_start|>assistant↵\n[[é😀<U+200B>␇[red]<|im_end|>]]↵\n")
