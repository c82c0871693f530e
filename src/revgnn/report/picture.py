"""Plot the curves of a run as inline SVG with matplotlib, if installed"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Literal

from ..train.curve import Row
from .facts import Result
from .row import in_unit, metric_title

_INK, _LINE = "#1d2733", "#dde3ea"
"""Colours that become those of the page's theme."""

# Colours for colour-blind readers (Okabe and Ito), and dashes for print.
_STROKES: dict[str, tuple[str, str | tuple[float, tuple[float, float]]]] = {
    "train": ("#7f8c99", (0, (1, 1.2))),
    "valid": ("#2b8fd0", "-"),
    "test": ("#d55e00", (0, (4, 1.5))),
}


def draw_curves(result: Result, curve: Sequence[Row]) -> dict[str, str] | None:
    """Draw the metric and the loss of each split over the epochs.

    Returns: label -> SVG element; ``None`` without matplotlib.
    """
    try:
        # matplotlib is the page's only optional dependency.
        import matplotlib as mpl
    except ModuleNotFoundError:
        return None
    best = result["best_epoch"]
    metric = {
        split: [(epoch, in_unit(result["metric"], value)) for epoch, value in points]
        for split, points in _series(curve, "metric").items()
    }
    loss = _series(curve, "loss")
    loss["train"] = [(row["epoch"], row["loss"]) for row in curve]
    title = metric_title(result["metric"])
    pictures = {}
    for label, axis, series in (("metric", title, metric), ("loss", "loss", loss)):
        if not any(series.values()):
            continue
        # The salt makes the names of clip paths differ between two pictures of one page.
        with mpl.rc_context(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": label,
                "font.family": "sans-serif",
                "text.color": _INK,
                "axes.labelcolor": _INK,
                "axes.edgecolor": _INK,
                "xtick.color": _INK,
                "ytick.color": _INK,
            }
        ):
            pictures[f"{axis} over epochs, best epoch {best}"] = _draw(axis, series, best)
    return pictures


def _series(curve: Sequence[Row], key: Literal["metric", "loss"]) -> dict[str, list[tuple[int, float]]]:
    series: dict[str, list[tuple[int, float]]] = {split: [] for split in _STROKES}
    for row in curve:
        for split, scores in (row["scores"] or {}).items():
            value = scores[key]
            if value is not None and split in series:
                series[split].append((row["epoch"], value))
    return series


def _draw(axis: str, series: dict[str, list[tuple[int, float]]], best: int) -> str:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    for split, points in series.items():
        if points:
            epochs, values = zip(*points, strict=True)
            marker = "o" if len(points) < 20 else None
            color, style = _STROKES[split]
            axes.plot(
                epochs, values, label=split, marker=marker, markersize=3, linewidth=1.6, color=color, linestyle=style
            )
    axes.axvline(best, color=_INK, linewidth=0.8, alpha=0.5)
    axes.annotate(
        f"best epoch {best}",
        (best, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        annotation_clip=False,
    )
    axes.set_xlabel("epoch")
    axes.set_ylabel(axis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color=_LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _element(text.getvalue())


def _element(document: str) -> str:
    """Return the <svg> element of a document, in the page's colours, without metadata, which has external addresses."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL).strip()
    return element.replace(_INK, "currentColor").replace(_LINE, "var(--line)")
