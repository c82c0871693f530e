"""The sections of a report's page about its evaluation: the score beside the baselines, per class, the worst rows."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from .drawings import confusion_matrix, predicted_against_true
from .row import baselines, figure, metric_title, number, score, title_of
from .widgets import rows_table

_MOST_LINES = 50
"""Lines of the table per class that are open; the others are folded."""
_MOST_PICTURES = 4
_NUMBERS = {
    "rows": "rows",
    "positive": "positive",
    "precision": "precision [%]",
    "recall": "recall [%]",
    "f1": "F1 [%]",
}
"""Key of a line per class -> title of its column."""


def score_section(report: Mapping[str, Any]) -> str:
    """Render the score beside the baselines, for every metric of the task; empty if no split was evaluated."""
    evaluation = report.get("evaluation") or {}
    if not evaluation.get("split"):
        return ""
    split = evaluation["split"]
    scores = evaluation["metrics"][split]
    names = list(scores["network"])
    rows = [[model, *(figure(name, values[name]) for name in names)] for model, values in scores.items()]
    beside = ", ".join(f"{name} {value}" for name, value in baselines(report))
    title, value = escape(f"{split} {metric_title(report)}"), escape(score(report, split))
    headline = f'<p class="headline">{title} <strong>{value}</strong> beside {escape(beside)}</p>'
    table = rows_table(["", *map(title_of, names)], rows, _caption(report, evaluation), kind="stressed")
    return f"<section>{headline}{table}</section>"


def _caption(report: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    split = evaluation["split"]
    said = [f"{evaluation['rows'][split]:,} rows of the split {split}"]
    of = next((size for name, size in report["dataset"].items() if name.startswith(f"{split} ")), None)
    if isinstance(of, int) and of != evaluation["rows"][split]:
        said[0] += f", evenly from its {of:,}"
    linear = evaluation["baselines"][-1]
    if linear["rows"] < evaluation["training_rows"]:
        said.append(
            f"the linear model was fitted to {linear['rows']:,} of {evaluation['training_rows']:,} training rows"
        )
    return "; ".join(said)


def detail_sections(report: Mapping[str, Any]) -> str:
    """Render the confusion matrix or predicted against true values, the table per class, and the worst rows."""
    evaluation = report.get("evaluation") or {}
    sections = []
    if "confusion" in evaluation:
        drawn = confusion_matrix(**evaluation["confusion"])
        sections.append(
            _section("Confusion matrix", f'<figure role="img" aria-label="confusion matrix">{drawn}</figure>')
        )
    points = [each for each in evaluation.get("points", ()) if len(each["true"]) > 1]
    if points:
        sections.append(_section("Predicted against true", _scatter(points)))
    for key, title in (("classes", "Per class"), ("columns", "Per column")):
        if key in evaluation and len(evaluation[key]) > 1:
            sections.append(_section(title, _lines(evaluation[key])))
    if evaluation.get("worst"):
        text = f"The rows of the split {evaluation['split']} with the worst predictions."
        sections.append(_section("Worst predictions", _records(evaluation["worst"], text)))
    return "\n".join(sections)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _scatter(points: list[Mapping[str, Any]]) -> str:
    figures = (
        f'<figure role="img" aria-label="predicted against true values">'
        f"{escape(each['column']) if len(points) > 1 else ''}{predicted_against_true(each['true'], each['predicted'])}"
        "</figure>"
        for each in points[:_MOST_PICTURES]
    )
    return f'<div class="pictures">{"".join(figures)}</div>'


def _lines(lines: list[Mapping[str, Any]]) -> str:
    """Render a line per class or column; the rarest beyond `_MOST_LINES` are folded."""
    label, *keys = lines[0]
    head = [label, *(_NUMBERS.get(key) or title_of(key) for key in keys)]
    rows = [[line[label], *(_number(key, line[key]) for key in keys)] for line in lines]
    if len(rows) <= _MOST_LINES:
        return rows_table(head, rows, None)
    order = sorted(range(len(rows)), key=lambda k: -lines[k]["rows"])
    rows = [rows[k] for k in order]
    rest = rows_table(head, rows[_MOST_LINES:], None)
    return rows_table(head, rows[:_MOST_LINES], None) + (
        f"<details><summary>{len(rows) - _MOST_LINES} rarer ones</summary>{rest}</details>"
    )


def _number(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    if key in ("rows", "positive"):
        return f"{value:,}"
    return f"{100 * value:.2f}" if key in _NUMBERS else figure(key, value)


def _records(records: list[Mapping[str, Any]], caption: str) -> str:
    head = list(records[0])
    rows = [[number(cell) if isinstance(cell, float) else str(cell) for cell in each.values()] for each in records]
    return rows_table(head, rows, caption, kind="records")
