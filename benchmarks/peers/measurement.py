"""Time and memory of one piece of work in this process. Standard library only: peers import it in environments of their
own, without siftune."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measured(work: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """Run ``work`` and say what it took, together with what it returns (parts of its own time, for example).

    Returns:
        ``seconds`` of wall time; ``cpu_seconds`` of this process in all its threads, which other processes on the
        machine do not lengthen; ``resident_before_mib``, what loading left in memory; ``peak_mib``, the largest
        resident size *while working*, everything that was loaded included; ``load_average`` of the machine before.
    """
    load, before = os.getloadavg()[0], _mebibytes("VmRSS")
    resettable = _reset_peak()
    started, cpu = time.perf_counter(), time.process_time()
    parts = work() or {}
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    peak = _mebibytes("VmHWM") if resettable else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "resident_before_mib": before, "peak_mib": peak,
            "load_average": load, **parts}


def _reset_peak() -> bool:
    """Forget the peak so far, which is that of loading the model. False where the kernel does not offer it."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _mebibytes(field: str) -> float:
    if not _STATUS.exists():
        return float("nan")
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024
