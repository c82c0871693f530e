"""The code of docs/extending.md: each section is run as it stands, and leaves the tables as they were."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from revgnn.data import TASKS
from revgnn.nn import CONVS
from revgnn.train import LOSSES, METRICS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
TABLES = (TASKS, LOSSES, METRICS, CONVS)


def _sections() -> dict[str, str]:
    """Title of each section -> its Python blocks, one below the other."""
    _, *sections = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    blocks = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return {title: "\n".join(blocks.findall(body)) for title, body in zip(sections[::2], sections[1::2], strict=True)}


SECTIONS = _sections()


@pytest.fixture(autouse=True)
def _tables() -> Iterator[None]:
    before = [dict(table) for table in TABLES]
    yield
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)  # type: ignore[arg-type]


@pytest.mark.parametrize("title", SECTIONS)
def test_the_code_of_a_section_runs(title: str) -> None:
    assert SECTIONS[title], f"{title} has no code"
    torch.manual_seed(0)
    exec(compile(SECTIONS[title], f"{PAGE.name}, {title}", "exec"), {"__name__": "extending"})
