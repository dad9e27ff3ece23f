from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune._common.errors import ConfigError
from siftune.selectors import Budget


@pytest.mark.parametrize(("text", "kind", "limit"), [
    ("5%", "rows", 50), ("100%", "rows", 1000), ("0.1 %", "rows", 1), ("0.01%", "rows", 1), ("12.35%", "rows", 123),
    ("500", "rows", 500), (500, "rows", 500), ("500 rows", "rows", 500), ("1 row", "rows", 1), ("0.5k", "rows", 500),
    ("20000 tokens", "tokens", 20_000), ("20ktok", "tokens", 20_000), ("1.5Mtok", "tokens", 1_500_000),
    ("20k tokens", "tokens", 20_000), ("7 tok", "tokens", 7), ("1token", "tokens", 1),
])
def test_a_budget_says_rows_a_share_or_tokens(text, kind, limit):
    resolved = Budget.parse(text).resolve(1000, 2_000_000)
    assert (resolved.kind, resolved.limit, resolved.asked) == (kind, limit, str(text))


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_share_is_rounded_down_exactly_and_takes_at_least_one_row(hundredths, n):
    assert Budget.parse(f"{hundredths / 100:.2f}%").resolve(n).limit == max(1, n * hundredths // 10_000)


@pytest.mark.parametrize("text", ["", "many", "5 %%", "-5%", "0", "0%", "-3", "100.1%", "1e3", "nan", "5k%", "2.5",
                                  "1.0001ktok", "0 tokens", True, "٣"])
def test_what_is_not_a_budget_is_refused_at_the_flag(text):
    with pytest.raises(ConfigError) as caught:
        Budget.parse(text)
    assert caught.value.where == "--budget"
    assert caught.value.hint


def test_a_bare_fraction_is_ambiguous_and_the_hint_is_the_percentage():
    for text, percent in [("0.05", '"5%"'), ("0.075", '"7.5%"'), (0.5, '"50%"')]:
        with pytest.raises(ConfigError, match="ambiguous") as caught:
            Budget.parse(text)
        assert percent in (caught.value.hint or "")


def test_a_budget_above_the_pool_is_refused_with_the_most_that_is_possible():
    with pytest.raises(ConfigError) as caught:
        Budget.parse("51").resolve(50)
    assert '"50"' in (caught.value.hint or "")
    with pytest.raises(ConfigError) as caught:
        Budget.parse("2ktok").resolve(50, 1999)
    assert '"1999tok"' in (caught.value.hint or "")


def test_a_token_budget_needs_token_counts_and_a_pool_needs_rows():
    with pytest.raises(ConfigError, match="token counts"):
        Budget.parse("2ktok").resolve(50)
    with pytest.raises(ConfigError, match="no usable row"):
        Budget.parse("5%").resolve(0)
