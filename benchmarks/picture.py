"""Draws time and work space of a step over depth, ours beside PyG's, as docs/performance.md opens with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from revgnn.demo.picture import Theme, panels
from revgnn.report.row import memory

from .registry import OWN

_NAMES = {OWN: "revgnn, reversible", "pyg-csr": "PyG, reversible", "pyg-residual-csr": "PyG, stored"}
"""Entrants that are drawn, and their names; PyG's on the fastest sparse form."""


def draw_steps(row: dict[str, Any], path: Path, theme: Theme) -> None:
    """Plot a result of `OverDepth` to a file.

    Raises: ModuleNotFoundError: matplotlib is not installed.
    """
    with panels(path, 2, theme) as (times, sizes):
        for (name, title), colour in zip(_NAMES.items(), theme.models[1:] + theme.models[:1], strict=True):
            points = [(at["layers"], at["runs"][name]) for at in row["points"] if "median_s" in at["runs"][name]]
            for axes, figure, text in (
                (times, "median_s", f"{title}"),
                (sizes, "peak_bytes", f"{title}: {memory(points[-1][1]['peak_bytes'])}"),
            ):
                values = [run[figure] / (1.0 if axes is times else 2**20) for _, run in points]
                depths = [layers for layers, _ in points]
                axes.plot(depths, values, color=colour, marker="o", markersize=4, linewidth=1.8, label=text)
        times.set_ylabel("time of a step [s]")
        times.set_ylim(bottom=0)
        sizes.set_ylabel("work space of a step [MiB]")
        sizes.set_yscale("log")
        for axes in (times, sizes):
            axes.legend(frameon=False, fontsize=8, labelcolor=theme.ink)
