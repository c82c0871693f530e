"""What Python knows of the compiled kernels' interface is what the C header says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev_abi", ROOT / "dev" / "abi.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_written_file_is_fresh(script: ModuleType) -> None:
    header = (ROOT / "csrc" / "revgnn_kernels.h").read_text(encoding="utf-8")
    found = (ROOT / "src" / "revgnn" / "ops" / "cpu" / "abi.py").read_text(encoding="utf-8")
    assert found == script.written(header), "run `python dev/abi.py`"
    assert script.main(["--check"]) == 0


def test_a_header_that_is_not_understood_is_an_error(script: ModuleType) -> None:
    version = "#define REVGNN_ABI_VERSION 4\n"
    with pytest.raises(ValueError, match="no REVGNN_ABI_VERSION"):
        script.written("")
    with pytest.raises(ValueError, match="no code for the field 'long many'"):
        script.written(version + "typedef struct {\n  long many;\n} revgnn_sum_args;\n")
    with pytest.raises(ValueError, match="kernels without a struct, or none: other"):
        script.written(version + "#define KERNELS(K) \\\n  K(other)\n")
    one = "typedef struct {\n  const void *x; /* [N] */\n  int32_t threads;\n} revgnn_sum_args;\n"
    one += "#define KERNELS(K) \\\n  K(sum)\n"
    assert script.parsed(version + one) == (4, {}, {"sum": "Pi"})
