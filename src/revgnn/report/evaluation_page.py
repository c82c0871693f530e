"""The sections of a report's page about its evaluation: the score beside the baselines, per class, the worst rows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .drawings import confusion_matrix, predicted_against_true
from .facts import Evaluation, Line, Points, Report
from .row import baselines, figure, metric_title, number, score
from .widgets import rows_table

_MOST_LINES = 50
"""Lines of the table per class that are open; the others are folded."""
_MOST_PICTURES = 4
_COUNTS = ("rows", "positive")
_SHARES = {"precision": "precision [%]", "recall": "recall [%]", "f1": "F1 [%]"}
"""Keys of a line per class -> title of its column."""


def score_section(report: Report) -> str:
    """Render the score beside the baselines, for every metric of the task; empty if no split was evaluated."""
    evaluation, metric = report["evaluation"], report["result"]["metric"]
    if evaluation is None or evaluation["split"] is None:
        return ""
    split = evaluation["split"]
    scores = evaluation["metrics"][split]
    names = list(scores["network"])
    rows = [[model, *(figure(name, values[name]) for name in names)] for model, values in scores.items()]
    beside = ", ".join(f"{name} {value}" for name, value in baselines(evaluation, metric))
    title, value = escape(f"{split} {metric_title(metric)}"), escape(score(report["result"], split))
    headline = f'<p class="headline">{title} <strong>{value}</strong> beside {escape(beside)}</p>'
    table = rows_table(["", *map(metric_title, names)], rows, _caption(report, evaluation, split), kind="stressed")
    return f"<section>{headline}{table}</section>"


def _caption(report: Report, evaluation: Evaluation, split: str) -> str:
    described, training = evaluation["rows"][split], evaluation["training_rows"]
    said = f"{described:,} rows of the split {split}"
    of = next((size for name, size in report["dataset"].items() if name.startswith(f"{split} ")), None)
    if isinstance(of, int) and of != described:
        said += f", evenly from its {of:,}"
    linear = evaluation["baselines"][-1]["rows"]
    return said + (
        "" if linear == training else f"; the linear model was fitted to {linear:,} of {training:,} training rows"
    )


def detail_sections(report: Report) -> str:
    """Render the confusion matrix or predicted against true values, the table per class, and the worst rows."""
    evaluation = report["evaluation"]
    if evaluation is None:
        return ""
    sections = []
    if "confusion" in evaluation:
        drawn = confusion_matrix(**evaluation["confusion"])
        sections.append(("Confusion matrix", f'<figure role="img" aria-label="confusion matrix">{drawn}</figure>'))
    points = [each for each in evaluation.get("points", ()) if len(each["true"]) > 1]
    if points:
        sections.append(("Predicted against true", _scatter(points)))
    for title, lines in (("Per class", evaluation.get("classes", [])), ("Per column", evaluation.get("columns", []))):
        if len(lines) > 1:
            sections.append((title, _lines(lines)))
    worst = evaluation.get("worst")
    if worst:
        caption = f"The rows of the split {evaluation['split']} with the worst predictions."
        rows = [[number(cell) if isinstance(cell, float) else str(cell) for cell in line.values()] for line in worst]
        sections.append(("Worst predictions", rows_table(list(worst[0]), rows, caption, kind="records")))
    return "\n".join(f"<section><h2>{escape(title)}</h2>{content}</section>" for title, content in sections)


def _scatter(points: Sequence[Points]) -> str:
    figures = (
        '<figure role="img" aria-label="predicted against true values">'
        f"{escape(each['column']) if len(points) > 1 else ''}{predicted_against_true(each['true'], each['predicted'])}"
        "</figure>"
        for each in points[:_MOST_PICTURES]
    )
    return f'<div class="pictures">{"".join(figures)}</div>'


def _lines(lines: Sequence[Line]) -> str:
    """Render a line per class or column; of many the most frequent come first and the others are folded."""
    head = [_SHARES.get(key) or metric_title(key) for key in lines[0]]
    if len(lines) <= _MOST_LINES:
        return rows_table(head, [_cells(line) for line in lines], None)
    order = sorted(lines, key=lambda line: -int(line["rows"] or 0))
    first, rest = ([_cells(line) for line in some] for some in (order[:_MOST_LINES], order[_MOST_LINES:]))
    folded = f"<details><summary>{len(rest)} rarer ones</summary>{rows_table(head, rest, None)}</details>"
    return rows_table(head, first, None) + folded


def _cells(line: Line) -> list[str]:
    return [value if isinstance(value, str) else _cell(key, value) for key, value in line.items()]


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    if key in _COUNTS:
        return f"{value:,}"
    return f"{100 * value:.2f}" if key in _SHARES else figure(key, value)
