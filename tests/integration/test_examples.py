"""Every example runs, says something, and is as short as promised."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
NEEDS = {"lightning_loop.py": "lightning"}
ALONE = {"accelerate_loop.py", "lightning_loop.py", "embeddings.py", "torch_compile.py"}
"""In a process of their own: they set up state of the whole process."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    needed = NEEDS.get(path.name)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    if path.name in ALONE:
        subprocess.run([sys.executable, str(path)], check=True, timeout=300)
    else:
        # Under a name of its own, because an example may name a class of its file.
        spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        module.main()
    assert capfd.readouterr().out.strip()


def test_examples_are_short_and_listed() -> None:
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(EXAMPLES) >= 13
    for path in EXAMPLES:
        assert len(path.read_text(encoding="utf-8").splitlines()) < 60, path.name
        assert f"| `{path.name}` |" in listed, path.name
