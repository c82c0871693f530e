"""A process has one OpenMP runtime for torch and the kernels: torch's, under whatever name it ships it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from revgnn.ops import cpu

pytestmark = pytest.mark.skipif(
    not cpu.AVAILABLE or not Path("/proc/self/maps").exists(), reason="no compiled kernels, or not Linux"
)
MAPPED = "print(*{line.split()[-1] for line in open('/proc/self/maps') if 'omp' in line.rpartition('/')[2]}, sep='\\n')"


def _run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_kernels_run_on_torchs_openmp_and_load_no_other() -> None:
    spec = find_spec("torch")
    assert spec is not None and spec.origin is not None
    code = "import torch; x = torch.randn(9999, 32); from revgnn import ops; ops.norm_act_drop(x); " + MAPPED
    libraries = [Path(line) for line in _run(code) if re.match(r"lib[gi]?omp", Path(line).name)]
    assert len(libraries) == 1 and libraries[0].is_relative_to(Path(spec.origin).parent)


def test_the_name_of_the_library_does_not_matter() -> None:
    spec = find_spec("sklearn")
    assert spec is not None and spec.origin is not None
    renamed = sorted(Path(spec.origin).parents[1].glob("scikit_learn.libs/libgomp-*"))
    if not renamed or sys.platform != "linux":
        pytest.skip("scikit-learn ships no libgomp here")
    load = f"ctypes.CDLL({str(renamed[0])!r}, ctypes.RTLD_GLOBAL); ctypes.CDLL({cpu.STATE!r})"
    assert [Path(line).name for line in _run(f"import ctypes; {load}; {MAPPED}")] == [renamed[0].name]
