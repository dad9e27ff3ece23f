"""Whether half precision is any faster here: measured, since nothing else tells.

A processor without bfloat16 units computes it all the same, by way of float32: on one with AVX2 alone a product took
37 times as long (1.2 against 46 GFLOP/s), while AMX makes it faster than float32. A product of the size that a small
model's blocks have is timed in both types, once in a process.
"""

from __future__ import annotations

import time
from functools import cache

from siftune._common.progress import log

SHAPE = (512, 576, 1536)
SLOWER = 1.2
"""From this ratio on half precision counts as slower: below it may be chance."""
_REPEATS, _ENOUGH = 3, 0.2  # products, seconds
_FEW = 64  # rows of the first, short product


def is_slower(full: float, half: float) -> bool:
    """The decision: ``full`` and ``half`` are seconds of the same product in float32 and in half precision."""
    return half > SLOWER * full


@cache
def product_seconds(dtype: str, device: str) -> float:
    """Seconds of a 512 x 576 by 576 x 1536 product in a type, the least of up to three; a fraction of a second."""
    import torch

    rows, inner, columns = SHAPE
    kind = getattr(torch, dtype)
    a, b = torch.ones(rows, inner, dtype=kind, device=device), torch.ones(inner, columns, dtype=kind, device=device)

    def timed(rows: int) -> float:
        _finish(device)
        start = time.perf_counter()
        torch.matmul(a[:rows], b)
        _finish(device)
        return time.perf_counter() - start

    timed(8)  # whatever the first call costs is not the speed
    some = timed(_FEW) * rows / _FEW
    if some > _ENOUGH:  # so slow that the whole product is not needed to see it
        return some
    found = [timed(rows)]
    while len(found) < _REPEATS and sum(found) < _ENOUGH:
        found.append(timed(rows))
    return min(found)


def _finish(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()


def slow_half(dtype: str, device: str) -> str:
    """How much slower products of this type are than float32 on this device, measured; empty where they are not."""
    if dtype not in ("bfloat16", "float16"):
        return ""
    full, half = product_seconds("float32", device), product_seconds(dtype, device)
    if not is_slower(full, half):
        return ""
    return (f"{dtype} is {half / full:,.1f} times slower than float32 on this {_place(device)} (measured: "
            f"{_gflops(half)} against {_gflops(full)} GFLOP/s)")


def say_if_slow(flag: str, dtype: str, device: str) -> None:
    """Tell once in a process that what was asked for is slow, with what to type instead.

    Args:
        flag: the setting that asks for it, ``--dtype`` or ``--autocast``.
        dtype, device: what it asks for, and where.
    """
    if message := warning(flag, dtype, device):
        _say(f"warning: {message}")


def warning(flag: str, dtype: str, device: str) -> str:
    """What is slow, and what to type instead; empty where nothing is."""
    message = slow_half(dtype, device)
    instead = "--autocast none" if flag == "--autocast" else "--dtype float32, or auto"
    return f"{message}; hint: {instead}" if message else ""


@cache
def _say(message: str) -> None:
    log(message)


def _gflops(seconds: float) -> str:
    rows, inner, columns = SHAPE
    return f"{2e-9 * rows * inner * columns / max(seconds, 1e-9):,.1f}"


def _place(device: str) -> str:
    return "processor" if device.startswith("cpu") else "device"
