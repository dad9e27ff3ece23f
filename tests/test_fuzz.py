"""Whatever stands in a file, a flag or a template ends with a result or with an error that a user can act on.

The long campaign over the same kinds is ``benchmarks/fuzz.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_ends_in_a_foreign_exception(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("fuzz")

    @settings(max_examples=3 * KINDS[kind].weight, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        value: Any = data.draw(KINDS[kind].values)
        KINDS[kind].check(value, folder)

    check()
