"""What would be published: the source distribution, the wheels, and the description that a package index shows.

The suite builds the source distribution and the wheel without kernels, which needs no compiler. `make wheel` builds all
of them and runs these tests on its folder (REVGNN_DIST).
"""

from __future__ import annotations

import email
import email.message
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import revgnn

ROOT = Path(__file__).resolve().parents[2]
BUILD = """
import sys
from scikit_build_core.build import build_sdist, build_wheel
build_sdist(sys.argv[1])
build_wheel(sys.argv[1], {"wheel.cmake": "false"})
"""
LIBRARIES = {
    "libstdc++.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libc.so.6",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
}
"""What the kernels may ask the system for: part of every manylinux_2_28."""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "REVGNN_DIST" in os.environ:
        return Path(os.environ["REVGNN_DIST"]).resolve()
    pytest.importorskip("scikit_build_core", reason="scikit-build-core is not installed here")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, check=True, capture_output=True)
    return folder


def _only(dist: Path, pattern: str) -> Path:
    (found,) = dist.glob(pattern)
    return found


def _metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(file.read(name))


def test_the_source_distribution_has_what_a_build_needs_and_no_results(dist: Path) -> None:
    path = _only(dist, "revgnn-*.tar.gz")
    with tarfile.open(path) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert names >= {
        "CMakeLists.txt", "LICENSE", "CITATION.cff", "CHANGELOG.md", "README.md", "PKG-INFO", "csrc/spmm.cpp",
        "dev/pypi_readme.py", "src/revgnn/py.typed", "tests/conftest.py", "examples/README.md",
    }  # fmt: skip
    assert not [name for name in names if re.match(r"benchmarks/results|\.venv|\.git/|build/|runs/|data/", name)]
    assert not [name for name in names if name.endswith((".so", ".pyc", ".jsonl"))]
    assert path.stat().st_size < 2 * 2**20


def test_the_wheel_for_every_system_holds_the_package_alone(dist: Path) -> None:
    wheel = _only(dist, "revgnn-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert {name.split("/")[0] for name in names} == {"revgnn", f"revgnn-{revgnn.__version__}.dist-info"}
    package = ROOT / "src"
    assert {name for name in names if name.endswith(".py")} == {
        path.relative_to(package).as_posix() for path in package.rglob("*.py")
    }
    assert not [name for name in names if name.endswith(".so")]
    assert f"revgnn-{revgnn.__version__}.dist-info/licenses/LICENSE" in names


def test_the_metadata_says_what_the_project_is(dist: Path) -> None:
    for wheel in dist.glob("*.whl"):
        facts = _metadata(wheel)
        assert (facts["Name"], facts["Version"], facts["Requires-Python"]) == ("revgnn", revgnn.__version__, ">=3.11")
        assert facts["License-Expression"] == "MIT"
        assert facts.get_all("Project-URL") and facts["Description-Content-Type"] == "text/markdown"
        extras = set(facts.get_all("Provides-Extra", []))
        assert extras >= {"plot", "hub", "onnx", "completion", "metis"}
        text = facts.get_payload()
        assert isinstance(text, str) and text.startswith("# revgnn") and "## Install" in text
        assert not re.search(r"\]\((?!https?:)", text) and not re.search(r'(src|srcset)="(?!https?:)', text)


def test_the_description_is_rendered_without_a_dead_link(dist: Path) -> None:
    markdown = pytest.importorskip("readme_renderer.markdown", reason="readme-renderer is not installed")
    page = markdown.render(_metadata(_only(dist, "*-any.whl")).get_payload())
    assert page is not None and "<table>" in page and "<h2" in page
    assert all(target.startswith(("https://", "#")) for target in re.findall(r'(?:href|src)="([^"]*)"', page))


def test_with_a_repository_every_link_leads_to_a_file_of_it() -> None:
    spec = importlib.util.spec_from_file_location("pypi_readme", ROOT / "dev" / "pypi_readme.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    made = module.described(text, "https://example.org/revgnn/", "1.2")
    targets = re.findall(r"https://example.org/revgnn/(blob|raw)/v1.2/([^\s)\"]+)", made)
    assert len(targets) > 15 and {"depth.svg", "depth-dark.svg"} <= {
        Path(name).name for kind, name in targets if kind == "raw"
    }
    assert all((ROOT / name).exists() for _, name in targets)
    assert not re.search(r"\]\((?!https?:)", made)
    plain = module.described(text, None, "1.2")
    assert "example.org" not in plain and "<picture>" not in plain and "docs/performance.md" in plain


def test_cibuildwheel_builds_a_wheel_for_each_processor_that_the_page_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    settings, page = project["tool"]["cibuildwheel"], (ROOT / "docs" / "platforms.md").read_text(encoding="utf-8")
    assert settings["archs"] == ["x86_64", "aarch64"]
    for arch in settings["archs"]:
        assert f"`{settings[f'manylinux-{arch}-image']}_{arch}`" in page
    minor = re.fullmatch(r"cp3(\d+)-manylinux_\*", settings["build"])
    assert minor is not None and project["project"]["requires-python"] == f">=3.{minor[1]}"
    pytest.importorskip("cibuildwheel", reason="cibuildwheel is not installed: `make wheel` installs it")
    words = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", "linux", str(ROOT)]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert said.split() == [f"cp3{minor[1]}-manylinux_{arch}" for arch in settings["archs"]]


@pytest.mark.skipif("REVGNN_DIST" not in os.environ, reason="compiles for minutes: `make wheel` runs it")
def test_the_wheel_with_kernels_runs_on_every_linux_of_its_tag(dist: Path, tmp_path: Path) -> None:
    wheel = _only(dist, "revgnn-*-py3-none-manylinux*.whl")
    assert "manylinux_2_28" in wheel.name
    with zipfile.ZipFile(wheel) as file:
        (library,) = [name for name in file.namelist() if ".so" in name]
        file.extract(library, tmp_path)
    assert library == "revgnn/ops/cpu/librevgnn_kernels.so"  # and no library of others
    said = subprocess.run(
        ["readelf", "--dynamic", "--version-info", str(tmp_path / library)], check=True, capture_output=True, text=True
    ).stdout
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", said)) <= LIBRARIES
    assert max(tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", said)) <= (2, 28)
