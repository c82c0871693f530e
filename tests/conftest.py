"""What the whole suite shares: real data, poisoned allocations, a small disk, a seed, and the skipping of GPU tests."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import other_rounding

ROOT = Path(__file__).resolve().parent.parent

# Triton decides when it is first imported, by anything, whether its kernels are compiled or interpreted: without a CUDA
# device they can only be interpreted, which `REVGNN_OPS=triton` takes on the CPU, and nothing else notices.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A compiled graph of another version of an op is no test of this one: each process starts without any.
_compiled = tempfile.TemporaryDirectory(prefix="revgnn-compiled-")
os.environ["TORCHINDUCTOR_CACHE_DIR"] = _compiled.name

# The suite's tensors are tiny: a second thread only waits for the first, and on a busy machine it waits long.
torch.set_num_threads(int(os.environ.get("REVGNN_TEST_THREADS", "1")))

# What a processor decides must decide no test. These variables ask for what other processors do (see CONTRIBUTING.md).
_ISA = os.environ.get("REVGNN_TEST_ISA")
_ROUNDING = os.environ.get("REVGNN_TEST_ROUNDING")
_SEED = int(os.environ.get("REVGNN_TEST_SEED", "0"))

if _ISA is not None:
    from revgnn.ops import cpu

    cpu.use_isa(_ISA)

_rounding = None if _ROUNDING is None else other_rounding.imitate(int(_ROUNDING))

# Hypothesis draws the same examples in every run, unless other draws are asked for.
settings.register_profile("suite", derandomize=not _SEED)
settings.load_profile("suite")

if _SEED:
    _manual_seed = torch.manual_seed

    class _Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + _SEED)

    torch.manual_seed = lambda seed: _manual_seed(int(seed) + _SEED)
    torch.Generator = _Generator  # type: ignore[misc]


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
def small_disk() -> None:
    """While the test's body runs, no file may grow beyond 1,500 bytes: the system's own error, as of a full disk."""


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Limit the body alone: pytest reports a test before its fixtures end, maybe into a file that is longer."""
    if "small_disk" not in pyfuncitem.fixturenames:
        return (yield)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
