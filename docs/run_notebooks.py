"""Run the notebooks of docs/notebooks and write each with its output as a page: NAME.ipynb -> NAME.md and pictures.

    python docs/run_notebooks.py            run all, a minute or two of one core
    python docs/run_notebooks.py NAME ...   run some

A notebook is kept without output. The suite runs the code of each, and fails where a page shows other code than its
notebook. No Jupyter is needed: a cell is Python, its output is what it prints and the figures that it leaves open.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl

FOLDER = Path(__file__).resolve().parent / "notebooks"
INK = "#4d5561"
"""Stands in a drawn figure for the colour of text and axes, which the light and the dark picture replace."""
THEMES = {"": "#1f2328", "-dark": "#e6ebf1"}
"""The end of a picture's name -> the colour of its text."""


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook."""

    kind: str
    """``markdown`` or ``code``."""
    text: str


def cells(notebook: Path) -> list[Cell]:
    """Read the cells of a notebook."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [Cell(cell["cell_type"], "".join(cell["source"])) for cell in found]


def run(notebook: Path) -> Iterator[tuple[Cell, str, list[Any]]]:
    """Run the cells of a notebook, one after another, in an empty folder.

    Returns: each cell with what it printed, and the figures that it left open.
    """
    mpl.use("agg")
    import matplotlib.pyplot as plt

    colours = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": notebook.stem,  # the same numbers give the same file
        "savefig.transparent": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(colours, INK),
    }
    names: dict[str, Any] = {"__name__": notebook.stem}
    with tempfile.TemporaryDirectory() as folder, chdir(folder), mpl.rc_context(style):
        for number, cell in enumerate(cells(notebook)):
            plt.close("all")
            said = StringIO()
            if cell.kind == "code":
                with redirect_stdout(said):
                    exec(compile(cell.text, f"{notebook.name}, cell {number}", "exec"), names)
            yield cell, said.getvalue(), [plt.figure(one) for one in plt.get_fignums()]


def write_page(notebook: Path) -> None:
    """Run a notebook and write its page and its pictures, in place of the former ones."""
    for old in FOLDER.glob(f"{notebook.stem}-*.svg"):
        old.unlink()
    lines: list[str] = []
    count = 0
    for cell, said, figures in run(notebook):
        lines += [cell.text if cell.kind == "markdown" else f"```python\n{cell.text}\n```", ""]
        if said.strip():
            lines += ["```text", said.rstrip(), "```", ""]
        for figure in figures:
            count += 1
            caption = figure.get_label() or "The figure that the cell draws"
            for end in THEMES:
                only = "dark" if end else "light"
                lines.append(f"![{caption}]({_save(figure, notebook, count, end)}#only-{only})")
            lines.append("")
    note = (
        f"*This page is a notebook, run as it stands: [{notebook.name}]({notebook.name}). "
        "Times and memory are those of one core of the machine that ran it.*"
    )
    title, *rest = lines
    head, _, more = title.partition("\n")
    text = "\n".join([head, "", note, more, *rest])
    notebook.with_suffix(".md").write_text(text.rstrip() + "\n", encoding="utf-8")


def _save(figure: Any, notebook: Path, number: int, end: str) -> str:
    drawn = StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    path = FOLDER / f"{notebook.stem}-{number}{end}.svg"
    path.write_text(drawn.getvalue().replace(INK, THEMES[end]), encoding="utf-8")
    return path.name


def main() -> None:
    """Run the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help="such as depth_pays; none: all")
    chosen = parser.parse_args().name
    for notebook in sorted(FOLDER.glob("*.ipynb")):
        if not chosen or notebook.stem in chosen:
            write_page(notebook)
            print(f"ran {notebook.name}", file=sys.stderr)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
