"""The documentation site: its navigation names every page, and its strict build passes where MkDocs is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import revgnn

ROOT = Path(__file__).resolve().parents[2]


def _targets(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from _targets(item)


def test_the_navigation_names_every_page_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    targets = list(_targets(nav))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    texts = {target for target in targets if target.startswith("repository/")}
    assert sorted(targets) == sorted(pages | texts)
    assert all((ROOT / text.removeprefix("repository/")).exists() for text in texts)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the extra site is not installed")
def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = (tmp_path / "reference" / "revgnn.html").read_text(encoding="utf-8")
    assert [name for name in revgnn.__all__ if f"<code>{name}</code></a>" not in names] == []
    for room in ("data", "interop", "nn", "ops", "stack", "train"):
        page = (tmp_path / "reference" / f"{room}.html").read_text(encoding="utf-8")
        public = import_module(f"revgnn.{room}").__all__
        assert [name for name in public if not re.search(rf'id="revgnn\.[\w.]*\b{name}"', page)] == [], room
    for page, text in (
        ("commands", "usage: revgnn paper record"),
        ("fields", "model.num_layers"),
        ("graph_yaml", "nodes.features.encode"),
    ):
        assert text in (tmp_path / "reference" / f"{page}.html").read_text(encoding="utf-8"), page
