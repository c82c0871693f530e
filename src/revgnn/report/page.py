"""Render a report as one self-contained HTML page for phones, screens and print, light and dark.

It starts with what a reader wants: the score beside the baselines. Every text passes `html.escape`; pictures are inline
SVG from `picture` and `drawings`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ..files import write_whole
from ..plain_config import flatten
from ..train.curve import CURVE_FILE, Row, read_curve
from .evaluation_page import detail_sections, score_section
from .facts import Memory, Report, Result
from .picture import draw_curves
from .row import duration, integer, memory, metric_title, resident_growth, score, target
from .style import STYLE
from .widgets import pairs_table, rows_table

OBSERVED_ROWS = 12
"""Most rows of the table of solves."""


def write_report(run: Path, report: Report) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.html`` into the run folder.

    Args:
        run: the run folder, with the ``curve.jsonl`` to plot.
        report: the result of `build_report`.
    Returns: the two paths.
    """
    as_json, as_page = run / "report.json", run / "report.html"
    write_whole(as_json, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(as_page, render(report, read_curve(run / CURVE_FILE, is_finished=True)))
    return as_json, as_page


def render(report: Report, curve: Sequence[Row]) -> str:
    """Return the HTML page.

    Args:
        report: the result of `build_report`.
        curve: the training curve.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report["name"])} – revgnn</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(report["name"])}</h1>
<p class="quiet">{escape(_subtitle(report))}</p>
</header>
{score_section(report)}
{_warnings(report["warnings"])}
{_tiles(report)}
<section><h2>Curves</h2>{_pictures(report, curve)}</section>
{detail_sections(report)}
<section><h2>Result</h2>{_scores(report)}{_comparison(report)}{_observed(curve)}</section>
<section><h2>Configuration</h2>{_configuration(report)}</section>
<section><h2>Data and machine</h2><details><summary>Counts, machine and versions</summary><div class="columns">
{pairs_table(flatten(report["dataset"]).items(), "data")}{pairs_table(_circumstances(report), "machine and versions")}
</div></details></section>
</body>
</html>
"""


def _subtitle(report: Report) -> str:
    result = report["result"]
    ended = {"patience": " (ended early: no better valid value)", "time": " (the time was up)"}.get(
        result["stopped"], ""
    )
    return (
        f"{report['date'].replace('T', ' ').replace('+00:00', ' UTC')} · best epoch {result['best_epoch']} of "
        f"{result['epochs']}{ended} · {duration(report['time']['training_seconds'])} of training on "
        f"{report['machine']['device']}"
    )


def _warnings(warnings: list[str]) -> str:
    return "\n".join(f'<p class="warning" role="note">{escape(text)}</p>' for text in warnings)


def _tiles(report: Report) -> str:
    result = report["result"]
    title = metric_title(result["metric"])
    tiles = [
        (f"test {title}", score(result, "test")),
        (f"valid {title}", score(result, "valid")),
        ("peak training memory", memory(report["memory"]["peak_bytes"])),
        ("growth of the process", memory(resident_growth(report["memory"]))),
        ("time per step", duration(report["time"]["seconds_per_step_median"])),
        ("parameters", integer(report["parameters"])),
    ]
    cells = "".join(f"<div><dt>{escape(title)}</dt><dd>{escape(value)}</dd></div>" for title, value in tiles)
    return f'<dl class="tiles">{cells}</dl>'


def _pictures(report: Report, curve: Sequence[Row]) -> str:
    pictures = draw_curves(report["result"], curve)
    if pictures is None:
        return (
            '<p class="quiet">matplotlib draws the curves, and it is not installed: '
            "<code>pip install 'revgnn[plot]'</code>, then write the report again. "
            "The figures are in <code>curve.jsonl</code>.</p>"
        )
    figures = (f'<figure role="img" aria-label="{escape(label)}">{svg}</figure>' for label, svg in pictures.items())
    return f'<div class="pictures">{"".join(figures)}</div>'


def _scores(report: Report) -> str:
    result = report["result"]
    selection = result.get("selection", result["scores"])
    head, epoch = ["split", metric_title(result["metric"]), "loss"], result["best_epoch"]
    table = rows_table(
        head, _score_rows(result), f"Scores of the selected weights, of epoch {epoch}{_seen(report, 'final')}"
    )
    if selection == result["scores"]:
        return table
    before: Result = {**result, "scores": selection}
    return table + rows_table(head, _score_rows(before), f"Scores that selected the weights{_seen(report, 'eval')}")


def _score_rows(result: Result) -> list[list[str]]:
    rows = []
    for split, scores in result["scores"].items():
        loss = "–" if scores["loss"] is None else f"{scores['loss']:.4f}"
        rows.append([split, score(result, split), loss])
    return rows


def _seen(report: Report, stage: str) -> str:
    """Describe the parts and views of an evaluation; empty for the full graph."""
    loader = report["config"].get("loader", {})
    stage = stage if loader.get(f"{stage}_parts") is not None else "eval"
    parts, views = loader.get(f"{stage}_parts", 1), loader.get(f"{stage}_views", 1)
    if parts == 1:
        return ""
    return f", in {parts} parts" + ("" if views == 1 else f" of each of {views} views, whose logits are averaged")


def _comparison(report: Report) -> str:
    paper = report["paper"]
    if not paper:
        return ""
    peak = report["memory"]["peak_bytes"]
    result = report["result"]
    rows = [
        [f"test {metric_title(result['metric'])}", score(result, "test"), target(paper)],
        ["peak memory [GiB]", "–" if peak is None else f"{peak / 2**30:.2f}", _number(paper.get("memory_gb"))],
        ["parameters", integer(report["parameters"]), integer(paper.get("parameters"))],
    ]
    return "<h2>Comparison with the paper</h2>" + rows_table(["", "this run", "paper"], rows, None)


def _observed(curve: Sequence[Row]) -> str:
    """Render what the model reported of its epochs, such as residuals of solves: at most `OBSERVED_ROWS` of them."""
    rows = [row for row in curve if row["observed"]]
    if not rows:
        return ""
    step = -(-len(rows) // OBSERVED_ROWS)
    shown = rows[::-1][::step][::-1]
    names = list(dict.fromkeys(name for row in shown for name in row["observed"]))
    cells = [[str(row["epoch"]), *(_number(row["observed"].get(name), digits=3) for name in names)] for row in shown]
    return "<h2>Solves</h2>" + rows_table(["epoch", *names], cells, "Solves of the epoch's training steps")


def _configuration(report: Report) -> str:
    """Render what differs from the defaults, and folded one table per section and one for values outside of them."""
    config = report["config"]
    sections = {name: flatten(value) for name, value in config.items() if isinstance(value, Mapping)}
    other = [(name, value) for name, value in config.items() if not isinstance(value, Mapping)]
    tables = [pairs_table(other)] if other else []
    tables += [pairs_table(values.items(), name) for name, values in sections.items() if values]
    every = f'<details><summary>Every field</summary><div class="columns">{"".join(tables)}</div></details>'
    if report["changed"] is None:
        return every
    flat = flatten(config)
    changed = [(name, flat[name]) for name in report["changed"] if name in flat]
    return pairs_table(changed, "fields that differ from their defaults") + every


def _predicted(found: Memory) -> list[tuple[str, str]]:
    """Return the planner's prediction and its relative error."""
    # A report of an older version has no prediction.
    predicted = found.get("predicted")
    if not predicted:
        return []
    error = f", {predicted['peak_bytes'] / found['peak_bytes'] - 1:+.1%} of the measured" if found["peak_bytes"] else ""
    process_bytes = predicted.get("process_bytes")
    process = [] if process_bytes is None else [("process predicted by the planner", memory(process_bytes))]
    return [
        ("memory predicted by the planner", f"{memory(predicted['peak_bytes'])} ({predicted['how']}){error}"),
        *process,
    ]


def _resident(found: Memory) -> list[tuple[str, str]]:
    """Return the peak resident memory of the process, interpreter included, and how it was measured."""
    peak = found.get("resident")
    return [("process at its peak", f"{memory(peak['process_bytes'])} ({peak['how']})")] if peak else []


def _circumstances(report: Report) -> list[tuple[str, object]]:
    how = report["memory"]["how"]
    return [
        *report["machine"].items(),
        ("implementation", report["implementation"]),
        ("memory measured by", how),
        *_resident(report["memory"]),
        *_predicted(report["memory"]),
        ("steps", report["time"]["steps"]),
        *report["versions"].items(),
        ("git commit", report["git_commit"]),
    ]


def _number(value: float | None, digits: int = 6) -> str:
    return "–" if value is None else f"{value:.{digits}g}"
