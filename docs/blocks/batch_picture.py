"""The picture of a batch's way from tables to predictions: docs/batch.svg."""

from __future__ import annotations

_BOX_WIDTH, _BOX_HEIGHT = 150, 46


_BOXES = {
    "tables": (20, 84, "tables, data sets", "Parquet, CSV, OGB", "file"),
    "readers": (216, 50, "readers", "data/readers/", "step"),
    "prepare": (216, 118, "prepare", "data/prepare/", "step"),
    "dataset": (412, 50, "Dataset, in memory", "data/dataset.py", "value"),
    "store": (412, 118, "Store, on disk", "data/ondisk/", "value"),
    "batches": (608, 84, "batches", "data/sampling/", "value"),
    "forward": (20, 292, "Forward", "train/forward.py", "step"),
    "loss": (264, 224, "loss, gradients", "train/step.py", "step"),
    "optimizer": (450, 224, "optimizer step", "train/optim.py", "step"),
    "checkpoint": (636, 224, "checkpoint", "train/callbacks/", "file"),
    "metrics": (264, 292, "metrics", "train/", "step"),
    "report": (636, 292, "report", "report/", "file"),
    "rows": (264, 360, "rows with ids", "predict.py", "step"),
    "predictions": (636, 360, "prediction table", "Parquet", "file"),
}
"""Name -> left, top, title, where it is in the code, and its kind, which gives its color."""


_ARROWS = (
    ("tables", "readers", ""), ("tables", "prepare", ""), ("readers", "dataset", ""), ("prepare", "store", ""),
    ("dataset", "batches", ""), ("store", "batches", ""), ("forward", "loss", "train"), ("loss", "optimizer", ""),
    ("optimizer", "checkpoint", ""), ("forward", "metrics", "evaluate"), ("metrics", "report", ""),
    ("forward", "rows", "predict"), ("rows", "predictions", ""),
)  # fmt: skip


_PICTURE_STYLE = """<style>
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .code { font: 11px ui-monospace, monospace; fill: #59636e }
  .page { fill: #ffffff; stroke: #d1d9e0 }
  .file { fill: #fff1d6; stroke: #9a6700 }
  .step { fill: #ddf4ff; stroke: #0969da }
  .value { fill: #dafbe1; stroke: #1a7f37 }
  .arrow { fill: none; stroke: #59636e; stroke-width: 1.5 }
  .head { fill: #59636e }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .code { fill: #9198a1 }
    .page { fill: #0d1117; stroke: #3d444d }
    .file { fill: #3a2d0b; stroke: #d29922 }
    .step { fill: #0c2d4d; stroke: #4493f8 }
    .value { fill: #12361d; stroke: #3fb950 }
    .arrow { stroke: #9198a1 }
    .head { fill: #9198a1 }
  }
</style>"""


def _batch_picture() -> str:
    """The elements of docs/batch.svg: boxes from tables to predictions, and arrows between them."""
    lines = [_PICTURE_STYLE, '<rect class="page" x="0.5" y="0.5" width="805" height="447" rx="8"/>']
    lines += [
        _text(20, 30, "From tables to batches"),
        _text(264, 206, "The same forward trains, evaluates and predicts"),
    ]
    for start, end, label in _ARROWS:
        (left, top, *_), (right, bottom, *_) = _BOXES[start], _BOXES[end]
        x, y, to, down = left + _BOX_WIDTH, top + _BOX_HEIGHT // 2, right, bottom + _BOX_HEIGHT // 2
        bend = x + 20 if label else (x + to) // 2
        lines += _arrow(f"M{x} {y} H{bend} V{down} H{to - 6}", to, down)
        if label:
            lines.append(_text(bend + 4, down - 6, label, "code"))
    # From the end of the upper row to the beginning of the lower one.
    x, top, into = 608 + _BOX_WIDTH // 2, 84 + _BOX_HEIGHT, 20 + _BOX_WIDTH // 2
    lines.append(f'<path class="arrow" d="M{x} {top} V180 H{into} V286"/>')
    lines.append(f'<path class="head" d="M{into} 292 l-4 -8 h8 z"/>')
    for left, top, title, code, kind in _BOXES.values():
        size = f'width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="6"'
        lines.append(f'<rect class="{kind}" x="{left}" y="{top}" {size}/>')
        lines += [_text(left + 10, top + 19, title), _text(left + 10, top + 36, code, "code")]
    lines.append(_text(20, 434, "blue: a step of the program · green: a value · yellow: files", "code"))
    return "\n".join(lines)


def _arrow(path: str, x: int, y: int) -> list[str]:
    return [f'<path class="arrow" d="{path}"/>', f'<path class="head" d="M{x} {y} l-8 -4 v8 z"/>']


def _text(x: int, y: int, text: str, kind: str = "title") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{text}</text>'


BLOCKS = {"batch-picture": _batch_picture}
