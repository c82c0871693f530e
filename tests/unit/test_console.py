"""Tables on screens of any width: nothing is cut, and nothing is lost."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from revgnn.console import print_table, results_console

HEAD = ["model", "parameters", "peak training memory"]
ROWS = [["ResGNN", "239,562", "42.6 MiB"], ["Rev[b]GNN", "125,002", "6.2 MiB"], ["MLP", "1", ""]]


def _printed(width: int) -> list[str]:
    text = io.StringIO()
    print_table(Console(file=text, width=width), HEAD, ROWS, title="Equal depth")
    return text.getvalue().splitlines()


def test_a_wide_screen_gets_one_line_per_row() -> None:
    lines = _printed(80)
    assert sum("ResGNN" in line and "239,562" in line and "42.6 MiB" in line for line in lines) == 1
    assert sum("Rev[b]GNN" in line and "6.2 MiB" in line for line in lines) == 1, "text is never read as markup"


@pytest.mark.parametrize("width", [20, 40])
def test_a_narrow_screen_gets_one_block_per_row(width: int) -> None:
    lines = _printed(width)
    assert all(len(line) <= width for line in lines)
    assert sum("peak training memory"[:8] in line for line in lines) == 2, "an empty cell has no line"
    words = " ".join(lines).split()
    for cell in [*HEAD[1:], *ROWS[0], *ROWS[1]]:
        assert set(cell.split()) <= set(words), f"{cell} is missing"


def test_a_pipe_gets_whole_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(results_console(), HEAD, [["a" * 100, "1", "2"]])
    assert any("a" * 100 in line and line.split()[-1] == "2" for line in capsys.readouterr().out.splitlines())
    monkeypatch.setenv("COLUMNS", "40")
    assert results_console().width == 40


def test_a_row_too_long_for_a_pipe_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(results_console(), HEAD, [["a" * 100, "1", "b" * 300]])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["parameters", "1"] for line in lines)
    assert any(line.endswith("b" * 300) for line in lines)
