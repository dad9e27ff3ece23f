"""Times of steps, of which some run inside others."""

from __future__ import annotations

import time

from siftune.features.base import Clock


def test_a_step_inside_another_is_not_counted_twice():
    clock = Clock()
    start = time.monotonic()
    with clock.measure("outer"):
        for name in ("first", "second"):
            with clock.measure(name):
                time.sleep(0.05)
    whole = time.monotonic() - start
    seconds = {step["step"]: step["seconds"] for step in clock.steps}
    assert list(seconds) == ["first", "second", "outer"]
    assert sum(seconds.values()) <= whole + 0.01
    assert seconds["first"] >= 0.05
    assert seconds["outer"] <= whole - 0.1 + 0.01
