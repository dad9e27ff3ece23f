"""The suite for accelerators: `pytest -m gpu` where there is one; `pytest -m gpu --device cpu` runs its logic anywhere.

Without `--device` the tests are for CUDA, and are skipped, with the reason, where there is none.
"""

from __future__ import annotations

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """What is tested, with float32 products in full precision: tf32 would be another number, not another order."""
    name = str(request.config.getoption("--device"))
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device; --device cpu runs the logic of these tests")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return name


@pytest.fixture
def cuda(device: str) -> str:
    """For what only an accelerator has."""
    if not device.startswith("cuda"):
        pytest.skip("what is tested exists on CUDA only")
    return device
