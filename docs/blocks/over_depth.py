"""Memory over depth: its measurement, its pictures and what the documents say of it."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from rich.console import Console

from revgnn.demo import run_demo
from revgnn.demo.over_depth import Curve, memory_over_depth, resident_over_depth
from revgnn.demo.picture import DARK, LIGHT, draw_memory
from revgnn.paper.recipes import digits
from revgnn.report.row import memory

from .rows import ROOT, table

FIGURES = ROOT / "docs" / "memory_over_depth.json"
PICTURES = {name: ROOT / "docs" / f"memory_over_depth{name}.svg" for name in ("", "-dark")}
DEPTH = ROOT / "docs" / "depth.json"
DEPTHS = (7, 28, 112, 448, 1001)
BYTES_PER_PARAMETER = 16
"""Weight, gradient and Adam's two moments in float32."""


def read_figures(what: str = "tensors") -> Curve:
    """Read the memory that was measured, of "tensors" or "resident": model -> depth -> bytes."""
    saved = json.loads(FIGURES.read_text(encoding="utf-8"))[what]
    return {name: {int(depth): count for depth, count in points.items()} for name, points in saved.items()}


def measure() -> None:
    """Measure memory over depth, and draw it."""
    runs = {"ResGNN": digits.resgnn(), "RevGNN": digits.revgnn()}
    console = Console(stderr=True)
    torch.set_num_threads(1)
    curve = memory_over_depth(runs, DEPTHS, console)
    resident = resident_over_depth(runs, DEPTHS, console)
    FIGURES.write_text(json.dumps({"tensors": curve, "resident": resident}, indent=1) + "\n", encoding="utf-8")
    for theme, path in zip((LIGHT, DARK), PICTURES.values(), strict=True):
        draw_memory(curve, path, resident, theme=theme)
    with tempfile.TemporaryDirectory() as folder:
        _keep_demo(Path(folder) / "demo", console)


def _keep_demo(out: Path, console: Console) -> None:
    """Run the demonstration and keep its pictures and figures beside the documents."""
    run_demo(out, results=None, progress=console)
    found = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    del found["files"]
    DEPTH.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name in ("depth.svg", "depth-dark.svg"):
        shutil.copyfile(out / name, ROOT / "docs" / name)


def _depth_claim() -> str:
    """What the demonstration found when its pictures were made."""
    found = json.loads(DEPTH.read_text(encoding="utf-8"))
    return (
        f"**{found['headline']}**, on a generated field of Minesweeper; `make demo` measures and draws it again in "
        "minutes."
    )


def _claim() -> str:
    curve, resident = read_figures(), read_figures("resident")
    res, rev = curve["ResGNN"], curve["RevGNN"]
    return (
        "Measured on one graph (1,797 nodes, SAGE, 64 channels): the tensors of a training step of 112 layers peak at "
        f"**{memory(res[112])}** with every activation stored and at **{memory(rev[112])}** with reversible layers; "
        f"with 1001 layers they peak at {memory(res[1001])} and {memory(rev[1001])}, and the process grows by "
        f"{memory(resident['ResGNN'][1001])} and {memory(resident['RevGNN'][1001])}. Only the weights, their gradients "
        f"and Adam's moments still grow with depth: {BYTES_PER_PARAMETER} bytes per parameter."
    )


def _memory_table() -> str:
    curve, resident = read_figures(), read_figures("resident")
    head = ["layers", *(f"{name}, {what}" for what in ("tensors", "process") for name in curve)]
    rows = []
    for depth in DEPTHS:
        cells = [memory(points[depth]) for found in (curve, resident) for points in found.values()]
        rows.append([str(depth), *cells])
    return table(head, rows)


BLOCKS = {"depth-claim": _depth_claim, "claim": _claim, "memory": _memory_table}
