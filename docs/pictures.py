"""Draw the pictures of how reversal works, each light and dark: docs/NAME.svg and docs/NAME-dark.svg.

    python docs/pictures.py     write them, as `make docs` does

The suite fails where a file is not what this would write. They are narrow, so that a phone shows their text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LAYERS = 9
"""Layers in the picture of memory: a square, so that checkpoints have segments of equal length."""


@dataclass(frozen=True)
class Theme:
    """The colours of a picture: text, pale lines, and fill and border of three kinds of boxes."""

    ink: str
    pale: str
    state: tuple[str, str]
    function: tuple[str, str]
    sum: tuple[str, str]


LIGHT = Theme("#1f2328", "#8c959f", ("#dafbe1", "#1a7f37"), ("#ddf4ff", "#0969da"), ("#ffffff", "#1f2328"))
DARK = Theme("#f0f6fc", "#6e7681", ("#12361d", "#3fb950"), ("#0c2d4d", "#4493f8"), ("#1e2129", "#f0f6fc"))


def draw_forward(theme: Theme) -> str:
    """One layer of two groups: what is added to each group depends on the other group alone."""
    return _layer(theme, "Forward: add", sign="+", backward=False)


def draw_inverse(theme: Theme) -> str:
    """The same layer undone: the same values, subtracted in the opposite order."""
    return _layer(theme, "Backward: subtract", sign="−", backward=True)


def _layer(theme: Theme, title: str, *, sign: str, backward: bool) -> str:
    """Two streams from left to right, x to y; ``backward`` turns every arrow of a stream around."""
    parts = [_text(theme, 180, 20, title, weight="600")]
    rows = (76, 190)
    for number, row in enumerate(rows, start=1):
        sums = 130 if number == 1 else 250
        ends = [(58, sums - 13), (sums + 13, 302)]
        for left, right in ends:
            parts.append(_arrow(theme, [(right, row), (left, row)] if backward else [(left, row), (right, row)]))
        parts += [
            _box(theme.state, theme, 20, row - 17, 38, f"x{_SUBSCRIPT[number]}"),
            _box(theme.state, theme, 302, row - 17, 38, f"y{_SUBSCRIPT[number]}"),
            f'<circle cx="{sums}" cy="{row}" r="13" fill="{theme.sum[0]}" stroke="{theme.sum[1]}"/>',
            _text(theme, sums, row + 5, sign),
        ]
    # f1 reads x2 and adds to the first group; f2 reads y1 and adds to the second one.
    parts += [
        _arrow(theme, [(90, rows[1]), (90, 133), (111, 133)]),
        _box(theme.function, theme, 111, 116, 38, "f₁"),
        _arrow(theme, [(130, 116), (130, rows[0] + 13)]),
        _arrow(theme, [(205, rows[0]), (205, 133), (231, 133)]),
        _box(theme.function, theme, 231, 116, 38, "f₂"),
        _arrow(theme, [(250, 150), (250, rows[1] - 13)]),
    ]
    dots = [f'<circle cx="{x}" cy="{y}" r="3" fill="{theme.ink}"/>' for x, y in ((90, rows[1]), (205, rows[0]))]
    first, second = ("y₁ = x₁ + f₁(x₂)", "y₂ = x₂ + f₂(y₁)")
    if backward:
        first, second = ("x₂ = y₂ − f₂(y₁)", "x₁ = y₁ − f₁(x₂)")
    lines = [_text(theme, 180, 246, f"first  {first}"), _text(theme, 180, 270, f"then  {second}")]
    return _svg(360, 286, title, [*parts, *dots, *lines])


_SUBSCRIPT = {1: "₁", 2: "₂"}

Kept = Callable[[int], set[int]]
"""Step 0, 1, ..., 2 L - 1 of a training step -> the layers whose output is in memory."""


def stored(step: int) -> set[int]:
    """All layers so far; in the backward those that are still to be differentiated."""
    return set(range(min(step, 2 * LAYERS - 1 - step) + 1))


def checkpointed(step: int) -> set[int]:
    """The last layer of each segment and, in the backward, all layers of the segment that is evaluated again."""
    length = math.isqrt(LAYERS)
    last = min(step, 2 * LAYERS - 1 - step)
    ends = {layer for layer in range(last + 1) if layer % length == length - 1}
    if step < LAYERS:
        return ends | {last}
    return ends | set(range(last - last % length, last + 1))


def reversed_(step: int) -> set[int]:
    """The newest layer alone; in the backward it becomes the one before it."""
    return {min(step, 2 * LAYERS - 1 - step)}


def draw_memory(theme: Theme) -> str:
    """Which layers' outputs are in memory in each step of one training step, for three ways to differentiate."""
    cell, left, width = 14, 64, 360
    parts: list[str] = []
    top = 8
    ways: tuple[tuple[str, Kept], ...] = (
        ("store: every layer", stored),
        ("checkpoint: some layers", checkpointed),
        ("reversible: one layer", reversed_),
    )
    for title, kept in ways:
        parts.append(_text(theme, left, top + 14, title, anchor="start", weight="600", size=13))
        top += 26
        for step in range(2 * LAYERS):
            alive = kept(step)
            for layer in range(LAYERS):
                x, y = left + step * cell, top + (LAYERS - 1 - layer) * cell
                fill = theme.state[1] if layer in alive else "none"
                parts.append(
                    f'<rect x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" rx="2" fill="{fill}" '
                    f'stroke="{theme.pale}" stroke-width="0.5"/>'
                )
        peak = max(len(kept(step)) for step in range(2 * LAYERS))
        parts += [
            _text(theme, left - 8, top + 12, f"layer {LAYERS}", anchor="end", size=12),
            _text(theme, left - 8, top + LAYERS * cell - 2, "layer 1", anchor="end", size=12),
        ]
        top += LAYERS * cell + 16
        middle = left + LAYERS * cell
        parts += [
            _text(theme, (left + middle) // 2, top, "forward →", size=12),
            _text(theme, middle + LAYERS * cell // 2, top, f"backward →  peak {peak}", size=12),
        ]
        top += 22
    return _svg(width, top - 8, "Layers in memory during a training step", parts)


def draw_rounding(theme: Theme) -> str:
    """Why a subtraction does not undo an addition of floats, and undoes one of integers, worked out in four digits."""
    rows = (
        ("floats of four digits", ("x", "0.01234"), ("+ f", "1.000"), ("y", "1.012"), ("y − f", "0.01200")),
        ("integers, step 0.001", ("x", "12"), ("+ f", "1000"), ("y", "1012"), ("y − f", "12")),
    )
    parts: list[str] = []
    for column, (title, *lines) in enumerate(rows):
        left = 14 + 176 * column
        parts.append(_text(theme, left, 20, title, anchor="start", weight="600", size=12))
        for number, (name, value) in enumerate(lines):
            y = 50 + 28 * number
            kind = theme.state if number in (0, 3) else theme.function
            parts += [
                _text(theme, left, y, name, anchor="start"),
                f'<rect x="{left + 48}" y="{y - 17}" width="92" height="24" rx="5" fill="{kind[0]}" '
                f'stroke="{kind[1]}"/>',
                _text(theme, left + 132, y, value, anchor="end"),
            ]
    parts += [
        _text(theme, 14, 164, "the last digits of x are lost", anchor="start", size=12),
        _text(theme, 190, 164, "x comes back, every bit of it", anchor="start", size=12),
    ]
    return _svg(360, 178, "A subtraction undoes an addition of integers, not of floats", parts)


PICTURES: dict[str, Callable[[Theme], str]] = {
    "reversal-forward": draw_forward,
    "reversal-inverse": draw_inverse,
    "reversal-memory": draw_memory,
    "exact-state": draw_rounding,
}


def files() -> Iterator[tuple[Path, str]]:
    """Each file with the text that it should have."""
    for name, draw in PICTURES.items():
        yield FOLDER / f"{name}.svg", draw(LIGHT)
        yield FOLDER / f"{name}-dark.svg", draw(DARK)


def _svg(width: int, height: int, title: str, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="system-ui, sans-serif">'
    )
    return "\n".join([head, f"<title>{title}</title>", *parts, "</svg>", ""])


def _text(
    theme: Theme, x: int, y: int, text: str, *, anchor: str = "middle", weight: str = "400", size: int = 14
) -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{theme.ink}">{text}</text>'
    )


def _box(colours: tuple[str, str], theme: Theme, x: int, y: int, width: int, text: str) -> str:
    rect = f'<rect x="{x}" y="{y}" width="{width}" height="34" rx="6" fill="{colours[0]}" stroke="{colours[1]}"/>'
    return rect + _text(theme, x + width // 2, y + 22, text)


def _arrow(theme: Theme, points: list[tuple[int, int]]) -> str:
    """A line through points with a head at the last one."""
    (x, y), (end_x, end_y) = points[-2], points[-1]
    angle = math.degrees(math.atan2(end_y - y, end_x - x))
    path = "M" + " L".join(f"{a} {b}" for a, b in points)
    return (
        f'<path d="{path}" fill="none" stroke="{theme.pale}" stroke-width="1.5"/>'
        f'<path d="M0 0 L-8 -4 V4 z" fill="{theme.pale}" transform="translate({end_x} {end_y}) rotate({angle:g})"/>'
    )


def main() -> None:
    """Write the pictures."""
    for path, text in files():
        path.write_text(text, encoding="utf-8")
        print(f"drew {path.name}")


if __name__ == "__main__":
    main()
