"""Numbers as a reader wants them. ``None`` is a number that is not there: an en dash."""

from __future__ import annotations

MISSING = "–"
MINUS = "−"


def _minus(text: str) -> str:
    return text.replace("-", MINUS, 1) if text.startswith("-") else text


def number(value: float | None) -> str:
    """Whole numbers with thousands separators, others with four significant digits."""
    if value is None:
        return MISSING
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return _minus(f"{int(value):,}")
    return _minus(f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}")


def loss(value: float | None) -> str:
    """Nats per token, three decimals."""
    return MISSING if value is None else _minus(f"{value:.3f}")


def score(value: float | None) -> str:
    """Four decimals, or four significant digits where four decimals would say nothing."""
    if value is None:
        return MISSING
    return _minus(f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3e}")


def p_value(value: float | None) -> str:
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def verdict(value: str) -> str:
    """A verdict as it is shown."""
    return "one training, no verdict" if value == "single training" else value


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal; a share too small for it is not shown as nothing."""
    if share is None:
        return MISSING
    if 0 < abs(share) < 0.0005:
        return "< 0.1%" if share > 0 else f"> {MINUS}0.1%"
    return _minus(f"{100 * share:.1f}%")


def signed_percent(share: float | None) -> str:
    if share is None:
        return MISSING
    text = f"{100 * share:+.1f}%"
    return "0.0%" if text in ("+0.0%", "-0.0%") else _minus(text)


def signed(value: float | None) -> str:
    if value is None:
        return MISSING
    text = f"{value:+.3f}"
    return "0" if text in ("+0.000", "-0.000") else _minus(text)


def rough_percent(share: float) -> str:
    """For sentences: ``12%``, ``5%``, ``4.2%``."""
    value = 100 * share
    return _minus(f"{value:.0f}%" if abs(value) >= 9.95 else f"{value:.1f}".removesuffix(".0") + "%")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def size(count: float | None) -> str:
    """Bytes in decimal units."""
    if count is None:
        return MISSING
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 99.5 else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def count(value: int, one: str, many: str | None = None) -> str:
    """``1 row``, ``1,200 rows``."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"
