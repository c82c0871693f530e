"""Draws a confusion matrix and predicted against true values as inline SVG, in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from .row import number

_CELL, _LETTER, _LONGEST = 46, 7, 14
_MOST_NUMBERS = 12
"""Classes up to which the cells of a confusion matrix have their count."""
_SIDE, _LEFT, _BOTTOM = 300, 62, 40


def confusion_matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draw counts, true classes in rows and predicted ones in columns; a cell is as dark as its share of the row."""
    labels = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names]
    margin = 34 + _LETTER * max(map(len, labels))
    side, parts = margin + _CELL * len(names), []
    for i, row in enumerate(counts):
        y = margin + _CELL * i
        parts.append(_text(margin - 8, y + _CELL / 2 + 4, labels[i], anchor="end", full=names[i]))
        turned = f"rotate(-90 {margin + _CELL * i + _CELL / 2 + 4} {margin - 8})"
        parts.append(_text(margin + _CELL * i + _CELL / 2 + 4, margin - 8, labels[i], turned=turned, full=names[i]))
        for j, count in enumerate(row):
            x, share = margin + _CELL * j, count / max(sum(row), 1)
            said = f"{escape(names[i])} predicted as {escape(names[j])}: {count} ({share:.0%})"
            parts.append(
                f'<g><title>{said}</title><rect class="axis" x="{x}" y="{y}" width="{_CELL}" height="{_CELL}"/>'
                f'<rect class="cell" x="{x + 1}" y="{y + 1}" width="{_CELL - 2}" height="{_CELL - 2}" '
                f'fill-opacity="{share:.2f}"/></g>'
            )
            if len(names) <= _MOST_NUMBERS:
                kind = "on" if share > 0.55 else ""
                parts.append(_text(x + _CELL / 2, y + _CELL / 2 + 4, f"{count:,}", anchor="middle", kind=kind))
    parts.append(_text(margin + _CELL * len(names) / 2, 12, "predicted", anchor="middle", kind="quiet"))
    middle = margin + _CELL * len(names) / 2
    parts.append(_text(12, middle, "true", anchor="middle", kind="quiet", turned=f"rotate(-90 12 {middle})"))
    return _picture(side, side, parts)


def predicted_against_true(true: Sequence[float], predicted: Sequence[float]) -> str:
    """Draw a point per row on equal axes, with the diagonal of perfect predictions."""
    low, high = min(*true, *predicted), max(*true, *predicted)
    pad = 0.05 * (high - low) or 1.0
    low, high = low - pad, high + pad

    def place(value: float) -> float:
        return _SIDE * (value - low) / (high - low)

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + place(x), _SIDE - place(y) + 8

    (x0, y0), (x1, y1) = at(low, low), at(high, high)
    parts = [f'<rect class="axis" x="{x0:.1f}" y="{y1:.1f}" width="{_SIDE}" height="{_SIDE}"/>']
    parts.append(f'<line class="axis" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>')
    for tick in _ticks(low, high):
        x, y = at(tick, tick)
        parts.append(_text(x, y0 + 16, number(tick), anchor="middle", kind="quiet"))
        parts.append(_text(x0 - 6, y + 4, number(tick), anchor="end", kind="quiet"))
    for point in zip(true, predicted, strict=True):
        x, y = at(*point)
        parts.append(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
    parts.append(_text(_LEFT + _SIDE / 2, y0 + 34, "true", anchor="middle", kind="quiet"))
    parts.append(_text(_LEFT, y1 + 14, " predicted", kind="quiet"))
    return _picture(_LEFT + _SIDE + 12, _SIDE + _BOTTOM + 10, parts)


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round values between two."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step)
    return [step * k for k in range(first, math.floor(high / step) + 1)]


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", kind: str = "", turned: str = "", full: str | None = None
) -> str:
    title = "" if full is None or full == text else f"<title>{escape(full)}</title>"
    transform = f' transform="{turned}"' if turned else ""
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{name}{transform}>{title}{escape(text)}</text>'


def _picture(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg class="drawn" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width: {width:.0f}px">'
        f"{''.join(parts)}</svg>"
    )
