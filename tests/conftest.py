"""What the whole suite shares: real data, poisoned allocations, a small disk, a seed, and the skipping of GPU tests."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# Triton decides when it is first imported, by anything, whether its kernels are compiled or interpreted: without a CUDA
# device they can only be interpreted, which `REVGNN_OPS=triton` takes on the CPU, and nothing else notices.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# The suite's tensors are tiny: a second thread only waits for the first, and on a busy machine it waits long.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start every test from the same random state, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def real_data() -> Path:
    """The folder with real data sets: REVGNN_TEST_DATA, or shared/data beside the checkout; skips where it is not."""
    folder = Path(os.environ.get("REVGNN_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}; REVGNN_TEST_DATA names the folder that holds it")
    return folder


@pytest.fixture
def poison() -> Iterator[None]:
    """Fill every fresh allocation with NaN (integers: the largest), so that reading memory before writing it shows."""
    was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.use_deterministic_algorithms(was[0], warn_only=was[1])


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond 1,500 bytes: the system's own error, as of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
