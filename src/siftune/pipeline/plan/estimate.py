"""What a plan says."""

from __future__ import annotations

from dataclasses import dataclass, field

from siftune._common.text import one_line


@dataclass
class Plan:
    """What a run will cost.

    Attributes:
        lines: (step, estimate in words).
        seconds: estimated wall time of everything that is not there yet.
        disk: bytes of features.
        memory: estimated peak resident bytes of the process that computes; of each, where there are several.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    disk: int = 0
    memory: int = 0

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        width = max(len(name) for name, _ in self.lines)
        return "\n".join(f"{one_line(name):{width}}  {one_line(told)}" for name, told in self.lines)


def peak_memory() -> int:
    """Peak resident bytes of this process so far."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def size(bytes_: float) -> str:
    return f"{bytes_ / 2**20:,.1f} MiB" if bytes_ < 2**30 else f"{bytes_ / 2**30:,.2f} GiB"
