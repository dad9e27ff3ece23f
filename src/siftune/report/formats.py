"""Numbers as a reader wants them. ``None`` is a number that is not there: an en dash."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import PureWindowsPath

from siftune._common.text import shorten

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
    """One decimal, or as many as it takes to see that a small share is not nothing."""
    if share is None:
        return MISSING
    text = f"{100 * share:+.1f}%"
    return _small(100 * share, "0.0") + "%" if text in ("+0.0%", "-0.0%") else _minus(text)


def signed_percents(shares: Sequence[float]) -> list[str]:
    """An estimate and the ends of its interval with as many decimals each: one, or enough for two digits of the
    largest, so that an interval never reads "0.0% to 0.0%"."""
    largest = max(abs(100 * share) for share in shares)
    decimals = min(max(1, math.ceil(1 - math.log10(largest))), 6) if largest else 1
    texts = (f"{100 * share:+.{decimals}f}%" for share in shares)
    return [_minus(text) if text.strip("+-0.%") else text[1:] for text in texts]


def signed(value: float | None) -> str:
    """Three decimals, or as many as it takes to see that a small value is not nothing."""
    if value is None:
        return MISSING
    text = f"{value:+.3f}"
    return _small(value, "0") if text in ("+0.000", "-0.000") else _minus(text)


def _small(value: float, nothing: str) -> str:
    """One digit of a number that the usual decimals would show as zero."""
    if not value:
        return nothing
    decimals = math.ceil(-math.log10(abs(value)))
    return _minus(f"{value:+.{decimals}f}" if decimals <= 6 else f"{value:+.0e}")


def rough_percent(share: float) -> str:
    """For sentences: ``12%``, ``5%``, ``4.2%``, ``0.03%``."""
    value = 100 * share
    if 0 < abs(value) < 0.05:
        return _small(value, "0").removeprefix("+") + "%"
    return _minus(f"{value:.0f}%" if abs(value) >= 9.95 else f"{value:.1f}".removesuffix(".0") + "%")


def model_name(model: str) -> str:
    """What people call a model: of a folder its last part (of the hub's cache the repository, of a checkpoint the
    training that it is of too), of the embedded model what it is."""
    if model == "embedded":
        return "SmolLM2-135M-Instruct"
    if cached := hub_name(model):
        return shorten(cached, 48)
    if not model.startswith(("/", ".", "~")) and "\\" not in model and model.count("/") < 2:
        return shorten(model, 48)
    parts = PureWindowsPath(model).parts  # it knows both kinds of slash
    last = parts[-1] if parts else model
    is_part = re.fullmatch(r"(checkpoint|epoch|step)[-_]?\d+|adapter|final|best|last|model", last)
    if is_part and parts[-2:-1] not in ((), ("\\",), ("~",)):
        last = f"{parts[-2]}/{last}"
    return shorten(last, 48)


def hub_name(path: str) -> str | None:
    """The repository that a folder of the hub's cache holds; None for any other path."""
    found = re.search(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots(?:[/\\][0-9a-f]+)?[/\\]?$", path)
    return f"{found[1]}/{found[2]}" if found else None


def day(time: str) -> str:
    """A time of ISO 8601 to the minute, without its T; anything else as it is."""
    found = re.match(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(Z|\+00:00)?$", time)
    return f"{found[1]} {found[2]}{' UTC' if found[3] else ''}" if found else time


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
