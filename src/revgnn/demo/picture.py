"""Plots memory over depth, or score and memory side by side, with matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .over_depth import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scores = Mapping[str, Mapping[int, float]]
"""Model -> depth -> score."""


@dataclass(frozen=True)
class Theme:
    """The colours of a picture."""

    ink: str
    """Text and axes."""
    line: str
    """The grid."""
    paper: str
    """The background."""
    models: tuple[str, ...]
    """One colour per model, from a colour-blind safe palette (Okabe and Ito)."""


LIGHT = Theme("#1d2733", "#dde3ea", "#ffffff", ("#d55e00", "#0072b2", "#009e73"))
DARK = Theme("#e6ebf1", "#33404e", "#12181f", ("#ff9a4d", "#5cb8ff", "#3ddcab"))


def draw_memory(tensors: Curve, path: Path, process: Curve | None = None, *, theme: Theme = LIGHT) -> None:
    """Plot memory over depth to a file; the file extension selects SVG or PNG.

    Args:
        tensors: bytes of tensors, drawn dashed if ``process`` is given.
        path: the file.
        process: growth of the process in bytes, drawn solid.
        theme: the colours.
    Raises: ModuleNotFoundError: matplotlib is not installed.
    """
    _draw(None, "", tensors, process or {}, path, theme)


def draw_depth(scores: Scores, title: str, tensors: Curve, process: Curve, path: Path, *, theme: Theme = LIGHT) -> None:
    """Plot score and memory over depth, side by side, to a file.

    Args:
        scores: of the test split, in the unit that ``title`` names.
        title: the name of the metric.
        tensors, process, path: as in `draw_memory`.
        theme: the colours.
    Raises: ModuleNotFoundError: matplotlib is not installed.
    """
    _draw(scores, title, tensors, process, path, theme)


def _draw(scores: Scores | None, title: str, tensors: Curve, process: Curve, path: Path, theme: Theme) -> None:
    with panels(path, 1 if scores is None else 2, theme) as axes:
        if scores is not None:
            _draw_scores(axes[0], scores, title, theme)
        _draw_memory(axes[-1], tensors, process, theme)


@contextmanager
def panels(path: Path, count: int, theme: Theme) -> Iterator[Sequence[Axes]]:
    """Make panels over the number of layers, side by side, and write them to a file at the end.

    Args:
        path: the file; its extension selects SVG or PNG. The same numbers give the same SVG.
        count: number of panels, 1 or 2.
        theme: the colours.
    Raises: ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A fixed salt, so that the same numbers give the same file.
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "depth",
        "font.family": "sans-serif",
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), theme.ink),
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(6.4 if count == 1 else 9.6, 3.6), layout="constrained", facecolor=theme.paper)
        found = figure.subplots(1, count, squeeze=False)[0]
        yield found
        for axes in found:
            axes.set_xlabel("layers")
            axes.set_xlim(left=0)
            axes.set_facecolor(theme.paper)
            axes.margins(x=0.15)
            axes.grid(color=theme.line, linewidth=0.7)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_scores(axes: Axes, scores: Scores, title: str, theme: Theme) -> None:
    for (name, points), colour in zip(scores.items(), theme.models, strict=False):
        axes.plot(
            list(points), list(points.values()), color=colour, marker="o", markersize=4, linewidth=1.8, label=name
        )
    axes.set_ylabel(f"test {title}")
    axes.set_title("what depth brings", fontsize=10)
    axes.legend(frameon=False, loc="lower right")


def _draw_memory(axes: Axes, tensors: Curve, process: Curve, theme: Theme) -> None:
    for (name, points), colour in zip(tensors.items(), theme.models, strict=False):
        whole = process.get(name)
        lines = [(points, "--" if whole else "-", "tensors"), *([(whole, "-", "process")] if whole else [])]
        for curve, style, label in lines:
            mebibytes = [count / 2**20 for count in curve.values()]
            axes.plot(list(curve), mebibytes, style, color=colour, marker="o", markersize=4, linewidth=1.8, label=label)
            end = (list(curve)[-1], mebibytes[-1])
        axes.annotate(
            name, end, xytext=(6, 0), textcoords="offset points", color=colour, va="center", fontweight="bold"
        )
    axes.set_ylabel("peak training memory [MiB]")
    axes.set_title("what depth takes", fontsize=10)
    axes.set_ylim(bottom=0)
    if process:
        # Of the first model alone: the styles are the same for all.
        axes.legend(*(one[:2] for one in axes.get_legend_handles_labels()), frameon=False, labelcolor=theme.ink)
