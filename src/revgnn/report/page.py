"""Render a report as one self-contained HTML page for phones, screens and print.

Every text passes `html.escape`; the curves are inline SVG from `picture`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from ..files import write_whole
from ..plain_config import flatten
from ..train.curve import CURVE_FILE, Row, read_curve
from .facts import Configuration, Memory, Report, Result
from .picture import draw_curves
from .row import duration, integer, memory, metric_title, resident_growth, score, target

OBSERVED_ROWS = 12
"""Most rows of the table of solves."""

_STYLE = """
:root { color-scheme: light; --ink: #1d2733; --quiet: #5b6774; --line: #dde3ea; --wash: #f5f7fa; --accent: #0b62a4; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 60rem; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.25rem 0 .6rem; font-size: 1.1rem; }
p { margin: .4rem 0; }
.quiet, caption { color: var(--quiet); font-size: .875rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0; }
.tiles div { padding: .7rem .9rem; background: var(--wash); border-radius: .5rem; }
.tiles dt { color: var(--quiet); font-size: .8rem; }
.tiles dd { margin: 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .38rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--quiet); }
thead th { font-size: .85rem; }
td.number, th.number { text-align: right; }
.pairs { margin-bottom: 1rem; font-size: .925rem; table-layout: fixed; }
.pairs th { width: 58%; }
.pairs caption { color: var(--accent); font-weight: 600; }
.warning { margin: 1.25rem 0 0; padding: .6rem .9rem; border-left: 4px solid #b45309; background: #fff7ed; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 0 2rem;
  align-items: start; }
@media (max-width: 30rem) { body { padding: 1.25rem .9rem 2rem; } th, td { padding: .35rem .35rem; } }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } h2 { break-after: avoid; }
  figure, tr, .tiles div { break-inside: avoid; } .tiles div, .warning { border: 1px solid var(--line); } }
"""


def write_report(run: Path, report: Report) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.html`` into the run folder.

    Args:
        run: the run folder, with the ``curve.jsonl`` to plot.
        report: the result of `build_report`.
    Returns: the two paths.
    """
    as_json, as_page = run / "report.json", run / "report.html"
    write_whole(as_json, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(as_page, render(report, read_curve(run / CURVE_FILE)))
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
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(report["name"])}</h1>
<p class="quiet">{escape(_subtitle(report))}</p>
</header>
{_warnings(report["warnings"])}
{_tiles(report)}
<section><h2>Curves</h2>{_pictures(report, curve)}</section>
<section><h2>Result</h2>{_scores(report)}{_comparison(report)}{_observed(curve)}</section>
<section><h2>Configuration</h2><div class="columns">{_configuration(report["config"])}</div></section>
<div class="columns">
<section><h2>Data</h2>{_pairs(flatten(report["dataset"]).items())}</section>
<section><h2>Machine and versions</h2>{_pairs(_circumstances(report))}</section>
</div>
</body>
</html>
"""


def _subtitle(report: Report) -> str:
    result = report["result"]
    ended = " (ended early: no better valid value)" if result["stopped"] == "patience" else ""
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
    table = _table(
        head, _score_rows(result), f"Scores of the selected weights, of epoch {epoch}{_seen(report, 'final')}"
    )
    if selection == result["scores"]:
        return table
    before: Result = {**result, "scores": selection}
    return table + _table(head, _score_rows(before), f"Scores that selected the weights{_seen(report, 'eval')}")


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
    return "<h2>Comparison with the paper</h2>" + _table(["", "this run", "paper"], rows, None)


def _observed(curve: Sequence[Row]) -> str:
    """Render what the model reported of its epochs, such as residuals of solves: at most `OBSERVED_ROWS` of them."""
    rows = [row for row in curve if row["observed"]]
    if not rows:
        return ""
    step = -(-len(rows) // OBSERVED_ROWS)
    shown = rows[::-1][::step][::-1]
    names = list(dict.fromkeys(name for row in shown for name in row["observed"]))
    cells = [[str(row["epoch"]), *(_number(row["observed"].get(name), digits=3) for name in names)] for row in shown]
    return "<h2>Solves</h2>" + _table(["epoch", *names], cells, "Solves of the epoch's training steps")


def _configuration(config: Configuration) -> str:
    """Render one table per section of the configuration, and one for the values outside of sections."""
    sections = {name: flatten(value) for name, value in config.items() if isinstance(value, Mapping)}
    other = [(name, value) for name, value in config.items() if not isinstance(value, Mapping)]
    tables = [_pairs(other)] if other else []
    return "".join(tables + [_pairs(values.items(), name) for name, values in sections.items() if values])


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


def _table(head: list[str], rows: list[list[str]], caption: str | None) -> str:
    """Render a table whose first column has the names of the rows."""
    title = "" if caption is None else f"<caption>{escape(caption)}</caption>"
    kinds = [' scope="col"'] + [' scope="col" class="number"'] * (len(head) - 1)
    top = "".join(f"<th{kind}>{escape(text)}</th>" for kind, text in zip(kinds, head, strict=True))
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table>{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _pairs(pairs: Iterable[tuple[str, object]], caption: str | None = None) -> str:
    title = "" if caption is None else f"<caption>{escape(caption)}</caption>"
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(_text(value))}</td></tr>' for name, value in pairs
    )
    return f'<table class="pairs">{title}<tbody>{rows}</tbody></table>'


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return str(value)
